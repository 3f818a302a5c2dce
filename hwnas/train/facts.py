"""What a training must know of a model, whatever made it."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from hwnas.config import to_mapping
from hwnas.errors import InputError
from hwnas.space.arch import Arch, digest
from hwnas.supernet.network import Network
from hwnas.supernet.resnas import PatchHead, Reduction
from hwnas.supernet.supernet import Supernet


def num_classes_of(model: nn.Module) -> int:
    """The classes that a model tells apart."""
    if isinstance(model, Supernet):
        return int(model.space.config.num_classes)
    if isinstance(model, Network):
        return int(model.get_submodule("head.classifier").out_features)  # type: ignore[arg-type]
    classes = getattr(model, "num_classes", None)
    if not isinstance(classes, int):
        raise InputError("a model to train must say its num_classes", got=type(model).__name__)
    return classes


def patches_per_side(model: nn.Module) -> int | None:
    """Along one side of a picture, the patches that a model classifies in training; None: it classifies none."""
    if isinstance(model, Supernet):
        classified = getattr(model.config, "patch_logits", "never") != "never"
        return int(model.space.config.grids[-1]) if classified else None
    if not any(isinstance(module, PatchHead) for module in model.modules()):
        return None
    grids = [module.grid // 2 for module in model.modules() if isinstance(module, Reduction)]
    return grids[-1] if grids else None


def largest_macs(model: nn.Module) -> int:
    """The multiply-accumulates of a picture in the largest network of a model; 0 where nobody knows."""
    if isinstance(model, Supernet):
        space = model.space
        return int(space.costs(space.encode([space.largest()])).macs[0])
    if isinstance(model, Network) and model.input_shape is not None:
        from hwnas.export.tracer import trace_module

        return int(trace_module(model, input_shape=(1, *model.input_shape)).macs)
    return 0


def identity(model: nn.Module) -> dict[str, Any]:
    """What a model must have in common with a checkpoint: space and config, or names and shapes of its tensors."""
    if isinstance(model, Supernet):
        space = {"space": model.space.name, "space_config": to_mapping(model.space.config)}
        return {**space, "supernet": to_mapping(model.config)}
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    return {"type": type(model).__name__, "shapes": digest(shapes)}


def arch_names(model: nn.Module, archs: Sequence[Arch]) -> list[str]:
    """The ids of networks of a model; of a network of its own, that it is one."""
    if not isinstance(model, Supernet):
        return ["the network"]
    return [f"arch {candidate.arch_id}" for candidate in model.space.candidates(model.space.encode(archs))]
