"""`hwnas demo`: run the whole pipeline at toy size, and sum up the result."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hwnas.cli.front import print_front
from hwnas.cli.options import BATCH, EPOCHS, PATH, SEED, Whole, json_option
from hwnas.cli.output import print_footer, print_json, print_line
from hwnas.cli.progress import console_reporter
from hwnas.config import to_mapping
from hwnas.metrics import Deployment, parse_metric
from hwnas.pipeline.demo import DemoOptions, DemoResult, run_demo
from hwnas.pipeline.search.options import MAX_EVALUATIONS
from hwnas.report.gather import gather

if TYPE_CHECKING:
    from hwnas.pipeline.demo import DemoResult
    from hwnas.report.front import FrontRow
    from hwnas.search.record import SearchRecord


@click.command()
@click.option("--space", default="autoformer-micro", show_default=True, help="Micro space of one of the families.")
@click.option("--out", type=PATH, show_default="hwnas-demo/SPACE", help="Folder to write to.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of all random choices.")
@click.option("--epochs", type=EPOCHS, help="Epochs of training the supernet, instead of those of the recipe.")
@click.option("--max-images", type=Whole(128, 1_000_000_000), help="Train on at most this many images.")
@click.option(
    "--samples", type=Whole(8, 1_000_000), default=24, show_default=True, help="Networks to measure in each precision."
)
@click.option("--batch", type=BATCH, default=1, show_default=True, help="Batch size of the measurements.")
@click.option(
    "--budget",
    type=Whole(1, MAX_EVALUATIONS),
    default=80,
    show_default=True,
    help="Networks to evaluate in the search.",
)
@json_option
def demo(*, out: Path | None, as_json: bool, **values: Any) -> None:
    """Run the whole pipeline at toy size on this CPU.

    Train a supernet of tiny vision transformers on generated images of digits, measure some of its networks in fp32,
    bf16 and int8 (those that this CPU has), fit throughput predictors, search networks and precisions for the front of
    accuracy, MACs and throughput, measure the front, export the best network and run it once, and write the report.
    This takes minutes and downloads nothing. The same command resumes an interrupted demo.
    """
    options = DemoOptions(**values)
    folder = out or Path("hwnas-demo") / options.space
    with console_reporter() as reporter:
        done = run_demo(options, out=folder, reporter=reporter)
    if as_json:
        print_json(_values(done))
    else:
        _print(done)


def _values(done: DemoResult) -> dict[str, Any]:
    return {
        "out": done.out,
        "space": done.space,
        "report": done.report,
        "model": done.model,
        "inference": done.inference,
        "seconds": done.seconds,
        "front": [row.cells() for row in done.front],
        "summary": summarize_demo(done),
        "record": to_mapping(done.record),
    }


def _print(done: DemoResult) -> None:
    print_front(gather(done.out / "search"))
    print_line()
    for sentence in summarize_demo(done):
        print_line(sentence)
    inference = done.inference
    print_line()
    print_line(f"report: {done.report}")
    print_line(f"network: {done.model}")
    answer = "right" if inference.predicted == inference.label else f"wrong, it is class {inference.label}"
    print_line(f"  {inference.image}: class {inference.predicted}, probability {inference.probability:.0%} ({answer})")
    print_line()
    print_footer()
    print_line()
    print_line(
        "The same with your images and your device, if DIR contains one folder per class. The first command chooses a"
    )
    print_line("space for them and this machine, and says how long the others take:")
    for command in _COMMANDS:
        print_line(f"  {command}", wrap=False)


_COMMANDS = (
    "hwnas init DIR",
    "hwnas train",
    "hwnas profile",
    "hwnas fit",
    "hwnas search",
    "hwnas report runs/search",
)
"""The commands of the pipeline for a user's own images, with the options that `hwnas init` writes."""


def summarize_demo(done: "DemoResult") -> tuple[str, ...]:
    """Sum up a demo in three sentences: its front, how good the predictions were, and the exported network."""
    speed = next(name for name in done.record.spec.objectives if parse_metric(name).quantity.on_device)
    return (
        _front_sentence(done.front, speed),
        _verification_sentence(done.record, speed),
        _network_sentence(done, speed),
    )


def _front_sentence(searched: "Sequence[FrontRow]", speed: str) -> str:
    rows = [row for row in searched if row.stands]
    if not rows:
        return "No network was found that meets the constraints."
    best, fastest = rows[0], max(rows, key=lambda row: _speed(row.metrics, speed))
    if best is fastest:
        what = "One network is" if len(rows) == 1 else f"One of the {len(rows)} networks on the front is"
        return f"{what} the most accurate and the fastest: {_point_text(best, speed)}."
    times = _speed(fastest.metrics, speed) / _speed(best.metrics, speed)
    return (
        f"The front has {len(rows)} networks{_count_by_precision(rows)}, "
        f"from {_point_text(best, speed)} to {_point_text(fastest, speed)}: "
        f"{times:.1f} times the throughput for a lower accuracy."
    )


def _count_by_precision(rows: "Sequence[FrontRow]") -> str:
    """Say how many networks run in each precision, where the search chose one for each."""
    counts = Counter(Deployment.parse(row.deployment).precision for row in rows if row.deployment is not None)
    text = ", ".join(f"{count} in {precision}" for precision, count in counts.most_common())
    return f" ({text})" if text else ""


def _verification_sentence(record: "SearchRecord", speed: str) -> str:
    found = record.verification
    if found is None or not found.covers(speed):
        return "Their throughputs are predicted; they have not been measured."
    floors = [profile.noise_floor for profile in found.profiles if profile.noise_floor is not None]
    floor = f"; two measurements of one network differ by {max(floors):.1%}" if floors else ""
    failed = sum(member.failure is not None for member in found.members)
    many = "All of them" if not failed else f"{len(found.members) - failed} of {len(found.members)}"
    off = "" if found.mean_error is None else f": the predictions were off by {found.mean_error:.1%} on average{floor}"
    return f"{many} were measured{off}."


def _network_sentence(done: "DemoResult", speed: str) -> str:
    ids = {item.arch_id for item in done.record.winners}
    row = next((row for row in done.front if row.arch_id in ids), None)
    if row is None:
        return "None of them could be exported."
    why = next(item.why for item in done.record.winners if item.arch_id == row.arch_id)
    return f"The exported network is {row.arch_id}, {_point_text(row, speed)} ({why})."


def _point_text(row: "FrontRow", speed: str) -> str:
    where = "" if row.deployment is None else f" in {Deployment.parse(row.deployment).precision}"
    return f"{row.metrics['accuracy']:.1%} at {_speed(row.metrics, speed):,.0f} images/s{where}"


def _speed(metrics: Mapping[str, float | int | None], name: str) -> float:
    """Return the measured value, or the predicted one if there is none."""
    measured = metrics.get(f"{name}_measured")
    return float((metrics[name] if measured is None else measured) or 0.0)
