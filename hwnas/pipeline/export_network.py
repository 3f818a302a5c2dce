"""`hwnas export`: one network in files that run without hwnas, checked against torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.errors import InputError, UsageError, unknown
from hwnas.pipeline.weights import WeightedNetwork, weighted_network
from hwnas.space import SPACES
from hwnas.space.arch import Arch

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

_COMMAND = "hwnas export {space} {arch}"


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
) -> ExportedNetwork:
    """Write a network to a folder: a graph, a program of torch, weights alone or a TensorRT engine.

    The weights are those of a file of a supernet or of a network, or fresh ones from the seed, and then say so. `arch`
    may be left out where the file holds one network; a file decides images and classes, too.
    """
    _check(space, format=format, batch=batch, weights=weights, changed=(image_size, num_classes))
    found = weighted_network(
        space, arch, weights=weights, seed=seed, image_size=image_size, num_classes=num_classes, command=_COMMAND
    )
    stem = f"{found.space.name}-{found.space.network_id(found.arch)}-{precision}"
    path = out / f"{stem}-b{'any' if batch is None else batch}.{SUFFIXES[format]}"
    write = _write_engine if format == "tensorrt" else _write_file
    exported, files = write(found, path, format=format, precision=precision, batch=batch)
    return ExportedNetwork(
        space=found.space.name,
        arch=found.arch,
        arch_id=found.space.arch_id(found.arch),
        network_id=found.space.network_id(found.arch),
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


def _check(
    space: str, *, format: str, batch: int | None, weights: Path | None, changed: tuple[int | None, int | None]
) -> None:
    if space not in SPACES:
        if Path(space).is_dir():
            message = "the first argument must be a space: folders of runs hold no networks yet"
            raise InputError(message, got=space, hint="hwnas export SPACE ARCH")
        raise unknown("space", space, SPACES, hint="hwnas export {} max --out .")
    if format not in FORMATS:
        raise unknown("format", format, FORMATS, hint="--format {}")
    if format == "tensorrt" and batch is None:
        raise UsageError("an engine is built for one batch", got="--batch any", hint="--batch 1")
    if weights is not None and changed != (None, None):
        message = "--image-size and --classes are those of the file of weights"
        raise UsageError(message, got=weights, hint="leave them out, or leave --weights out")


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
    found: WeightedNetwork, path: Path, *, format: str, precision: str, batch: int | None
) -> tuple["Exported", tuple[Path, ...]]:
    """The engine of the graph, which stays beside it."""
    from hwnas.export.tensorrt import load_tensorrt
    from hwnas.pipeline.engine import write_engine

    load_tensorrt()  # its absence must not show only after the graph is made
    exported, graph = _write_file(found, path.with_suffix(".onnx"), format="onnx", precision=precision, batch=batch)
    built = write_engine(found, exported, path, precision=precision, batch=batch or 1)
    return built.exported, (*built.files, *graph)
