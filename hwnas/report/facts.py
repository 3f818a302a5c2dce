"""Tables of a report: key figures, predictors, measurements, supernet, and how to reproduce the run."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwnas.metrics import parse_metric
from hwnas.predict.card import Card
from hwnas.report.anatomy import PARTS, anatomy, conditions_of
from hwnas.report.data import Member, RunData, counted, percent, three_digits
from hwnas.report.verdict import accuracy_error, best_of, standing
from hwnas.search.record import ExportedWinner, VerifiedProfile

Rows = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class PredictorFacts:
    """Errors of a predictor on held-out networks and on the measured front."""

    metric: str
    rows: Rows


@dataclass(frozen=True, kw_only=True)
class ProfileFacts:
    """Quality of one profile of the verification."""

    path: str
    rows: Rows
    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The tables of one run."""

    summary: Rows
    predictors: tuple[PredictorFacts, ...]
    range_note: str
    profiles: tuple[ProfileFacts, ...]
    unstable: tuple[str, ...]
    num_front: int
    """Networks on the searched front."""
    why_fast: str
    supernet: Rows
    command: str
    reproduce: Rows
    packages: tuple[str, ...]
    config: str
    winners: Rows


def facts_of(data: RunData) -> Facts:
    """Collect all tables of a run."""
    record = data.record
    verification = None if record is None else record.verification
    return Facts(
        summary=tuple(_summary(data)),
        predictors=tuple(_predictor(data, *item) for item in data.cards.items()),
        range_note=_range_note(data),
        profiles=() if verification is None else tuple(map(_profile, verification.profiles)),
        unstable=tuple(_unstable(data)),
        num_front=len(data.front),
        why_fast=why_fast(data),
        supernet=tuple(_supernet(data)),
        command=shlex.join(data.manifest.command),
        reproduce=tuple(_reproduce(data)),
        packages=data.manifest.environment.packages,
        config=json.dumps(dict(data.manifest.config), indent=1, ensure_ascii=False),
        winners=() if record is None else tuple(map(_winner, record.winners)),
    )


def _winner(item: ExportedWinner) -> tuple[str, str]:
    failure = "" if item.failure is None else f"; could not be exported: {item.failure}"
    return item.folder, f"{item.arch_id}, {item.why}{failure}"


def _summary(data: RunData) -> Iterator[tuple[str, str]]:
    count, searched = len(standing(data)), len(data.front)
    yield "on the front" if count == searched else f"on the measured front, of {searched:,}", f"{count:,}"
    yield "candidates", f"{len(data.candidates):,}"
    record = data.record
    if record is not None:
        yield "evaluated", f"{record.evaluations:,}"
        total = sum(record.steps_s.values()) or record.elapsed_s
        parts = [f"{name} {_duration(seconds)}" for name, seconds in record.steps_s.items() if seconds >= 1]
        yield f"time: {', '.join(parts)}" if len(parts) > 1 else "time of the search", _duration(total)
    if data.history:
        yield "hypervolume", f"{data.history[-1].hypervolume:.3f}"
    if record is not None and record.seeds is not None:
        spread = record.seeds.hypervolume
        yield f"hypervolume of {len(record.seeds.seeds)} seeds", f"{spread.mean:.3f} ± {spread.std:.3f}"
    verification = None if record is None else record.verification
    if verification is not None and verification.mean_error is not None:
        yield "prediction error", percent(verification.mean_error)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _predictor(data: RunData, metric: str, card: Card) -> PredictorFacts:
    return PredictorFacts(metric=metric, rows=(*_card(card), *_rechecked(data, metric)))


def _card(card: Card) -> Iterator[tuple[str, str]]:
    scores, floor = card.scores, card.noise_floor
    yield "error on held-out networks", f"{percent(scores.mape, digits=2)} on average"
    yield "noise floor of the measurements that it was fitted to", percent(floor, digits=2)
    if card.error_over_floor is not None:
        yield "error over noise floor", f"{card.error_over_floor:.2f}"
    if scores.spearman is not None:
        yield "rank correlation, held out", f"{scores.spearman:.3f} (Spearman)"
    for entry in card.coverage:
        yield f"coverage of {entry.confidence:.0%} intervals", percent(entry.share)
    yield "fitted to", f"{card.data.num_networks:,} networks, model {card.model}"


def _rechecked(data: RunData, metric: str) -> Iterator[tuple[str, str]]:
    verification = None if data.record is None else data.record.verification
    if verification is None or metric not in verification.mape:
        return
    yield "error on the measured front", f"{percent(verification.mape[metric], digits=2)} on average"
    spearman = verification.spearman.get(metric)
    if spearman is not None:
        yield "rank correlation on the front", f"{spearman:.3f} (Spearman)"
    if metric in verification.coverage:
        promised = "" if verification.confidence is None else f" of {verification.confidence:.0%}"
        yield f"measured values inside intervals{promised}", percent(verification.coverage[metric])


def _range_note(data: RunData) -> str:
    if data.record is None or not data.record.spec.predictors:
        return ""
    unchecked = [used.metric for used in data.record.spec.predictors if used.metric not in data.outside]
    if unchecked:
        return (
            "It is unknown whether the front lies inside the fitted range of the predictors: "
            f"the predictors of {', '.join(unchecked)} were not found where the search used them."
        )
    count = len({index for indices in data.outside.values() for index in indices})
    return f"{count} of {len(data.front)} networks on the front lie outside the fitted range."


def _profile(profile: VerifiedProfile) -> ProfileFacts:
    floor = "too few networks were measured twice" if profile.noise_floor is None else percent(profile.noise_floor)
    unstable = f"{profile.num_unstable:,}"
    if profile.num_measurements:
        unstable += f" of {profile.num_measurements:,}, repeated ones and reference networks included"
    rows = (
        ("networks measured, reference networks included", f"{profile.num_networks:,}"),
        ("batch", str(profile.batch)),
        ("noise floor of these measurements", floor),
        ("drift of the reference network", percent(profile.drift)),
        ("unstable measurements", unstable),
        ("failed", f"{profile.num_failed:,}"),
    )
    return ProfileFacts(path=profile.path, rows=rows, problems=profile.problems)


def _unstable(data: RunData) -> Iterator[str]:
    for member in data.front:
        reasons = [check.verdict for check in member.metrics.values() if check.stable is False]
        if reasons:
            yield f"{member.arch_id}: {'; '.join(dict.fromkeys(reasons))}"


def why_fast(data: RunData) -> str:
    """Explain where the fastest network of a front saves work compared with its most accurate one."""
    first, speed = data.objectives[0], next((metric for metric in data.objectives if metric.where), None)
    front = standing(data)
    if speed is None:
        speed = next((metric for metric in data.objectives if metric.name == "macs"), None)
    ends = [None, None] if speed is None else [best_of(front, speed), best_of(front, first)]
    fast, best = ends
    if fast is None or best is None or fast.arch_id == best.arch_id:
        return ""
    return _saving(data, fast, best)


def _saving(data: RunData, fast: Member, best: Member) -> str:
    workloads = data.space.workloads(data.candidates.genomes[[fast.row, best.row]])
    quick, slow = (anatomy(workloads.workload(row), conditions_of(data)) for row in range(2))
    saved = np.array(slow.shares.macs) - np.array(quick.shares.macs)
    depth = f"{len(quick.blocks)} block{'' if len(quick.blocks) == 1 else 's'} instead of {len(slow.blocks)}"
    if len(quick.blocks) == len(slow.blocks):
        depth = f"the same number of blocks ({len(quick.blocks)})"
    if saved.sum() <= 0:
        return (
            f"The fastest network has {depth} and no fewer MACs than the one with the best {data.objectives[0].name}."
        )
    part = PARTS[int(saved.argmax())]
    return (
        f"Compared with the network of the best {data.objectives[0].name}, the fastest has {depth} and "
        f"{counted(float(saved.sum()))} fewer MACs; {percent(saved.max() / saved.sum(), digits=0)} of the difference "
        f"is in the {_PART_NAMES[part]}."
    )


_PART_NAMES = {
    "stem": "stem",
    "attention": "attention",
    "locality": "locality modules",
    "mlp": "MLPs",
    "head": "head",
    "other": "rest",
}


def _supernet(data: RunData) -> Iterator[tuple[str, str]]:
    record = data.record
    if record is None or record.spec.supernet is None:
        return
    yield "weights", str(record.spec.supernet.path)
    if record.supernet_health is not None:
        names = {"accuracy": "top-1", "knn_accuracy": "of nearest images"}
        what = names.get(record.spec.criteria.quality or "", str(record.spec.criteria.quality))
        yield "smallest network", f"{percent(record.supernet_health.smallest)} {what}"
        yield "largest network", f"{percent(record.supernet_health.largest)} {what}"
    first = _first_generation(data)
    if len(first):
        low, middle, high = np.quantile(first, (0.1, 0.5, 0.9)).tolist()
        spread = f"{percent(low)} to {percent(high)} (the middle 80 % of {len(first)})"
        yield "networks of the first generation", f"median {percent(middle)}, {spread}"
    error = accuracy_error(data)
    if error is not None:
        yield "evaluated on", f"{record.spec.supernet.num_images:,} held-out images (standard error {percent(error)})"
    for item in record.winners:
        if item.file_accuracy is not None:
            text = f"{percent(item.file_accuracy)} on held-out images, {percent(item.float_accuracy)} in float32"
            yield f"graph of {item.arch_id}", text
    tested = [item for item in record.winners if item.test_accuracy is not None]
    for item in tested:
        yield f"{item.arch_id} retrained", f"{percent(item.test_accuracy)} on test images"
    yield "rank correlation with standalone training", "unknown"


def _first_generation(data: RunData) -> NDArray[np.float64]:
    accuracy = next((metric for metric in data.metrics if parse_metric(metric.key).quantity.is_share), None)
    if accuracy is None or not len(data.candidates):
        return np.zeros(0)
    values = data.candidates.metrics[accuracy.key].mean[data.candidates.generations == 0]
    known: NDArray[np.float64] = values[np.isfinite(values)]
    return known


def _reproduce(data: RunData) -> Iterator[tuple[str, str]]:
    manifest = data.manifest
    environment = manifest.environment
    yield "created", manifest.created_utc
    commit = f", commit {environment.commit[:12]}" if environment.commit else ""
    yield "hwnas", f"{environment.hwnas}{commit}{' with local changes' if environment.modified else ''}"
    yield "Python", f"{environment.python} on {environment.system} {environment.release}, {environment.machine}"
    yield "seeds", ", ".join(f"{name} {seed}" for name, seed in manifest.seeds.items()) or "none"
    record = data.record
    if record is not None:
        yield "strategy", f"{record.spec.strategy}, stopped by: {record.stop}"
        yield "constraints", record.satisfiable
        bounds = record.bounds
        ideal, reference = (", ".join(map(three_digits, point)) for point in (bounds.ideal, bounds.reference))
        yield "bounds of the hypervolume", f"from ({ideal}) to ({reference}), all objectives minimised"
        if record.spec.supernet is not None:
            yield "supernet", record.spec.supernet.digest
        for used in record.spec.predictors:
            yield f"predictor of {used.metric}", used.card_sha256
    for name, digest in data.hashes.items():
        yield f"SHA-256 of {name}", digest
