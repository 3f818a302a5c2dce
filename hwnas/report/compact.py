"""The values of a report as compact JSON for its page: columns of numbers in base64, networks as genomes."""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.report.anatomy import PARTS, Anatomy, anatomies, anatomy, conditions_of
from hwnas.report.data import Candidates, Member, RunData, landmark_value
from hwnas.report.front import csv_text, json_text, rows_of, verdict_of
from hwnas.report.verdict import balanced, best_of, standing

MOST_POINTS = 6000
"""Candidates beside the front that a page draws; of more, a random choice."""

UNUSED = 255
"""The gene that a network does not have."""

_MOST_FILE = 400_000
"""Characters of a compressed table of the front up to which it is in the page."""

_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def script_json(value: object) -> str:
    """JSON that may stand inside a script element, whatever texts are in it."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for letter, escape in _ESCAPES.items():
        text = text.replace(letter, escape)
    return text


def run_values(data: RunData) -> dict[str, Any]:
    """All that the page's script needs of one run."""
    rows = shown_rows(data.candidates)
    places = {int(row): place for place, row in enumerate(rows)}
    return {
        "name": data.name,
        "space": data.space.name,
        "finished": data.finished,
        "metrics": [_metric(data, index) for index in range(len(data.metrics))],
        "dimensions": [
            {"name": item.name, "stage": item.stage, "block": item.block, "choices": list(item.choices)}
            for item in data.space.dimensions
        ],
        "total": len(data.candidates),
        "candidates": _candidates(data, rows),
        "front": [_member(data, member, places[member.row]) for member in data.front],
        "anatomy": _anatomies(data),
        "landmarks": _landmarks(data),
        "landmarksNote": data.landmarks_note,
        "baseline": data.landmarks.index(data.baseline) if data.baseline is not None else None,
        "history": [[item.candidates, item.evaluations, _digits(item.hypervolume)] for item in data.history],
        "random": _random(data),
        "predictors": _predictors(data),
        "choice": _choice(data),
        "command": f"hwnas export {_quoted(data.path)} --arch ",
        "files": _files(data),
    }


def shown_rows(candidates: Candidates) -> NDArray[np.intp]:
    """The candidates that a page holds: the front, and all others or a random choice of them."""
    others = np.flatnonzero(~candidates.on_front)
    if len(others) > MOST_POINTS:
        others = np.random.default_rng(0).choice(others, MOST_POINTS, replace=False)
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
    found = data.candidates
    genomes = np.where(found.used[rows], found.genomes[rows], UNUSED).astype(np.uint8)
    known = np.logical_and.reduce([np.isfinite(found.metrics[metric.key].mean[rows]) for metric in data.objectives])
    status = np.where(found.on_front[rows], 1, np.where(~found.feasible[rows], 2, np.where(known, 0, 3)))
    return {
        "count": len(rows),
        "order": _packed(rows + 1, "<i4"),
        "genomes": _packed(genomes, "u1"),
        "status": _packed(status, "u1"),
        "values": [_packed(found.metrics[metric.key].mean[rows], "<f4") for metric in data.metrics],
        "lower": [_end(found, metric.key, 1, rows) if metric.predicted else None for metric in data.metrics],
        "upper": [_end(found, metric.key, 2, rows) if metric.predicted else None for metric in data.metrics],
    }


def _end(found: Candidates, key: str, end: int, rows: NDArray[np.intp]) -> str:
    return _packed(found.metrics[key][end][rows], "<f4")


def _packed(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode("ascii")


def _member(data: RunData, member: Member, place: int) -> dict[str, Any]:
    values: dict[str, Any] = {"at": place, "id": member.arch_id}
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
        values["stands"] = not member.violated and member.failure is None and member.on_measured_front is not False
    if member.kit is not None:
        values["kit"] = member.kit
    return values


def _digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _anatomies(data: RunData) -> dict[str, Any]:
    conditions = conditions_of(data)
    extremes = {"smallest": data.space.smallest(), "largest": data.space.largest()}
    return {
        "parts": PARTS,
        "members": {str(place): _taken_apart(item) for place, item in anatomies(data).items()},
        "extremes": {
            name: _taken_apart(anatomy(data.space.workload(arch), conditions)) for name, arch in extremes.items()
        },
        "precision": conditions.precision,
        "batch": conditions.batch,
    }


def _taken_apart(found: Anatomy) -> dict[str, Any]:
    times = found.shares.time_ms
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
            for block in found.blocks
        ],
        "macs": found.shares.macs,
        "bytes": found.shares.bytes_moved,
        "time": None if times is None else [_digits(value) for value in times],
    }


def _landmarks(data: RunData) -> list[dict[str, Any]]:
    return [
        {
            "name": landmark.name,
            "measured": landmark.measured,
            "predicted": list(landmark.predicted),
            "values": [landmark_value(landmark, metric) for metric in data.metrics],
        }
        for landmark in data.landmarks
    ]


def _random(data: RunData) -> list[list[float | None]] | None:
    if data.record is None or data.record.random_history is None:
        return None
    return [[count, evaluations, _digits(value)] for count, evaluations, value in data.record.random_history]


def _predictors(data: RunData) -> list[dict[str, Any]]:
    found = []
    for metric, card in ({} if data.record is None else data.record.predictor_cards).items():
        pairs = [[_digits(row.get("measured")), _digits(row.get("predicted"))] for row in card.get("held_out") or ()]
        found.append({"metric": metric, "heldOut": pairs, "floor": card.get("noise_floor")})
    return found


def _choice(data: RunData) -> list[int]:
    """The places in the front that are shown first: the balanced network, the best of the first and of a speed."""
    front = standing(data) or data.front
    speed = next((metric for metric in data.objectives if metric.where), data.objectives[-1])
    picked = [balanced(data, front), best_of(front, data.objectives[0]), best_of(front, speed)]
    places = [data.front.index(member) for member in picked if member is not None]
    return list(dict.fromkeys(places))


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))


def _files(data: RunData) -> Mapping[str, str | None]:
    rows = rows_of(data)
    found = {"csv": _compressed(csv_text(data, rows)), "json": _compressed(json_text(rows))}
    return {kind: text if len(text) <= _MOST_FILE else None for kind, text in found.items()}


def _compressed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode("utf-8"), mtime=0)).decode("ascii")


def values_of(runs: Sequence[RunData]) -> dict[str, Any]:
    """All that the page's script needs."""
    return {"runs": [run_values(data) for data in runs]}
