"""The figures that lines of `docs/gpu-checklist.md` allow, compared with what a step printed.

Each function takes what was printed and the results of all steps by name, and returns what is beyond its limit; empty
if everything is within.
"""

import re
from collections.abc import Mapping

from benchmarks.support.day import StepResult

MAX_ERROR_OVER_FLOOR = 1.2
MAX_FRONT_ERROR_OVER_FLOOR = 2.0

_NAN = float("nan")


def error_over_floor(text: str, results: Mapping[str, StepResult]) -> str:
    """The predictors of AutoFormer-Ti's latency: their error in units of the noise floor, as `hwnas fit` prints it."""
    lines, found = text.splitlines(), []
    for row, line in enumerate(lines):
        if line.startswith("metric ") and row and "autoformer-tiny" in lines[row - 1]:
            column = re.split(r" {2,}", line).index("MAPE/floor")
            table = [re.split(r" {2,}", cells) for cells in _until_gap(lines[row + 1 :])]
            found += [cells[column] for cells in table if cells[0] == "latency_ms" and len(cells) > column]
    if not found:
        return "no error over the noise floor of autoformer-tiny was printed"
    return _too_high("error over noise floor", [_number(figure) for figure in found], MAX_ERROR_OVER_FLOOR)


def not_slower_than_naive(text: str, results: Mapping[str, StepResult]) -> str:
    """Seconds and memory of our supernets beside the naive side in the same precision."""
    figures: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 7 and cells[1] in ("ours", "naive"):
            seconds, memory = _number(cells[3].split(" ")[0]), _number(cells[5])
            figures.setdefault((cells[0], cells[2]), {})[cells[1]] = seconds, memory
    beyond = [] if figures else ["no row of a supernet was printed"]
    for (space, precision), sides in figures.items():
        if len(sides) < 2:
            beyond.append(f"{space} in {precision} has only {', '.join(sides)}")
            continue
        for ours, naive, unit in zip(sides["ours"], sides["naive"], ("s", "MB"), strict=True):
            if not ours <= naive:
                beyond.append(f"{space} in {precision}: {ours:g} {unit} > {naive:g} {unit}")
    return "; ".join(beyond)


def near_the_floor(text: str, results: Mapping[str, StepResult]) -> str:
    """Latencies predicted for a front, against the smallest noise floor of the profile of its space."""
    errors = [float(value) for value in re.findall(r"^latency_ms\S*: predicted within ([\d.]+)%", text, re.MULTILINE)]
    profile = results.get("profile-autoformer")
    floors = re.findall(r"noise floor ([\d.]+)%", profile.figure) if profile else []
    if not errors or not floors:
        return "no noise floor of autoformer-tiny is known" if errors else "no error on the measured front was printed"
    limit = MAX_FRONT_ERROR_OVER_FLOOR * min(map(float, floors))
    return _too_high("error on the front in %", errors, limit)


def _too_high(name: str, figures: list[float], limit: float) -> str:
    return "; ".join(f"{name} {figure:g} > {limit:g}" for figure in figures if not figure <= limit)


def _until_gap(lines: list[str]) -> list[str]:
    return lines[: lines.index("")] if "" in lines else lines


def _number(text: str) -> float:
    """Not a number, which is within no limit, where there is none."""
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return _NAN
