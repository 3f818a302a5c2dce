"""How good a profile is, as text and as plain values."""

from typing import Any

from hwnas.cli.output import print_line, print_table
from hwnas.profile.results import ProfileQuality, ReasonCount


def quality_values(quality: ProfileQuality) -> dict[str, Any]:
    """Plain values, as `--json` prints them."""
    values = {name: getattr(quality, name) for name in quality.__dataclass_fields__}
    return {**values, "problems": quality.problems}


def print_quality(name: str, quality: ProfileQuality) -> None:
    """What a profile holds, what failed, its noise floor and its drift."""
    print_line(name)
    print_table(["", ""], _rows(quality))
    for failure in quality.failures:
        print_line(f"  failed: {failure.count} by {failure.reason}, such as: {failure.example}")
    for problem in quality.problems:
        print_line(f"  doubtful: {problem}")


def _rows(quality: ProfileQuality) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [
        ("networks", quality.num_networks),
        ("measured twice", quality.num_repeated),
        ("failed", _counts(quality.failures) if quality.failures else 0),
        ("unstable", _unstable(quality)),
        ("noise floor", _floor(quality)),
        ("drift of the reference", _drift(quality)),
        ("reference", f"{quality.reference_ms:.3f} ms" if quality.reference_ms else None),
        ("graphs", ", ".join(quality.exporters)),
        ("time spent", f"{quality.measured_s / 60:.1f} min"),
    ]
    return rows + ([("throttled", ", ".join(quality.throttled))] if quality.throttled else [])


def _floor(quality: ProfileQuality) -> str | None:
    floor = quality.noise_floor
    if floor is None:
        return f"not known: {quality.num_repeated} networks were measured twice, 12 are needed"
    return f"{floor.mean_error:.2%} (sigma {floor.sigma:.2%}, {floor.num_networks} networks)"


def _drift(quality: ProfileQuality) -> str | None:
    if quality.drift is None:
        return None
    return f"{quality.drift.change:+.1%} from the first third to the last, spread {quality.drift.spread:.1%}"


def _unstable(quality: ProfileQuality) -> str:
    whole = f"{quality.num_unstable} of {quality.num_measurements} measurements"
    return f"{whole}: {_counts(quality.unstable)}" if quality.unstable else whole


def _counts(counts: tuple[ReasonCount, ...]) -> str:
    return ", ".join(f"{item.count} {item.reason}" for item in counts)
