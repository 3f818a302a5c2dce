"""Engine files: what is saved of an engine, and what is checked when it is loaded.

    NAME.engine                the engine, as TensorRT serialised it
    NAME.engine.layers.json    the layer table of TensorRT's engine inspector
    NAME.engine.json           the card: hashes, versions, GPU, settings; written last

Loading an engine runs code that is in it, so only unchanged engines that hwnas built are loaded. The hashes guard
against mistakes, not against someone who forges a card as well: use engines only from people you trust.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hwnas.config import from_mapping, parse_json, require_schema, shown, to_mapping
from hwnas.errors import InputError
from hwnas.export.tensorrt.library import GpuFacts, gpu_facts, load_tensorrt
from hwnas.export.tensorrt.settings import EngineSettings
from hwnas.export.tensorrt.timing_cache import TimingCacheHashes, sha256
from hwnas.files import file_errors, read_bytes, read_text, write_atomic

SCHEMA = "hwnas.engine/1"
"""The schema of the card that this version writes and reads."""

_REBUILD = "build it again on this machine, from its ONNX graph"


@dataclass(frozen=True, kw_only=True)
class EngineCard:
    """Origin of an engine: its inputs, versions, GPU and settings. Hashes are SHA-256 in hexadecimal."""

    schema: str
    created_utc: str
    engine_sha256: str
    onnx_sha256: str
    layers_sha256: str
    num_layers: int
    hwnas: str
    tensorrt: str
    gpu: GpuFacts | None = None
    """The GPU that it was built on; None if it was built ahead of time for `settings.compute_capabilities`."""
    settings: EngineSettings
    timing_cache: TimingCacheHashes | None = None
    build_s: float
    warnings: tuple[str, ...] = ()
    """Warnings that TensorRT logged during the build."""


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """A serialised engine, its card and its layer table."""

    engine: bytes
    card: EngineCard
    layers: str
    """JSON, as the engine inspector returns it."""


@dataclass(frozen=True, kw_only=True)
class EngineFiles:
    """Paths of the three files of an engine."""

    engine: Path

    @property
    def layers(self) -> Path:
        """The layer table."""
        return self.engine.with_name(f"{self.engine.name}.layers.json")

    @property
    def card(self) -> Path:
        """The card."""
        return self.engine.with_name(f"{self.engine.name}.json")


def save_engine(built: BuiltEngine, path: Path) -> EngineFiles:
    """Write an engine, its layer table and its card.

    Args:
        built: The engine.
        path: The engine file; its folder is created if necessary.

    Raises:
        InputError: A file cannot be written.
    """
    files = EngineFiles(engine=path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path.parent} must be a folder", got=error.strerror) from error
    # The card is last: without a card that has the hashes of both other files, a half-written set does not load.
    write_atomic(files.engine, built.engine)
    write_atomic(files.layers, built.layers)
    card = json.dumps(to_mapping(built.card), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(files.card, card + "\n")
    return files


def load_engine(path: Path, *, gpu: GpuFacts | None = None) -> BuiltEngine:
    """Read an engine that this process can run.

    Args:
        path: The engine file.
        gpu: The GPU that will run the engine; looked up if None.

    Raises:
        InputError: A file is missing or was changed, or the engine is for another GPU model or TensorRT version.
        MissingError: TensorRT or the GPU is not available.
    """
    built = read_engine(path)
    version = str(load_tensorrt(built.card.settings.library).__version__)
    if built.card.tensorrt != version:
        message = f"{path} must be built by the installed TensorRT, {version}"
        raise InputError(message, got=built.card.tensorrt, hint=_REBUILD)
    present = gpu or gpu_facts()
    targets = built.card.settings.compute_capabilities
    if built.card.gpu is None and present.compute_capability not in targets:
        message = f"{path} must be built for the compute capability of this GPU, {present.compute_capability}"
        raise InputError(message, got=", ".join(targets), hint=_REBUILD)
    if built.card.gpu is not None and not present.is_same_model(built.card.gpu):
        message = f"{path} must be built for the GPU of this machine, {_gpu_name(present)}"
        raise InputError(message, got=_gpu_name(built.card.gpu), hint=_REBUILD)
    return built


def read_engine(path: Path) -> BuiltEngine:
    """Read the files of an engine and check their hashes; this needs neither a GPU nor TensorRT.

    Raises:
        InputError: A file is missing or was changed since it was written.
    """
    files = EngineFiles(engine=path)
    engine = read_bytes(path)
    if not files.card.exists():
        hint = "build it with hwnas: engines of other tools are not loaded"
        raise InputError(f"{path} must have its card {files.card.name} next to it", hint=hint)
    card = _parse_card(read_text(files.card), source=str(files.card))
    layers = read_bytes(files.layers)
    for file, data, expected in ((path, engine, card.engine_sha256), (files.layers, layers, card.layers_sha256)):
        if sha256(data) != expected:
            message = f"{file} must have the hash on its card, {expected}"
            raise InputError(message, got=sha256(data), hint=_REBUILD)
    with file_errors(files.layers):
        return BuiltEngine(engine=engine, card=card, layers=layers.decode("utf-8"))


def _parse_card(text: str, *, source: str) -> EngineCard:
    data = parse_json(text, source=source)
    if not isinstance(data, Mapping) or "schema" not in data:
        raise InputError(f"{source} is not the card of an engine that hwnas built", got=shown(data))
    require_schema(data["schema"], expected=SCHEMA, source=source, hint="build the engine again with this version")
    return from_mapping(EngineCard, data, where=source)


def _gpu_name(gpu: GpuFacts) -> str:
    return f"{gpu.reported} (compute capability {gpu.compute_capability})"
