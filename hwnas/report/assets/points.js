// What is said of one network where the pointer is.

function geneLines(run, at) {
  return [...run.genes(at)].map(([name, genes]) => {
    const parts = [];
    let stage = genes[0].stage;
    for (const gene of genes) {
      if (gene.stage !== stage && genes.length > 4) parts.push("|");
      stage = gene.stage;
      parts.push(gene.value === null ? "·" : String(gene.value));
    }
    return [name, parts.join(" ")];
  });
}

function genesOf(run, at) {
  return make("div", { class: "genes" }, ...geneLines(run, at).map(([name, text]) => make("div", {}, make("b", {}, name), make("span", {}, text))));
}

function rowsOf(run, at, member) {
  return run.metrics.map((metric, column) => {
    const { label } = metric;
    const seen = run.seen(label, at);
    const measured = member ? run.measured(label, member) : null;
    const ends = run.interval(label, at);
    const range = ends && Number.isFinite(ends[0]) ? ` (${cell(label, ends[0])} to ${cell(label, ends[1])})` : "";
    const text = metric.predicted ? `predicted ${cell(label, seen)}${range}` : cell(label, seen);
    const spread = measured && measured[1] !== null ? ` (${cell(label, measured[1])} to ${cell(label, measured[2])})` : "";
    return [title(label), measured ? `measured ${cell(label, measured[0])}${spread}, ${text}` : text];
  });
}

const VERDICTS = ["dominated", "on the front", "violates a constraint", "not evaluated"];

function tipOf(run, at, member) {
  const status = member?.verdict ?? VERDICTS[run.status[at]];
  const name = member ? member.id : `candidate ${run.order[at]}`;
  return [
    make("h4", {}, SINGLE ? name : `${run.name}: ${name}`),
    make("div", { class: "aside" }, status),
    member?.unstable?.length ? make("div", { class: "aside" }, `unstable: ${member.unstable.join("; ")}`) : "",
    member?.outside ? make("div", { class: "aside" }, `extrapolated, outside the fitted range: ${member.outside}`) : "",
    make("table", {}, ...rowsOf(run, at, member).map((row) => make("tr", {}, ...row.map((text) => make("td", {}, text))))),
    genesOf(run, at),
  ];
}

function originOf(reference) {
  if (!reference.measured) return "predicted";
  const but = reference.predicted.length ? `, but ${reference.predicted.join(", ")} is predicted` : "";
  return `measured on the same device${but}`;
}

function referenceTip(run, reference) {
  const rows = run.metrics.map((metric, column) => [title(metric.label), cell(metric.label, reference.values[column])]);
  return [
    make("h4", {}, SINGLE ? reference.name : `${run.name}: ${reference.name}`),
    make("div", { class: "aside" }, [originOf(reference), reference.note].filter(Boolean).join("; ")),
    make("table", {}, ...rows.map((row) => make("tr", {}, ...row.map((text) => make("td", {}, text))))),
  ];
}

function showTip(event, children) {
  const tip = byId("tip");
  tip.replaceChildren(...children);
  tip.hidden = false;
  const { clientX: x, clientY: y } = event;
  const box = tip.getBoundingClientRect();
  const room = document.documentElement.clientWidth;
  const left = x + 16 + box.width > room ? Math.max(4, Math.min(x - 16 - box.width, room - box.width - 4)) : x + 16;
  const top = y + 16 + box.height > window.innerHeight ? Math.max(4, y - 16 - box.height) : y + 16;
  tip.style.left = `${left + window.scrollX}px`;
  tip.style.top = `${top + window.scrollY}px`;
}

const hideTip = () => { byId("tip").hidden = true; };
