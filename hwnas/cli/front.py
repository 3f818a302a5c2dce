"""The result of a search as text: the table of its front, how well it was verified, and its exported networks."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from hwnas.cli.following import finetuning
from hwnas.cli.output import Column, print_footer, print_line, print_table
from hwnas.report.data import RunData
from hwnas.report.front import FrontRow, reference_rows, rows_of
from hwnas.report.gather import gather
from hwnas.report.verdict import balanced, plain_sizes, standing
from hwnas.search.record import SearchRecord, Verification

_MAX_ROWS = 30
"""Rows of the table; front.csv has all of them."""

_TEXT_COLUMNS = ("arch_id", "deployment", "outside", "verified", "network", "origin")

_DEPLOYMENT = re.compile(r"@\S+?(?=_measured|_lower|_upper|_vs_|[<>]=|\s|$)")
"""Device, runtime, precision and batch in the name of a column, or in a constraint."""


def print_search_result(run: Path, record: SearchRecord) -> None:
    """Print the front of a search, its verification, its exported networks, and the command to run next."""
    data = gather(run)
    print_front(data)
    print_references(data)
    print_line()
    reached = record.history[-1][2] if record.history else 0.0
    random = record.random_history
    baseline = f" (random search: {random[-1][2]:.4f})" if random else ""
    print_line(
        f"{len(record.front)} networks on the {'searched ' if data.measured else ''}front of "
        f"{record.candidates:,} candidates, "
        f"{record.evaluations:,} evaluations by {record.spec.strategy}, "
        f"stopped by {record.stop}; hypervolume {reached:.4f}{baseline}"
    )
    for text in verification_lines(record):
        print_line(text)
    against = plain_sizes(data)
    if against:
        print_line(against)
    for item in record.winners:
        tested = "" if item.test_accuracy is None else f", test accuracy {item.test_accuracy:.2%}"
        if item.file_accuracy is not None and item.float_accuracy is not None:
            tested += f", accuracy of the graph {item.file_accuracy:.2%}, {item.float_accuracy:.2%} in float32"
        if (repair := item.repair) is not None:
            change = f"agreement with the model {repair.agreement_before:.2%} before, {repair.agreement:.2%} after"
            if repair.accuracy is not None:
                change = f"accuracy {repair.accuracy_before:.2%} before, {repair.accuracy:.2%} after"
            tested += f", {'repaired' if repair.kept else 'repair not kept'} ({change})"
        print_line(f"network {item.arch_id}: {run / item.folder}{tested} ({item.why})")
    if record.seeds is not None:
        spread = record.seeds.hypervolume
        print_line(f"{len(record.seeds.seeds)} seeds: hypervolume {spread.mean:.4f} ± {spread.std:.4f}")
    for note in record.notes:
        print_line(f"note: {note}")
    print_line(f"run: {run}")
    first = record.winners[0] if record.winners else balanced(data, standing(data))
    print_footer(("hwnas", "report", run), () if first is None else finetuning(run, record, first.arch_id))


def verification_lines(record: SearchRecord) -> list[str]:
    """Return lines that say whether the front was measured, and how well the predictions agree."""
    found = record.verification
    if found is None:
        return ["not verified: the front has not been measured"]
    if not found.has_measurements:
        what = "not verified" if found.status == "skipped" else "verification failed"
        return [f"{what}: {found.reason}; every speed is predicted"]
    on_front = sum(member.on_front for member in found.members)
    held = f"{on_front} of {len(found.members)} are on the measured front"
    if found.status == "partly":
        held += ", with predictions for metrics that were not measured"
    how = "verified" if found.status == "verified" else "verified in part"
    lines = [f"{how} on {found.device} with {found.runtime}: {held}"]
    lines += [f"not measured: {metric}: {why}" for metric, why in found.unmeasured.items()]
    lines += [_agreement(found, name) for name in found.mape]
    lines += [f"doubtful: {problem} ({profile.path})" for profile in found.profiles for problem in profile.problems]
    broken = [member for member in found.members if member.violated]
    if broken:
        lines.append(
            f"{len(broken)} violate a constraint when measured: " + ", ".join(member.arch_id for member in broken)
        )
    failed = [member for member in found.members if member.failure]
    if failed:
        lines.append(f"{len(failed)} could not be measured: {failed[0].failure}")
    return lines


def print_front(data: RunData) -> None:
    """Print the front, best accuracy first: predicted and measured values, relative to the baseline if there is one."""
    rows = rows_of(data)
    hidden = ("network_id", "arch", *(() if any(row.outside for row in rows) else ("outside",)))
    cells = [_visible_cells(row, hidden=hidden) for row in rows]
    if not cells:
        print_line("The front is empty: no evaluated network meets all constraints.")
        return
    titles = short_names(list(cells[0]))
    columns = [Column(title, numeric=title not in _TEXT_COLUMNS) for title in titles]
    print_table(columns, [[_format(name, value) for name, value in row.items()] for row in cells[:_MAX_ROWS]])
    if len(cells) > _MAX_ROWS:
        print_line(f"and {len(cells) - _MAX_ROWS} more in {data.path / 'front.csv'}")


def print_references(data: RunData) -> None:
    """Print the reference networks that can be compared with a front."""
    rows = reference_rows(data)
    if rows:
        print_line()
        titles = short_names(list(rows[0]))
        columns = [Column(title, numeric=title not in _TEXT_COLUMNS) for title in titles]
        print_table(columns, [[_format(name, value) for name, value in row.items()] for row in rows])


def _visible_cells(row: FrontRow, *, hidden: Collection[str]) -> dict[str, Any]:
    """Return the columns that fit on a terminal."""
    cells = row.cells().items()
    return {name: value for name, value in cells if name not in hidden and not name.endswith(("_lower", "_upper"))}


def short_names(names: Sequence[str]) -> list[str]:
    """Leave out device, runtime, precision and batch where the names stay unique."""
    short = [_DEPLOYMENT.sub("", name) for name in names]
    return [bare if short.count(bare) == 1 else name for bare, name in zip(short, names, strict=True)]


def _format(name: str, value: Any) -> object:
    if value is None or isinstance(value, (int, str)):
        return value
    if name.startswith(("accuracy", "knn_accuracy", "mAP", "mIoU")) and "_vs_" not in name:
        return f"{value:.2%}"
    return f"{value:.3g}" if "_vs_" in name else f"{value:,.5g}"


def _agreement(found: Verification, name: str) -> str:
    spearman, coverage = found.spearman.get(name), found.coverage.get(name)
    rank = "" if spearman is None else f", Spearman {spearman:.3f}"
    known = coverage is not None and found.confidence is not None
    inside = f", {coverage:.0%} inside intervals of {found.confidence:.0%}" if known else ""
    return f"{name}: predicted within {found.mape[name]:.2%} on average{rank}{inside}"
