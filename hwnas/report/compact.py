"""The data of a report as compact JSON for its page: columns of numbers in base64, networks as genomes."""

import base64
import gzip
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.report.anatomy import PARTS, Anatomy, anatomies, anatomy, conditions_of
from hwnas.report.data import Candidates, Member, RunData
from hwnas.report.finetuning import finetuning_command
from hwnas.report.front import csv_text, json_text, outside_metrics, rows_of, verdict_of
from hwnas.report.verdict import best_of, picked_member, standing
from hwnas.space.deployed import DEPLOYMENT
from hwnas.space.dimension import Dimension

MAX_POINTS = 6000
"""Candidates outside the front that a page contains; of more, a random sample."""

UNUSED = 255
"""Placeholder for a gene that a network does not use."""

_MAX_TABLE_LENGTH = 400_000
"""Characters of a compressed table of the front up to which the page contains it."""

_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def script_json(value: object) -> str:
    """Return JSON that is safe inside a script element."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for letter, escape in _ESCAPES.items():
        text = text.replace(letter, escape)
    return text


def run_values(data: RunData) -> dict[str, Any]:
    """Return the data of one run for the page's script."""
    rows = shown_rows(data.candidates)
    indices = {int(row): index for index, row in enumerate(rows)}
    return {
        "name": data.name,
        "space": data.space.name,
        "finished": data.finished,
        "metrics": [_metric(data, index) for index in range(len(data.metrics))],
        "dimensions": [
            {"name": item.name, "stage": item.stage, "block": item.block, "choices": _choices(data, item)}
            for item in data.space.dimensions
        ],
        "deployments": list(data.deployments),
        "total": len(data.candidates),
        "candidates": _candidates(data, rows),
        "front": [
            _member(data, member, indices[member.row], outside)
            for member, outside in zip(data.front, outside_metrics(data), strict=True)
        ],
        "anatomy": _anatomies(data),
        "references": _references(data),
        "referencesNote": data.references_note,
        "baseline": data.references.index(data.baseline) if data.baseline is not None else None,
        "history": [[item.candidates, item.evaluations, _digits(item.hypervolume)] for item in data.history],
        "random": _random(data),
        "trainings": [
            {"name": item.name, "steps": item.steps, "losses": [_digits(loss) for loss in item.losses]}
            for item in data.trainings
        ],
        "predictors": _predictors(data),
        "choice": _choice(data),
        "command": f"hwnas export {shlex.quote(str(data.path))} --arch ",
        "finetuning": _finetuning(data),
        "files": _files(data),
    }


def _choices(data: RunData, dimension: Dimension) -> list[Any]:
    """Return the choices of a dimension as people read them."""
    return list(data.deployments) if data.deployments and dimension.name == DEPLOYMENT else list(dimension.choices)


def shown_rows(candidates: Candidates) -> NDArray[np.intp]:
    """Return the rows of the candidates on a page: the front, and all others or a random sample of them."""
    others = np.flatnonzero(~candidates.on_front)
    if len(others) > MAX_POINTS:
        others = np.random.default_rng(0).choice(others, MAX_POINTS, replace=False)
    return np.sort(np.concatenate([np.flatnonzero(candidates.on_front), others]))


def _metric(data: RunData, index: int) -> dict[str, Any]:
    info = data.metrics[index]
    names = [metric.name for metric in data.metrics]
    return {
        "key": info.key,
        "name": info.name,
        "label": info.name if names.count(info.name) == 1 else info.key,
        "unit": info.unit,
        "where": info.where,
        "maximised": info.maximised,
        "role": info.role,
        "predicted": info.predicted,
    }


def _candidates(data: RunData, rows: NDArray[np.intp]) -> dict[str, Any]:
    candidates = data.candidates
    genomes = np.where(candidates.used[rows], candidates.genomes[rows], UNUSED).astype(np.uint8)
    known = np.logical_and.reduce([np.isfinite(candidates.metrics[item.key].mean[rows]) for item in data.objectives])
    status = np.where(candidates.on_front[rows], 1, np.where(~candidates.feasible[rows], 2, np.where(known, 0, 3)))
    bounds = {item.key: candidates.metrics[item.key] for item in data.metrics if item.predicted}
    return {
        "count": len(rows),
        "order": _packed(rows + 1, "<i4"),
        "genomes": _packed(genomes, "u1"),
        "status": _packed(status, "u1"),
        "values": [_packed(candidates.metrics[item.key].mean[rows], "<f4") for item in data.metrics],
        "lower": [
            _packed(bounds[item.key].lower[rows], "<f4") if item.key in bounds else None for item in data.metrics
        ],
        "upper": [
            _packed(bounds[item.key].upper[rows], "<f4") if item.key in bounds else None for item in data.metrics
        ],
    }


def _packed(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode("ascii")


def _member(data: RunData, member: Member, index: int, outside: str) -> dict[str, Any]:
    values: dict[str, Any] = {"at": index, "id": member.arch_id}
    if outside:
        values["outside"] = outside
    if member.deployment is not None:
        values["deployment"] = data.deployments.index(member.deployment)
        values["network"] = member.network_id
    if member.float_accuracy is not None:
        values["floatAccuracy"] = _digits(member.float_accuracy)
    checks = [member.metrics[metric.key] for metric in data.metrics]
    if member.measured:
        values["measured"] = [
            None
            if check.measured is None
            else [_digits(check.measured), _digits(check.measured_lower), _digits(check.measured_upper)]
            for check in checks
        ]
        values["unstable"] = list(dict.fromkeys(check.verdict for check in checks if check.stable is False))
    if member.measured or member.failure or member.violated:
        values["verdict"] = verdict_of(member)
        values["stands"] = member.stands
    if member.exported_to is not None:
        values["exportedTo"] = member.exported_to
    return values


def _digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _anatomies(data: RunData) -> dict[str, Any]:
    conditions = conditions_of(data)
    extremes = {"smallest": data.space.smallest(), "largest": data.space.largest()}
    return {
        "parts": PARTS,
        "members": {str(index): _anatomy(item) for index, item in anatomies(data).items()},
        "extremes": {name: _anatomy(anatomy(data.space.workload(arch), conditions)) for name, arch in extremes.items()},
        "precision": conditions.precision,
        "batch": conditions.batch,
    }


def _anatomy(network: Anatomy) -> dict[str, Any]:
    times = network.shares.time_ms
    return {
        "blocks": [
            [
                block.stage,
                block.width,
                block.tokens,
                block.heads,
                block.attention_width,
                block.hidden,
                block.locality,
                block.kernel,
            ]
            for block in network.blocks
        ],
        "macs": network.shares.macs,
        "bytes": network.shares.bytes_moved,
        "time": None if times is None else [_digits(value) for value in times],
    }


def _references(data: RunData) -> list[dict[str, Any]]:
    return [
        {
            "name": reference.name,
            "label": reference.label,
            "measured": reference.measured,
            "predicted": list(reference.predicted),
            "note": reference.note,
            "values": [reference.value(metric.key) for metric in data.metrics],
        }
        for reference in data.references
    ]


def _random(data: RunData) -> list[list[float | None]] | None:
    if data.record is None or data.record.random_history is None:
        return None
    return [[count, evaluations, _digits(value)] for count, evaluations, value in data.record.random_history]


def _predictors(data: RunData) -> list[dict[str, Any]]:
    predictors = []
    for metric, card in data.cards.items():
        pairs = [[_digits(row.measured), _digits(row.predicted)] for row in card.held_out]
        column, deployment = data.predicted_by(metric)
        row = None if deployment is None else data.deployments.index(deployment)
        predictors.append({"metric": column, "deployment": row, "heldOut": pairs, "floor": card.noise_floor})
    return predictors


def _choice(data: RunData) -> list[int]:
    """Return the front indices of the networks shown first: balanced, best in the first objective, and fastest."""
    front = standing(data) or data.front
    balanced, fast = (picked_member(data, front, rule) for rule in ("balanced", "fast"))
    picked = [balanced, best_of(front, data.objectives[0]), fast]
    return list(dict.fromkeys(data.front.index(member) for member in picked if member is not None))


def _finetuning(data: RunData) -> list[str]:
    """Return the commands that fine-tune the networks of the front, by their place in it; empty ones where none can."""
    if data.record is None:
        return ["" for _ in data.front]
    return [shlex.join(finetuning_command(data.path, data.record, member.arch_id)) for member in data.front]


def _files(data: RunData) -> Mapping[str, str | None]:
    rows = rows_of(data)
    tables = {"csv": _compressed(csv_text(data, rows)), "json": _compressed(json_text(rows))}
    return {kind: text if len(text) <= _MAX_TABLE_LENGTH else None for kind, text in tables.items()}


def _compressed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode("utf-8"), mtime=0)).decode("ascii")


def values_of(runs: Sequence[RunData]) -> dict[str, Any]:
    """Return the data of all runs for the page's script."""
    return {"runs": [run_values(data) for data in runs]}
