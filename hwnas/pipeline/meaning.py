"""What a demo came to, in three sentences."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hwnas.search.metric import parse_metric

if TYPE_CHECKING:
    from hwnas.pipeline.demo import Demonstrated
    from hwnas.report.front import FrontRow
    from hwnas.search.record import SearchRecord


def sentences(done: "Demonstrated") -> tuple[str, ...]:
    """What is on the front, whether to believe it, and which network is which."""
    speed = next(name for name in done.record.objectives if parse_metric(name).quantity.on_device)
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
    ids = {item.arch_id for item in done.record.kit}
    row = next((row for row in done.front if row.arch_id in ids), None)
    if row is None:
        return "None of them could be exported."
    why = next(item.why for item in done.record.kit if item.arch_id == row.arch_id)
    return f"The network in the file is {row.arch_id}, {_told(row, speed)} ({why})."


def _told(row: "FrontRow", speed: str) -> str:
    return f"{row.metrics['accuracy']:.1%} at {_speed(row.metrics, speed):,.0f} images/s"


def _speed(metrics: Mapping[str, float | int | None], name: str) -> float:
    """As it was measured, or else predicted."""
    measured = metrics.get(f"{name}_measured")
    return float((metrics[name] if measured is None else measured) or 0.0)
