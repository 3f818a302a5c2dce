"""Folders with models for timm, in the layout of the Hugging Face Hub: weights, config, model card and code.

A network whose blocks are all alike may be a model that timm has a class for; `timm.create_model("local-dir:FOLDER",
pretrained=True)` loads it. Any other network comes with a module file of its own PyTorch code, which registers it in
timm when it is imported.
"""

import json
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch
import timm
import torch
from torch import nn

from hwnas.errors import InputError
from hwnas.export.export import ExportedModule
from hwnas.export.onnx_graph import export_metadata
from hwnas.export.parity import Array, check_parity, parity_path, remove_parity, write_checked
from hwnas.files import file_errors, write_atomic
from hwnas.pipeline.model_card import ModelFacts, model_card
from hwnas.pipeline.timm_module import CLASSIFIERS, module_name, module_text
from hwnas.runs import hwnas_version
from hwnas.space.elastic import Elastic, ElasticArch
from hwnas.supernet.loading import WeightedNetwork
from hwnas.train.data.preprocess import Preprocess
from hwnas.train.plain_timm import differing_blocks, plain_model
from hwnas.train.pretrained import first_line

TOLERANCE = 1e-5
"""Largest difference of the logits of the model that timm makes, as a share of the largest."""

WEIGHTS, CONFIG, MODEL_CARD = "model.safetensors", "config.json", "README.md"


@dataclass(frozen=True, kw_only=True)
class _Model:
    """A model for timm: its name, weights and config, and its code if timm has none."""

    name: str
    weights: Mapping[str, torch.Tensor]
    config: Mapping[str, Any]
    code: str | None = None


def export_timm(
    source: WeightedNetwork, folder: Path, *, preprocess: Preprocess, metadata: Mapping[str, str]
) -> ExportedModule:
    """Write a network to a folder that timm loads, if the model computes the same.

    Args:
        source: The network.
        folder: The folder, which is created if necessary.
        preprocess: The preparation of its images.
        metadata: Entries for the header of the weights.

    Raises:
        CheckFailedError: The model that timm loads from the files has other outputs; nothing is written.
        InputError: The family of the network is not part of hwnas, or the folder cannot be written.
    """
    space, arch = source.space, source.arch
    start = time.perf_counter()
    model = _model_of_timm(source, preprocess) if _is_plain(source) else _model_with_code(source, preprocess)
    about = export_metadata(exporter="timm", precision="fp32", batch=None, metadata=metadata)
    tensors = {name: tensor.contiguous() for name, tensor in model.weights.items()}
    content = safetensors.torch.save(tensors, {"format": "pt", "hwnas": json.dumps(about)})
    facts = ModelFacts.of(source, name=model.name, preprocess=preprocess, has_code=model.code is not None)
    files = {WEIGHTS: content, CONFIG: _json_bytes(model.config), MODEL_CARD: model_card(facts).encode()}
    if model.code is not None:
        files[f"{model.name}.py"] = model.code.encode()
    remove_parity(folder)
    parity = check_parity(
        source.module,
        _Loaded(files, name=model.name),
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
        exporter="timm" if model.code is None else "timm, with its own code",
        parity=parity,
        seconds=time.perf_counter() - start,
    )


class _Loaded:
    """The model that timm loads from files."""

    def __init__(self, files: Mapping[str, bytes], *, name: str) -> None:
        with TemporaryDirectory() as folder:
            _write(Path(folder), files)
            try:
                with _registered(Path(folder) / f"{name}.py"):
                    self.module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            except Exception as error:  # timm raises various types for what it does not know
                message = "timm must be able to load the model from its files"
                hint = "a newer timm, or --format safetensors"
                raise InputError(message, got=f"timm {timm.__version__}: {first_line(error)}", hint=hint) from error

    def __call__(self, images: Array) -> Array:
        with torch.inference_mode():
            logits: Array = self.module(torch.from_numpy(images)).numpy()
        return logits


@contextmanager
def _registered(file: Path) -> Iterator[None]:
    """Import a module file for some time, if there is one; the name of its model stays known to timm."""
    if not file.is_file():
        yield
        return
    spec = spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    before = sys.modules.get(file.stem)
    module = sys.modules[file.stem] = module_from_spec(spec)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a network that was exported before in this process
            spec.loader.exec_module(module)
        yield
    finally:
        if before is None:
            del sys.modules[file.stem]
        else:
            sys.modules[file.stem] = before


def _is_plain(source: WeightedNetwork) -> bool:
    space, arch = source.space, source.arch
    if not isinstance(space, Elastic) or not isinstance(arch, ElasticArch):
        return False
    return differing_blocks(space, arch) is None


def _model_of_timm(source: WeightedNetwork, preprocess: Preprocess) -> _Model:
    """Return a network as a model that timm has a class for, or with code if that class has no such form."""
    try:
        plain = plain_model(source.module, source.space, source.arch)
    except InputError:
        return _model_with_code(source, preprocess)
    own: Any = plain.module.pretrained_cfg
    # timm makes the model for images of this size then, rather than for those of its own weights.
    names = {**{name: own[name] for name in ("classifier", "first_conv")}, "fixed_input_size": True}
    config = _config(plain.name, preprocess, features=source.space.config.embed_dim, names=names)
    return _Model(
        name=plain.name,
        weights=plain.module.state_dict(),
        config={**config, "model_args": dict(plain.options)},
    )


def _model_with_code(source: WeightedNetwork, preprocess: Preprocess) -> _Model:
    """Return a network with its own PyTorch code."""
    space, network = source.space, source.module
    name = module_name(space.name, space.network_id(source.arch))
    head = network.get_submodule("head")
    if not isinstance(getattr(head, "classifier", None), nn.Linear):
        message = "models are written for timm that classify images"
        raise InputError(message, got=f"a head {type(head).__name__}", hint="--format onnx, pt2 or safetensors")
    classifiers = tuple(item for item in CLASSIFIERS if isinstance(getattr(head, item, None), nn.Linear))
    features: int = head.classifier.in_features  # type: ignore[union-attr, assignment]
    code = module_text(
        network.outline,
        name=name,
        title=f"{name}: a network of {space.family}, for images of {preprocess.input_size[1]} pixels.",
        version=hwnas_version(),
        preprocess=preprocess.to_timm(),
        features=features,
        classifiers=classifiers,
    )
    names = {"classifier": [f"head.{item}" for item in classifiers], "first_conv": None}
    weights = {key: tensor.cpu() for key, tensor in network.state_dict().items()}
    return _Model(
        name=name, weights=weights, config=_config(name, preprocess, features=features, names=names), code=code
    )


def _config(name: str, preprocess: Preprocess, *, features: int, names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of the files, as timm reads it."""
    values = preprocess.to_timm()
    labels = {"label_names": values.pop("label_names")} if preprocess.label_names else {}
    classes = preprocess.num_classes
    return {
        "architecture": name,
        "num_classes": classes,
        "num_features": features,
        **labels,
        "pretrained_cfg": {**names, **values},
    }


def _json_bytes(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n"


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    with file_errors(folder, "created"):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomic(folder / name, content)
