"""`hwnas export`: write one network to files that run without hwnas, checked against torch."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from hwnas.arguments import checked_arguments, conform
from hwnas.config import require_valid, to_mapping
from hwnas.devices import DEVICES
from hwnas.errors import InputError, UsageError, unknown
from hwnas.export.tensorrt import EngineSettings, LibraryName, TimingCache, require_buildable
from hwnas.export.tensorrt.library import LIBRARIES, gpu_facts
from hwnas.export.tensorrt.timing_cache import choose_timing_cache
from hwnas.files import short_name, write_atomic
from hwnas.metrics import QUANTISED
from hwnas.pipeline.named_network import arch_text, names_run, unknown_space
from hwnas.pipeline.quantisation import QuantisationImages, QuantisationOptions, open_quantisation_images
from hwnas.runs import NETWORK
from hwnas.space import SPACES
from hwnas.space.arch import Arch
from hwnas.supernet.loading import WeightedNetwork, weighted_network

if TYPE_CHECKING:
    from hwnas.export.boxes import BoxParity
    from hwnas.export.export import ExportedModule
    from hwnas.export.parity import ExportParity
    from hwnas.export.tensorrt.settings import EnginePrecision
    from hwnas.export.tensorrt.timing_cache import TimingCacheUse
    from hwnas.search.record import Repair
    from hwnas.supernet.network import Backbone
    from hwnas.train.data.preprocess import Preprocess

SUFFIXES: Mapping[str, str] = {
    "onnx": "onnx",
    "pt2": "pt2",
    "safetensors": "safetensors",
    "tensorrt": "engine",
    "tensorrt-rtx": "rtx",
    "timm": "timm",
}
"""File suffix of each format; timm's is a folder."""

FORMATS = tuple(SUFFIXES)

PARTS = ("network", "backbone")

_ANY_BATCH = ("onnx", "pt2")
"""Formats whose files are for one batch or for any, and that hold several outputs."""

_COMMAND = "hwnas export {space} {arch} --out exported"


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of a TensorRT engine build; None keeps the default of hwnas."""

    workspace_mb: int | None = None
    """Scratch memory limit of a layer."""
    optimization_level: int | None = None
    """0 to 5: how much time the builder spends on finding fast kernels."""
    timing_cache: Path | None = None
    """A file of kernel timings; None for the one that profiles use: that of HWNAS_TIMING_CACHE, else hwnas' own."""
    timing_cache_use: str | None = None
    """'extend', 'read' or 'pinned'."""
    devices: tuple[str, ...] = ()
    """GPUs to build for ahead of time, with TensorRT for RTX; empty: the GPU of this machine."""

    def __post_init__(self) -> None:
        require_valid(self)
        if self.timing_cache_use is not None and self.timing_cache is None:
            hint = "--timing-cache FILE"
            raise UsageError("a use of a timing cache needs its file", got=self.timing_cache_use, hint=hint)

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the options that are not None."""
        return tuple(name for name in self.__dataclass_fields__ if getattr(self, name) not in (None, ()))

    def settings(self, *, library: "LibraryName", precision: str, batch: int) -> EngineSettings:
        """Return the complete settings of a build, checked."""
        default = EngineSettings()
        cache = None
        if self.timing_cache is not None:
            use = cast("TimingCacheUse", self.timing_cache_use or "extend")
            cache = TimingCache(path=self.timing_cache, use=use)
        return EngineSettings(
            library=library,
            compute_capabilities=_compute_capabilities(self.devices),
            precision=cast("EnginePrecision", precision),
            batch=batch,
            workspace_mb=self.workspace_mb,
            optimization_level=(
                default.optimization_level if self.optimization_level is None else self.optimization_level
            ),
            timing_cache=cache,
        )


@dataclass(frozen=True, kw_only=True)
class ExportedNetwork:
    """The files of one network and their parity with torch."""

    space: str
    arch: Arch
    arch_id: str
    network_id: str
    weights: str
    """The file that the weights are from, or a note that they are fresh."""
    fresh_weights: bool
    format: str
    precision: str
    batch: int | None
    """None for any batch size."""
    exporter: str
    parity: "ExportParity"
    files: tuple[Path, ...]
    """The network first, then the files that accompany it, then the network for any batch if there is a second one."""
    seconds: float
    preprocess: Mapping[str, Any]
    """The preparation of its images and the names of its classes, with the names of timm's `pretrained_cfg`."""
    repair: "Repair | None" = None
    """Its repair; None if none was requested or nothing was cut."""
    is_repaired_winner: bool = False
    """True if the repair is that of a search, whose winner this is; it was not repaired again."""
    part: str = "network"
    feature_info: tuple[Mapping[str, Any], ...] = ()
    """Channels, stride and segment of each output of a backbone, as timm's `feature_info`; else empty."""
    boxes: "BoxParity | None" = None
    """The comparison of the boxes of a detector's second graph with torch's; None: there is no such graph."""
    arch_file: Path | None = None
    """The file that describes a network of a run, which `hwnas train --arch` takes; None: it is of no run."""

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields as plain values, as `--json` prints them."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**values, "arch": self.arch.to_mapping()}


@checked_arguments
def export_network(
    space: str,
    arch: str | Path | Mapping[str, object] | Arch | None = None,
    *,
    out: Path,
    format: str = "onnx",
    precision: str = "fp32",
    batch: int | None = 1,
    any_batch: bool = False,
    weights: Path | None = None,
    seed: int = 0,
    image_size: int | None = None,
    num_classes: int | None = None,
    quantisation: QuantisationOptions | None = None,
    engine: EngineOptions | None = None,
    repair: bool = False,
    part: str = "network",
    replace_files: bool = False,
) -> ExportedNetwork:
    """Write a network to a folder, as an ONNX graph, a torch program, weights alone or a TensorRT engine.

    Args:
        space: Name of a space, or the folder of a run.
        arch: The network. With a run it may be an id from that run, whose weights, image size and classes are then
            used. Not needed if `weights` holds a single network.
        out: The folder to write to.
        format: 'onnx', 'pt2', 'safetensors', 'tensorrt', 'tensorrt-rtx', or 'timm': a folder that timm loads, with the
            code of the network if timm has no class for it.
        precision: 'fp32', 'fp16' or 'bf16'; for an ONNX graph also 'int8', 'int8-dynamic' or 'fp8'; for an engine also
            'tf32', a float32 graph with TF32 products, 'int8' and 'fp8'.
        batch: Batch size that the file accepts; None for any, which an engine does not support. A model of timm takes
            any, and so none is given for it.
        any_batch: Write a second file that accepts any batch beside one of a fixed batch, as `hwnas export` does
            unless a batch is given; for ONNX graphs and programs of torch.
        weights: File of a supernet or of a network; it determines image size and classes. None for random weights.
        seed: Seed of random weights.
        image_size: Image size of a network with random weights, if it is not the space's.
        num_classes: Classes of a network with random weights, if they are not the space's.
        quantisation: Options of int8 and fp8, with the images to calibrate with and to measure accuracy on, which a
            repair uses too; None: those of the run, if there is one.
        engine: Options of a TensorRT build.
        repair: Fit a network that was cut from a model anew to what the model computes, by least squares, if that
            helps. The run holds the model. A winner that its search has repaired is not repaired again.
        part: 'network', or 'backbone': without its head, as an ONNX graph or a program of torch whose outputs
            `features_0`, ... are the feature maps that the head of a detector reads, or all maps of a classifier.
        replace_files: Replace files of the same network that hold other weights.

    A detector's graph returns the outputs of its anchors; a second one in float32 for one image, `…-boxes.onnx`,
    returns boxes, scores and labels.

    Raises:
        CheckFailedError: The outputs differ from torch's by more than rounding explains, or quantising loses too
            much accuracy.
        InputError: The space, the network, the format or the weights cannot be used, or a file of the same network
            with other weights is there.
        MissingError: TensorRT or an NVIDIA GPU is not available.
        UsageError: The options contradict each other.
    """
    options, run = engine or EngineOptions(), None
    if space not in SPACES:
        conform(Path, space, where="space")
    if names_run(space):
        run = Path(space)
        space, arch, weights, image_size, num_classes = _from_run(
            run, arch, weights=weights, changed=(image_size, num_classes)
        )
    _check_source(space, weights=weights, changed=(image_size, num_classes))
    _check_format(format, precision=precision, batch=batch, options=options)
    if precision in QUANTISED and format not in get_args(LibraryName):
        from hwnas.export.export import require_quantisable

        require_quantisable(format, precision=precision)  # before a repair, which takes long
    _check_part(part, format=format, precision=precision)
    _check_quantisation(quantisation, precision=precision, run=run, repair=repair)
    source = weighted_network(
        space, arch, weights=weights, seed=seed, image_size=image_size, num_classes=num_classes, command=_COMMAND
    )
    effect = _earlier_repair(run, source)
    is_earlier = effect is not None
    if repair and effect is None:
        from hwnas.pipeline.repair import repair_from_run

        repaired = repair_from_run(source, run=run, options=quantisation or QuantisationOptions())
        source, effect = replace(source, module=repaired.module), repaired.repair
    candidate = source.space.candidate(source.arch)
    stem = f"{source.space.name}-{candidate.network_id}{'-repaired' if effect is not None and effect.kept else ''}"
    stem += "-backbone" if part == "backbone" else ""
    path = out / f"{stem}-{precision}-b{'any' if batch is None else batch}.{SUFFIXES[format]}"
    if format == "timm":
        path, batch = out / f"{stem}.timm", None
    second, backbone = out / f"{stem}-{precision}-bany.{SUFFIXES[format]}", None
    if part == "backbone":
        from hwnas.supernet.network import Backbone

        backbone = Backbone(source.module)
    if not replace_files:
        from hwnas.export.parity import require_same_weights

        require_same_weights(backbone or source.module, [path, second])
    settings, images = None, None
    if format in get_args(LibraryName):
        settings = options.settings(library=cast("LibraryName", format), precision=precision, batch=batch or 1)
    if precision in QUANTISED:
        if source.space.config.task_head is not None:
            message = f"{precision} is for networks that classify: its accuracy is checked by their classes"
            raise InputError(message, got=source.space.name, hint="--precision fp16")
        images = open_quantisation_images(
            quantisation or QuantisationOptions(),
            run=run,
            config=source.space.config,
            batch=batch,
            image_size=source.space.image_size_of(source.arch),
        )
    preprocess = _preprocess(source)
    if format == "timm":
        from hwnas.pipeline.export_timm import export_timm

        exported = export_timm(source, path, preprocess=preprocess, metadata=_metadata(source, effect))
    elif settings is not None:
        exported = _write_engine(source, path, settings, images=images, repair=effect)
    else:
        exported = _write_file(
            source,
            path,
            format=format,
            precision=precision,
            batch=batch,
            images=images,
            repair=effect,
            backbone=backbone,
        )
    files, seconds, boxes = exported.files, exported.seconds, None
    head = source.space.config.task_head
    has_boxes = part == "network" and head is not None and head.task == "detection" and not head.has_masks
    if has_boxes and format == "onnx" and (precision, batch) == ("fp32", 1):
        from hwnas.pipeline.export_boxes import export_boxes

        with_boxes = path.with_name(f"{path.stem}-boxes.onnx")
        boxes = export_boxes(source.module, path, with_boxes, image_size=source.space.image_size_of(source.arch))
        files = (*files, with_boxes)
    if any_batch and batch is not None and format in _ANY_BATCH and precision not in QUANTISED:
        more = _write_file(
            source, second, format=format, precision=precision, batch=None, repair=effect, backbone=backbone
        )
        files, seconds = (*files, *more.files), seconds + more.seconds
    return ExportedNetwork(
        space=source.space.name,
        arch=source.arch,
        arch_id=candidate.arch_id,
        network_id=candidate.network_id,
        weights=source.weights,
        fresh_weights=source.fresh,
        format=format,
        precision=precision,
        batch=batch,
        exporter=exported.exporter,
        parity=exported.parity,
        files=files,
        seconds=seconds,
        preprocess=preprocess.to_timm(),
        repair=effect,
        is_repaired_winner=is_earlier,
        part=part,
        feature_info=() if backbone is None else tuple(backbone.feature_info),
        boxes=boxes,
        arch_file=None if run is None else _write_arch(source, out, preprocess=preprocess),
    )


def _write_arch(source: WeightedNetwork, out: Path, *, preprocess: "Preprocess") -> Path:
    """Describe a network in a file as that of a search's winner; its name has the id, as a folder may hold several."""
    candidate, config = source.space.candidate(source.arch), source.space.config
    arch = {
        "space": source.space.name,
        "image_size": source.space.image_size_of(source.arch),
        "channels": config.channels,
        "num_classes": config.num_classes,
        "arch_id": candidate.arch_id,
        "network_id": candidate.network_id,
        "preprocess": preprocess.to_timm(),
        "arch": source.arch.to_mapping(),
    }
    path = out / f"{source.space.name}-{candidate.network_id}-arch.json"
    write_atomic(path, json.dumps(arch, indent=2) + "\n")
    return path


def _from_run(
    run: Path, arch: Any, *, weights: Path | None, changed: tuple[int | None, int | None]
) -> tuple[str, Arch, Path | None, int | None, int | None]:
    """Return space, network, weights, image size and classes of a network of a run."""
    from hwnas.pipeline.run_network import network_of_run

    if weights is not None or changed != (None, None):
        message = "weights, image size and classes are those of the run"
        raise UsageError(message, got=run, hint=f"hwnas export {shlex.quote(str(run))} --arch ID --out exported")
    network = network_of_run(run, None if arch is None else arch_text(arch))
    if network.weights is not None:
        return network.space.name, network.arch, network.weights, None, None
    config = network.space.config
    return network.space.name, network.arch, None, config.image_size, config.num_classes


def _earlier_repair(run: Path | None, source: WeightedNetwork) -> "Repair | None":
    """Return the repair of a winner whose weights in the run of its search are the network's; None: there is none."""
    from hwnas.search.record import RECORD_FILE, read_record

    if run is None or not (run / RECORD_FILE).is_file():
        return None
    for winner in read_record(run).winners:
        if winner.repair is not None and winner.repair.kept and source.weights == str(run / winner.folder / NETWORK):
            return winner.repair
    return None


def _check_source(space: str, *, weights: Path | None, changed: tuple[int | None, int | None]) -> None:
    if space not in SPACES:
        if Path(space).is_dir():
            raise InputError("a folder must be a run", got=space, hint="hwnas export RUN --arch ID --out exported")
        raise unknown_space(space, command="hwnas export {} max --out exported")
    if weights is not None and changed != (None, None):
        message = "--image-size and --classes are those of the file of weights"
        raise UsageError(message, got=weights, hint="leave them out, or leave --weights out")


def _check_format(format: str, *, precision: str, batch: int | None, options: EngineOptions) -> None:
    if format not in FORMATS:
        raise unknown("format", format, FORMATS, hint="--format {}")
    if format in get_args(LibraryName):
        if batch is None:
            raise UsageError("an engine is built for one batch", got="--batch dynamic", hint="--batch 1")
        if options.timing_cache is not None and LIBRARIES[cast("LibraryName", format)].is_portable:
            message = "TensorRT for RTX times no kernels: it compiles them where an engine is loaded"
            raise UsageError(message, got=f"--timing-cache {options.timing_cache}", hint="--format tensorrt")
        if options.devices and format != "tensorrt-rtx":
            message = "TensorRT builds engines on the GPU that runs them"
            raise UsageError(message, got=f"--for {','.join(options.devices)}", hint="--format tensorrt-rtx")
        return
    if options.given:
        words = {"devices": "for"}
        got = ", ".join(f"--{words.get(name, name.replace('_', '-'))}" for name in options.given)
        raise UsageError("TensorRT's build options are for --format tensorrt", got=got)
    if format == "timm" and batch not in (None, 1):
        message = "a model of timm takes batches of any size"
        raise UsageError(message, got=f"--batch {batch}", hint="leave out --batch")
    if format == "timm" and precision != "fp32":
        message = "a model of timm is written in fp32, which timm converts when it is used"
        raise UsageError(message, got=f"--precision {precision}", hint="--format onnx")
    if precision == "tf32":
        message = "tf32 is a way to compute products in an engine; files hold fp32, fp16 or bf16"
        raise UsageError(message, got="--precision tf32", hint="--format tensorrt, or --precision fp32")


def _check_part(part: str, *, format: str, precision: str) -> None:
    if part not in PARTS:
        raise unknown("part", part, PARTS, hint="--part {}")
    if part == "backbone" and format not in _ANY_BATCH:
        message = "a backbone, which has several outputs, is written as an ONNX graph or a program of torch"
        raise UsageError(message, got=f"--format {format}", hint="--format onnx")
    if part == "backbone" and precision in QUANTISED:
        message = f"{precision} is for whole networks: its accuracy is checked by their classes"
        raise UsageError(message, got="--part backbone", hint="--precision fp16")


def _check_quantisation(options: QuantisationOptions | None, *, precision: str, run: Path | None, repair: bool) -> None:
    if precision not in QUANTISED:
        if options is not None and not (repair and options.images_only == options):
            message = "images, calibration and a loss of accuracy are for int8 and fp8, images alone for --repair too"
            raise UsageError(message, got=f"--precision {precision}", hint="--precision int8")
    elif run is None and (options is None or (options.data is None and options.run is None)):
        message = f"{precision} needs labelled images: some to calibrate with, others to compare accuracy with fp32 on"
        raise UsageError(message, got="none", hint="--data DIR, or RUN --arch ID; hwnas profile needs no images")


def _write_file(
    source: WeightedNetwork,
    path: Path,
    *,
    format: str,
    precision: str,
    batch: int | None,
    images: QuantisationImages | None = None,
    repair: "Repair | None" = None,
    int8_rest: str = "fp32",
    backbone: "Backbone | None" = None,
) -> "ExportedModule":
    from hwnas.export.dynamo import OUTPUT
    from hwnas.export.export import export_module

    metadata, outputs = _metadata(source, repair), [OUTPUT]
    if backbone is not None:
        metadata["feature_info"] = json.dumps(backbone.feature_info)
        outputs = [f"features_{number}" for number in range(len(backbone.feature_info))]
    return export_module(
        backbone or source.module,
        format=format,
        path=path,
        input_shape=source.space.input_shape_of(source.arch),
        precision=precision,
        batch=batch,
        metadata=metadata,
        calibration=None if images is None else images.calibration,
        accuracy=None if images is None else images.accuracy,
        int8_rest=int8_rest,
        outputs=outputs,
    )


def _preprocess(source: WeightedNetwork) -> "Preprocess":
    """Return how images become the input of a network, with what its weights' training says of them."""
    from hwnas.train.data.preprocess import preprocess_of

    return preprocess_of(source.space, source.arch, weights=None if source.fresh else Path(source.weights))


def _metadata(source: WeightedNetwork, repair: "Repair | None") -> dict[str, str]:
    return {
        "preprocess": _preprocess(source).to_json(),
        "space": source.space.name,
        "network_id": source.space.network_id(source.arch),
        "weights": source.weights if source.fresh else short_name(Path(source.weights)),
        **({} if repair is None else {"repair": json.dumps(to_mapping(repair))}),
    }


def _compute_capabilities(devices: tuple[str, ...]) -> tuple[str, ...]:
    """Return the distinct compute capabilities of devices, in their order."""
    found: dict[str, None] = {}
    for name in devices:
        device = DEVICES.get(name)
        if device.compute_capability is None:
            raise InputError("the compute capability of a GPU to build for must be known", got=name)
        found[device.compute_capability] = None
    return tuple(found)


def _write_engine(
    source: WeightedNetwork,
    path: Path,
    settings: EngineSettings,
    *,
    images: QuantisationImages | None,
    repair: "Repair | None",
) -> "ExportedModule":
    """Write an engine next to the ONNX graph that it is built from."""
    from hwnas.export.tensorrt.export import export_engine

    library = require_buildable(settings)  # before the graph is exported, which takes long
    if settings.timing_cache is None and not LIBRARIES[settings.library].is_portable:
        cache = choose_timing_cache(version=str(library.__version__), gpu=gpu_facts())
        settings = replace(settings, timing_cache=cache)

    graph = _write_file(
        source,
        path.with_suffix(".onnx"),
        format="onnx",
        precision=settings.weight_precision,
        batch=settings.batch,
        images=images,
        repair=repair,
        int8_rest="fp16",
    )
    return export_engine(
        source.module,
        graph,
        path,
        input_shape=source.space.input_shape_of(source.arch),
        settings=settings,
        images=None if images is None else images.accuracy.images,
    )
