"""Networks as people read them: frozen values with one canonical JSON text each."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwnas.config import to_mapping

_ID_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class Arch:
    """One network of a family; each family adds the values that its spaces choose."""

    def to_mapping(self) -> dict[str, Any]:
        """The values as plain tables and lists; a slot without a block is None."""
        return to_mapping(self)


def canonical_json(values: Mapping[str, Any]) -> str:
    """The one JSON text of plain values: sorted keys, no white space, no NaN."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(values: Mapping[str, Any]) -> str:
    """An identifier of plain values: the first 16 hex digits of the SHA-256 of their canonical JSON."""
    return hashlib.sha256(canonical_json(_unspelled(values)).encode()).hexdigest()[:_ID_DIGITS]


def _unspelled(value: Any) -> Any:
    """The value with whole numbers as such, however they are spelled: 2.0 is 2."""
    if value is None or isinstance(value, (int, str)):  # most values, and a test for Mapping takes longest
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        return {key: _unspelled(item) for key, item in value.items()}
    return [_unspelled(item) for item in value] if isinstance(value, (list, tuple)) else value
