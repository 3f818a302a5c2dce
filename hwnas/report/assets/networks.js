// Networks drawn block by block, and where their work goes.

const HEIGHT = { attention: 78, mlp: 78, middle: 16, label: 15 };
const [STAGE, WIDTH, TOKENS, HEADS, ATTENTION, HIDDEN, LOCALITY, KERNEL] = [0, 1, 2, 3, 4, 5, 6, 7];

const anatomyOf = (member) => member.run.anatomy.members[member.place] ?? null;

/** The largest sizes among the networks that are drawn: all share one scale. */
function scaleOf(found) {
  const blocks = found.flatMap((anatomy) => anatomy.blocks);
  const most = (value) => Math.max(1, ...blocks.map(value));
  return { up: most((block) => block[ATTENTION] + block[LOCALITY]), hidden: most((block) => block[HIDDEN]), width: most((block) => block[WIDTH]) };
}

function blockShapes(block, x, width, scale) {
  const base = HEIGHT.label + HEIGHT.attention;
  const up = (value) => (HEIGHT.attention * value) / scale.up;
  const attention = up(block[ATTENTION]);
  const local = up(block[LOCALITY]);
  const hidden = (HEIGHT.mlp * block[HIDDEN]) / scale.hidden;
  const thick = Math.max(2, (HEIGHT.middle * block[WIDTH]) / scale.width);
  const middle = base + HEIGHT.middle / 2;
  const parts = [
    make("rect", { x, y: base - attention, width, height: attention, fill: colour("attention") }),
    make("rect", { x: x - 2, y: middle - thick / 2, width: width + 4, height: thick, fill: colour("otherpart") }),
    make("rect", { x, y: base + HEIGHT.middle, width, height: hidden, fill: colour("mlp") }),
    make("text", { x: x + width / 2, y: base - attention - local - 3, "text-anchor": "middle" }, String(block[HEADS])),
  ];
  if (local > 0) parts.push(make("rect", { x, y: base - attention - local, width, height: local, fill: "url(#stripes)", stroke: colour("locality") }));
  return parts;
}

function says(block, number) {
  const local = block[LOCALITY] ? `, locality of ${block[LOCALITY]} channels and ${block[KERNEL]} taps` : "";
  return `Block ${number}: ${block[HEADS]} heads, attention ${block[ATTENTION]} wide, MLP ${block[HIDDEN]}${local}; ${block[TOKENS]} tokens of ${block[WIDTH]}`;
}

function stripes() {
  const pattern = make("pattern", { id: "stripes", width: 4, height: 4, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, make("rect", { width: 2, height: 4, fill: colour("locality") }));
  return make("defs", {}, pattern);
}

function drawing(anatomy, scale, slots, text) {
  const step = Math.min(34, 372 / Math.max(slots, 1));
  const width = step * 0.66;
  const total = HEIGHT.label + HEIGHT.attention + HEIGHT.middle + HEIGHT.mlp + 4;
  const shapes = [];
  anatomy.blocks.forEach((block, at) => {
    const x = at * step + (step - width) / 2;
    if (at && block[STAGE] !== anatomy.blocks[at - 1][STAGE]) shapes.push(make("line", { class: "axis", x1: at * step, x2: at * step, y1: 0, y2: total, "stroke-dasharray": "2 3" }));
    shapes.push(make("g", {}, make("title", {}, says(block, at + 1)), ...blockShapes(block, x, width, scale)));
  });
  return make("svg", { viewBox: `0 0 ${Math.max(372, step * slots)} ${total}`, role: "img", "aria-label": text, width: "100%" }, stripes(), ...shapes);
}

function summary(anatomy) {
  const widths = [...new Set(anatomy.blocks.map((block) => block[WIDTH]))];
  const heads = anatomy.blocks.map((block) => block[HEADS]);
  const between = (values) => (Math.min(...values) === Math.max(...values) ? `${values[0]}` : `${Math.min(...values)} to ${Math.max(...values)}`);
  const ratios = anatomy.blocks.map((block) => Number((block[HIDDEN] / block[WIDTH]).toFixed(1)));
  return `${anatomy.blocks.length} ${anatomy.blocks.length === 1 ? "block" : "blocks"}, ${widths.join(" → ")} wide, ${between(heads)} ${heads.every((count) => count === 1) ? "head" : "heads"}, MLP ${between(ratios)} times the width`;
}

function roleOf(member) {
  const names = ["balanced", `best ${member.run.metrics[member.run.objectives[0]].label}`, "fastest"];
  const at = member.run.choice.indexOf(member.place);
  return member === STATE.selected ? "selected" : at >= 0 ? names[at] : "";
}

function networkCard(member, scale, slots) {
  const { run } = member;
  const anatomy = anatomyOf(member);
  const values = run.objectives.map((at) => run.metrics[at].label).map((label) => `${plainTitle(label)} ${withUnit(label, run.best(label, member))}`).join(", ");
  const deployment = run.deployments[member.deployment];
  const name = `${short(member.id)}${deployment ? ` in ${deployment}` : ""}${SINGLE ? "" : `, ${run.short}`}`;
  const role = roleOf(member);
  return make("figure", { class: `network${member === STATE.selected ? " selected" : ""}` },
    make("figcaption", {}, make("span", {}, make("b", {}, name), role ? ` ${role}` : ""), make("button", { type: "button", "aria-label": `Remove ${name}`, onclick: () => undraw(member) }, "Remove")),
    make("p", {}, values),
    anatomy ? drawing(anatomy, scale, slots, `${name}: ${summary(anatomy)}`) : make("p", {}, `Not included in this page; use hwnas describe ${run.space}.`),
    make("p", {}, anatomy ? summary(anatomy) : ""));
}

function drawNetworks() {
  const found = STATE.drawn.map(anatomyOf).filter(Boolean);
  const scale = scaleOf(found);
  const slots = Math.max(1, ...found.map((anatomy) => anatomy.blocks.length));
  byId("locality-note").hidden = !found.some((anatomy) => anatomy.blocks.some((block) => block[LOCALITY]));
  byId("networks").replaceChildren(...STATE.drawn.map((member) => networkCard(member, scale, slots)));
  if (!STATE.drawn.length) byId("networks").append(make("p", { class: "muted" }, "No network is selected."));
}

const MEASURES = { time: "time by the device's peak rates", macs: "multiply-accumulates", bytes: "bytes moved" };
const PART_COLOURS = { stem: "stem", attention: "attention", locality: "locality", mlp: "mlp", head: "headpart", other: "otherpart" };
const PATTERNS = { stem: ".", attention: "", locality: "/", mlp: "\\", head: "x", other: "-" };

function drawShares() {
  const run = STATE.drawn[0]?.run ?? RUNS[0];
  const measure = byId("fast-by").value;
  const entries = STATE.drawn.filter(anatomyOf).map((member) => [`${short(member.id)} ${roleOf(member)}`.trim(), anatomyOf(member)]);
  for (const name of ["largest", "smallest"]) entries.push([`${name} of the space`, run.anatomy.extremes[name]]);
  const most = Math.max(...entries.map(([, anatomy]) => anatomy.macs.reduce((sum, value) => sum + value, 0))) / run.anatomy.batch;
  const [scaled, prefix] = most >= 5e8 ? [1e-9, "G"] : [1e-6, "M"];
  const unit = { time: 1, macs: scaled / run.anatomy.batch, bytes: 1e-6 }[measure];
  const traces = run.anatomy.parts.map((part, at) => ({
    type: "bar", orientation: "h", name: part === "mlp" ? "MLP" : part, y: entries.map(([name]) => safe(name)),
    x: entries.map(([, anatomy]) => (anatomy[measure]?.[at] ?? 0) * unit), hovertemplate: "%{y}: %{x:.3g}<extra>%{fullData.name}</extra>",
    marker: { color: colour(PART_COLOURS[part]), pattern: { shape: PATTERNS[part], fillmode: "overlay", fgcolor: colour("paper"), fgopacity: 0.6, size: 6, solidity: 0.2 } },
  })).filter((one) => one.x.some((value) => value > 0));
  const text = { time: `ms per batch of ${run.anatomy.batch}, by peak rates`, macs: `${prefix} MACs per image`, bytes: `MB moved per batch of ${run.anatomy.batch}` }[measure];
  byId("fast-plot").style.height = `${110 + 34 * entries.length}px`;
  Plotly.react("fast-plot", traces, layoutOf({ barmode: "stack", legend: { orientation: "h", x: 0, y: 1.01, yanchor: "bottom", traceorder: "normal", font: { size: 11 } }, xaxis: { title: { text } }, yaxis: { autorange: "reversed", ticks: "" }, height: 110 + 34 * entries.length }), PLOT_CONFIG);
  byId("fast-note").textContent = measure === "time"
    ? "Estimate without fusion: every operation reads and writes memory. It shows proportions, not measured times."
    : `Computed from the network's operations, ${run.anatomy.precision}${run.anatomy.extremes.largest.time ? "" : "; no peak rates are known of this device, so no times by part"}.`;
}

function startNetworks() {
  const first = RUNS[0];
  STATE.drawn = RUNS.flatMap((run) => run.choice.map((place) => run.members[place])).slice(0, MOST_DRAWN);
  const known = Object.keys(MEASURES).filter((name) => first.anatomy.extremes.largest[name]);
  choices(byId("fast-by"), known.map((name) => [name, MEASURES[name]]), known[0]);
  byId("fast-by").addEventListener("change", drawShares);
  drawNetworks();
  drawShares();
  STATE.listeners.push(drawNetworks, drawShares);
}
