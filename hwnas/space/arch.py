"""Archs: networks as people read them, frozen values with one canonical JSON text each."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwnas.config import to_mapping

_ID_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class Arch:
    """Base of the networks of all families; each adds the values that its spaces choose."""

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as plain tables and lists; a slot without a block is None."""
        return to_mapping(self)


def canonical_json(values: Mapping[str, Any]) -> str:
    """Return the canonical JSON text of plain values: sorted keys, no white space, no NaN."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(values: Mapping[str, Any]) -> str:
    """Return an id of plain values: the first 16 hex digits of the SHA-256 of their canonical JSON."""
    return hashlib.sha256(canonical_json(_with_integers(values)).encode()).hexdigest()[:_ID_DIGITS]


def _with_integers(value: Any) -> Any:
    """Replace integral floats by integers, so that 2.0 and 2 have the same id."""
    if value is None or isinstance(value, (int, str)):  # most values, and a test for Mapping takes longest
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        return {key: _with_integers(item) for key, item in value.items()}
    return [_with_integers(item) for item in value] if isinstance(value, (list, tuple)) else value
