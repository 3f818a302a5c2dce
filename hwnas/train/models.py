"""Models to train: supernets, networks of their own and timm's, each started as the recipe says.

The seed decides the fresh weights; torch's global generator is left as it was.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from hwnas.config import to_mapping
from hwnas.errors import InputError
from hwnas.space.arch import Arch, digest
from hwnas.space.space import AnySpace
from hwnas.supernet.families import SUPERNETS, make_supernet
from hwnas.supernet.network import Network
from hwnas.supernet.resnas import PatchHead, Reduction
from hwnas.supernet.supernet import AnySupernet, Supernet, SupernetConfig
from hwnas.supernet.transfer import carry_over
from hwnas.train.recipe import InitializationConfig, Recipe
from hwnas.train.seeds import seed_torch, torch_seed

_TOKENS = ("class_token", "position", "cls_token", "pos_embed")
"""Parameters that are added to tokens or stand among them, by the last part of their name; timm's names too."""


def build_supernet(space: AnySpace, recipe: Recipe, *, seed: int) -> AnySupernet:
    """A supernet of a space as a recipe wants it."""
    config = supernet_config(space, recipe)
    with _seeded(seed):
        supernet = make_supernet(space, config)
        initialize_weights(supernet, recipe.initialization)
    return supernet


def build_network(space: AnySpace, arch: Arch, recipe: Recipe, *, seed: int) -> Network:
    """A network of a space with fresh weights, as a recipe wants it."""
    with torch.device("meta"):
        supernet = make_supernet(space, supernet_config(space, recipe))
    outline = supernet.outline(arch, **_patch_options(supernet, recipe))
    with _seeded(seed):
        network = Network(outline, input_shape=space.config.input_shape)
        initialize_weights(network, recipe.initialization)
    return network


def adapt_supernet(
    held: AnySupernet, space: AnySpace, recipe: Recipe, *, seed: int
) -> tuple[AnySupernet, tuple[str, ...]]:
    """A supernet with the weights and the sharing of another one, for a space of other images or classes too.

    Positions are interpolated; a classifier for other classes is fresh, and its tensors are the names that come too.
    """
    config = replace(held.config, drop_path=recipe.regularization.drop_path)
    with _seeded(seed):
        supernet = make_supernet(space, config)
        initialize_weights(supernet, recipe.initialization)
    fresh = carry_over(held.shared.state_dict(), supernet.shared)
    return supernet, fresh


def inherit_network(supernet: AnySupernet, arch: Arch, recipe: Recipe) -> Network:
    """A network with the weights that a supernet has for it, and the stochastic depth of the recipe."""
    view = make_supernet(supernet.space, replace(supernet.config, drop_path=recipe.regularization.drop_path))
    view.load_state_dict(supernet.state_dict())
    network: Network = view.subnet(arch, **_patch_options(view, recipe))
    return network


def build_timm_model(name: str, recipe: Recipe, *, image_size: int, num_classes: int, seed: int) -> nn.Module:
    """A model of timm with fresh weights for these images and classes."""
    drop_path = recipe.regularization.drop_path
    with _seeded(seed):
        model = create_timm_model(name, image_size=image_size, num_classes=num_classes, drop_path_rate=drop_path)
        initialize_weights(model, recipe.initialization)
    return model


def create_timm_model(name: str, *, image_size: int, num_classes: int, **options: Any) -> nn.Module:
    """A model of timm by its name, with or without `timm:`, for these images and classes."""
    import timm

    from hwnas.export.timm_models import build_timm

    bare = name.removeprefix("timm:")
    build_timm(bare, image_size=image_size)  # on the meta device: a wrong name or size is an error that says so
    make = partial(timm.create_model, bare, num_classes=num_classes, **options)
    try:
        return make(img_size=image_size)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return make()  # it takes images of any size


def supernet_config(space: AnySpace, recipe: Recipe) -> SupernetConfig:
    """The config of a supernet: stochastic depth, the head of patches and the sharing that the recipe needs."""
    kind = SUPERNETS.get(space.family).config_type
    settings: dict[str, Any] = {"drop_path": recipe.regularization.drop_path}
    if recipe.regularization.patch_loss:
        if space.family != "resnas":
            message = "a classifier of patches is part of ViT-ResNAS alone"
            raise InputError(message, got=space.name, hint="regularization.patch_loss=false mix.token_mixup=false")
        settings["patch_logits"] = "training"
    if recipe.strategy.name in ("bilateral", "cyclic"):
        if space.family != "vitas" and (recipe.strategy.name, space.family) != ("cyclic", "vitas-twins"):
            message = f"strategy {recipe.strategy.name} needs a space of ViTAS that can be shared so"
            raise InputError(message, got=space.name, hint="strategy.name=single")
        settings["sharing"] = recipe.strategy.name
    config: SupernetConfig = kind(**settings)
    return config


@torch.no_grad()
def initialize_weights(model: nn.Module, config: InitializationConfig) -> None:
    """Draw weights by their fan-in from torch's generator, if the config says so; published ones are there already."""
    if config.weights == "published":
        return
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in _TOKENS:
            nn.init.trunc_normal_(parameter, std=config.token_std)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Within it, torch's global generator is seeded for fresh weights."""
    with torch.random.fork_rng(devices=[]):
        seed_torch(torch_seed(seed, "weights"), torch.device("cpu"))
        yield


def _patch_options(supernet: AnySupernet, recipe: Recipe) -> dict[str, Any]:
    """Networks of ViT-ResNAS keep their classifier of patches where it is trained."""
    wanted = recipe.regularization.patch_loss and getattr(supernet.config, "patch_logits", "never") != "never"
    return {"patch_logits": "training"} if wanted else {}


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
    """Along one side of an image, the patches that a model classifies in training; None: it classifies none."""
    if isinstance(model, Supernet):
        classified = getattr(model.config, "patch_logits", "never") != "never"
        return int(model.space.config.grids[-1]) if classified else None
    if not any(isinstance(module, PatchHead) for module in model.modules()):
        return None
    grids = [module.grid // 2 for module in model.modules() if isinstance(module, Reduction)]
    return grids[-1] if grids else None


def largest_macs(model: nn.Module) -> int:
    """The multiply-accumulates of an image in the largest network of a model; 0 where nobody knows."""
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
