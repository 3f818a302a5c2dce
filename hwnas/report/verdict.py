"""The conclusion of a search in one sentence, and warnings about its results and about comparing runs."""

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hwnas.metrics import INDISTINCT_SUPERNET, QUALITIES, TIMED_METRICS, indistinct_supernet_warning, parse_metric
from hwnas.report.data import Member, MetricInfo, RunData, percent, shown
from hwnas.search.choice import Pick
from hwnas.search.record import SearchRecord, Verification

Level = Literal["note", "warning"]
_SHORTFALL, _STANDARD_ERRORS = 0.15, 2
"""Shortfall of coverage below its confidence from which a warning is shown, if it is also so many standard errors."""


@dataclass(frozen=True, kw_only=True)
class Banner:
    """A warning or a note shown above the results."""

    level: Level
    text: str


def sentence(data: RunData) -> str:
    """Summarise a run: how many networks are on the front, the balanced one, and how its values were obtained."""
    front = standing(data)
    if not front:
        return _nothing(data)
    if not data.finished:
        return f"The search has not finished. So far it {_found(data, front)}; {_choice(data, front)}."
    against = plain_sizes(data)
    return f"The search {_found(data, front)}; {_choice(data, front)}{_trust(data)}.{against and f' {against}'}"


def plain_sizes(data: RunData) -> str:
    """Say whether a front beats the model of an elastic space on smaller images or with larger patches.

    A network beats the model if it is at least as good and as fast, and better in one of the two; without a speed on a
    device, its MACs stand for it.

    Returns:
        A sentence; empty if nothing is known of the model at other sizes.
    """
    quality = next((metric for metric in data.objectives if metric.name in QUALITIES), None)
    costs = (metric for metric in data.metrics if metric.name in ("latency_ms", "throughput", "macs"))
    speed = max(costs, key=lambda metric: (bool(metric.where), metric.role == "objective"), default=None)
    if quality is None or speed is None:
        return ""
    front = [(member.network_id, member.value(quality.key), member.value(speed.key)) for member in standing(data)]
    texts, all_known = [], []
    for reference in data.references:
        values = reference.value(quality.key), reference.value(speed.key)
        if reference.kind not in ("resolution", "patch") or None in values:
            continue
        name = f"the {reference.name}"
        all_known.append(name)
        others = (pair for network_id, *pair in front if network_id != reference.network_id)
        if not any(_beats(pair, values, signs=(_sign(quality), _sign(speed))) for pair in others):
            texts.append(f"{name} ({shown(quality, values[0])}, {shown(speed, values[1])})")
    if texts:
        return f"The front does not beat {_listed(texts)}: no other network of it is as good and as fast."
    return f"The front beats {_listed(all_known)}." if all_known else ""


def _beats(member: Sequence[float | None], reference: Sequence[float | None], *, signs: Sequence[float]) -> bool:
    gains = [
        sign * (own - other)
        for own, other, sign in zip(member, reference, signs, strict=True)
        if own is not None and other is not None
    ]
    return len(gains) == len(signs) and min(gains) >= 0 < max(gains)


def _sign(metric: MetricInfo) -> float:
    return 1.0 if metric.maximised else -1.0


def _listed(texts: Sequence[str]) -> str:
    *most, last = texts
    return f"{', '.join(most)} and {last}" if most else last


def _unmeasured(data: RunData) -> Iterator[str]:
    for metric, card in data.cards.items():
        if card.is_unmeasured or card.is_interpolated:
            yield f"{metric}: {card.notes[0]}"


def banners(data: RunData) -> tuple[Banner, ...]:
    """Collect warnings and notes about the results, warnings first."""
    warnings = [Banner(level="warning", text=text) for text in (*_unfinished(data), *_unmeasured(data), *_unsure(data))]
    return (*warnings, *(Banner(level="note", text=text) for text in _notes(data)))


def standing(data: RunData) -> tuple[Member, ...]:
    """Return the networks that are still on the front after verification."""
    return tuple(member for member in data.front if member.stands)


def front_size(data: RunData) -> str:
    """Return the number of networks on the front, beside that of the searched front where measuring changed it."""
    count, searched = len(standing(data)), len(data.front)
    if count == searched:
        return f"{count:,} network{'' if count == 1 else 's'} on the front"
    return f"{count:,} of the {searched:,} networks on the searched front are on the measured one"


def balanced(data: RunData, front: Sequence[Member]) -> Member | None:
    """Return the balanced network of a front, as a search exports it."""
    return picked_member(data, front, "balanced")


def picked_member(data: RunData, front: Sequence[Member], rule: str) -> Member | None:
    """Return the network of a front that a rule of `Pick` chooses, by measured values or else predictions."""
    if not front:
        return None
    objectives = [parse_metric(metric.key) for metric in data.objectives]
    values = np.array([[member.value(metric.key) for metric in data.objectives] for member in front], dtype=np.float64)
    columns = {metric: values[:, index] for index, metric in enumerate(objectives)}
    index = Pick.parse(rule).choose(objectives, columns)
    return None if index is None else front[index]


def _found(data: RunData, front: Sequence[Member]) -> str:
    where = next((metric.where.split(",")[0] for metric in data.metrics if metric.where), None)
    on = f" on {where}" if where else ""
    count = len(data.candidates)
    explored = f"explored {count:,} network{'' if count == 1 else 's'} of {data.space.name}"
    return f"{explored} and found {'one' if len(front) == 1 else f'{len(front):,}'} on the Pareto front{on}"


def _choice(data: RunData, front: Sequence[Member]) -> str:
    member = balanced(data, front)
    assert member is not None, "a front without a network"
    values = _listed([shown(metric, member.value(metric.key)) for metric in data.objectives])
    where = "" if member.deployment is None else f" in {member.deployment}"
    name = f"it{where}" if len(front) == 1 else f"the balanced network{where}{_chosen_by(data, front)}"
    return f"{name} has {values}{_against_baseline(data, member)}"


def _chosen_by(data: RunData, front: Sequence[Member]) -> str:
    """Say which values of predicted metrics the balanced network was chosen by."""
    predicted = [metric for metric in data.objectives if metric.predicted]
    if not predicted:
        return ""
    measured = {member.metrics[metric.key].measured is not None for member in front for metric in predicted}
    if measured == {True}:
        return ", by measured values,"
    return ", by measured values or else predictions," if True in measured else ", by predicted values,"


def _against_baseline(data: RunData, member: Member) -> str:
    """Compare with the speed of the baseline, by the first device metric known for both."""
    baseline = data.baseline
    for metric in data.metrics:
        base = None if baseline is None else baseline.value(metric.key)
        value = member.value(metric.key)
        if baseline is None or not metric.where or not base or not value:
            continue
        if metric.name in TIMED_METRICS:
            ratio = base / value if metric.name == "latency_ms" else value / base
            name = f"the {baseline.name}" if baseline.kind == "original" else baseline.name
            return f" ({ratio:.2f} × the speed of {name})"
    return ""


def _trust(data: RunData) -> str:
    verification = None if data.record is None else data.record.verification
    predicted = [metric for metric in data.metrics if metric.where]
    if not predicted:
        return ""
    if verification is None or not verification.has_measurements:
        return "; speeds are predicted, not measured"
    error = verification.mean_error
    off = "" if error is None or not math.isfinite(error) else f", with a mean prediction error of {percent(error)}"
    doubtful = " (with doubtful measurements)" if any(profile.problems for profile in verification.profiles) else ""
    but = "".join(f", but {key} is predicted" for key in verification.unmeasured)
    return f"; measured on the device after the search{but}{doubtful}{off}"


def _nothing(data: RunData) -> str:
    count = len(data.candidates)
    if not count:
        return f"The search of {data.space.name} has not evaluated any network yet."
    if data.front:
        return (
            f"None of the {len(data.front):,} networks on the front passed verification: "
            "each failed or violates a constraint."
        )
    limits = ", ".join(data.constraints)
    if not data.candidates.feasible.any():
        return f"None of the {count:,} explored networks of {data.space.name} meets {limits}."
    return f"None of the {count:,} explored networks of {data.space.name} has a value for every objective."


def _unfinished(data: RunData) -> Iterator[str]:
    if not data.finished:
        yield (
            f"This search has not finished or was interrupted, after {len(data.candidates):,} networks. "
            f"Resume an interrupted search with hwnas search --resume {shlex.quote(str(data.path))}."
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
        yield f"The front {was}{why}. Its metrics of the device are predictions."
    if on_device and not data.record.spec.predictors:
        yield "The accuracy of the predictions is unknown: the run contains no predictor card."
    yield from _outside(data)
    yield from _measured_badly(data)
    warning = None if data.record is None else _supernet_warning(data.record)
    if warning is not None:
        yield f"{warning[0].upper()}{warning[1:]}."


def _outside(data: RunData) -> Iterator[str]:
    for key, indices in data.outside.items():
        if indices:
            yield (
                f"{len(indices)} of {len(data.front)} networks lie outside the fitted range of the predictor of "
                f"{_name(data, key)}. Their predictions are guesses."
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
    yield from _poor_coverage(data, verification)
    for profile in verification.profiles:
        measured = f"in {Path(profile.path).name}" if data.deployments else f"at batch {profile.batch}"
        for problem in profile.problems:
            yield f"Measurements {measured}: {problem}."


def _poor_coverage(data: RunData, verification: Verification) -> Iterator[str]:
    promised = verification.confidence
    if promised is None:
        return
    for key, found in verification.checks.items():
        checks = [check for check in found if check.lower is not None and check.upper is not None]
        if not checks:
            continue
        share = sum(check.is_inside for check in checks) / len(checks)
        by_chance = _STANDARD_ERRORS * math.sqrt(promised * (1 - promised) / len(checks))
        if share < promised - max(_SHORTFALL, by_chance):
            yield (
                f"Only {percent(share, digits=0)} of the measured values of {_name(data, key)} lie inside intervals "
                f"that promise {percent(promised, digits=0)}."
            )


def _supernet_warning(record: SearchRecord) -> str | None:
    noted = next((note for note in record.notes if note.startswith(INDISTINCT_SUPERNET)), None)
    health, supernet = record.supernet_health, record.spec.supernet
    if noted is not None:
        return noted
    if health is None or supernet is None or not supernet.num_images:
        return None
    return indistinct_supernet_warning(health.smallest, health.largest, num_images=supernet.num_images)


def _notes(data: RunData) -> Iterator[str]:
    error = accuracy_error(data)
    supernet = None if data.record is None else data.record.spec.supernet
    if error is not None and supernet is not None:
        yield (
            f"Accuracy is evaluated with shared weights on {supernet.num_images:,} held-out images: differences "
            f"below {200 * error:.1f} points are not significant, and because the search selected on these images, "
            "the best accuracies are slightly optimistic."
        )
    if data.record is not None:
        warned = (_supernet_warning(data.record), *_unmeasured(data))
        yield from (note for note in data.record.notes if note not in warned)


def accuracy_error(data: RunData) -> float | None:
    """Return the standard error of an accuracy in the middle of the front, from the number of images."""
    metric = next((metric for metric in data.metrics if parse_metric(metric.key).quantity.is_share), None)
    supernet = None if data.record is None else data.record.spec.supernet
    values = [] if metric is None else [member.value(metric.key) for member in data.front]
    known = sorted(value for value in values if value is not None)
    if supernet is None or not supernet.num_images or not known:
        return None
    middle = min(max(known[len(known) // 2], 0.0), 1.0)
    return math.sqrt(middle * (1 - middle) / supernet.num_images)


def _name(data: RunData, key: str) -> str:
    """Return the name of a metric; that of a predictor of one of several deployments is its full text."""
    return next((metric.name for metric in data.metrics if metric.key == key), key)


def best_of(front: Sequence[Member], metric: MetricInfo) -> Member | None:
    """Return the network with the best known value of a metric."""
    known = [(value, member) for member in front if (value := member.value(metric.key)) is not None]
    if not known:
        return None
    return (max if metric.maximised else min)(known, key=lambda pair: pair[0])[1]


def mismatches(runs: Sequence[RunData]) -> tuple[str, ...]:
    """Return warnings about comparing these runs; none for a single run."""
    if len(runs) < 2:
        return ()
    return (*_deployments(runs), *_images(runs), *_bounds(runs))


def _deployments(runs: Sequence[RunData]) -> Iterator[str]:
    """Metrics of the same name but different deployments, which share an axis of the page."""
    for name in dict.fromkeys(metric.name for data in runs for metric in data.metrics if metric.where):
        wheres = {
            data.name: " and ".join(metric.where for metric in data.metrics if metric.name == name) for data in runs
        }
        known = {run: where for run, where in wheres.items() if where}
        if len(set(known.values())) > 1:
            deployments = "; ".join(f"{run}: {where}" for run, where in known.items())
            yield f"{name} refers to different deployments ({deployments})."


def _images(runs: Sequence[RunData]) -> Iterator[str]:
    specs = [data.record.spec.supernet for data in runs if data.record is not None]
    images = {None if spec is None else (spec.data_name, spec.num_images) for spec in specs}
    if len(images) > 1 and all(any(metric.name in QUALITIES for metric in data.metrics) for data in runs):
        yield "Networks were evaluated on different images, and the results cannot be compared."


def _bounds(runs: Sequence[RunData]) -> Iterator[str]:
    bounds = {None if data.record is None else (data.record.spec.objectives, data.record.bounds) for data in runs}
    if len(bounds) > 1:
        yield "Hypervolumes are normalised by the bounds of each run and cannot be compared."
