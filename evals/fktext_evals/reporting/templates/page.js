(() => {
  "use strict";
  const shown = (value) => (value === null ? "\u2212∞" : String(Number(value.toPrecision(4))).replace("-", "\u2212"));
  const gates = [...document.querySelectorAll("details.gate")];
  const refresh = [];
  let asked = false; // one consent is for the whole page
  const reveal = () => { asked = true; refresh.forEach((again) => again()); };
  gates.forEach((gate) => gate.addEventListener("toggle", () => gate.open && reveal()));
  document.documentElement.classList.add("js");

  const setUp = (figure) => {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const around = figure.closest("details.one, section"), played = around.querySelector("figure.player script");
    if (played) { // texts are on the page once
      const weighed = JSON.parse(played.textContent).filter((event) => event.event === "weighing");
      data.texts = weighed.slice(weighed.length - data.k.length).map((event) => (event.guesses.some((guess) => guess.startsWith("data:")) ? [] : event.guesses));
    }
    const stage = figure.querySelector(".stage"), svg = stage.querySelector("svg");
    const detail = figure.querySelector(".detail"), where = detail.querySelector(".where"), text = detail.querySelector(".text");
    const picture = (node) => svg.querySelector(`[data-p="${node.k},${node.i}"]`);
    const middle = (shape) => (shape.cx ? [shape.cx, shape.cy].map((at) => at.baseVal.value)
      : [shape.x.baseVal.value + shape.width.baseVal.value / 2, shape.y.baseVal.value + shape.height.baseVal.value / 2]); // a dot or a frame
    const width = svg.viewBox.baseVal.width, height = svg.viewBox.baseVal.height;
    const tile = (svg.querySelector("image")?.width.baseVal.value ?? 0) * 0.7; // a picture is pointed at up to its corners
    const nodes = new Map(), edges = new Map(), columns = data.k.map(() => []);
    svg.querySelectorAll("[data-e]").forEach((edge) => edges.set(edge.dataset.e, edge));
    svg.querySelectorAll("[data-n]").forEach((circle) => {
      const [k, i] = circle.dataset.n.split(",").map(Number);
      const [x, y] = middle(circle);
      const node = { circle, k, i, x, y };
      nodes.set(circle.dataset.n, node);
      columns[k].push(node);
    });
    columns.forEach((column) => column.sort((one, other) => one.y - other.y));
    const warned = figure.closest("section").querySelector("details.gate") !== null;
    const at = (k, i) => nodes.get(`${k},${i}`);
    const last = data.k.length - 1;
    let here = null, scale = 1, fitted = false;

    const children = (node) => (node.k === last ? [] : columns[node.k + 1].filter((next) => data.ancestors[node.k][next.i] === node.i));
    const parent = (node) => (node.k === 0 ? null : at(node.k - 1, data.ancestors[node.k - 1][node.i]));

    const show = () => {
      if (!here) return;
      const next = children(here).length, before = parent(here);
      const from = before ? (before.i === here.i ? "" : `, from particle ${before.i}`) : ", at the start";
      const fate = here.k === last ? (here.i === data.chosen ? ", returned" : "") : next ? (next > 1 ? `, ${next} copies go on` : ", goes on") : ", dies out";
      where.textContent = `Step ${data.k[here.k]}, particle ${here.i}${from}: reward ${shown(data.rewards[here.k][here.i])}, weight ${shown(data.weights[here.k][here.i])}${fate}.`;
      const said = data.texts[here.k] && data.texts[here.k][here.i];
      text.replaceChildren();
      const drawn = picture(here);
      if (drawn) {
        const image = document.createElement("img");
        image.src = drawn.href.baseVal;
        image.alt = "What the particle was thought to become";
        image.className = drawn.getAttribute("class");
        text.append(image);
        return;
      }
      if (said === undefined) return;
      if (asked || !warned) { text.textContent = said; return; }
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Show texts in spite of the content warning";
      button.addEventListener("click", () => { reveal(); stage.focus(); });
      text.append(button);
    };
    refresh.push(show);

    const select = (node, scroll) => {
      if (!node || node === here) return;
      svg.querySelectorAll(".on, .at").forEach((old) => old.classList.remove("on", "at"));
      here = node;
      node.circle.classList.add("at");
      for (let step = node; step; step = parent(step)) edges.get(`${step.k},${step.i}`)?.classList.add("on");
      if (scroll) {
        const margin = 40, x = node.x * scale, y = node.y * scale;
        if (x < stage.scrollLeft + margin) stage.scrollLeft = x - margin;
        if (x > stage.scrollLeft + stage.clientWidth - margin) stage.scrollLeft = x - stage.clientWidth + margin;
        if (y < stage.scrollTop + margin) stage.scrollTop = y - margin;
        if (y > stage.scrollTop + stage.clientHeight - margin) stage.scrollTop = y - stage.clientHeight + margin;
      }
      show();
    };

    // Zooming scales the drawing inside a box that scrolls; `x`, `y` in the box stay where they are.
    const zoom = (to, x = stage.clientWidth / 2, y = stage.clientHeight / 2) => {
      const next = Math.min(8, Math.max(0.25, to)), ratio = next / scale;
      const left = (stage.scrollLeft + x) * ratio - x, top = (stage.scrollTop + y) * ratio - y;
      scale = next;
      svg.setAttribute("width", width * scale);
      svg.setAttribute("height", height * scale);
      stage.scrollLeft = left;
      stage.scrollTop = top;
    };
    const fit = () => { if (stage.clientWidth) { fitted = true; zoom(Math.min(1.5, Math.max(0.7, (stage.clientWidth - 2) / width))); stage.scrollLeft = 0; } };

    const nearest = (event) => {
      const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) / scale, y = (event.clientY - box.top) / scale;
      let best = null, reach = Math.max(16 / scale, tile);
      nodes.forEach((node) => { const far = Math.hypot(node.x - x, node.y - y); if (far < reach) { best = node; reach = far; } });
      return best;
    };
    const pointers = new Map();
    const apart = () => { const [one, other] = pointers.values(); return Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY); };
    stage.addEventListener("pointerdown", (event) => { pointers.set(event.pointerId, event); });
    stage.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (pointers.size === 2 && before) {
        const old = apart();
        pointers.set(event.pointerId, event);
        const box = stage.getBoundingClientRect(), [one, other] = pointers.values();
        if (old > 0) zoom(scale * apart() / old, (one.clientX + other.clientX) / 2 - box.left, (one.clientY + other.clientY) / 2 - box.top);
      } else if (before && event.pointerType === "mouse" && event.buttons === 1) {
        stage.classList.add("drag");
        stage.scrollLeft -= event.clientX - before.clientX;
        stage.scrollTop -= event.clientY - before.clientY;
        pointers.set(event.pointerId, event);
      } else if (event.pointerType === "mouse") select(nearest(event));
    });
    ["pointerup", "pointercancel", "pointerleave"].forEach((kind) => stage.addEventListener(kind, (event) => { pointers.delete(event.pointerId); stage.classList.remove("drag"); }));
    stage.addEventListener("click", (event) => select(nearest(event)));
    stage.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // plain scrolling stays the page's
      event.preventDefault();
      const box = stage.getBoundingClientRect();
      zoom(scale * Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });

    const beside = (by) => { const column = columns[here.k]; return column[column.indexOf(here) + by]; };
    const keys = {
      ArrowLeft: () => select(parent(here), true),
      ArrowRight: () => select(children(here)[0], true),
      ArrowUp: () => select(beside(-1), true),
      ArrowDown: () => select(beside(1), true),
      "+": () => zoom(scale * 1.3),
      "=": () => zoom(scale * 1.3),
      "-": () => zoom(scale / 1.3),
      "0": fit,
    };
    stage.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
      event.preventDefault();
      if (event.key.startsWith("Arrow") && !here) select(at(last, data.chosen ?? 0), true);
      else keys[event.key]();
    });
    const buttons = { in: () => zoom(scale * 1.4), out: () => zoom(scale / 1.4), fit };
    figure.querySelectorAll("[data-zoom]").forEach((button) => button.addEventListener("click", buttons[button.dataset.zoom]));
    around.addEventListener("fktext-pick", (event) => select(at(event.detail.k, event.detail.i)));
    figure.querySelector(".tools").hidden = detail.hidden = false;
    stage.setAttribute("role", "application");
    stage.setAttribute("aria-label", `${svg.getAttribute("aria-label")} Arrow keys walk along the tree, plus and minus zoom.`);
    fit();
    figure.closest("details.one, details.gate")?.addEventListener("toggle", () => fitted || fit());
  };
  document.querySelectorAll(".lineage").forEach(setUp);
})();
