"""`hwnas export`: one network in files that run without hwnas, checked against torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.errors import InputError, UsageError, unknown
from hwnas.runs import MANIFEST
from hwnas.space import SPACES
from hwnas.space.arch import Arch
from hwnas.supernet.loading import WeightedNetwork, weighted_network

if TYPE_CHECKING:
    from hwnas.export.export import Exported
    from hwnas.export.parity import Parity

SUFFIXES: Mapping[str, str] = {
    "onnx": "onnx",
    "pt2": "pt2",
    "safetensors": "safetensors",
    "tensorrt": "engine",
}
"""What can be written, and how the files end."""

FORMATS = tuple(SUFFIXES)

CACHE_USES = ("extend", "read", "pinned")
"""How a file of kernel timings can be used: let it grow, time what it lacks, or time nothing."""

_COMMAND = "hwnas export {space} {arch}"


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How TensorRT builds an engine; what is None stays as hwnas has it."""

    workspace_mb: int | None = None
    """Scratch memory that a layer may take."""
    optimization_level: int | None = None
    """0 to 5: how long the builder looks for fast kernels."""
    timing_cache: Path | None = None
    """A file of kernel timings."""
    timing_cache_use: str | None = None
    """'extend', 'read' or 'pinned'."""

    def __post_init__(self) -> None:
        if self.timing_cache_use is not None and self.timing_cache is None:
            hint = "--timing-cache FILE"
            raise UsageError("a use of a timing cache needs its file", got=self.timing_cache_use, hint=hint)

    @property
    def given(self) -> tuple[str, ...]:
        """The names of those that were asked for."""
        return tuple(name for name in self.__dataclass_fields__ if getattr(self, name) is not None)


@dataclass(frozen=True, kw_only=True)
class ExportedNetwork:
    """The files of one network, and how far they give what torch gives."""

    space: str
    arch: Arch
    arch_id: str
    network_id: str
    weights: str
    """The file that they are from, or that they are fresh."""
    fresh_weights: bool
    format: str
    precision: str
    batch: int | None
    """None: any."""
    exporter: str
    parity: "Parity"
    files: tuple[Path, ...]
    """The network first, then what stands beside it."""
    seconds: float

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**values, "arch": self.arch.to_mapping()}


def export_network(
    space: str,
    arch: str | Path | Mapping[str, Any] | Arch | None = None,
    *,
    out: Path,
    format: str = "onnx",
    precision: str = "fp32",
    batch: int | None = 1,
    weights: Path | None = None,
    seed: int = 0,
    image_size: int | None = None,
    num_classes: int | None = None,
    engine: EngineOptions | None = None,
) -> ExportedNetwork:
    """Write a network to a folder: a graph, a program of torch, weights alone or a TensorRT engine.

    `space` is the name of one, or the folder of a run: then `arch` may be the id of one of its networks, whose weights,
    images and classes are taken. Otherwise:
    The weights are those of a file of a supernet or of a network, or fresh ones from the seed, and then say so. `arch`
    may be left out where the file holds one network; a file decides images and classes, too. `engine` is for TensorRT
    alone, and so is the precision tf32: products in TF32 of a float32 graph.
    """
    options = engine or EngineOptions()
    if (Path(space) / MANIFEST).is_file():
        space, arch, weights, image_size, num_classes = _of_run(
            Path(space), arch, weights=weights, changed=(image_size, num_classes)
        )
    _check(space, format=format, batch=batch, weights=weights, changed=(image_size, num_classes))
    _check_engine(options, format=format, precision=precision)
    found = weighted_network(
        space, arch, weights=weights, seed=seed, image_size=image_size, num_classes=num_classes, command=_COMMAND
    )
    candidate = found.space.candidate(found.arch)
    stem = f"{found.space.name}-{candidate.network_id}-{precision}"
    path = out / f"{stem}-b{'any' if batch is None else batch}.{SUFFIXES[format]}"
    if format == "tensorrt":
        exported, files = _write_engine(found, path, precision=precision, batch=batch, options=options)
    else:
        exported, files = _write_file(found, path, format=format, precision=precision, batch=batch)
    return ExportedNetwork(
        space=found.space.name,
        arch=found.arch,
        arch_id=candidate.arch_id,
        network_id=candidate.network_id,
        weights=found.weights,
        fresh_weights=found.fresh,
        format=format,
        precision=precision,
        batch=batch,
        exporter=exported.exporter,
        parity=exported.parity,
        files=files,
        seconds=exported.seconds,
    )


def _of_run(
    run: Path, arch: Any, *, weights: Path | None, changed: tuple[int | None, int | None]
) -> tuple[str, Arch, Path | None, int | None, int | None]:
    """Space, network, file of weights, images and classes of a network of a run."""
    from hwnas.pipeline.run_network import network_of_run

    if weights is not None or changed != (None, None):
        message = "a run decides weights, images and classes"
        raise UsageError(message, got=run, hint=f"hwnas export {run} --arch ID --out exported")
    found = network_of_run(run, arch)
    if found.weights is not None:
        return found.space.name, found.arch, found.weights, None, None
    config = found.space.config
    return found.space.name, found.arch, None, config.image_size, config.num_classes


def _check(
    space: str, *, format: str, batch: int | None, weights: Path | None, changed: tuple[int | None, int | None]
) -> None:
    if space not in SPACES:
        if Path(space).is_dir():
            raise InputError("a folder must be a run", got=space, hint="hwnas export RUN --arch ID --out exported")
        raise unknown("space", space, SPACES, hint="hwnas export {} max --out .")
    if format not in FORMATS:
        raise unknown("format", format, FORMATS, hint="--format {}")
    if format == "tensorrt" and batch is None:
        raise UsageError("an engine is built for one batch", got="--batch dynamic", hint="--batch 1")
    if weights is not None and changed != (None, None):
        message = "--image-size and --classes are those of the file of weights"
        raise UsageError(message, got=weights, hint="leave them out, or leave --weights out")


def _check_engine(options: EngineOptions, *, format: str, precision: str) -> None:
    if format == "tensorrt":
        return
    if options.given:
        got = ", ".join(f"--{name.replace('_', '-')}" for name in options.given)
        raise UsageError("options of TensorRT's builder are for --format tensorrt", got=got)
    if precision == "tf32":
        message = "tf32 is how an engine multiplies; files hold fp32, fp16 or bf16"
        raise UsageError(message, got="--precision tf32", hint="--format tensorrt, or --precision fp32")


def _write_file(
    found: WeightedNetwork, path: Path, *, format: str, precision: str, batch: int | None
) -> tuple["Exported", tuple[Path, ...]]:
    from hwnas.export.export import export_module

    exported = export_module(
        found.module,
        format=format,
        path=path,
        input_shape=found.space.config.input_shape,
        precision=precision,
        batch=batch,
        metadata={
            "space": found.space.name,
            "network_id": found.space.network_id(found.arch),
            "weights": found.weights,
        },
    )
    return exported, exported.files


def _write_engine(
    found: WeightedNetwork, path: Path, *, precision: str, batch: int | None, options: EngineOptions
) -> tuple["Exported", tuple[Path, ...]]:
    """The engine of the graph, which stays beside it."""
    from hwnas.export.tensorrt import load_tensorrt
    from hwnas.pipeline.engine import engine_settings, write_engine

    settings = engine_settings(
        precision=precision,
        batch=batch or 1,
        workspace_mb=options.workspace_mb,
        optimization_level=options.optimization_level,
        timing_cache=options.timing_cache,
        timing_cache_use=options.timing_cache_use,
    )
    load_tensorrt()  # its absence must not show only after the graph is made
    exported, graph = _write_file(
        found, path.with_suffix(".onnx"), format="onnx", precision=settings.weight_precision, batch=batch
    )
    built = write_engine(found, exported, path, settings=settings)
    return built.exported, (*built.files, *graph)
