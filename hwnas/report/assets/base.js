"use strict";
// Data and small tools. Texts from files reach the page as text nodes alone, and plots with their markup escaped.

const REPORT = JSON.parse(document.getElementById("data").textContent);
const UNUSED = 255;
const [BEATEN, ON_FRONT, INFEASIBLE] = [0, 1, 2];
const TITLES = {
  accuracy: "accuracy, %", knn_accuracy: "accuracy of nearest images, %", divergence: "divergence from the model, nats", mAP: "mAP, %", mIoU: "mIoU, %", macs: "MACs", params: "parameters", latency_ms: "latency, ms", throughput: "throughput, images/s",
  memory_mb: "memory, MB", energy_j: "energy, J", order: "order of evaluation",
};
const FACTORS = { accuracy: 100, knn_accuracy: 100, mAP: 100, mIoU: 100 };
const QUALITIES = ["accuracy", "knn_accuracy", "divergence", "mAP", "mIoU"];
const byId = (id) => document.getElementById(id);

function bytes(text) {
  const raw = atob(text);
  const values = new Uint8Array(raw.length);
  for (let at = 0; at < raw.length; at += 1) values[at] = raw.charCodeAt(at);
  return values;
}

const floats = (text) => (text === null ? null : new Float32Array(bytes(text).buffer));

class Run {
  constructor(given, index) {
    Object.assign(this, given);
    this.index = index;
    const { candidates } = given;
    this.count = candidates.count;
    this.order = new Int32Array(bytes(candidates.order).buffer);
    this.genomes = bytes(candidates.genomes);
    this.status = bytes(candidates.status);
    this.values = candidates.values.map(floats);
    this.lower = candidates.lower.map(floats);
    this.upper = candidates.upper.map(floats);
    this.members = given.front.map((member, place) => ({ ...member, place, run: this }));
    this.objectives = given.metrics.map((metric, at) => at).filter((at) => given.metrics[at].role === "objective");
  }

  column(label) { return this.metrics.findIndex((metric) => metric.label === label); }

  /** What the search saw of a candidate; "order" is when it was looked at. */
  seen(label, at) {
    if (label === "order") return this.order[at];
    const column = this.column(label);
    return column < 0 ? NaN : this.values[column][at];
  }

  interval(label, at) {
    const column = this.column(label);
    return column < 0 || !this.lower[column] ? null : [this.lower[column][at], this.upper[column][at]];
  }

  /** [value, lower, upper] as it was measured, or null. */
  measured(label, member) {
    const column = this.column(label);
    return column < 0 || !member.measured ? null : member.measured[column];
  }

  best(label, member) { return this.measured(label, member)?.[0] ?? this.seen(label, member.at); }

  stands(member) { return member.stands !== false; }

  genome(at) {
    const width = this.dimensions.length;
    return this.genomes.subarray(at * width, (at + 1) * width);
  }

  /** The choices of a candidate by the names of its dimensions: [{value, stage}], null for what it does not have. */
  genes(at) {
    const found = new Map();
    this.genome(at).forEach((gene, column) => {
      const { name, stage, choices } = this.dimensions[column];
      if (!found.has(name)) found.set(name, []);
      found.get(name).push({ stage, value: gene === UNUSED ? null : choices[gene] });
    });
    return found;
  }
}

const RUNS = REPORT.runs.map((given, index) => new Run(given, index));
const SINGLE = RUNS.length === 1;

/** What runs are called where there is little room: their spaces if these differ, else what their names do not share. */
function shortNames() {
  const spaces = RUNS.map((run) => run.space);
  if (new Set(spaces).size === RUNS.length) return spaces;
  const names = RUNS.map((run) => run.name);
  let same = 0;
  while (names.every((name) => same < name.length - 1 && name[same] === names[0][same])) same += 1;
  return names.map((name) => (same > 8 ? `…${name.slice(same)}` : name));
}

shortNames().forEach((name, at) => { RUNS[at].short = name; });

/** Digits of ids, 8 to 16, that tell the networks of all fronts apart; others of a run may begin with the same ones. */
const shortLength = (() => {
  const ids = [...new Set(RUNS.flatMap((run) => run.members.map((member) => member.id.split("-")[0])))];
  let length = 8;
  while (length < 16 && new Set(ids.map((id) => id.slice(0, length))).size < ids.length) length += 1;
  return length;
})();

/** The metrics of all runs by what they are called, and the order of evaluation. */
const AXES = new Map();
for (const run of RUNS) for (const metric of run.metrics) if (!AXES.has(metric.label)) AXES.set(metric.label, metric);
const ORDER = { label: "order", name: "order", maximised: false, unit: "", where: "", role: "other" };
AXES.set("order", ORDER);

function title(label) {
  const metric = AXES.get(label);
  const text = TITLES[metric.name] ?? metric.name;
  return metric.label === metric.name ? text : `${text} (${metric.where})`;
}

/** The title of an axis, which says where the better values are. */
function directed(label) {
  const metric = AXES.get(label);
  if (metric.name === "order") return title(label);
  return `${title(label)} – ${metric.maximised ? "higher" : "lower"} is better`;
}

/** What a metric is called where there is little room: with its device and setting only where others have its name. */
function plainTitle(label) {
  const metric = AXES.get(label);
  const text = (TITLES[metric.name] ?? metric.name).split(",")[0];
  if (metric.label === metric.name) return text;
  const others = [...AXES.values()].filter((other) => other.name === metric.name && other !== metric).map((other) => other.where.split(", "));
  const own = metric.where.split(", ").filter((part) => !others.every((parts) => parts.includes(part)));
  return own.length ? `${text} (${own.join(", ")})` : text;
}

const factor = (label) => FACTORS[AXES.get(label).name] ?? 1;

function digits(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e3) return value.toLocaleString("en", { maximumFractionDigits: 0 });
  if (size >= 100) return value.toFixed(0);
  if (size > 0 && size < 0.1) return value.toPrecision(3);
  return value.toFixed(size >= 10 ? 1 : size >= 1 ? 2 : 3);
}

function counted(value) {
  for (const [size, prefix] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) if (value >= 0.9995 * size) return `${(value / size).toPrecision(3)} ${prefix}`;
  return digits(value);
}

/** A value as a cell under its title. */
function cell(label, value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const { name } = AXES.get(label);
  if (name === "order") return String(value);
  if (name === "macs" || name === "params") return counted(value);
  return digits(value * factor(label));
}

/** A value with its unit. */
function withUnit(label, value) {
  const metric = AXES.get(label);
  const unit = factor(label) === 100 ? "%" : metric.unit;
  return unit ? `${cell(label, value)} ${unit}` : cell(label, value);
}

const times = (ratio) => `${ratio < 0.1 ? ratio.toPrecision(2) : ratio.toFixed(2)} ×`;
const short = (id) => id.slice(0, shortLength);
const safe = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const runColour = (run) => colour(`run-${run.index % 6}`);

/** An element with attributes and children; texts become text nodes. */
function make(tag, attributes = {}, ...children) {
  const drawn = ["svg", "g", "rect", "line", "path", "text", "title", "pattern", "defs"].includes(tag);
  const element = drawn ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A text whose words are broken between lines at blanks alone, and not at the hyphens that are in them. */
function unbroken(text) {
  return text.split(/(?<= )/).map((word) => make("span", { class: "word" }, word));
}

function choices(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => make("option", { value, selected: value === chosen }, text)));
}

/** Who is looked at: one network may be selected, some are drawn; whoever shows them is told of a change. */
const STATE = { selected: null, drawn: [], listeners: [] };
const MOST_DRAWN = 6;

function select(member) {
  STATE.selected = member;
  if (member && !STATE.drawn.includes(member)) STATE.drawn = [member, ...STATE.drawn].slice(0, MOST_DRAWN);
  STATE.listeners.forEach((listener) => listener());
}

function undraw(member) {
  STATE.drawn = STATE.drawn.filter((other) => other !== member);
  STATE.listeners.forEach((listener) => listener());
}

/** The better of two values of a metric comes first. */
const better = (label) => (a, b) => (AXES.get(label).maximised ? b - a : a - b);
