"""Build TensorRT engines from ONNX graphs."""

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.errors import InputError
from hwnas.export.tensorrt.files import SCHEMA, BuiltEngine, EngineCard
from hwnas.export.tensorrt.library import (
    LIBRARIES,
    GpuFacts,
    TensorRtMessage,
    collect_messages,
    failure,
    gpu_facts,
    load_tensorrt,
    major_version,
    parser_failure,
    process_logger,
    progress_monitor,
    require_compute_capability,
    startup_failure,
)
from hwnas.export.tensorrt.settings import EngineSettings, require_fp8
from hwnas.export.tensorrt.timing_cache import (
    TimingCacheHashes,
    attach_timing_cache,
    read_timing_cache,
    save_timing_cache,
    sha256,
)
from hwnas.files import read_bytes
from hwnas.runs import hwnas_version

if TYPE_CHECKING:
    import onnx

_log = logging.getLogger(__name__)

STRONGLY_TYPED_SINCE = 11
"""From this major version on, all networks are strongly typed and the precision flags are gone."""

_MB = 10**6

NO_LAYER_TABLE = "the engine inspector gives no layers: the table lists those of the network before they were fused"


def build_engine(
    onnx: bytes | Path,
    settings: EngineSettings,
    *,
    gpu: GpuFacts | None = None,
    on_progress: Callable[[], None] = lambda: None,
) -> BuiltEngine:
    """Build an engine for the GPU of this process, or ahead of time for those that the settings name.

    Engines are strongly typed by default: the tensor types of the ONNX graph decide the precision of each layer, on
    TensorRT 10 and 11 alike. With precision flags, TensorRT would choose among several precisions by speed, and two
    builds of one network could round differently.

    Args:
        onnx: A serialised ONNX graph or its file, with one input, one output and the weights inside.
        settings: Settings of the build.
        gpu: The GPU that the card names; looked up if None, unless the engine is built ahead of time.
        on_progress: Called at each step of the build, so that an observer can tell slow from stuck. It may be called
            from any thread.

    Returns:
        The serialised engine, its card and its layer table. An engine that was built ahead of time cannot be loaded on
        this machine: its table lists the layers of the network before they were fused.

    Raises:
        InputError: The graph does not fit the settings.
        MissingError: TensorRT or an NVIDIA GPU is not available.
        TensorRtError: TensorRT cannot build the engine.
    """
    library = require_buildable(settings, gpu=gpu)
    data = onnx if isinstance(onnx, bytes) else read_bytes(onnx)
    source = read_onnx_facts(data)
    check_onnx_facts(source, settings)
    present = None if settings.compute_capabilities else gpu or gpu_facts()
    start = time.perf_counter()
    with collect_messages(library) as messages:
        build = _Build(library=library, settings=settings, gpu=present, messages=messages, on_progress=on_progress)
        engine, hashes, parsed = build.run(data, source)
        layers, num_layers = json.dumps({"Layers": parsed}), len(parsed)
        if present is not None:
            on_progress()
            layers, num_layers = _inspect(library, engine, messages) or (layers, num_layers)
        warnings = tuple(dict.fromkeys(message.text for message in messages))
    card = EngineCard(
        schema=SCHEMA,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        engine_sha256=sha256(engine),
        onnx_sha256=sha256(data),
        layers_sha256=sha256(layers.encode()),
        num_layers=num_layers,
        hwnas=hwnas_version(),
        tensorrt=str(library.__version__),
        gpu=present,
        settings=settings,
        timing_cache=hashes,
        build_s=round(time.perf_counter() - start, 3),
        warnings=warnings,
    )
    _log.info("engine with %d layers built in %.1f s", num_layers, card.build_s)
    return BuiltEngine(engine=engine, card=card, layers=layers)


def require_buildable(settings: EngineSettings, *, gpu: GpuFacts | None = None) -> Any:
    """Require that engines of these settings can be built on this machine.

    Args:
        settings: Settings of the build.
        gpu: The GPU to build for; looked up if None, unless the engine is built ahead of time.

    Returns:
        The library's module.

    Raises:
        InputError: The library lacks the typing, or does not know a compute capability.
        MissingError: The library is not installed, or there is no GPU to build for.
    """
    library = load_tensorrt(settings.library)
    if settings.precision == "fp8" and not settings.compute_capabilities:
        require_fp8((gpu or gpu_facts()).compute_capability)
    if settings.typing == "flags" and major_version(library) >= STRONGLY_TYPED_SINCE:
        raise InputError(
            f"TensorRT {library.__version__} has no precision flags: its networks are strongly typed",
            got=f"typing='flags', precision={settings.precision!r}",
            hint="typing='strong', with an ONNX graph in that precision",
        )
    _targets(library, settings, None if settings.compute_capabilities else gpu or gpu_facts())
    return library


def deserialize_engine(library: Any, engine: bytes, messages: list[TensorRtMessage]) -> Any:
    """Load a serialised engine, ready to create execution contexts."""
    runtime = _create(library.Runtime, library, messages)
    loaded = runtime.deserialize_cuda_engine(engine)
    if loaded is None:
        raise failure("TensorRT must be able to load the engine", messages)
    return loaded


@dataclass(frozen=True, kw_only=True)
class _Build:
    """One build of an engine."""

    library: Any
    settings: EngineSettings
    gpu: GpuFacts | None
    """The GPU of this machine; None if the engine is built ahead of time."""
    messages: list[TensorRtMessage]
    on_progress: Callable[[], None]

    def run(self, data: bytes, source: "OnnxFacts") -> tuple[bytes, TimingCacheHashes | None, list[str]]:
        """Return the engine, the hashes of its timing cache, and the names of the layers before they were fused."""
        builder = _create(self.library.Builder, self.library, self.messages)
        network = self._parse(builder, data)
        config = self._configure(builder, source)
        cache = self.settings.timing_cache
        known_timings = read_timing_cache(cache) if cache else None
        if cache:
            attach_timing_cache(self.library, config, cache, data=known_timings, messages=self.messages)
        # The monitor must live longer than all objects that use it.
        monitor = progress_monitor(self.library, self.on_progress)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise failure("TensorRT must be able to build the engine", self.messages)
        is_portable = LIBRARIES[self.settings.library].is_portable
        layers = [network.get_layer(index).name for index in range(network.num_layers)] if is_portable else []
        hashes = save_timing_cache(config, cache, data=known_timings) if cache else None
        del network, config, builder
        return bytes(plan), hashes, layers

    def _parse(self, builder: Any, data: bytes) -> Any:
        strong = 1 << int(self.library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(strong if self.settings.typing == "strong" else 0)
        parser = self.library.OnnxParser(network, process_logger(self.library))
        if not parser.parse(data):
            import onnx

            raise parser_failure(parser, self.messages, onnx.load_model_from_string(data).graph.node)
        self.on_progress()
        return network

    def _configure(self, builder: Any, source: "OnnxFacts") -> Any:
        settings, library = self.settings, self.library
        config = builder.create_builder_config()
        config.builder_optimization_level = settings.optimization_level
        # Otherwise the layer table holds only names.
        config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
        if settings.workspace_mb is not None:
            config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, settings.workspace_mb * _MB)
        flags = library.BuilderFlag
        if settings.precision == "fp32":
            config.clear_flag(flags.TF32)  # TensorRT sets it by default
        elif settings.typing == "flags" and settings.precision != "tf32":
            config.set_flag(getattr(flags, settings.precision.upper()))
        targets = _targets(library, settings, self.gpu)
        if targets:
            config.num_compute_capabilities = len(targets)
            for index, target in enumerate(targets):
                config.set_compute_capability(target, index)
            # Memory that the engine allocated by itself while it runs would break the recording of a CUDA graph.
            config.set_flag(flags.REQUIRE_USER_ALLOCATION)
        profile = builder.create_optimization_profile()
        shapes = [(batch, *source.shape[1:]) for batch in (settings.batches[0], settings.batch, settings.batches[1])]
        profile.set_shape(source.input_name, *shapes)  # smallest, typical and largest; all equal for a fixed batch
        config.add_optimization_profile(profile)
        return config


def _targets(library: Any, settings: EngineSettings, gpu: GpuFacts | None) -> list[Any]:
    """Return the compute capabilities to build for, by the library's names; none if it builds for this GPU alone."""
    if not LIBRARIES[settings.library].is_portable:
        return []
    capabilities = settings.compute_capabilities or ((gpu.compute_capability,) if gpu else ())
    return [require_compute_capability(library, capability) for capability in capabilities]


def _create(cls: Any, library: Any, messages: list[TensorRtMessage]) -> Any:
    try:
        return cls(process_logger(library))
    except TypeError as error:  # the bindings raise this if the library returns no object
        raise startup_failure(messages, error) from error


def _inspect(library: Any, engine: bytes, messages: list[TensorRtMessage]) -> tuple[str, int] | None:
    """Return the layer table and the number of layers; loading the engine also proves that it loads.

    None if the engine has no table. That of TensorRT for RTX has nothing to inspect before its kernels are compiled.
    """
    loaded = deserialize_engine(library, engine, messages)
    inspector = loaded.create_engine_inspector()
    table = inspector.get_engine_information(library.LayerInformationFormat.JSON) if inspector is not None else None
    if not table or not str(table).strip():
        _log.warning(NO_LAYER_TABLE)
        messages.append(TensorRtMessage(severity="WARNING", text=NO_LAYER_TABLE))
        return None
    return str(table), int(loaded.num_layers)


# ---------------------------------------------------------------------- checks before TensorRT sees the graph


@dataclass(frozen=True, kw_only=True)
class OnnxFacts:
    """Input and precision of an ONNX graph."""

    input_name: str
    shape: tuple[int | None, ...]
    """Shape of the input; None for a dimension that the graph leaves open."""
    precision: str | None
    """The precision of most of its weights, or 'int8' or 'fp8' if some are; None if it has none."""


def read_onnx_facts(data: bytes) -> OnnxFacts:
    """Read the input shape and the precision of a serialised graph.

    Raises:
        InputError: This is no ONNX graph, it has several inputs or outputs, or its weights are in another file, which
            the hash on the engine's card would not cover.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise InputError("the file must be an ONNX graph", got=error) from error
    weights = model.graph.initializer
    external = [tensor.name for tensor in weights if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if external:
        raise InputError("the weights must be inside the ONNX file", got=f"{external[0]!r} in a file of its own")
    # Graphs of old ONNX versions list their weights among the inputs.
    names = {tensor.name for tensor in weights}
    inputs = [value for value in model.graph.input if value.name not in names]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        got = f"{len(inputs)} inputs and {len(model.graph.output)} outputs"
        raise InputError("the graph must have one input and one output", got=got)
    dimensions = inputs[0].type.tensor_type.shape.dim
    if not dimensions:
        raise InputError("the graph's input must have a shape", got=inputs[0].name)
    shape = tuple(dimension.dim_value if dimension.HasField("dim_value") else None for dimension in dimensions)
    return OnnxFacts(input_name=inputs[0].name, shape=shape, precision=_weight_precision(model))


def check_onnx_facts(source: OnnxFacts, settings: EngineSettings) -> None:
    """Check that the batch size and the weight precision of a graph are those of the settings."""
    batch, (first, last) = source.shape[0], settings.batches
    if batch is not None and (first, last) != (batch, batch):
        wanted = str(first) if first == last else f"{first} to {last}"
        hint = "an ONNX graph with that batch size, or with an open one"
        raise InputError(f"the graph must take the batch {wanted}", got=f"a fixed batch of {batch}", hint=hint)
    if None in source.shape[1:]:
        raise InputError("only the batch may be open in the graph's input", got=source.shape)
    if source.precision not in (None, settings.weight_precision):
        kind = "a strongly typed engine" if settings.typing == "strong" else "an engine with precision flags"
        raise InputError(
            f"{kind} of precision {settings.precision} needs an ONNX graph with weights in {settings.weight_precision}",
            got=f"weights in {source.precision}",
            hint="export the ONNX graph in that precision",
        )


def _weight_precision(model: "onnx.ModelProto") -> str | None:
    import onnx

    names = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
    quantised = {onnx.TensorProto.FLOAT8E4M3FN: "fp8", onnx.TensorProto.INT8: "int8"}
    for tensor in model.graph.initializer:
        if tensor.data_type in quantised and tensor.dims:  # zero points of activations have no dimensions
            return quantised[tensor.data_type]
    elements: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        if tensor.data_type in names:
            elements[names[tensor.data_type]] += math.prod(tensor.dims)
    return elements.most_common(1)[0][0] if elements else None
