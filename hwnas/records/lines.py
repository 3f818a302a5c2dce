"""Measurements as lines of JSON, and back; each line carries its schema."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hwnas.config import from_mapping, parse_json, shown, to_mapping
from hwnas.errors import InputError
from hwnas.records.measurement import SCHEMA, Measurement, Samples, Subject


def to_line(measurement: Measurement) -> str:
    """One line without its line break; samples are plain lists of whole nanoseconds."""
    return json.dumps(to_mapping(measurement), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def from_line(text: str, *, source: str) -> Measurement:
    """The measurement in a line; `source` names the line in messages."""
    data = parse_json(text, source=source)
    if not isinstance(data, dict) or "schema" not in data:
        raise InputError(f"{source} must hold a measurement", got=shown(data))
    require_schema(data["schema"], expected=SCHEMA, source=source)
    subject = subject_from(data.get("subject"), where=f"{source}: subject")
    plain = {**data, "subject": to_mapping(replace(subject, arch=None))}
    measurement = replace(from_mapping(Measurement, plain, where=source), subject=subject)
    for samples in filter(None, (measurement.samples, measurement.reference)):
        _require_whole(samples, source=source)
    return measurement


def subject_from(data: object, *, where: str) -> Subject:
    """A subject from its plain values; its arch is kept as it is."""
    if not isinstance(data, Mapping):
        raise InputError(f"{where} must be a table of named values", got=shown(data))
    arch = data.get("arch")
    if arch is not None and not isinstance(arch, Mapping):
        raise InputError(f"{where}.arch must be a table of named values", got=shown(arch))
    plain: dict[str, Any] = {name: value for name, value in data.items() if name != "arch"}
    return replace(from_mapping(Subject, plain, where=where), arch=arch)


def _require_whole(samples: Samples, *, source: str) -> None:
    """Every clock has a time for each run, or for none."""
    lengths = [len(values) for values in (samples.wall_ns, samples.cpu_ns, samples.device_ns, samples.switches)]
    if not samples.wall_ns or not set(lengths) <= {0, lengths[0]}:
        raise InputError(f"{source} must have a time for each run", got=", ".join(map(str, lengths)))


def require_schema(
    got: object, *, expected: str, source: str, hint: str = "read it with the version of hwnas that wrote it"
) -> None:
    """A file must have the form that this version reads."""
    if got != expected:
        raise InputError(f"{source} has another form", got=shown(got), known=[expected], hint=hint)
