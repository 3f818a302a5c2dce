// Hypervolume over the search, and predicted against measured values.

function historyTrace(run, history, at, dash) {
  const of = SINGLE ? "" : `${safe(run.short)}: `;
  return {
    type: "scatter", mode: history.length < 60 ? "lines+markers" : "lines", name: `${of}${dash ? "random search" : "this search"}`,
    x: history.map((row) => row[at]), y: history.map((row) => row[2]), line: { color: dash ? colour("muted") : runColour(run), dash: dash ? "dash" : "solid", width: 2, shape: "hv" },
    marker: { size: 5, symbol: dash ? "x-thin" : SYMBOLS[run.index % 6], line: { width: dash ? 1.5 : 0, color: colour("muted") } },
    hovertemplate: "%{x} networks: %{y:.4f}<extra>%{fullData.name}</extra>",
  };
}

function drawProgress() {
  const at = Number(byId("progress-x").value);
  const traces = RUNS.flatMap((run) => [historyTrace(run, run.history, at, false), ...(run.random ? [historyTrace(run, run.random, at, true)] : [])]).filter((one) => one.x.length);
  const name = byId("progress-x").selectedOptions[0].text;
  const empty = traces.length ? [] : [{ text: "No data was recorded.", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }];
  Plotly.react("progress-plot", traces, layoutOf({ xaxis: { title: { text: name } }, yaxis: { title: { text: "hypervolume" } }, annotations: empty, showlegend: true }), PLOT_CONFIG);
}

function drawTraining() {
  const traces = RUNS.flatMap((run) => run.trainings.map((curve, at) => ({
    type: "scatter", mode: curve.steps.length < 60 ? "lines+markers" : "lines", name: safe(SINGLE ? curve.name : `${run.short}: ${curve.name}`),
    x: curve.steps, y: curve.losses, line: { color: runColour(run), width: 2, dash: at ? "dot" : "solid" }, marker: { size: 5 },
    hovertemplate: "step %{x}: %{y:.4f}<extra>%{fullData.name}</extra>",
  })));
  byId("training").hidden = !traces.length;
  if (traces.length) Plotly.react("training-plot", traces, layoutOf({ xaxis: { title: { text: "step" } }, yaxis: { title: { text: "training loss, mean of the steps" } }, showlegend: traces.length > 1 }), PLOT_CONFIG);
}

/** Predicted and measured values of one metric: held-out networks, and the front when it was measured again. */
function parityPairs(run, predictor) {
  const column = run.metrics.findIndex((metric) => metric.key === predictor.metric);
  const own = (member) => predictor.deployment === null || member.deployment === predictor.deployment;
  const front = column < 0 ? [] : run.members.filter(own).flatMap((member) => {
    const checked = member.measured?.[column];
    return checked ? [[checked[0], run.values[column][member.at], member]] : [];
  });
  return { held: predictor.heldOut.filter((pair) => pair[0] > 0 && pair[1] > 0), front, metric: run.metrics[column] };
}

function drawParity() {
  for (const box of document.querySelectorAll(".parity")) {
    const run = RUNS[Number(box.dataset.run)];
    const pairs = parityPairs(run, run.predictors[Number(box.dataset.predictor)]);
    box.hidden = !pairs.held.length && !pairs.front.length;
    if (!box.hidden) parityPlot({ box, run, ...pairs });
  }
}

/** Round numbers between two, a handful of them. */
function roundNumbers(low, high) {
  for (const steps of [[1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7], [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9]]) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) found.push(...steps.map((step) => step * 10 ** power));
    const inside = found.filter((value) => value >= low && value <= high);
    if (inside.length >= 4) return inside;
  }
  return [low, high];
}

function parityPlot({ box, held, front, metric, run }) {
  const all = [...held, ...front].flatMap(([measured, predicted]) => [measured, predicted]);
  const [low, high] = [0.93 * Math.min(...all), 1.07 * Math.max(...all)];
  const name = metric ? TITLES[metric.name] ?? metric.name : "";
  const dots = (text, pairs, marker) => ({
    type: "scatter", mode: "markers", name: text, x: pairs.map((pair) => pair[0]), y: pairs.map((pair) => pair[1]), marker,
    hovertemplate: "measured %{x:.4g}, predicted %{y:.4g}<extra></extra>", showlegend: pairs.length > 0,
  });
  const traces = [
    { type: "scatter", mode: "lines", x: [low, high], y: [low, high], hoverinfo: "skip", showlegend: false, line: { color: colour("faint"), width: 1 } },
    dots("held out", held, { symbol: "circle-open", size: 7, color: colour("muted"), line: { width: 1.3 } }),
    dots("front, measured", front, { symbol: "diamond", size: 9, color: runColour(run), line: { width: 1, color: colour("paper") } }),
  ];
  const ends = [Math.log10(low), Math.log10(high)];
  const ticks = roundNumbers(low, high);
  const axis = (text) => ({ type: "log", range: ends, title: { text: safe(text) }, tickvals: ticks, ticktext: ticks.map((value) => digits(value).replace(/\.0+$/, "")) });
  Plotly.react(box, traces, layoutOf({ xaxis: axis(`measured ${name}`), yaxis: axis(`predicted ${name}`) }), PLOT_CONFIG);
}

function startCurves() {
  byId("progress-x").addEventListener("change", drawProgress);
  byId("random-note").textContent = RUNS.some((run) => run.random) ? "Dashed: random search with the same budget." : "No random search was run for comparison (--random-baseline).";
  drawProgress();
  drawTraining();
  drawParity();
}
