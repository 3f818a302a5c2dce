"use strict";
// Asks for the state of the runs again and again, and shows it. Texts from files reach the page as text nodes alone, and
// plots with their markup escaped.

const INTERVAL_MS = 2000;
const PLOT_CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
const byId = (id) => document.getElementById(id);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const safe = (text) => String(text).replace(/[&<>]/g, (letter) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[letter]);
const sections = [];

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** The parts of a run on the page, which are made once and filled again and again. */
function sectionOf(index) {
  if (sections[index]) return sections[index];
  const box = element("section", "live");
  const title = element("h2");
  const name = element("span"), status = element("span", "status");
  title.append(name, status);
  const parts = {
    box, name, status, sentence: element("p", "verdict"), progress: element("progress"), facts: element("dl", "live-facts"),
    error: element("div", "banner warning"), charts: element("div", "charts"), plots: new Map(),
  };
  parts.error.append(element("strong"), element("pre"));
  parts.progress.max = 1;
  parts.progress.setAttribute("aria-label", "share of the work that is done");
  parts.sentence.setAttribute("aria-live", "polite");
  box.append(title, parts.sentence, parts.progress, parts.facts, parts.error, parts.charts);
  byId("runs").append(box);
  sections[index] = parts;
  return parts;
}

function write(node, text) { if (node.textContent !== text) node.textContent = text; }

function show(run, index) {
  const parts = sectionOf(index);
  parts.box.dataset.status = run.status;
  write(parts.name, run.name);
  write(parts.status, run.status);
  parts.status.className = `status ${run.status}`;
  write(parts.sentence, run.sentence);
  parts.progress.hidden = run.done === undefined || run.done === null;
  if (!parts.progress.hidden) parts.progress.value = run.done;
  parts.facts.replaceChildren(...run.facts.map(([name, value]) => {
    const pair = element("div");
    pair.append(element("dt", "", name), element("dd", "", value));
    return pair;
  }));
  parts.error.hidden = !run.error;
  if (run.error) {
    write(parts.error.firstChild, `Last error (${run.error.kind})`);
    write(parts.error.lastChild, `${run.error.time_utc}\n${run.error.message}`);
  }
  for (const chart of run.charts) draw(parts, index, chart);
}

function draw(parts, index, chart) {
  let plot = parts.plots.get(chart.id);
  if (!plot) {
    const box = element("div");
    plot = element("div", "plot");
    plot.id = `plot-${index}-${chart.id}`;
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", chart.title);
    box.append(element("h3", "", chart.title), plot);
    parts.charts.append(box);
    parts.plots.set(chart.id, plot);
  }
  const axis = (text) => ({ title: { text: safe(text) }, gridcolor: colour("grid"), zeroline: false });
  Plotly.react(plot, chart.series.map(trace), {
    margin: { l: 60, r: 12, t: 8, b: 48 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent", uirevision: "kept",
    font: { color: colour("ink"), size: 12 }, legend: { orientation: "h", y: 1.14 }, showlegend: true,
    xaxis: axis(chart.x), yaxis: axis(chart.y),
  }, PLOT_CONFIG);
}

function trace(series, at) {
  const paint = series.muted ? colour("faint") : colour(`run-${at % 6}`);
  return {
    type: "scatter", name: safe(series.name), x: series.x, y: series.y, mode: series.kind === "points" ? "markers" : series.x.length < 60 ? "lines+markers" : "lines",
    line: { color: paint, width: 2, shape: series.kind === "steps" ? "hv" : "linear", dash: series.muted ? "dot" : "solid" },
    marker: { color: paint, size: series.muted ? 4 : series.kind === "points" ? 8 : 5, opacity: series.muted ? 0.5 : 1 },
    text: series.labels.map(safe), hovertemplate: `${series.labels.length ? "%{text}<br>" : ""}%{x:.5g}, %{y:.5g}<extra>%{fullData.name}</extra>`,
  };
}

async function update() {
  try {
    const answer = await fetch("state.json");
    if (!answer.ok) throw new Error(answer.statusText);
    const state = await answer.json();
    state.runs.forEach(show);
    byId("report").hidden = !state.report;
    byId("lost").hidden = true;
    byId("updated").textContent = `updated ${new Date().toLocaleTimeString()}`;
    document.title = `${state.runs.map((run) => `${run.name}: ${run.status}`).join(", ")} – hwnas`;
  } catch (error) {
    byId("lost").hidden = false;
  }
  setTimeout(update, INTERVAL_MS);
}

update();
