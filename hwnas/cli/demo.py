"""`hwnas demo`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hwnas.cli.ending import print_ending
from hwnas.cli.front import print_rows
from hwnas.cli.options import json_option
from hwnas.cli.output import print_json, print_line
from hwnas.cli.progress import console_reporter
from hwnas.config import to_mapping
from hwnas.metrics import parse_metric
from hwnas.pipeline.demo import Demonstrated, DemoOptions, demonstrate

if TYPE_CHECKING:
    from hwnas.pipeline.demo import Demonstrated
    from hwnas.report.front import FrontRow
    from hwnas.search.record import SearchRecord


@click.command()
@click.option("--space", default="autoformer-micro", show_default=True, help="A micro space of one of the families.")
@click.option("--out", type=click.Path(path_type=Path), help="The folder (hwnas-demo/SPACE).")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Decides all that is drawn.")
@click.option("--epochs", type=click.IntRange(min=1), help="Of the supernet's training (the recipe's).")
@click.option("--max-images", type=click.IntRange(min=1), help="Train on at most this many images.")
@click.option("--samples", type=click.IntRange(min=8), default=40, show_default=True, help="Networks that are timed.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images a run of a network.")
@click.option("--budget", type=click.IntRange(min=1), default=80, show_default=True, help="Networks judged truly.")
@json_option
def demo(*, out: Path | None, as_json: bool, **asked: Any) -> None:
    """Do all of it, small, on this CPU, in minutes.

    Pictures of digits among clutter are made, and a supernet of tiny vision transformers is trained on them. Some of
    its networks are exported and timed here, and a predictor of throughput is fitted to that. A search finds the front
    of accuracy, MACs and throughput; the front is timed again; the best network is exported and run once; a page
    shows it all. Nothing is downloaded. A demo that was stopped goes on when the same command is given again.
    """
    options = DemoOptions(**asked)
    folder = out or Path("hwnas-demo") / options.space
    with console_reporter() as reporter:
        done = demonstrate(options, out=folder, reporter=reporter)
    if as_json:
        print_json(_values(done))
    else:
        _print(done)


def _values(done: Demonstrated) -> dict[str, Any]:
    return {
        "out": done.out,
        "space": done.space,
        "report": done.report,
        "model": done.model,
        "inference": done.inference,
        "seconds": done.seconds,
        "front": [row.cells() for row in done.front],
        "sentences": sentences(done),
        "record": to_mapping(done.record),
    }


def _print(done: Demonstrated) -> None:
    print_rows(done.out / "search")
    print_line()
    for sentence in sentences(done):
        print_line(sentence)
    inference = done.inference
    print_line()
    print_line(f"report: {done.report}")
    print_line(f"network: {done.model}")
    answer = "right" if inference.predicted == inference.label else f"wrong, it is class {inference.label}"
    print_line(f"  {inference.image}: class {inference.predicted}, probability {inference.probability:.0%} ({answer})")
    print_line()
    print_ending()
    print_line()
    print_line("The same with your pictures and your device, DIR having a folder for each class:")
    for command in _COMMANDS:
        print_line(f"  {command}")


_COMMANDS = (
    "hwnas train --space autoformer-tiny --data DIR --out runs/supernet",
    "hwnas profile --space autoformer-tiny --device auto --batch 1,64",
    "hwnas fit --device auto",
    "hwnas search --supernet runs/supernet --device auto --objective throughput",
    "hwnas report RUN",
)
"""What the demo did, for a user's own case; `hwnas search` prints its RUN."""


def sentences(done: "Demonstrated") -> tuple[str, ...]:
    """What is on the front, whether to believe it, and which network is which."""
    speed = next(name for name in done.record.spec.objectives if parse_metric(name).quantity.on_device)
    return (_front(done.front, speed), _belief(done.record, speed), _network(done, speed))


def _front(rows: "Sequence[FrontRow]", speed: str) -> str:
    if not rows:
        return "No network was found that meets the constraints."
    best, fastest = rows[0], max(rows, key=lambda row: _speed(row.metrics, speed))
    if best is fastest:
        what = "One network is" if len(rows) == 1 else f"Of {len(rows)} networks on the front, one is"
        return f"{what} the most accurate and the fastest: {_told(best, speed)}."
    times = _speed(fastest.metrics, speed) / _speed(best.metrics, speed)
    return (
        f"The front has {len(rows)} networks, from {_told(best, speed)} to {_told(fastest, speed)}: "
        f"{times:.1f} times as fast, for the accuracy that it costs."
    )


def _belief(record: "SearchRecord", speed: str) -> str:
    found = record.verification
    if found is None or not found.covers(speed):
        return "Its speeds are predicted and have not been measured again."
    floors = [profile.noise_floor for profile in found.profiles if profile.noise_floor is not None]
    beside = f", where measuring the same network again differs by {max(floors):.1%}" if floors else ""
    off = f"the predictions had been off by {found.mape[speed]:.1%} on average"
    failed = sum(member.failure is not None for member in found.members)
    many = "All of them" if not failed else f"{len(found.members) - failed} of {len(found.members)}"
    return f"{many} were timed again here: {off}{beside}."


def _network(done: "Demonstrated", speed: str) -> str:
    ids = {item.arch_id for item in done.record.winners}
    row = next((row for row in done.front if row.arch_id in ids), None)
    if row is None:
        return "None of them could be exported."
    why = next(item.why for item in done.record.winners if item.arch_id == row.arch_id)
    return f"The network in the file is {row.arch_id}, {_told(row, speed)} ({why})."


def _told(row: "FrontRow", speed: str) -> str:
    return f"{row.metrics['accuracy']:.1%} at {_speed(row.metrics, speed):,.0f} images/s"


def _speed(metrics: Mapping[str, float | int | None], name: str) -> float:
    """As it was measured, or else predicted."""
    measured = metrics.get(f"{name}_measured")
    return float((metrics[name] if measured is None else measured) or 0.0)
