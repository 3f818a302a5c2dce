"""Export a model of timm that was trained here: `hwnas export RUN` for a run of `hwnas train --model`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.arguments import checked_arguments
from hwnas.errors import UsageError
from hwnas.files import short_name
from hwnas.pipeline.modules import SUFFIXES

if TYPE_CHECKING:
    from hwnas.export.parity import ExportParity


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """The files of a trained model of timm and their parity with torch."""

    model: str
    """Its name in timm."""
    weights: str
    precision: str
    batch: int | None
    """None for any batch size."""
    parity: "ExportParity"
    files: tuple[Path, ...]
    preprocess: Mapping[str, Any]
    """The preparation of its images, with the names of timm's `pretrained_cfg`."""


@checked_arguments
def export_model(
    run: Path,
    *,
    out: Path,
    format: str = "onnx",
    precision: str = "fp32",
    batch: int | None = 1,
    replace_files: bool = False,
) -> ExportedModel:
    """Write a trained model of timm to a folder, after comparing its outputs with those of torch.

    Args:
        run: Run of the training of a model of timm.
        out: Folder to write to.
        format: 'onnx', 'pt2' or 'safetensors'.
        precision: 'fp32', 'fp16' or 'bf16'.
        batch: Batch size that the file accepts; None for any.
        replace_files: Replace a file of the same model that holds other weights.

    Raises:
        CheckFailedError: The outputs differ from torch's by more than rounding explains.
        InputError: The run has no model of timm, it cannot be exported in this way, or a file of the same model with
            other weights is there.
        UsageError: Models of timm have no such format or precision.
    """
    from hwnas.export.export import export_module
    from hwnas.export.parity import require_same_weights
    from hwnas.train.data.preprocess import Preprocess
    from hwnas.train.run_folder import weights_file
    from hwnas.train.weights import load_model, read_timm_origin

    for what, value, known in (
        ("format", format, tuple(SUFFIXES.values())),
        ("precision", precision, ("fp32", "fp16", "bf16")),
    ):
        if value not in known:
            raise UsageError(f"a trained model of timm has no {what} {value}", got=value, known=known)
    file, origin = weights_file(run), read_timm_origin(run)
    shape = (3, origin.image_size, origin.image_size)
    preprocess = Preprocess.of(input_size=shape, num_classes=origin.num_classes, beside=file)
    stem = f"{origin.name.removeprefix('timm:')}-{precision}-b{'any' if batch is None else batch}"
    model, path = load_model(run), out / f"{stem}.{format}"
    if not replace_files:
        require_same_weights(model, [path])
    exported = export_module(
        model,
        format=format,
        path=path,
        input_shape=shape,
        precision=precision,
        batch=batch,
        metadata={"preprocess": preprocess.to_json(), "network": origin.name, "weights": short_name(file)},
    )
    return ExportedModel(
        model=origin.name,
        weights=str(file),
        precision=precision,
        batch=batch,
        parity=exported.parity,
        files=exported.files,
        preprocess=preprocess.to_timm(),
    )
