// Parallel coordinates of genes and objectives.

const PARALLEL = { run: RUNS[0], ranges: new Map() };
const MOST_LINES = 400;
const MOST_AXES = 14;
const FRAME = { step: 118, top: 46, height: 250, left: 62 };

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Objectives, what is chosen once or once a stage, and means of what is chosen in every block. */
function parallelAxes(run) {
  const axes = run.objectives.map((at) => run.metrics[at].label).map((label) => ({
    name: AXES.get(label).label === AXES.get(label).name ? title(label) : plainTitle(label), value: (member) => run.best(label, member) * factor(label), flip: !AXES.get(label).maximised, show: (value) => cell(label, value / factor(label)),
  }));
  const names = [...new Set(run.dimensions.map((dimension) => dimension.name))];
  const genes = new Map(run.members.map((member) => [member, run.genes(member.at)]));
  const known = (member, name) => genes.get(member).get(name).map((gene) => gene.value).filter((value) => value !== null);
  const plain = (value) => String(Number(value.toPrecision(3)));
  for (const name of names) {
    const group = run.dimensions.filter((dimension) => dimension.name === name);
    if (group[0].block === null && group.length <= 4) {
      group.forEach((dimension, at) => {
        const named = typeof dimension.choices[0] === "string";
        const chosen = (member) => genes.get(member).get(name)[at].value ?? NaN;
        const value = named ? (member) => dimension.choices.indexOf(chosen(member)) : chosen;
        axes.push({ name: group.length > 1 ? `${name} ${at + 1}` : name, value, show: named ? (index) => dimension.choices[Math.round(index)] : plain });
      });
    } else if (name === "exists") {
      axes.push({ name: "blocks", value: (member) => known(member, name).reduce((sum, value) => sum + value, 0), show: plain });
    } else {
      axes.push({ name: `${name}, mean`, value: (member) => mean(known(member, name)), show: plain });
    }
  }
  return axes.slice(0, MOST_AXES).map((axis) => withRange(axis, run.members));
}

function withRange(axis, members) {
  const values = members.map(axis.value).filter(Number.isFinite);
  const [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
  const share = (value) => (high > low ? (value - low) / (high - low) : 0.5);
  const y = (value) => FRAME.top + FRAME.height * (axis.flip ? share(value) : 1 - share(value));
  return { ...axis, low, high, y };
}

function kept(member, axes) {
  return [...PARALLEL.ranges].every(([at, [top, bottom]]) => {
    const y = axes[at]?.y(axes[at].value(member));
    return y >= top - 0.5 && y <= bottom + 0.5;
  });
}

function lineOf(member, axes, tones) {
  const points = axes.map((axis, at) => [FRAME.left + at * FRAME.step, axis.y(axis.value(member))]).filter(([, y]) => Number.isFinite(y));
  const names = ["line", kept(member, axes) ? "" : "off", member === STATE.selected ? "selected" : ""].filter(Boolean).join(" ");
  return make("path", {
    class: names, d: `M${points.map((point) => point.map((value) => value.toFixed(1)).join(",")).join("L")}`, stroke: tones(member),
    onmousemove: (event) => showTip(event, tipOf(member.run, member.at, member)), onmouseleave: hideTip, onclick: () => select(member),
  });
}

function mixed(share) {
  return `color-mix(in srgb, ${colour("high")} ${(100 * share).toFixed(0)}%, ${colour("low")})`;
}

function axisShapes(axis, at) {
  const x = FRAME.left + at * FRAME.step;
  const [top, bottom] = [FRAME.top, FRAME.top + FRAME.height];
  const [above, below] = axis.flip ? [axis.low, axis.high] : [axis.high, axis.low];
  const range = PARALLEL.ranges.get(at);
  const name = make("text", { x, y: at % 2 ? 12 : 27, "text-anchor": "middle", "font-weight": 600 }, axis.name);
  return make("g", {}, name,
    make("line", { class: "axis", x1: x, x2: x, y1: top, y2: bottom }),
    make("text", { class: "soft", x, y: top - 4, "text-anchor": "middle" }, axis.show(above)),
    make("text", { class: "soft", x, y: bottom + 14, "text-anchor": "middle" }, axis.low === axis.high ? "" : axis.show(below)),
    range ? make("rect", { class: "brush", x: x - 9, y: range[0], width: 18, height: range[1] - range[0] }) : null,
    grab(at, x, top));
}

/** Where an axis is dragged to keep a range. */
function grab(at, x, top) {
  const area = make("rect", { class: "grab", x: x - 12, y: top, width: 24, height: FRAME.height });
  area.addEventListener("pointerdown", (down) => {
    const svg = area.ownerSVGElement;
    const at0 = position(svg, down);
    const move = (event) => { PARALLEL.ranges.set(at, [at0, position(svg, event)].sort((a, b) => a - b)); drawParallel(); };
    const up = () => {
      window.removeEventListener("pointermove", move);
      const range = PARALLEL.ranges.get(at);
      if (range && range[1] - range[0] < 3) PARALLEL.ranges.delete(at);
      drawParallel();
    };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", up, { once: true });
  });
  return area;
}

function position(svg, event) {
  const here = byId("parallel-plot").querySelector("svg") ?? svg;
  const box = here.getBoundingClientRect();
  const y = ((event.clientY - box.top) * here.viewBox.baseVal.height) / box.height;
  return Math.min(Math.max(y, FRAME.top), FRAME.top + FRAME.height);
}

function drawParallel() {
  const { run } = PARALLEL;
  if (!run.members.length) return byId("parallel-plot").replaceChildren(make("p", { class: "muted" }, "No network is on the front."));
  const axes = parallelAxes(run);
  const every = Math.ceil(run.members.length / MOST_LINES);
  const members = run.members.filter((member, at) => at % every === 0 || member === STATE.selected);
  const first = axes[0];
  const tones = (member) => mixed(first.high > first.low ? (first.value(member) - first.low) / (first.high - first.low) || 0 : 1);
  const width = 2 * FRAME.left + (axes.length - 1) * FRAME.step;
  const last = members.filter((member) => member === STATE.selected);
  const lines = [...members.filter((member) => member !== STATE.selected), ...last].map((member) => lineOf(member, axes, tones));
  const [w, h] = [width, FRAME.top + FRAME.height + 24];
  byId("parallel-plot").replaceChildren(make("svg", { viewBox: `0 0 ${w} ${h}`, style: `width:100%;min-width:${Math.min(w, 84 * axes.length)}px;max-width:${1.35 * w}px`, role: "img", "aria-label": "Parallel coordinates of the networks on the front" }, ...axes.map(axisShapes), ...lines));
  // Axes are grabbed through the lines.
  const svg = byId("parallel-plot").firstChild;
  svg.append(...svg.querySelectorAll(".grab"));
  svg.querySelectorAll(".grab").forEach((area, at) => area.setAttribute("x", FRAME.left + at * FRAME.step - 12));
  return undefined;
}

function startParallel() {
  choices(byId("parallel-run"), RUNS.map((run) => [String(run.index), run.name]), "0");
  byId("parallel-run-label").hidden = SINGLE;
  const reset = () => { PARALLEL.run = RUNS[Number(byId("parallel-run").value)]; PARALLEL.ranges.clear(); drawParallel(); };
  byId("parallel-run").addEventListener("change", reset);
  byId("parallel-clear").addEventListener("click", reset);
  drawParallel();
  STATE.listeners.push(drawParallel);
}
