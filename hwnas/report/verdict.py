"""What a run came to in one sentence, and what speaks against believing it."""

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hwnas.metrics import indistinct_supernet_warning
from hwnas.report.data import Member, MetricInfo, RunData, landmark_value
from hwnas.report.units import percent, shown
from hwnas.search.pareto import knee
from hwnas.search.record import SearchRecord

Level = Literal["note", "warning"]
_SHORTFALL = 0.15
"""How far coverage may stay below its confidence before it is called out."""


@dataclass(frozen=True, kw_only=True)
class Banner:
    """Something that a reader must know before the figures."""

    level: Level
    text: str


def sentence(data: RunData) -> str:
    """The verdict."""
    front = standing(data)
    if not front:
        return _nothing(data)
    if not data.finished:
        return f"The search has not ended. So far it {_found(data, front)}; {_choice(data, front)}."
    return f"The search {_found(data, front)}; {_choice(data, front)}{_trust(data)}."


def banners(data: RunData) -> tuple[Banner, ...]:
    """What speaks against the figures, the worst first."""
    warnings = [Banner(level="warning", text=text) for text in (*_unfinished(data), *_unsure(data))]
    return (*warnings, *(Banner(level="note", text=text) for text in _notes(data)))


def standing(data: RunData) -> tuple[Member, ...]:
    """The networks of the front that measuring did not take off it."""
    return tuple(
        member
        for member in data.front
        if member.failure is None and not member.violated and member.on_measured_front is not False
    )


def balanced(data: RunData, front: Sequence[Member]) -> Member | None:
    """The network of a front that gives up least of every objective: as measured, else at the worst of predictions."""
    signs = [-1.0 if metric.maximised else 1.0 for metric in data.objectives]
    rows = [[member.cautious(metric) for metric in data.objectives] for member in front]
    if not rows:
        return None
    values = np.array(rows, dtype=np.float64) * signs
    place = knee(np.where(np.isnan(values), np.inf, values))
    return None if place is None else front[place]


def _found(data: RunData, front: Sequence[Member]) -> str:
    where = next((metric.where.split(",")[0] for metric in data.metrics if metric.where), None)
    on = f" on {where}" if where else ""
    count = len(data.candidates)
    looked = f"looked at {count:,} network{'' if count == 1 else 's'} of {data.space.name}"
    return f"{looked} and found {'one' if len(front) == 1 else f'{len(front):,}'} that no other of them beats{on}"


def _choice(data: RunData, front: Sequence[Member]) -> str:
    member = balanced(data, front)
    assert member is not None, "a front without a network"
    *most, last = _values(data, member)
    values = f"{', '.join(most)} and {last}" if most else last
    name = "it" if len(front) == 1 else f"the balanced one{_chosen_by(data, front)}"
    return f"{name} has {values}{_against_baseline(data, member)}"


def _chosen_by(data: RunData, front: Sequence[Member]) -> str:
    """By which values of predicted metrics the balanced network was chosen."""
    predicted = [metric for metric in data.objectives if metric.predicted]
    if not predicted:
        return ""
    measured = {member.metrics[metric.key].measured is not None for member in front for metric in predicted}
    if measured == {True}:
        return ", by measured values,"
    unfavourable = "the unfavourable ends of predictions"
    return f", by measured values and else {unfavourable}," if True in measured else f", by {unfavourable},"


def _values(data: RunData, member: Member) -> list[str]:
    return [shown(metric, member.value(metric.key)) for metric in data.objectives]


def _against_baseline(data: RunData, member: Member) -> str:
    """How much faster the network is than the baseline, by the first speed that is known of both."""
    baseline = data.baseline
    for metric in data.metrics:
        base = None if baseline is None else landmark_value(baseline, metric)
        value = member.value(metric.key)
        if baseline is None or not metric.where or not base or not value:
            continue
        ratio = value / base
        if metric.name == "latency_ms":
            return f" ({_times(1 / ratio)} the speed of {baseline.name})"
        if metric.name == "throughput":
            return f" ({_times(ratio)} the speed of {baseline.name})"
    return ""


def _times(ratio: float) -> str:
    return f"{ratio:.2f} ×"


def _trust(data: RunData) -> str:
    verification = None if data.record is None else data.record.verification
    predicted = [metric for metric in data.metrics if metric.where]
    if not predicted:
        return ""
    if verification is None or not verification.has_measurements:
        return "; its speed is predicted and was not measured"
    errors = [error for error in verification.mape.values() if math.isfinite(error)]
    off = f", where predictions were off by {percent(max(errors))} on average" if errors else ""
    doubt = " (the measurements are doubtful)" if any(profile.problems for profile in verification.profiles) else ""
    but = "".join(f", but {key} is predicted" for key in verification.unmeasured)
    return f"; measured on the device after the search{but}{doubt}{off}"


def _nothing(data: RunData) -> str:
    count = len(data.candidates)
    if not count:
        return f"The search of {data.space.name} has looked at no network yet."
    if data.front:
        return (
            f"None of the {len(data.front):,} networks on the searched front stood when it was measured: "
            "each failed or violates a constraint."
        )
    limits = ", ".join(data.constraints)
    if not data.candidates.feasible.any():
        return f"None of the {count:,} networks of {data.space.name} that were looked at meets {limits}."
    return f"None of the {count:,} networks of {data.space.name} that were looked at has a value for every objective."


def _unfinished(data: RunData) -> Iterator[str]:
    if not data.finished:
        yield (
            f"This search has not ended, or was stopped. What it holds so far: {len(data.candidates):,} networks. "
            f"A stopped one goes on with hwnas search --resume {shlex.quote(str(data.path))}."
        )


def _unsure(data: RunData) -> Iterator[str]:
    if data.record is None:
        return
    verification = data.record.verification
    on_device = [metric for metric in data.metrics if metric.where]
    for key, reason in data.unmeasured.items():
        yield f"{key} was not measured: {reason.rstrip('.')}. Its values are predictions."
    if on_device and (verification is None or not verification.has_measurements):
        why = f": {verification.reason.rstrip('.')}" if verification is not None and verification.reason else ""
        was = "has not been measured on the device yet" if verification is None else "was not measured on the device"
        yield f"The front {was}{why}. Speeds and memory are predictions."
    if on_device and not data.record.spec.predictors:
        yield "Nothing is known of how good the predictions are: the run holds no card of a predictor."
    yield from _outside(data)
    yield from _measured_badly(data)
    yield from _supernet(data)


def _outside(data: RunData) -> Iterator[str]:
    for key, places in data.outside.items():
        if places:
            name = data.metric(key).name
            yield (
                f"Outside what the predictor of {name} was fitted to: {len(places)} of {len(data.front)} networks. "
                "Their predictions are guesses."
            )


def _measured_badly(data: RunData) -> Iterator[str]:
    verification = None if data.record is None else data.record.verification
    if verification is None:
        return
    failed = [member for member in data.front if member.failure is not None]
    violating = [member for member in data.front if member.violated]
    if failed:
        yield f"Could not be measured: {len(failed)} of {len(data.front)} networks."
    if violating:
        limits = ", ".join(dict.fromkeys(limit for member in violating for limit in member.violated))
        yield f"Violating a constraint when measured ({limits}): {len(violating)} of {len(data.front)} networks."
    for key, share in verification.coverage.items():
        if verification.confidence is not None and share < verification.confidence - _SHORTFALL:
            yield (
                f"Only {percent(share, digits=0)} of the measured values of {_name(data, key)} lie inside intervals "
                f"that promise {percent(verification.confidence, digits=0)}."
            )
    for profile in verification.profiles:
        for problem in profile.problems:
            yield f"Measurements at batch {profile.batch}: {problem}."


def _supernet(data: RunData) -> Iterator[str]:
    warning = None if data.record is None else _supernet_warning(data.record)
    if warning is not None:
        yield f"{warning[0].upper()}{warning[1:]}."


def _supernet_warning(record: SearchRecord) -> str | None:
    health, supernet = record.supernet_health, record.spec.supernet
    if health is None or supernet is None or not supernet.num_images:
        return None
    return indistinct_supernet_warning(health.smallest, health.largest, num_images=supernet.num_images)


def _notes(data: RunData) -> Iterator[str]:
    error = accuracy_error(data)
    supernet = None if data.record is None else data.record.spec.supernet
    if error is not None and supernet is not None:
        yield (
            f"Accuracy is judged with shared weights on {supernet.num_images:,} held-out pictures: differences "
            f"below {200 * error:.1f} points may be chance, and as the search chose by these pictures, the best look a "
            "little better than they are."
        )
    if data.record is not None:
        yield from (note for note in data.record.notes if note != _supernet_warning(data.record))


def accuracy_error(data: RunData) -> float | None:
    """The standard error of an accuracy in the middle of the front, from the number of pictures."""
    metric = next((metric for metric in data.metrics if metric.name == "accuracy"), None)
    supernet = None if data.record is None else data.record.spec.supernet
    values = [] if metric is None else [member.value(metric.key) for member in data.front]
    known = sorted(value for value in values if value is not None)
    if supernet is None or not supernet.num_images or not known:
        return None
    middle = min(max(known[len(known) // 2], 0.0), 1.0)
    return math.sqrt(middle * (1 - middle) / supernet.num_images)


def _name(data: RunData, key: str) -> str:
    return next((metric.name for metric in data.metrics if metric.key == key), key)


def best_of(front: Sequence[Member], metric: MetricInfo) -> Member | None:
    """The network with the best known value of a metric."""
    known = [(value, member) for member in front if (value := member.value(metric.key)) is not None]
    if not known:
        return None
    return (max if metric.maximised else min)(known, key=lambda pair: pair[0])[1]
