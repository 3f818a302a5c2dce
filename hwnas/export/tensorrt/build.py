"""ONNX graph to engine."""

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hwnas.errors import InputError
from hwnas.export.tensorrt.card import SCHEMA, EngineCard
from hwnas.export.tensorrt.gpu import GpuFacts, gpu_facts
from hwnas.export.tensorrt.graph import Graph, check_graph, read_graph
from hwnas.export.tensorrt.library import always_strong, load_tensorrt
from hwnas.export.tensorrt.messages import Message, collected, failure, logger, not_started, parser_failure
from hwnas.export.tensorrt.settings import EngineSettings
from hwnas.export.tensorrt.timing_cache import TimingCacheHashes, keep_cache, read_cache, sha256, use_cache
from hwnas.runs import hwnas_version

_MB = 10**6


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """An engine, what is known of it, and TensorRT's own table of its layers."""

    engine: bytes
    card: EngineCard
    layers: str
    """JSON, as the engine inspector gives it."""


def build_engine(onnx: bytes | Path, settings: EngineSettings, *, gpu: GpuFacts | None = None) -> BuiltEngine:
    """Build an engine for the GPU of this process from an ONNX graph; `gpu` is looked up where it is not given."""
    library = load_tensorrt()
    _check_typing(library, settings)
    data = onnx if isinstance(onnx, bytes) else _read(onnx)
    graph = read_graph(data)
    check_graph(graph, settings)
    facts = gpu or gpu_facts()
    start = time.perf_counter()
    with collected(library) as messages:
        engine, hashes = _build(library, data, graph, settings, messages)
        layers, num_layers = _inspect(library, engine, messages)
        said = tuple(dict.fromkeys(message.text for message in messages))
    card = EngineCard(
        schema=SCHEMA,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        engine_sha256=sha256(engine),
        onnx_sha256=sha256(data),
        layers_sha256=sha256(layers.encode()),
        num_layers=num_layers,
        hwnas=hwnas_version(),
        tensorrt=str(library.__version__),
        gpu=facts,
        settings=settings,
        timing_cache=hashes,
        build_s=round(time.perf_counter() - start, 3),
        warnings=said,
    )
    return BuiltEngine(engine=engine, card=card, layers=layers)


def _check_typing(library: Any, settings: EngineSettings) -> None:
    if settings.typing == "flags" and always_strong(library):
        raise InputError(
            f"TensorRT {library.__version__} has no flags for precision: its networks are strongly typed",
            got=f"typing='flags', precision={settings.precision!r}",
            hint="typing='strong', with an ONNX graph in that precision",
        )


def _build(
    library: Any, data: bytes, graph: Graph, settings: EngineSettings, messages: list[Message]
) -> tuple[bytes, TimingCacheHashes | None]:
    builder = _started(library.Builder, library, messages)
    network = _parsed(library, builder, data, settings, messages)
    config = _configured(library, builder, settings)
    config.add_optimization_profile(_profile(builder, graph, settings))
    cache = settings.timing_cache
    known = read_cache(cache) if cache else None
    if cache:
        use_cache(library, config, cache, data=known, messages=messages)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise failure("TensorRT must be able to build the engine", messages)
    return bytes(plan), keep_cache(config, cache, data=known) if cache else None


def _started(cls: Any, library: Any, messages: list[Message]) -> Any:
    try:
        return cls(logger(library))
    except TypeError as error:  # how the bindings report an object that the library could not make
        raise not_started(messages, error) from error


def _parsed(library: Any, builder: Any, data: bytes, settings: EngineSettings, messages: list[Message]) -> Any:
    strong = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strong if settings.typing == "strong" else 0)
    parser = library.OnnxParser(network, logger(library))
    if not parser.parse(data):
        raise parser_failure(parser, messages)
    return network


def _configured(library: Any, builder: Any, settings: EngineSettings) -> Any:
    config = builder.create_builder_config()
    config.builder_optimization_level = settings.optimization_level
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED  # without it the layer table holds names alone
    if settings.workspace_mb is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, settings.workspace_mb * _MB)
    flags = library.BuilderFlag
    if settings.precision == "fp32":
        config.clear_flag(flags.TF32)
    elif settings.typing == "flags" and settings.precision != "tf32":
        config.set_flag(getattr(flags, settings.precision.upper()))
    return config


def _profile(builder: Any, graph: Graph, settings: EngineSettings) -> Any:
    """The batches that the engine takes; for a graph of a fixed batch it says the same once more."""
    image = tuple(graph.shape[1:])
    first, last = settings.batches
    profile = builder.create_optimization_profile()
    profile.set_shape(graph.name, (first, *image), (settings.batch, *image), (last, *image))
    return profile


def _inspect(library: Any, engine: bytes, messages: list[Message]) -> tuple[str, int]:
    """The layer table of an engine, which must be one that loads, and the number of layers."""
    loaded = deserialised(library, engine, messages)
    table = loaded.create_engine_inspector().get_engine_information(library.LayerInformationFormat.JSON)
    return str(table), int(loaded.num_layers)


def deserialised(library: Any, engine: bytes, messages: list[Message]) -> Any:
    """The engine, ready to make execution contexts."""
    loaded = _started(library.Runtime, library, messages).deserialize_cuda_engine(engine)
    if loaded is None:
        raise failure("TensorRT must be able to load the engine", messages)
    return loaded


def layer_table(text: str) -> list[dict[str, Any]]:
    """The rows of an engine's layer table, one a layer in the order in which they run."""
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("the engine inspector's table must be JSON with 'Layers'", got=error) from error
    return [layer if isinstance(layer, dict) else {"Name": layer} for layer in layers]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read", got=error.strerror) from error
