"""Engines as files.

    NAME.engine                the engine, as TensorRT serialised it
    NAME.engine.layers.json    the inspector's table of its layers
    NAME.engine.json           the card: hashes, versions, GPU, settings; written last

Loading an engine runs code that is in it, so only one that hwnas built and that nobody changed since is loaded. The
hashes guard against mistakes, not against someone who writes a card too: take engines from people you trust.
"""

from dataclasses import dataclass
from pathlib import Path

from hwnas.errors import InputError
from hwnas.export.tensorrt.build import BuiltEngine
from hwnas.export.tensorrt.card import card_text, parse_card
from hwnas.export.tensorrt.gpu import GpuFacts, gpu_facts
from hwnas.export.tensorrt.library import load_tensorrt
from hwnas.export.tensorrt.timing_cache import sha256
from hwnas.runs import write_atomic

_AGAIN = "build it again here, from its ONNX graph"


@dataclass(frozen=True, kw_only=True)
class EngineFiles:
    """Where the three files of an engine stand."""

    engine: Path

    @property
    def layers(self) -> Path:
        """The table of its layers."""
        return self.engine.with_name(f"{self.engine.name}.layers.json")

    @property
    def card(self) -> Path:
        """What is known of it."""
        return self.engine.with_name(f"{self.engine.name}.json")


def save_engine(built: BuiltEngine, path: Path) -> EngineFiles:
    """Write an engine and what belongs to it; a set that was left half-written does not load."""
    files = EngineFiles(engine=path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path.parent} must be a folder", got=error.strerror) from error
    write_atomic(files.engine, built.engine)
    write_atomic(files.layers, built.layers)
    write_atomic(files.card, card_text(built.card))
    return files


def load_engine(path: Path, *, gpu: GpuFacts | None = None) -> BuiltEngine:
    """Read an engine that hwnas built for this model of GPU and this version of TensorRT; any other is refused.

    `gpu` is looked up where it is not given.
    """
    built = read_engine(path)
    version = str(load_tensorrt().__version__)
    if built.card.tensorrt != version:
        message = f"{path} must be of the TensorRT that is here, {version}"
        raise InputError(message, got=built.card.tensorrt, hint=_AGAIN)
    here = gpu or gpu_facts()
    if not here.runs_engines_of(built.card.gpu):
        raise InputError(
            f"{path} must be for the GPU that is here, {_named(here)}", got=_named(built.card.gpu), hint=_AGAIN
        )
    return built


def read_engine(path: Path) -> BuiltEngine:
    """Read the files of an engine, which must be as they were written; neither a GPU nor TensorRT is needed."""
    files = EngineFiles(engine=path)
    engine = _bytes(path)
    if not files.card.exists():
        hint = "build it with hwnas: engines of other tools are not loaded"
        raise InputError(f"{path} must have its card {files.card.name} beside it", hint=hint)
    card = parse_card(_bytes(files.card).decode("utf-8", errors="replace"), source=str(files.card))
    layers = _bytes(files.layers)
    _same(path, engine, card.engine_sha256)
    _same(files.layers, layers, card.layers_sha256)
    return BuiltEngine(engine=engine, card=card, layers=layers.decode("utf-8"))


def _same(path: Path, data: bytes, expected: str) -> None:
    if sha256(data) != expected:
        raise InputError(f"{path} must have the hash on its card, {expected}", got=sha256(data), hint=_AGAIN)


def _named(gpu: GpuFacts) -> str:
    return f"{gpu.reported} (compute capability {gpu.compute_capability})"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read", got=error.strerror) from error
