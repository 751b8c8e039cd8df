// Play the particles of a population, from the events of fktext.trace. `fktextPlayer(figure)` returns {add, show}: `add` takes events one
// by one, as objects of the log's lines, while they happen or after; the figure may hold them as JSON, in a script. A new start begins anew.
const fktextPlayer = (() => {
  "use strict";
  const PACE = 750, SLIDE = 380, SPEEDS = [0.5, 1, 2, 4];
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const make = (kind, classes = "", text = "", attributes = {}) => {
    const found = document.createElement(kind);
    if (classes) found.className = classes;
    if (text !== "") found.textContent = text;
    Object.entries(attributes).forEach(([name, value]) => found.setAttribute(name, value));
    return found;
  };
  const shown = (value, digits = 3) => ((value ?? -Infinity) === -Infinity ? "\u2212∞" : String(Number(value.toPrecision(digits))).replace("-", "\u2212"));
  const weightsOf = (logs) => {
    const most = Math.max(...logs.map((value) => value ?? -Infinity));
    if (most === -Infinity) return logs.map(() => 0);
    const shares = logs.map((value) => (value === null ? 0 : Math.exp(value - most))), total = shares.reduce((sum, share) => sum + share, 0);
    return shares.map((share) => share / total);
  };

  return (figure) => {
    const slots = []; // the row of each particle
    const frames = []; // of each weighing the event, with boards, ages, weights, whence each came, and what becomes of it
    let loading = false, start = null, end = null, at = -1, timer = null, speed = 1, picked = null, pointed = null, here = 0, low = Infinity, high = -Infinity;

    const head = make("p", "now"), rows = make("div", "rows", "", { role: "listbox", "aria-label": "Particles", tabindex: "-1" });
    const play = make("button", "play", "", { type: "button" }), range = make("input", "", "", { type: "range", min: 0, max: 0, step: 1, "aria-label": "Weighing" });
    const before = make("button", "", "‹", { type: "button", "aria-label": "One weighing back" }), next = make("button", "", "›", { type: "button", "aria-label": "One weighing on" });
    const pace = make("select", "", "", { "aria-label": "Speed" }), bars = make("div", "bars", "", { "aria-hidden": "true" });
    const track = make("div", "track"), controls = make("div", "controls"), about = make("div", "about", "", { "aria-live": "polite" });
    SPEEDS.forEach((value) => pace.append(make("option", "", `${value}×`, { value, ...(value === 1 ? { selected: "" } : {}) })));
    track.append(bars, range);
    controls.append(play, before, next, track, pace);
    figure.append(head, rows, controls, about);

    const add = (event) => {
      if (event.event === "start") begin(event);
      else if (event.event === "weighing") weigh(event);
      else if (event.event === "end") { end = event; if (!loading) draw(); }
    };
    const begin = (event) => { // a population, in the place of another that was played before
      [start, end, at, picked, pointed, here, low, high] = [event, null, -1, null, null, 0, Infinity, -Infinity];
      frames.length = slots.length = 0;
      rows.replaceChildren();
      bars.replaceChildren();
      rows.classList.toggle("pictures", event.modality === "image");
      for (let place = 0; place < event.particles; place++) {
        const row = make("div", "row", "", { role: "option", tabindex: place ? "-1" : "0", "aria-selected": "false" });
        row.append(make("span", "slot", String(place)), make("span", "weight"), make("span", "said", "", { dir: "auto" }), make("span", "fate"), make("span", "worth"));
        row.children[1].append(make("i"));
        row.addEventListener("pointerenter", () => { pointed = place; tell(); });
        row.addEventListener("pointerleave", () => { pointed = null; tell(); });
        row.addEventListener("focus", () => { here = place; tell(); });
        row.addEventListener("click", () => { move(place, false); pick(place); });
        rows.append(row);
        slots.push(row);
      }
    };
    const weigh = (event) => {
      const last = frames[frames.length - 1], fresh = !last || last.event.sweep !== event.sweep, size = start.particles;
      const places = [...Array(size).keys()], came = fresh ? places : last.event.ancestors;
      const boards = came.map((parent) => (fresh ? start.board : last.boards[parent]).slice());
      const ages = came.map((parent) => (fresh ? start.board.map((piece) => (piece === null ? 0 : -1)) : last.ages[parent].map((age) => (age < 0 ? age : age + 1))));
      event.revealed.forEach((changes, place) => changes.forEach(([where, piece]) => { boards[place][where] = piece; ages[place][where] = 0; }));
      const offspring = places.map(() => 0);
      event.ancestors.forEach((parent) => { offspring[parent] += 1; });
      event.rewards.forEach((reward) => { if (reward !== null) { low = Math.min(low, reward); high = Math.max(high, reward); } });
      frames.push({ event, fresh, came, boards, ages, offspring, weights: weightsOf(event.log_weights) });
      const bar = make("i", event.resampled ? "full" : "");
      bar.style.height = `${Math.max(4, (100 * event.ess) / size)}%`;
      bars.append(bar);
      range.max = frames.length - 1;
      if (!loading && (at < 0 || at === frames.length - 2)) show(frames.length - 1);
    };

    // A particle's text as it stands: what is masked as blocks, new words marked.
    const write = (said, frame, place) => {
      said.replaceChildren();
      const guess = frame.event.guesses[place];
      if (start.modality === "image") {
        if (guess) said.append(make("img", guess.startsWith("data:image/png") ? "crisp" : "", "", { src: guess, alt: `Particle ${place}` }));
        return;
      }
      const board = frame.boards[place], ages = frame.ages[place];
      if (!board.length || (guess && !frame.event.revealed.length)) { said.textContent = guess ?? ""; return; }
      let span = null, first = true;
      board.forEach((piece, position) => {
        if (piece === "") return;
        const kind = piece === null ? "mask" : ages[position] < 0 ? "given" : ages[position] < 3 ? `new${ages[position]}` : "old";
        const word = piece === null ? "" : first ? piece.trimStart() : piece, space = word.length - word.trimStart().length;
        if (!span || span.className !== kind || kind === "mask") {
          if (space) said.append(word.slice(0, space)); // no mark on the space before a word
          span = make("span", kind, word.slice(space));
          said.append(span);
        } else span.textContent += word;
        first = false;
      });
    };
    const lit = (index) => { // which particles of a weighing the picked one descends from, is, or has for descendants
      if (!picked) return null;
      let now = new Set([picked.place]);
      for (let step = picked.at; step > index; step--) now = new Set(frames[step].fresh ? [] : [...now].map((place) => frames[step].came[place]));
      for (let step = picked.at + 1; step <= index; step++) {
        const from = now;
        now = new Set(frames[step].fresh ? [] : frames[step].came.flatMap((parent, place) => (from.has(parent) ? [place] : [])));
      }
      return now;
    };
    const draw = () => {
      const frame = frames[at];
      if (!frame) return;
      const { event, weights, offspring } = frame, most = Math.max(...weights) || 1, line = lit(at), last = at === frames.length - 1;
      const facts = [
        `Step ${event.k} of ${start.steps}`, ...(event.sweep ? [`sweep ${event.sweep + 1}`] : []), `ESS ${event.ess.toFixed(1)} of ${start.particles}`,
        ...(event.log_z === null ? [] : [`log Ẑ ${shown(event.log_z)}`]),
        ...(start.names.length ? [`best reward ${shown(Math.max(...event.rewards.map((value) => value ?? -Infinity)))}`, ...(event.lam === null ? [] : [`λ ${shown(event.lam)}`])] : []),
        ...(event.resampled ? ["resampled"] : last && end ? ["finished"] : []),
      ];
      head.replaceChildren(...facts.map((fact) => make("span", "", fact)));
      slots.forEach((row, place) => {
        const dies = event.resampled && !offspring[place], returned = last && end && end.chosen === place;
        row.className = ["row", dies && "dies", returned && "returned", line && (line.has(place) ? "lit" : "unlit")].filter(Boolean).join(" ");
        row.setAttribute("aria-selected", String(Boolean(line && line.has(place))));
        const [, weight, said, fate, worth] = row.children, reward = event.rewards[place];
        weight.firstChild.style.width = `${(100 * weights[place]) / most}%`;
        weight.firstChild.style.setProperty("--r", reward === null || high === low ? 0.6 : (reward - low) / (high - low));
        write(said, frame, place);
        fate.textContent = returned ? "returned" : !event.resampled ? "" : dies ? "dies" : offspring[place] > 1 ? `×${offspring[place]}` : "";
        worth.textContent = start.names.length ? shown(reward) : "";
      });
      [...bars.children].forEach((bar, index) => bar.classList.toggle("at", index === at));
      range.value = at;
      range.setAttribute("aria-valuetext", `step ${event.k} of ${start.steps}`);
      tell();
    };
    const tell = () => {
      const frame = frames[at], place = pointed ?? (figure.contains(document.activeElement) || picked ? here : null);
      about.replaceChildren();
      if (!frame || place === null) { about.append(make("p", "", "Point at a particle for what it was thought to become; click it to light its lineage. Space plays, arrow keys step.")); return; }
      const { event, came, offspring, weights } = frame, several = event.values.length && start.names.length > 1;
      const from = came[place] === place ? "" : `, a copy of particle ${came[place]}`;
      const fate = !event.resampled ? "" : offspring[place] === 0 ? "; it dies out" : offspring[place] > 1 ? `; it has ${offspring[place]} copies` : "";
      const each = several ? ` (${start.names.map((name, number) => `${name} ${shown(event.values[place][number])}`).join(", ")})` : "";
      const worth = start.names.length ? `reward ${shown(event.rewards[place], 4)}${each}, ` : "";
      about.append(make("p", "", `Particle ${place} at step ${event.k}${from}: ${worth}weight ${shown(weights[place])}${fate}.`));
      const guess = event.guesses[place], done = at === frames.length - 1;
      if (start.modality === "text" && guess) {
        const said = make("p", "guess", "", { dir: "auto" });
        said.append(make("span", "", done ? "It reads: " : "It was thought to become: "), guess.trim());
        about.append(said);
      }
    };

    // Children slide from where their parents stood, and what dies fades where it stood.
    const slide = (old, before, frame) => {
      const box = rows.getBoundingClientRect(), time = { duration: SLIDE / Math.max(1, speed / 2), easing: "cubic-bezier(.3,.7,.3,1)" };
      before.forEach((was, place) => {
        if (old.event.ancestors.includes(place)) return;
        const ghost = was.copy;
        ghost.className = "row ghost dies";
        Object.assign(ghost.style, { left: `${was.left - box.left}px`, top: `${was.top - box.top}px`, width: `${was.width}px`, height: `${was.height}px` });
        rows.append(ghost);
        ghost.animate([{ opacity: 1 }, { opacity: 0 }], { ...time, duration: 1.3 * time.duration }).onfinish = () => ghost.remove();
      });
      slots.forEach((row, place) => {
        const parent = frame.came[place];
        if (parent === place) return;
        const now = row.getBoundingClientRect(), from = before[parent];
        row.animate([{ transform: `translate(${from.left - now.left}px, ${from.top - now.top}px)`, zIndex: 2 }, { transform: "none", zIndex: 2 }], time);
      });
    };
    const show = (index) => {
      const old = frames[at], to = Math.max(0, Math.min(frames.length - 1, index)), moves = to === at + 1 && old && old.event.resampled && !frames[to].fresh;
      const seen = moves && !calm.matches && rows.getBoundingClientRect().height > 0;
      rows.querySelectorAll(".ghost").forEach((ghost) => ghost.remove());
      const before = seen ? slots.map((row) => { const { left, top, width, height } = row.getBoundingClientRect(); const copy = row.cloneNode(true); copy.setAttribute("aria-hidden", "true"); copy.removeAttribute("tabindex"); copy.removeAttribute("role"); return { left, top, width, height, copy }; }) : null;
      at = to;
      draw();
      if (seen) slide(old, before, frames[to]);
    };
    const step = () => {
      timer = null;
      if (at >= frames.length - 1) { run(false); return; }
      show(at + 1);
      timer = setTimeout(step, (PACE + (frames[at].event.resampled ? SLIDE : 0)) / speed);
    };
    const run = (on) => {
      clearTimeout(timer);
      timer = null;
      about.setAttribute("aria-live", on ? "off" : "polite");
      if (on && at >= frames.length - 1) show(0);
      if (on) timer = setTimeout(step, PACE / speed);
      play.textContent = on ? "❚❚" : "▶";
      play.setAttribute("aria-label", on ? "Pause" : "Play");
    };
    const stop = (index) => { run(false); show(index); };
    const move = (place, focus = true) => {
      here = Math.max(0, Math.min(start.particles - 1, place));
      slots.forEach((row, index) => row.setAttribute("tabindex", index === here ? "0" : "-1"));
      if (focus) slots[here].focus();
    };
    const pick = (place) => {
      picked = place === null || (picked && picked.at === at && picked.place === place) ? null : { at, place };
      draw();
      const sweep = frames.filter((frame) => frame.event.sweep < frames[frames.length - 1].event.sweep).length;
      if (picked && at >= sweep) figure.dispatchEvent(new CustomEvent("fktext-pick", { bubbles: true, detail: { k: at - sweep, i: place } }));
    };

    play.addEventListener("click", () => run(timer === null));
    before.addEventListener("click", () => stop(at - 1));
    next.addEventListener("click", () => stop(at + 1));
    range.addEventListener("input", () => stop(Number(range.value)));
    pace.addEventListener("change", () => { speed = Number(pace.value); });
    rows.addEventListener("focusout", () => tell());
    figure.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target === pace) return;
      const row = event.target.closest(".row");
      const keys = {
        " ": event.target.closest("button") ? null : () => run(timer === null),
        ArrowLeft: () => stop(at - 1),
        ArrowRight: () => stop(at + 1),
        Home: () => stop(0),
        End: () => stop(frames.length - 1),
        ArrowUp: row && (() => move(here - 1)),
        ArrowDown: row && (() => move(here + 1)),
        Enter: row && (() => pick(here)),
        Escape: () => pick(null),
      };
      if (!keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    });
    run(false);
    figure.hidden = false;
    const kept = figure.querySelector("script[type='application/json']");
    loading = true;
    if (kept) JSON.parse(kept.textContent).forEach(add);
    loading = false;
    if (frames.length) show(frames.length - 1);
    tell();
    return { add, show };
  };
})();
document.querySelectorAll("figure.player").forEach(fktextPlayer);
