// The front as a table that is linked with the plots, and its files.

const TABLE = { sort: null, descending: false, all: false };
const FIRST_ROWS = 200;

function tableColumns() {
  const labels = [...AXES.keys()].filter((label) => label !== "order" && (AXES.get(label).role !== "other" || AXES.get(label).name === "params"));
  const columns = [{ name: "network", text: true, value: (run, member) => member.id, show: (run, member) => [short(member.id)] }];
  if (!SINGLE) columns.push({ name: "run", text: true, value: (run) => run.short, show: (run) => [run.short] });
  const deploymentOf = (run, member) => run.deployments[member.deployment] ?? "";
  if (RUNS.some((run) => run.deployments.length)) columns.push({ name: "deployment", text: true, value: deploymentOf, show: (run, member) => [deploymentOf(run, member) || "–"] });
  for (const label of labels) {
    columns.push(valueColumn(label));
    if (AXES.get(label).name === "accuracy" && RUNS.some((run) => run.members.some((member) => member.floatAccuracy !== undefined))) columns.push(floatColumn(label));
  }
  const based = RUNS.filter((run) => run.baseline !== null);
  const compared = labels.filter((label) => based.some((run) => run.members.some((member) => ratioOf(run, label, member) !== null)));
  for (const label of compared) columns.push(ratioColumn(label, based[0]));
  const checked = RUNS.some((run) => run.members.some((member) => member.verdict));
  if (checked) columns.push({ name: "when measured", text: true, value: (run, member) => member.verdict ?? "", show: (run, member) => [member.verdict ? `${member.verdict}${member.unstable?.length ? ", unstable" : ""}` : "–"] });
  if (RUNS.some((run) => run.members.some((member) => member.outside))) columns.push({ name: "extrapolated", text: true, value: (run, member) => member.outside ?? "", show: (run, member) => [member.outside ?? "–"] });
  return columns;
}

function valueColumn(label) {
  return {
    name: title(label),
    maximised: AXES.get(label).maximised,
    value: (run, member) => run.best(label, member),
    show: (run, member) => {
      const measured = run.measured(label, member);
      const seen = cell(label, run.seen(label, member.at));
      return measured ? [cell(label, measured[0]), make("span", { class: "aside" }, ` pred. ${seen}`)] : [seen];
    },
    reference: (run, reference) => cell(label, reference.values[run.column(label)]),
  };
}

/** Accuracy in float32 of networks that run in a precision that changes it. */
function floatColumn(label) {
  return {
    name: `${plainTitle(label)} in fp32`,
    maximised: true,
    value: (run, member) => member.floatAccuracy ?? NaN,
    show: (run, member) => [member.floatAccuracy === undefined ? "–" : cell(label, member.floatAccuracy)],
    reference: () => "–",
  };
}

function ratioColumn(label, based) {
  return {
    name: `${plainTitle(label)} vs ${based.references[based.baseline].name}`,
    maximised: AXES.get(label).maximised,
    value: (run, member) => ratioOf(run, label, member) ?? NaN,
    show: (run, member) => [ratioOf(run, label, member) === null ? "–" : times(ratioOf(run, label, member))],
    reference: (run, reference) => {
      const base = run.references[run.baseline]?.values[run.column(label)];
      const value = reference.values[run.column(label)];
      return base && value ? times(value / base) : "–";
    },
  };
}

let COLUMNS = [];

function sortedMembers() {
  const members = RUNS.flatMap((run) => run.members);
  if (TABLE.sort === null) return members;
  const { value } = COLUMNS[TABLE.sort];
  const sign = TABLE.descending ? -1 : 1;
  const order = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
  return members.toSorted((a, b) => {
    const [left, right] = [value(a.run, a), value(b.run, b)];
    if (Number.isNaN(left) || Number.isNaN(right)) return Number.isNaN(left) - Number.isNaN(right);
    return sign * order(left, right);
  });
}

function sortBy(column) {
  TABLE.descending = TABLE.sort === column ? !TABLE.descending : COLUMNS[column].maximised ?? false;
  TABLE.sort = column;
  drawTable();
}

function headRow() {
  return make("tr", {}, ...COLUMNS.map((column, at) => {
    const order = TABLE.sort === at ? (TABLE.descending ? "descending" : "ascending") : "none";
    return make("th", { scope: "col", class: column.text ? "text" : null, "aria-sort": order }, make("button", { type: "button", onclick: () => sortBy(at) }, ...unbroken(column.name)));
  }));
}

function memberRow(member) {
  const pick = () => select(member);
  return make("tr", {
    tabindex: 0, "data-id": member.id, class: member.run.stands(member) ? null : "fallen", "aria-selected": String(STATE.selected === member),
    onclick: pick,
    onkeydown: (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pick(); }
      const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
      if (step && event.currentTarget[step]) { event.preventDefault(); event.currentTarget[step].focus(); }
    },
  }, ...COLUMNS.map((column) => make("td", { class: column.text ? "text" : null }, ...column.show(member.run, member))));
}

function referenceRow({ run, reference, colour: own }) {
  const cells = COLUMNS.map((column, at) => (at === 0 ? reference.name : column.reference ? column.reference(run, reference) : column.name === "run" && own ? run.short : ""));
  return make("tr", { class: "fallen" }, ...cells.map((text, at) => make("td", { class: COLUMNS[at].text ? "text" : null }, text)));
}

function drawTable() {
  const members = sortedMembers();
  const shown = TABLE.all ? members : members.slice(0, FIRST_ROWS);
  const table = byId("rows");
  const focused = document.activeElement?.closest?.("#rows thead th")?.cellIndex;
  table.tHead.replaceChildren(headRow());
  if (focused !== undefined) table.tHead.rows[0].cells[focused].firstChild.focus();
  table.tBodies[0].replaceChildren(...shown.map(memberRow), ...knownNetworks().map((known) => referenceRow(known)));
  byId("more").hidden = shown.length === members.length;
  byId("more").textContent = `Show all ${members.length.toLocaleString("en")} networks`;
}

function markSelected() {
  for (const row of byId("rows").tBodies[0].rows) if (row.dataset.id) row.setAttribute("aria-selected", String(row.dataset.id === STATE.selected?.id));
}

async function unpacked(text) {
  const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).blob();
}

async function download(name, text, type) {
  const blob = new Blob([await unpacked(text)], { type });
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function startTable() {
  byId("fallen-note").hidden = RUNS.every((run) => run.members.every((member) => run.stands(member)));
  const based = RUNS.find((run) => run.baseline !== null);
  const said = based ? [`Figures “vs ${based.references[based.baseline].name}” are relative to it.`] : [];
  byId("baseline-note").textContent = [...said, ...new Set(RUNS.map((run) => run.referencesNote).filter(Boolean))].join(" ");
  byId("unstable-note").hidden = !RUNS.some((run) => run.members.some((member) => member.unstable?.length));
  COLUMNS = tableColumns();
  const links = RUNS.flatMap((run) => ["csv", "json"].filter((kind) => run.files[kind]).map((kind) => {
    const name = SINGLE ? `front.${kind}` : `${run.name}-front.${kind}`;
    const type = kind === "csv" ? "text/csv" : "application/json";
    return make("button", { type: "button", "data-file": kind, onclick: () => download(name, run.files[kind], type) }, SINGLE ? `Download ${name}` : `${run.short} ${kind}`);
  }));
  const left = RUNS.some((run) => !run.files.csv || !run.files.json) ? "Files too large for this page are stored next to it." : "";
  byId("downloads").replaceChildren(...links.flatMap((link) => [link, " "]), left);
  byId("more").addEventListener("click", () => { TABLE.all = true; drawTable(); });
  drawTable();
  STATE.listeners.push(markSelected);
}
