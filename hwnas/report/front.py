"""The front as tables: front.csv, front.json and front.md, one row per network."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.files import write_atomic
from hwnas.metrics import QUALITIES, parse_metric
from hwnas.report.data import Member, MetricInfo, RunData, slug
from hwnas.report.gather import gather
from hwnas.search.record import ReferenceNetwork
from hwnas.space.arch import canonical_json
from hwnas.space.deployed import DeployedSpace

CSV, JSON, MARKDOWN = "front.csv", "front.json", "front.md"


@dataclass(frozen=True, kw_only=True)
class FrontRow:
    """A network of a front as one row of its tables; all rows of a front have the same columns."""

    arch_id: str
    """Followed by the deployment where the search chose among several."""
    network_id: str
    deployment: str | None
    """The deployment that the search chose; None where there was no choice, and then there is no such column."""
    metrics: dict[str, float | int | None]
    """Objectives and constraints: values of the search, with `_lower`, `_upper` and `_measured`; `accuracy_fp32` where
    networks run in a precision that changes accuracy."""
    params: int
    relative: dict[str, float | None]
    """Measured, or else predicted, values divided by those of the baseline network."""
    outside: str
    """Metrics whose values are extrapolated, as the network is unlike all that their predictors were fitted to."""
    stands: bool
    """True if it is on the measured front, or nothing was measured; no column, as `verified` says why it is not."""
    verified: str
    """`measured`, or `measured in part` if a metric is predicted, either with `, dominated`; `violates CONSTRAINT`;
    `failed: REASON`; or `no`."""
    arch: dict[str, Any]

    def cells(self) -> dict[str, Any]:
        """Return the values by column name, in order."""
        return {
            "arch_id": self.arch_id,
            "network_id": self.network_id,
            **({} if self.deployment is None else {"deployment": self.deployment}),
            **self.metrics,
            "params": self.params,
            **self.relative,
            "outside": self.outside,
            "verified": self.verified,
            "arch": self.arch,
        }


def front_rows(run: Path) -> tuple[FrontRow, ...]:
    """Read the front of a run, sorted by the first objective, best first."""
    return rows_of(gather(run))


def write_front(run: Path) -> tuple[Path, ...]:
    """Write front.csv, front.json and front.md into a run, and return their paths."""
    return write_tables(gather(run), run)


def rows_of(data: RunData) -> tuple[FrontRow, ...]:
    """Return the rows of a front."""
    outside = outside_metrics(data)
    return tuple(_row(data, member, outside[index]) for index, member in enumerate(data.front))


def write_tables(data: RunData, folder: Path) -> tuple[Path, ...]:
    """Write the three tables of a run into a folder, and return their paths."""
    rows = rows_of(data)
    texts = {CSV: csv_text(data, rows), JSON: json_text(rows), MARKDOWN: markdown_text(data, rows)}
    for name, text in texts.items():
        write_atomic(folder / name, text)
    return tuple(folder / name for name in texts)


def csv_text(data: RunData, rows: Sequence[FrontRow]) -> str:
    """Format rows as CSV with a header; an empty cell is an unknown value, `arch` is JSON."""
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=columns(data), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row.cells(), "arch": canonical_json(row.arch)})
    return file.getvalue()


def json_text(rows: Sequence[FrontRow]) -> str:
    """Format rows as a JSON list."""
    return json.dumps([row.cells() for row in rows], indent=1, allow_nan=False) + "\n"


def markdown_text(data: RunData, rows: Sequence[FrontRow]) -> str:
    """Format rows as a Markdown table without the archs."""
    names = columns(data)[:-1]
    short, notes = _short_names(data)
    if data.references_note is not None:
        notes.append(data.references_note)
    notes += [f"`{metric}` was not measured ({why}): it is predicted." for metric, why in data.unmeasured.items()]
    header = [short(name) for name in names]
    lines = [header, ["---"] * len(names), *([_shown(row.cells()[name]) for name in names] for row in rows)]
    references = reference_rows(data)
    parts = [f"# Front of {_escaped(data.name)}", *notes, _table(lines)]
    if references:
        titles = [short(name) for name in references[0]]
        rest = [[_shown(value) for value in row.values()] for row in references]
        parts += ["## Reference networks", _table([titles, ["---"] * len(titles), *rest])]
    return "\n\n".join(parts) + "\n"


def reference_rows(data: RunData) -> tuple[dict[str, Any], ...]:
    """Return the reference networks by column: name, the metrics of the tables, parameters, and their origin."""
    return tuple(
        {
            "network": item.name,
            **{metric.key: item.value(metric.key) for metric in _shown_metrics(data)},
            "params": item.params,
            "origin": reference_origin(item),
        }
        for item in data.references
    )


def reference_origin(network: ReferenceNetwork) -> str:
    """Return whether the metrics of a reference network were measured, and with which weights it was evaluated."""
    origin = "measured" if network.measured else "predicted"
    if network.measured and network.predicted:
        origin += f" but for {', '.join(network.predicted)}"
    return f"{origin}; {network.note}" if network.note else origin


def _table(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def columns(data: RunData) -> list[str]:
    """Return the column names, which do not depend on the rows."""
    metrics = [name for metric in _shown_metrics(data) for name in _metric_columns(data, metric)]
    relative = list(_relative_columns(data))
    deployment = ["deployment"] if isinstance(data.space, DeployedSpace) else []
    return ["arch_id", "network_id", *deployment, *metrics, "params", *relative, "outside", "verified", "arch"]


def verdict_of(member: Member) -> str:
    """Return the result of the verification in a word or two."""
    if member.failure is not None:
        return f"failed: {member.failure}"
    if member.violated:
        return f"violates {', '.join(member.violated)}"
    if not member.measured:
        return "no"
    measured = "measured in part" if member.unmeasured else "measured"
    return measured if member.on_measured_front is not False else f"{measured}, dominated"


def outside_metrics(data: RunData) -> list[str]:
    """Return for each network of the front the names of metrics whose predictors were fitted to none like it."""
    return [
        ", ".join(dict.fromkeys(parse_metric(key).name for key, rows in data.outside.items() if index in rows))
        for index in range(len(data.front))
    ]


def _row(data: RunData, member: Member, outside: str) -> FrontRow:
    return FrontRow(
        arch_id=member.arch_id,
        network_id=member.network_id,
        deployment=member.deployment,
        metrics={name: value for metric in _shown_metrics(data) for name, value in _values(data, member, metric)},
        params=member.params,
        relative={
            name: _ratio(member.value(metric.key), baseline.value(metric.key))
            for name, (baseline, metric) in _relative_columns(data).items()
        },
        outside=outside,
        stands=member.stands,
        verified=verdict_of(member),
        arch=dict(member.arch),
    )


def _shown_metrics(data: RunData) -> list[MetricInfo]:
    return [metric for metric in data.metrics if metric.role != "other" and metric.name != "params"]


def _metric_columns(data: RunData, metric: MetricInfo) -> list[str]:
    suffixes = ["", *(("_lower", "_upper") if metric.predicted else ())]
    if data.measured and metric.where:
        suffixes.append("_measured")
    if metric.name == "accuracy" and data.has_float_accuracies:
        suffixes.append("_fp32")
    return [metric.key + suffix for suffix in suffixes]


def _values(data: RunData, member: Member, metric: MetricInfo) -> Sequence[tuple[str, float | int | None]]:
    check = member.metrics[metric.key]
    values = {"": check.predicted, "_lower": check.lower, "_upper": check.upper, "_measured": check.measured}
    values["_fp32"] = member.float_accuracy
    cells = [(name, values[name.removeprefix(metric.key)]) for name in _metric_columns(data, metric)]
    if metric.name == "macs":
        return [(name, None if value is None else int(value)) for name, value in cells]
    return cells


def _relative_columns(data: RunData) -> dict[str, tuple[ReferenceNetwork, MetricInfo]]:
    baseline = data.baseline
    if baseline is None:
        return {}
    known = [metric for metric in data.metrics if metric.name not in QUALITIES and baseline.value(metric.key)]
    return {f"{metric.key}_vs_{slug(baseline.name)}": (baseline, metric) for metric in known}


def _ratio(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else value / base


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else _escaped(str(value))


def _short_names(data: RunData) -> tuple[Callable[[str], str], list[str]]:
    """Return a function that shortens column names, and notes on what it leaves out."""
    names = [metric.name for metric in data.metrics]
    short = {metric.key: metric.name for metric in data.metrics if metric.where and names.count(metric.name) == 1}
    notes = [f"`{name}` is `{key}`." for key, name in short.items()]

    def shortened(column: str) -> str:
        return next((name + column.removeprefix(key) for key, name in short.items() if column.startswith(key)), column)

    return shortened, notes


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
