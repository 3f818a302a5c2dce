"""What is known of an engine: the file that stands beside it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from hwnas.config import from_mapping, parse_json, shown, to_mapping
from hwnas.errors import InputError
from hwnas.export.tensorrt.gpu import GpuFacts
from hwnas.export.tensorrt.settings import EngineSettings
from hwnas.export.tensorrt.timing_cache import TimingCacheHashes

SCHEMA = "hwnas.engine/1"
"""The form of the card that this version writes and reads."""


@dataclass(frozen=True, kw_only=True)
class EngineCard:
    """What an engine was made from, with what, and for which GPU; hashes are SHA-256 in hexadecimal."""

    schema: str
    created_utc: str
    engine_sha256: str
    onnx_sha256: str
    layers_sha256: str
    num_layers: int
    hwnas: str
    tensorrt: str
    gpu: GpuFacts
    settings: EngineSettings
    timing_cache: TimingCacheHashes | None = None
    build_s: float
    warnings: tuple[str, ...] = ()
    """What TensorRT warned of while it built."""


def card_text(card: EngineCard) -> str:
    """The JSON of a card."""
    return json.dumps(to_mapping(card), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def parse_card(text: str, *, source: str) -> EngineCard:
    """Read the JSON of a card; one that hwnas did not write, or in another form, is refused."""
    data = parse_json(text, source=source)
    if not isinstance(data, Mapping) or "schema" not in data:
        raise InputError(f"{source} is not the card of an engine that hwnas built", got=shown(data))
    if data["schema"] != SCHEMA:
        hint = "build the engine again with this version of hwnas"
        raise InputError(f"{source} has another form", got=data["schema"], known=[SCHEMA], hint=hint)
    return from_mapping(EngineCard, data)
