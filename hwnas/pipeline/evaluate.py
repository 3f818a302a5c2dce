"""`hwnas evaluate`: how well the networks of a supernet, or a network of its own, do on held-out or test images."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from hwnas.errors import InputError, UsageError
from hwnas.runs import Run
from hwnas.space.arch import Arch
from hwnas.space.space import AnySpace
from hwnas.supernet.store import load_supernet, read_about
from hwnas.train.data.images import HELDOUT_LIST, require_same_images
from hwnas.train.data.sources import DataConfig, DataSplits, absolute_data_name, open_data
from hwnas.train.evaluation import (
    ACCURACIES_FILE,
    Split,
    make_eval_loader,
    make_evaluator,
    resolve_arch,
    weights_digest,
)
from hwnas.train.evaluator import Accuracy, evaluate_module
from hwnas.train.models import num_classes_of
from hwnas.train.options import TrainConfig, read_train_config, supernet_file
from hwnas.train.weights import MODEL, NETWORK, SUPERNET, load_model

TEST_USES = "test-uses.jsonl"
"""The file of a run that tells how often its test images were looked at."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedNetwork:
    """One network and how well it does."""

    name: str
    """As it was asked for."""
    arch_id: str | None
    arch: Mapping[str, Any] | None
    params: int
    macs: int | None
    top1: float
    top5: float
    loss: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Networks judged on one split."""

    weights: Path
    kind: Literal["supernet", "network"]
    space: str | None
    """The space of the networks; None where it is not known, as of a model of timm."""
    data: str
    split: Split
    networks: tuple[EvaluatedNetwork, ...]
    test_uses: int
    """Number of evaluations on the test images of this run, this one included; 0 for held-out images."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """Origin of the weights."""

    file: Path
    kind: Literal["supernet", "network"]
    space: str | None


def evaluate(
    run: Path,
    archs: Sequence[str] = (),
    *,
    split: Split = "heldout",
    data: str | None = None,
    workers: int = 0,
    device: str = "auto",
) -> Evaluation:
    """Judge networks of a run, or of a file of weights if `data` says on what.

    Of a supernet, `archs` are judged with inherited weights, as `hwnas describe` takes them: a name, `min`, `max`,
    `random:SEED`, JSON; or by the id of one that was judged before. A run of one network needs none.
    """
    config = read_train_config(Run.open(run)) if run.is_dir() else None
    if config is None and data is None:
        raise UsageError("a file of weights does not say on what to judge them", hint="--data NAME")
    where = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    if _is_supernet(run):
        return _of_supernet(run, archs, config, split=split, data=data, workers=workers, device=where)
    if archs:
        raise UsageError("a network of its own is judged as it is", hint=f"hwnas evaluate {run}")
    return _of_network(run, config, split=split, data=data, workers=workers, device=where)


def open_run_data(
    run: Path, config: TrainConfig | None, *, data: str | None, shape: tuple[int, int, int], num_classes: int
) -> DataSplits:
    """The images of a run, which must be those that it was trained with, or other ones by name."""
    data = None if data is None else absolute_data_name(data)
    own = config is not None and data in (None, config.data.name)
    if own:
        assert config is not None
        chosen = config.data
    else:
        assert data is not None
        chosen = DataConfig(name=data) if config is None else replace(config.data, name=data)
    opened = open_data(chosen, image_shape=shape, num_classes=num_classes)
    if own and (run / HELDOUT_LIST).exists():
        require_same_images(run / HELDOUT_LIST, opened.heldout)
    return opened


def _of_supernet(
    run: Path,
    archs: Sequence[str],
    config: TrainConfig | None,
    *,
    split: Split,
    data: str | None,
    workers: int,
    device: torch.device,
) -> Evaluation:
    file = supernet_file(run)
    supernet = load_supernet(file).to(device).eval()
    space = supernet.space
    command = f"hwnas evaluate {run} {{arch}}"
    chosen = {name: resolve_arch(space, name, run, command=command) for name in archs or ("min", "max")}
    opened = open_run_data(run, config, data=data, shape=space.config.input_shape, num_classes=space.config.num_classes)
    _require_split(opened, split)
    evaluator = make_evaluator(
        supernet,
        opened,
        checkpoint_id=weights_digest(file),
        split=split,
        cache=run / ACCURACIES_FILE if run.is_dir() else None,
        workers=workers,
        device=device,
    )
    found = evaluator.evaluate(list(chosen.values()))
    rows = [_row(name, space, arch, accuracy) for (name, arch), accuracy in zip(chosen.items(), found, strict=True)]
    weights = _Weights(file=file, kind="supernet", space=space.name)
    return _evaluation(run, weights, opened, split, rows)


def _of_network(
    run: Path,
    config: TrainConfig | None,
    *,
    split: Split,
    data: str | None,
    workers: int,
    device: torch.device,
) -> Evaluation:
    module = load_model(run)
    shape, classes = _input_of(module, config)
    opened = open_run_data(run, config, data=data, shape=shape, num_classes=classes)
    _require_split(opened, split)
    accuracy = evaluate_module(module, make_eval_loader(opened, shape, split=split, workers=workers), device=device)
    name = config.model or "network" if config is not None else "network"
    file = next((run / inside for inside in (NETWORK, MODEL) if (run / inside).is_file()), run)
    space = None if config is None or config.arch is None else config.space
    weights = _Weights(file=file, kind="network", space=space)
    return _evaluation(run, weights, opened, split, [_network_row(name, module, config, accuracy)])


def _network_row(name: str, module: nn.Module, config: TrainConfig | None, accuracy: Accuracy) -> EvaluatedNetwork:
    """A network of its own; its run knows which network of a space it is."""
    if config is None or config.arch is None:
        return _evaluated(name, accuracy, params=sum(parameter.numel() for parameter in module.parameters()))
    return _row(name, config.get_space(), config.get_arch(), accuracy)


def _input_of(module: nn.Module, config: TrainConfig | None) -> tuple[tuple[int, int, int], int]:
    if config is not None:
        return config.image_shape, config.num_classes
    shape = getattr(module, "input_shape", None)
    if shape is None:
        size = module.pretrained_cfg["input_size"]  # type: ignore[index]
        shape = tuple(size)
    return shape, num_classes_of(module)


def _is_supernet(run: Path) -> bool:
    if run.is_dir():
        if not any((run / name).is_file() for name in (SUPERNET, NETWORK, MODEL)):
            hint = f"hwnas train --out {run} --resume"
            raise InputError(f"{run} must hold trained weights", got="a training that has not ended", hint=hint)
        return (run / SUPERNET).is_file()
    if not run.exists():
        raise InputError(f"there is no run and no file {run}")
    return bool(read_about(run).get("kind") == "supernet")


def _require_split(data: DataSplits, split: Split) -> None:
    if split == "test" and data.test is None:
        raise InputError(f"{data.name} has no test images", got="--split test", hint="--split heldout")


def _row(name: str, space: AnySpace, arch: Arch, accuracy: Accuracy) -> EvaluatedNetwork:
    candidate = space.candidate(arch)
    costs = space.costs([candidate.genome])
    params, macs = int(costs.params[0]), int(costs.macs[0])
    return _evaluated(name, accuracy, params=params, macs=macs, arch=arch, arch_id=candidate.arch_id)


def _evaluated(
    name: str,
    accuracy: Accuracy,
    *,
    params: int,
    macs: int | None = None,
    arch: Arch | None = None,
    arch_id: str | None = None,
) -> EvaluatedNetwork:
    return EvaluatedNetwork(
        name=name,
        arch_id=arch_id,
        arch=None if arch is None else arch.to_mapping(),
        params=params,
        macs=macs,
        top1=accuracy.top1,
        top5=accuracy.top5,
        loss=accuracy.loss,
        count=accuracy.count,
    )


def _evaluation(
    run: Path, weights: _Weights, data: DataSplits, split: Split, rows: Sequence[EvaluatedNetwork]
) -> Evaluation:
    uses = _note_test_use(run, [row.arch_id or row.name for row in rows]) if split == "test" else 0
    notes = data.notes
    if uses > 1:
        notes = (*notes, f"the test images have been looked at {uses} times: choose by held-out accuracy")
    return Evaluation(
        weights=weights.file,
        kind=weights.kind,
        space=weights.space,
        data=data.name,
        split=split,
        networks=tuple(rows),
        test_uses=uses,
        notes=tuple(notes),
    )


def _note_test_use(run: Path, networks: Sequence[str]) -> int:
    """Write down that the test images were looked at, and say how often that was."""
    if not run.is_dir():
        return 1
    path = run / TEST_USES
    row = {"time_utc": datetime.now(UTC).isoformat(timespec="seconds"), "networks": list(networks)}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return len(path.read_text(encoding="utf-8").splitlines())
