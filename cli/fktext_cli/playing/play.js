// The page of `fktext play`: asks for runs, hands their events to two players, and tells the server what a hand does.
(() => {
  "use strict";
  const at = (id) => document.getElementById(id);
  const form = at("form"), state = at("state"), rewards = at("rewards");
  const base = location.pathname.replace(/\/?$/, "/");
  let run = null; // the run's name, its players, and what stops it

  const say = (line, wrong = false) => { state.textContent = line; state.classList.toggle("error", wrong); };
  const post = (path, body, more = {}) =>
    fetch(base + path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), ...more });
  const why = async (answer) => { try { return (await answer.json()).error; } catch { return `the server answered ${answer.status}`; } };

  const addReward = (spec = "", weight = 1) => {
    const row = document.createElement("div");
    row.className = "reward";
    const field = (text, attributes) => {
      const label = document.createElement("label"), input = document.createElement("input");
      Object.entries(attributes).forEach(([name, value]) => input.setAttribute(name, value));
      label.append(text, input);
      return label;
    };
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "×";
    remove.setAttribute("aria-label", "Remove this reward");
    remove.addEventListener("click", () => { if (rewards.children.length > 1) row.remove(); });
    row.append(field("Reward, such as sentiment:label=negative", { class: "spec", list: "names", value: spec, required: "", maxlength: 300 }));
    row.append(field("Weight", { class: "weight-of", type: "number", step: "any", value: weight, required: "" }), remove);
    rewards.append(row);
  };
  const asked = () => [...rewards.children].map((row) => ({ spec: row.querySelector(".spec").value, weight: Number(row.querySelector(".weight-of").value) }));

  const player = (place) => {
    const figure = document.createElement("figure");
    figure.className = "player";
    at(place).replaceChildren(figure);
    return { figure, ...fktextPlayer(figure) };
  };

  const show = (event) => {
    if (event.event === "waiting") return say("Another page is running something; this one is next.");
    if (event.event === "run") { run.name = event.name; return say("Running base and best-of-n …"); }
    if (event.event === "error") { run.failed = true; return say(event.line, true); }
    if (event.event === "paused") { run.paused = true; buttons(); return say("Paused at a weighing. Choose a particle to reach in, or go on."); }
    if (event.event === "over") return run.failed || say("Done.");
    const steered = !["base", "best-of-n"].includes(event.column);
    if (steered && event.event === "weighing") { run.paused = false; say("Running the steered population …"); }
    (steered ? run.steered : event.column === "base" ? run.base : run.best).add(event);
    buttons();
  };

  const buttons = () => {
    const alive = run !== null && !run.over;
    at("run").hidden = !alive;
    at("hand").hidden = !(alive && run.paused && run.particle !== null);
    if (run && run.particle !== null) at("whom").textContent = `particle ${run.particle}${run.pinned.includes(run.particle) ? ", pinned" : ""}`;
    form.querySelectorAll("#go, #slow").forEach((button) => { button.disabled = alive; });
  };

  const begin = async (paused) => {
    if (!form.reportValidity()) return;
    const given = new FormData(form), body = { rewards: asked(), paused };
    ["model", "prompt", "method", "look_ahead"].forEach((name) => { body[name] = given.get(name); });
    ["particles", "lam", "seed"].forEach((name) => { body[name] = Number(given.get(name)); });
    if (given.get("length")) body.length = Number(given.get("length"));
    const stopper = new AbortController();
    run = { name: null, stopper, paused: false, over: false, failed: false, particle: null, pinned: [], base: player("base"), best: player("best"), steered: player("steered") };
    const mine = run;
    mine.steered.figure.addEventListener("fktext-pick", (event) => { mine.particle = event.detail.i; buttons(); });
    at("columns").hidden = false;
    at("left").hidden = true;
    say("Asking …");
    buttons();
    try {
      const answer = await post("run", body, { signal: stopper.signal });
      if (!answer.ok) { say(await why(answer), true); return; }
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ; ) {
        const { value, done } = await reader.read();
        if (done) break;
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        parts.filter((part) => part.startsWith("data: ")).forEach((part) => show(JSON.parse(part.slice(6))));
      }
    } catch (error) {
      say(stopper.signal.aborted ? "Stopped." : "The server is gone.", !stopper.signal.aborted);
    } finally {
      mine.over = true;
      buttons();
    }
  };

  const act = async (what) => {
    const body = { what };
    if (["fork", "drop", "pin", "unpin"].includes(what)) body.particle = run.particle;
    if (what === "weigh") body.weights = asked().map((each) => each.weight);
    const answer = await post(`act?name=${encodeURIComponent(run.name)}`, body);
    if (!answer.ok) return say(await why(answer), true);
    run.pinned = (await answer.json()).pinned;
    if (["fork", "drop", "pin", "weigh"].includes(what)) at("left").hidden = false;
    const done = { fork: "will be forked at the next weighing", drop: "has no weight from now on", pin: "keeps its place at every resampling", unpin: "is like the others again" };
    if (done[what]) say(`Particle ${run.particle} ${done[what]}.`);
    if (what === "weigh") say("The new weights count from the next weighing on.");
    buttons();
  };

  form.addEventListener("submit", (event) => { event.preventDefault(); if (!at("go").disabled) begin(false); });
  at("slow").addEventListener("click", () => begin(true));
  at("more").addEventListener("click", () => { if (rewards.children.length < 8) addReward(); });
  at("stop").addEventListener("click", () => run.stopper.abort());
  document.querySelectorAll("[data-act]").forEach((button) => button.addEventListener("click", () => act(button.dataset.act)));
  addReward("sentiment");
})();
