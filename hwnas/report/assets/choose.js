// The best network within a budget or the selected one, and the commands that fine-tune and export it.

const CHOICE = { run: RUNS[0], label: null, target: null, limits: [], member: null };

/** The values that a limit may have, in ascending order, so that the slider reads as a scale does. */
function limitsOf(run, label) {
  const known = run.members.filter((member) => run.stands(member) && Number.isFinite(run.best(label, member)));
  return [...new Set(known.map((member) => run.best(label, member)))].sort((a, b) => a - b);
}

function within(run, label, limit) {
  const order = better(label);
  return run.members.filter((member) => run.stands(member) && order(run.best(label, member), limit) <= 0);
}

function choose() {
  const { run, label, target, limits } = CHOICE;
  const limit = limits[Number(byId("budget").value)];
  const sign = AXES.get(label).maximised ? "≥" : "≤";
  const name = plainTitle(label);
  byId("budget-text").textContent = limits.length ? `${name} ${sign} ${withUnit(label, limit)}` : "No network to choose from.";
  byId("budget").setAttribute("aria-valuetext", byId("budget-text").textContent);
  const ranked = limits.length ? within(run, label, limit).sort((a, b) => better(target)(run.best(target, a), run.best(target, b))) : [];
  CHOICE.member = ranked[0] ?? null;
  drawChoice();
}

function drawChoice() {
  const { run, member } = CHOICE;
  byId("command").replaceChildren(...(member ? unbroken(`${run.command}${member.id} --format onnx --out ${short(member.id)}-onnx`) : []));
  byId("copy").disabled = !member;
  const finetuning = member ? run.finetuning[member.place] : "";
  byId("finetuning").hidden = !finetuning;
  byId("finetuning-command").replaceChildren(...unbroken(finetuning));
  if (!member) return byId("choice").replaceChildren();
  const rows = run.metrics.flatMap((metric) => {
    const measured = run.measured(metric.label, member);
    const value = withUnit(metric.label, run.best(metric.label, member));
    const how = measured ? `, measured${member.unstable?.length ? ", unstable" : ""}` : metric.predicted ? ", predicted" : "";
    return [make("dt", {}, `${plainTitle(metric.label)}${how}`), make("dd", {}, value, relative(run, metric.label, member))];
  });
  const outside = member.outside ? make("p", { class: "muted" }, `Extrapolated, outside the fitted range: predicted ${member.outside}.`) : "";
  const fallen = run.stands(member) ? "" : make("p", { class: "muted" }, `Not on the measured front: ${member.verdict}.`);
  byId("choice").replaceChildren(make("p", { class: "id" }, `network ${member.id}`), fallen, outside, make("dl", {}, ...rows), genesOf(run, member.at),
    member.exportedTo ? make("p", { class: "muted" }, `Already exported to ${member.exportedTo} in the run.`) : "");
}

/** " (0.87 × DeiT-Ti)", where that is known. */
function relative(run, label, member) {
  const ratio = ratioOf(run, label, member);
  return ratio === null || ratio < 0.01 ? "" : make("span", { class: "aside" }, ` ${times(ratio)} ${run.references[run.baseline].name}`);
}

function ratioOf(run, label, member) {
  const base = run.baseline === null ? null : run.references[run.baseline].values[run.column(label)];
  const value = run.best(label, member);
  return !base || QUALITIES.includes(AXES.get(label).name) || !Number.isFinite(value) ? null : value / base;
}

function setBudget() {
  const run = RUNS[Number(byId("choose-run").value)];
  const label = byId("budget-metric").value;
  const limits = limitsOf(run, label);
  Object.assign(CHOICE, { run, label, limits, target: run.metrics[run.objectives[0]].label });
  const slider = byId("budget");
  slider.max = Math.max(0, limits.length - 1);
  slider.disabled = limits.length < 2;
  const start = run.members[run.choice[0]];
  slider.value = start ? Math.max(0, limits.indexOf(run.best(label, start))) : 0;
  choose();
}

function setRun() {
  const run = RUNS[Number(byId("choose-run").value)];
  const target = run.objectives[0];
  const others = run.metrics.filter((metric, at) => at !== target && metric.role !== "other");
  const more = run.metrics.filter((metric, at) => at !== target && metric.role === "other");
  const offered = [...others, ...more].map((metric) => [metric.label, title(metric.label)]);
  const speed = others.find((metric) => metric.where) ?? others[0] ?? more[0];
  choices(byId("budget-metric"), offered.length ? offered : [[run.metrics[target].label, title(run.metrics[target].label)]], speed?.label);
  setBudget();
}

/** Show the network that was selected in a plot or the table, with the commands that fine-tune and export it. */
function chooseSelected() {
  const member = STATE.selected;
  if (!member || member === CHOICE.member) return;
  if (member.run !== CHOICE.run) {
    byId("choose-run").value = String(member.run.index);
    setRun();
  }
  CHOICE.member = member;
  drawChoice();
}

async function copyCommand(id) {
  const text = byId(id).textContent;
  try {
    await navigator.clipboard.writeText(text);
    byId("copied").textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren(byId(id));
    byId("copied").textContent = "Selected: press Ctrl+C.";
  }
}

function startChoose() {
  choices(byId("choose-run"), RUNS.map((run) => [String(run.index), run.name]), "0");
  byId("choose-run-label").hidden = SINGLE;
  byId("choose-run").addEventListener("change", setRun);
  byId("budget-metric").addEventListener("change", setBudget);
  byId("budget").addEventListener("input", () => { choose(); if (CHOICE.member) select(CHOICE.member); });
  byId("copy").addEventListener("click", () => copyCommand("command"));
  byId("copy-finetuning").addEventListener("click", () => copyCommand("finetuning-command"));
  STATE.listeners.push(chooseSelected);
  setRun();
}
