"""Folders with plain models of timm: weights and config as `timm.create_model("local-dir:FOLDER")` reads them."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch
import timm
import torch

from hwnas.errors import InputError
from hwnas.export.export import ExportedModule
from hwnas.export.onnx_graph import export_metadata
from hwnas.export.parity import Array, check_parity, parity_path, remove_parity, write_checked
from hwnas.files import file_errors, write_atomic
from hwnas.space.arch import Arch
from hwnas.space.space import AnySpace
from hwnas.supernet.loading import WeightedNetwork
from hwnas.train.data.augment import EVAL_CROP_SHARE, IMAGENET
from hwnas.train.plain_timm import PlainModel, plain_model
from hwnas.train.pretrained import first_line

TOLERANCE = 1e-5
"""Largest difference of the logits of timm's model, as a share of the largest."""

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def export_timm(source: WeightedNetwork, folder: Path, *, metadata: Mapping[str, str]) -> ExportedModule:
    """Write a network of an elastic space to a folder that timm loads, if timm computes the same.

    Args:
        source: The network.
        folder: The folder, which is created if necessary.
        metadata: Entries for the header of the weights.

    Raises:
        CheckFailedError: The model that timm loads from the files has other outputs; nothing is written.
        InputError: timm has no such model, as when blocks differ, or the folder cannot be written.
    """
    space, arch = source.space, source.arch
    start = time.perf_counter()
    plain = plain_model(source.module, space, arch)
    tensors = {name: tensor.contiguous() for name, tensor in plain.module.state_dict().items()}
    about = export_metadata(exporter="timm", precision="fp32", batch=None, metadata=metadata)
    content = safetensors.torch.save(tensors, {"format": "pt", "hwnas": json.dumps(about)})
    files = {WEIGHTS: content, CONFIG: json.dumps(_config(plain, space, arch), indent=2).encode() + b"\n"}
    remove_parity(folder)
    parity = check_parity(
        source.module,
        _Loaded(files),
        input_shape=space.input_shape_of(arch),
        batches=(8,),
        runtime=f"timm {timm.__version__}",
    )
    parity = write_checked(
        replace(parity, tolerance=TOLERANCE), folder, content=content, write=lambda: _write(folder, files)
    )
    return ExportedModule(
        path=folder,
        files=(folder, parity_path(folder)),
        format="timm",
        precision="fp32",
        batch=None,
        exporter="timm",
        parity=parity,
        seconds=time.perf_counter() - start,
    )


class _Loaded:
    """The model that timm loads from files."""

    def __init__(self, files: dict[str, bytes]) -> None:
        with TemporaryDirectory() as folder:
            _write(Path(folder), files)
            try:
                self.module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            except Exception as error:  # timm raises various types for what it does not know
                message = "timm must be able to load the model from its files"
                hint = "a newer timm, or --format safetensors"
                raise InputError(message, got=f"timm {timm.__version__}: {first_line(error)}", hint=hint) from error

    def __call__(self, images: Array) -> Array:
        with torch.inference_mode():
            logits: Array = self.module(torch.from_numpy(images)).numpy()
        return logits


def _config(plain: PlainModel, space: AnySpace, arch: Arch) -> dict[str, Any]:
    """Return the config of the files, with the images as networks are trained on them here."""
    own: Any = plain.module.pretrained_cfg
    images = {
        "input_size": list(space.input_shape_of(arch)),
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": EVAL_CROP_SHARE,
        "mean": list(IMAGENET.mean),
        "std": list(IMAGENET.std),
    }
    return {
        "architecture": plain.name,
        "num_classes": space.config.num_classes,
        "num_features": space.config.embed_dim,
        "model_args": dict(plain.options),
        "pretrained_cfg": {**{name: own[name] for name in ("classifier", "first_conv")}, **images},
    }


def _write(folder: Path, files: dict[str, bytes]) -> None:
    with file_errors(folder, "created"):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomic(folder / name, content)
