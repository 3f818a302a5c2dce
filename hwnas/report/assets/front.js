// The front as a scatter plot of any two metrics.

const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "pentagon", "hexagram"];
const PLOT_CONFIG = {
  displaylogo: false,
  responsive: true,
  displayModeBar: matchMedia("(hover: none)").matches ? false : "hover",
  modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
  toImageButtonOptions: { format: "svg", filename: "front" },
};

function layoutOf(extra) {
  const axis = { gridcolor: colour("grid"), zeroline: false, linecolor: colour("line"), automargin: true, tickfont: { size: 11 } };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("ink"), family: getComputedStyle(document.body).fontFamily, size: 12 },
    margin: { l: 56, r: 16, t: 34, b: 44 },
    hovermode: "closest",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("faint"), activecolor: colour("accent") },
    legend: { orientation: "h", x: 0, y: 1.01, yanchor: "bottom", font: { size: 11 } },
    ...extra,
    xaxis: { ...axis, ...extra.xaxis },
    yaxis: { ...axis, ...extra.yaxis },
  };
}

function trace(name, points, more) {
  return {
    type: "scatter", mode: "markers", name, hoverinfo: "none", showlegend: points.length > 0,
    x: points.map((point) => point.x), y: points.map((point) => point.y), customdata: points.map((point) => point.data), ...more,
  };
}

/** Intervals as error bars; those of predictions are light, for they are many and wide. */
function bars(points, axis, light) {
  const known = points.some((point) => point[axis]?.length);
  if (!known) return undefined;
  return {
    type: "data", symmetric: false, thickness: 1, width: light ? 0 : 3, color: colour(light ? "line" : "muted"),
    array: points.map((point) => (point[axis] ? point[axis][1] : 0)), arrayminus: points.map((point) => (point[axis] ? point[axis][0] : 0)),
  };
}

function ends(value, low, high, times) {
  return low === null || low === undefined || !Number.isFinite(low) ? null : [times * (value - low), times * (high - value)];
}

/** Candidates of one kind that are not on the front. */
function others(run, [x, y], status) {
  const points = [];
  for (let at = 0; at < run.count; at += 1) {
    const place = [run.seen(x, at) * factor(x), run.seen(y, at) * factor(y)];
    if (run.status[at] === status && place.every(Number.isFinite)) points.push({ x: place[0], y: place[1], data: [run.index, "candidate", at] });
  }
  return points;
}

const isPredicted = (run, label) => run.metrics[run.column(label)]?.predicted ?? false;

/** The points of a network of the front: as the search saw it, and as it was measured. */
function placesOf(run, member, [x, y]) {
  const data = [run.index, "member", member.place];
  const measured = [run.measured(x, member), run.measured(y, member)];
  const seen = [run.seen(x, member.at), run.seen(y, member.at)];
  const known = isPredicted(run, x) || isPredicted(run, y);
  const found = measured.some((value) => value !== null);
  const point = (values, barsX, barsY) => ({ x: values[0] * factor(x), y: values[1] * factor(y), data, ex: barsX, ey: barsY, member });
  const interval = (label, value) => ends(value, ...(run.interval(label, member.at) ?? [null, null]), factor(label));
  const runs = (label, checked) => (checked ? ends(checked[0], checked[1], checked[2], factor(label)) : null);
  const before = found ? point(seen, null, null) : point(seen, interval(x, seen[0]), interval(y, seen[1]));
  if (!found) return known ? { before } : { after: before };
  const values = measured.map((checked, at) => checked?.[0] ?? seen[at]);
  return { before, after: point(values, runs(x, measured[0]), runs(y, measured[1])) };
}

/** The corners of the front in two metrics, best known values. */
function stairs(points, [x, y]) {
  const signs = [AXES.get(x).maximised ? -1 : 1, AXES.get(y).maximised ? -1 : 1];
  const sorted = points.filter((point) => point.member.run.stands(point.member) && Number.isFinite(point.x + point.y))
    .sort((a, b) => signs[0] * (a.x - b.x) || signs[1] * (a.y - b.y));
  let least = Infinity;
  return sorted.filter((point) => {
    const value = signs[1] * point.y;
    if (value >= least) return false;
    least = value;
    return true;
  });
}

/** Shapes tell runs apart; on the page of one run, the deployments that its search chose among. */
const byDeployment = (run) => SINGLE && run.deployments.length > 0;
const shapeOf = (run, member) => SYMBOLS[(byDeployment(run) ? member.deployment : run.index) % SYMBOLS.length];

function markers(run, points, label, hollow) {
  const symbol = points.map((point) => shapeOf(run, point.member) + (hollow ? "-open" : ""));
  const base = { symbol, size: hollow ? 9 : 10, opacity: 1, line: { width: hollow ? 2 : 1, color: hollow ? undefined : colour("paper") } };
  if (!label) return { ...base, color: runColour(run) };
  const values = points.map((point) => run.best(label, point.member) * factor(label));
  const every = run.members.map((member) => run.best(label, member) * factor(label)).filter(Number.isFinite);
  const scale = {
    color: values, cmin: Math.min(...every), cmax: Math.max(...every), colorscale: [[0, colour("low")], [1, colour("high")]],
  };
  const bar = { title: { text: safe(title(label)), side: "right", font: { size: 11 } }, thickness: 10, len: 0.9, outlinewidth: 0, tickfont: { size: 10 }, exponentformat: "SI" };
  return { ...base, ...scale, colorbar: bar, showscale: false };
}

/** Entries of the legend for the shapes of deployments, which then name what is predicted and what is measured. */
function deploymentKeys(run, points, hollow) {
  return run.deployments.flatMap((name, at) => (points.some((point) => point.member.deployment === at) ? [{
    type: "scatter", mode: "markers", name: safe(name) + (hollow ? ", predicted" : ""), x: [null], y: [null], hoverinfo: "skip", showlegend: true,
    marker: { symbol: SYMBOLS[at % SYMBOLS.length] + (hollow ? "-open" : ""), size: 9, color: colour("muted") },
  }] : []));
}

/** Lines that join the same network in several deployments. */
function sameNetworks(run, points) {
  const groups = new Map();
  for (const point of points) {
    if (!point || point.member.network === undefined) continue;
    if (!groups.has(point.member.network)) groups.set(point.member.network, []);
    groups.get(point.member.network).push(point);
  }
  const lines = [...groups.values()].filter((group) => group.length > 1).map((group) => group.toSorted((a, b) => a.x - b.x));
  return {
    type: "scatter", mode: "lines", name: "same network", hoverinfo: "skip", showlegend: lines.length > 0, line: { color: colour("accent"), width: 1 }, opacity: 0.5,
    x: lines.flatMap((group) => [...group.map((point) => point.x), null]), y: lines.flatMap((group) => [...group.map((point) => point.y), null]),
  };
}

function frontTraces(run, axes, label) {
  const places = run.members.map((member) => placesOf(run, member, axes));
  const before = places.flatMap((place) => (place.before ? [place.before] : []));
  const after = places.flatMap((place) => (place.after ? [place.after] : []));
  const best = places.map((place) => place.after ?? place.before);
  const joins = places.filter((place) => place.before && place.after);
  const of = SINGLE ? "" : `${safe(run.short)}: `;
  const steps = stairs(best, axes);
  const scaled = after.length ? "after" : "before";
  const drawn = (points, hollow) => {
    const look = markers(run, points, label, hollow);
    if (label && points.length && (hollow ? scaled === "before" : scaled === "after")) look.showscale = true;
    return { marker: look, error_x: bars(points, "ex", hollow), error_y: bars(points, "ey", hollow) };
  };
  const measured = best.some((point) => point && point.member.measured);
  const fronts = [
    trace(`${of}front, predicted`, before, drawn(before, true)),
    trace(`${of}front${measured && before.length ? ", measured" : ""}`, after, drawn(after, false)),
  ];
  return [
    { type: "scatter", mode: "lines", showlegend: false, hoverinfo: "skip", line: { color: runColour(run), width: 1, shape: "linear", dash: "dot" },
      opacity: 0.6, x: steps.map((point) => point.x), y: steps.map((point) => point.y) },
    { type: "scatter", mode: "lines", showlegend: false, hoverinfo: "skip", line: { color: colour("muted"), width: 1 },
      x: joins.flatMap((place) => [place.before.x, place.after.x, null]), y: joins.flatMap((place) => [place.before.y, place.after.y, null]) },
    ...(run.deployments.length ? [sameNetworks(run, best)] : []),
    ...(byDeployment(run) ? [...deploymentKeys(run, before, true), ...deploymentKeys(run, after, false)] : []),
    ...fronts.map((front) => (byDeployment(run) ? { ...front, showlegend: false } : front)),
  ];
}

/** The reference networks of all runs, once if the runs agree; where they differ, with the name and colour of the run. */
function knownNetworks() {
  const seen = new Set();
  const known = RUNS.flatMap((run) => run.references.map((reference, at) => ({ run, reference, at }))).filter(({ run, reference }) => {
    const values = run.metrics.map((metric, column) => [metric.key, reference.values[column]]).sort();
    const key = JSON.stringify([reference.name, reference.measured, values]);
    return !seen.has(key) && seen.add(key);
  });
  return known.map((one) => {
    const differs = known.some((other) => other !== one && other.reference.name === one.reference.name);
    const name = differs ? `${one.reference.name} (${one.run.short})` : one.reference.name;
    return { ...one, name, colour: differs ? runColour(one.run) : null };
  });
}

function referenceTrace([x, y]) {
  const points = knownNetworks().flatMap(({ run, reference, at, ...one }) => {
    const values = [x, y].map((label) => (reference.values[run.column(label)] ?? NaN) * factor(label));
    return values.every(Number.isFinite) ? [{ x: values[0], y: values[1], data: [run.index, "reference", at], own: reference.name, label: reference.label, ...one }] : [];
  });
  const spanOf = (axis) => Math.max(...points.map((point) => point[axis])) - Math.min(...points.map((point) => point[axis]));
  const [width, height] = [spanOf("x"), spanOf("y")];
  const isUnder = (point) => points.some((other) => other !== point && other.y >= point.y && other.y - point.y < height / 4 && Math.abs(other.x - point.x) < width / 4);
  const sides = points.map((point) => (isUnder(point) ? "bottom center" : "top center")); // of two that are close, away from each other
  return trace("reference networks", points, {
    mode: "markers+text", text: points.map((point) => safe(point.name.replace(point.own, point.label))), textposition: sides, textfont: { size: 11 },
    marker: { symbol: "star", size: 13, color: points.map((point) => point.colour ?? colour("ink")), line: { width: 1, color: colour("paper") } },
  });
}

/** Reference networks with only one known value, as lines across the plot. */
function referenceLines([x, y]) {
  const shapes = [];
  const annotations = [];
  knownNetworks().forEach(({ run, reference, ...one }, place, all) => {
    const before = all.slice(0, place).filter((other) => other.reference.name === reference.name).length;
    const free = 1 - 0.4 * (before % 3); // below the name of the same network in another run
    const [across, up] = [x, y].map((label) => reference.values[run.column(label)]);
    const known = Number.isFinite(across ?? NaN) ? "x" : "y";
    if (Number.isFinite(across ?? NaN) === Number.isFinite(up ?? NaN)) return;
    const value = known === "x" ? across * factor(x) : up * factor(y);
    const tone = one.colour ?? colour("muted");
    const line = { type: "line", line: { color: tone, width: 1, dash: "dash" }, layer: "below" };
    if (known === "x") shapes.push({ ...line, x0: value, x1: value, y0: 0, y1: 1, yref: "paper" });
    else shapes.push({ ...line, y0: value, y1: value, x0: 0, x1: 1, xref: "paper" });
    const log = byId(`log-${known}`).checked ? Math.log10(value) : value;
    const at = known === "x" ? { x: log, y: free, yref: "paper", xanchor: "left", yanchor: "top", textangle: -90, xshift: 1 } : { y: log, x: free, xref: "paper", xanchor: "right", yanchor: "bottom" };
    annotations.push({ ...at, text: safe(one.name), showarrow: false, font: { size: 11, color: tone } });
  });
  return { shapes, annotations };
}

function selectedTrace([x, y]) {
  const member = STATE.selected;
  const place = member ? placesOf(member.run, member, [x, y]) : {};
  const point = place.after ?? place.before;
  return trace("selected", point ? [point] : [], {
    showlegend: false, hoverinfo: "skip", marker: { symbol: "circle-open", size: 20, color: colour("mark"), line: { width: 3 } },
  });
}

/** A range that shows the front and the known networks, and of the others what lies near. */
function rangeOf(traces, axis, log) {
  const values = traces.flatMap((one) => one[axis]).filter((value) => Number.isFinite(value) && (!log || value > 0));
  if (!values.length) return undefined;
  const [low, high] = [Math.min(...values), Math.max(...values)].map((value) => (log ? Math.log10(value) : value));
  const pad = 0.07 * (high - low) || 0.05 * Math.abs(high) || 1;
  return [low - pad, high + pad];
}

function drawFront() {
  const axes = [byId("axis-x").value, byId("axis-y").value];
  const label = SINGLE ? byId("colour").value : "";
  const shown = (id) => byId(id).checked;
  const faint = { size: 5, opacity: 0.45, line: { width: 0 } };
  const traces = RUNS.flatMap((run) => {
    const tone = SINGLE ? colour("faint") : runColour(run);
    const parts = [];
    const of = SINGLE ? "" : `${safe(run.short)}: `;
    if (shown("show-dominated")) parts.push(trace(`${of}dominated`, others(run, axes, BEATEN), { marker: { ...faint, symbol: SYMBOLS[run.index % 6], color: tone }, showlegend: SINGLE }));
    if (shown("show-infeasible")) parts.push(trace(`${of}violates a constraint`, others(run, axes, INFEASIBLE), { marker: { ...faint, symbol: "x-thin", size: 6, line: { width: 1, color: tone } } }));
    return [...parts, ...frontTraces(run, axes, label)];
  });
  if (shown("show-references")) traces.push(referenceTrace(axes));
  traces.push(selectedTrace(axes));
  const lines = shown("show-references") ? referenceLines(axes) : { shapes: [], annotations: [] };
  const [logX, logY] = [shown("log-x"), shown("log-y")];
  const axis = (at, log) => ({
    title: { text: safe(directed(axes[at])), standoff: 8 }, type: log ? "log" : "linear", range: rangeOf(traces, "xy"[at], log),
    autorange: traces.some((one) => one.x.length) ? false : true, exponentformat: "SI",
  });
  const empty = RUNS.every((run) => !run.members.length)
    ? [{ text: "No network is on the front.", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5, font: { size: 15, color: colour("muted") } }] : [];
  Plotly.react("front-plot", traces, layoutOf({
    xaxis: axis(0, logX), yaxis: axis(1, logY), uirevision: [...axes, logX, logY].join(), shapes: lines.shapes, annotations: [...lines.annotations, ...empty],
  }), PLOT_CONFIG);
}

function onPoint(plot) {
  const found = (event) => {
    const [index, kind, at] = event.points[0].customdata ?? [];
    const run = RUNS[index];
    if (!run) return null;
    return { run, kind, member: kind === "member" ? run.members[at] : null, at: kind === "member" ? run.members[at].at : at };
  };
  plot.on("plotly_hover", (event) => {
    const point = found(event);
    if (!point) return;
    showTip(event.event, point.kind === "reference" ? referenceTip(point.run, point.run.references[point.at]) : tipOf(point.run, point.at, point.member));
  });
  plot.on("plotly_unhover", hideTip);
  plot.on("plotly_click", (event) => {
    const member = found(event)?.member;
    if (member) select(member);
  });
}

function startFront() {
  const labels = [...AXES.keys()].map((label) => [label, title(label)]);
  const first = RUNS[0];
  const objectives = first.objectives.map((at) => first.metrics[at].label);
  const speed = objectives.slice(1).find((label) => AXES.get(label).where) ?? objectives[1] ?? "order";
  choices(byId("axis-x"), labels, speed);
  choices(byId("axis-y"), labels, objectives[0]);
  const third = objectives.find((label) => label !== speed && label !== objectives[0]);
  choices(byId("colour"), [["", "none"], ...labels.filter(([label]) => label !== "order")], third ?? "");
  byId("colour-label").hidden = !SINGLE;
  const total = RUNS.reduce((sum, run) => sum + run.total, 0);
  const drawn = RUNS.reduce((sum, run) => sum + run.count, 0);
  if (drawn < total) byId("thinned").textContent = `${drawn.toLocaleString("en")} of ${total.toLocaleString("en")} networks are drawn, including the whole front.`;
  const ids = ["axis-x", "axis-y", "log-x", "log-y", "colour", "show-dominated", "show-infeasible", "show-references"];
  byId("references-label").hidden = RUNS.every((run) => !run.references.length);
  byId("infeasible-label").hidden = RUNS.every((run) => !run.status.includes(INFEASIBLE));
  ids.forEach((id) => byId(id).addEventListener("change", drawFront));
  drawFront();
  onPoint(byId("front-plot"));
  STATE.listeners.push(drawFront);
}
