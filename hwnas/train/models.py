"""Models to train, supernets, single networks and timm's, and what a training must know of any of them.

The seed decides fresh weights; torch's global generator is left as it was.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from hwnas.config import to_mapping
from hwnas.devices.memory import require_memory
from hwnas.errors import InputError
from hwnas.space.arch import Arch, digest
from hwnas.space.space import AnySpace
from hwnas.supernet.families import SUPERNETS, make_supernet
from hwnas.supernet.network import Network
from hwnas.supernet.resnas import Reduction, TrainingHead
from hwnas.supernet.supernet import AnySupernet, Supernet, SupernetConfig
from hwnas.supernet.task_head import PyramidHead
from hwnas.supernet.transfer import carry_over
from hwnas.train.recipe import InitializationConfig, Recipe
from hwnas.train.seeds import seed_torch, torch_seed

_SMALLER = "a smaller space, --image-size or number of classes"

SHARING: Mapping[str, tuple[str, ...]] = {
    "vitas": ("cyclic", "bilateral", "prefix"),
    "vitas-twins": ("cyclic", "prefix"),
    "glit": ("slices", "none"),
}
"""Sharing of weights between choices that supernets of a family can have, if there are several kinds."""

_TOKEN_PARAMETERS = ("class_token", "position", "cls_token", "pos_embed")
"""Last parts of the names of class tokens and position embeddings, here and in timm."""


def build_supernet(space: AnySpace, recipe: Recipe, *, seed: int) -> AnySupernet:
    """Build a supernet with fresh weights.

    Args:
        space: Space of the supernet.
        recipe: Stochastic depth, sharing and initialization.
        seed: Decides the weights.
    """
    config = supernet_config(space, recipe)
    _require_memory(lambda: make_supernet(space, config), f"the weights of the supernet of {space.name}")
    with _seeded(seed):
        supernet = make_supernet(space, config)
        initialize_weights(supernet, recipe.initialization)
    return supernet


def build_network(space: AnySpace, arch: Arch, recipe: Recipe, *, seed: int) -> Network:
    """Build one network of a space with fresh weights; arguments as for `build_supernet`."""
    with torch.device("meta"):
        supernet = make_supernet(space, supernet_config(space, recipe))
    outline = supernet.outline(arch, **_patch_options(supernet, recipe))
    _require_memory(lambda: Network(outline), f"the weights of the network of {space.name}")
    with _seeded(seed):
        network = Network(outline, input_shape=space.config.input_shape)
        initialize_weights(network, recipe.initialization)
    return network


def adapt_supernet(
    source: AnySupernet, space: AnySpace, recipe: Recipe, *, seed: int
) -> tuple[AnySupernet, tuple[str, ...]]:
    """Build a supernet with the weights and the sharing of another one, at other image sizes or classes too.

    Args:
        source: Supernet with the weights.
        space: The same space, at the new image size and number of classes, or with a head for another task.
        recipe: Stochastic depth and initialization.
        seed: Decides fresh weights.

    Returns:
        The supernet, with interpolated position embeddings, and the names of tensors that are fresh: those of a
        classifier for another number of classes.
    """
    config = replace(source.config, drop_path=recipe.regularization.drop_path)
    _require_memory(lambda: make_supernet(space, config), f"the weights of the supernet of {space.name}")
    with _seeded(seed):
        supernet = make_supernet(space, config)
        initialize_weights(supernet, recipe.initialization)
    weights, own = source.shared.state_dict(), supernet.shared.state_dict()
    fresh: tuple[str, ...] = ()
    if space.config.task_head != source.space.config.task_head:  # the backbone alone is taken over
        heads = {name: tensor for name, tensor in own.items() if name.startswith("head.")}
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")} | heads
        fresh = ("head",)
    return supernet, (*carry_over(weights, supernet.shared), *fresh)


def inherit_network(supernet: AnySupernet, arch: Arch, recipe: Recipe) -> Network:
    """Extract a network from a supernet with its weights, with the stochastic depth of a recipe."""
    view = make_supernet(supernet.space, replace(supernet.config, drop_path=recipe.regularization.drop_path))
    view.load_state_dict(supernet.state_dict())
    network: Network = view.subnet(arch, **_patch_options(view, recipe))
    network.input_shape = supernet.space.config.input_shape  # a network of smaller images resizes them
    return network


def build_timm_model(name: str, recipe: Recipe, *, image_size: int, num_classes: int, seed: int) -> nn.Module:
    """Build a model of timm with fresh weights; arguments as for `create_timm_model` and `build_supernet`."""
    drop_path = recipe.regularization.drop_path
    with _seeded(seed):
        model = create_timm_model(name, image_size=image_size, num_classes=num_classes, drop_path_rate=drop_path)
        initialize_weights(model, recipe.initialization)
    return model


def create_timm_model(name: str, *, image_size: int, num_classes: int | None = None, **options: Any) -> nn.Module:
    """Create a model of timm.

    Args:
        name: Its name in timm, with or without the prefix `timm:`.
        image_size: Side of the images.
        num_classes: Number of classes; None: the model's own.
        **options: Further options of `timm.create_model`.

    Raises:
        InputError: timm has no such model, or it does not take such images.
    """
    import timm

    from hwnas.export.timm_models import build_timm

    timm_name = name.removeprefix("timm:")
    # On the meta device first: for clear errors on wrong names and sizes, and for the memory of the weights.
    outline = build_timm(timm_name, image_size=image_size).module
    classifier_bytes = 4 * (num_classes or 0) * int(getattr(outline, "num_features", 0))
    require_memory(_state_bytes(outline) + classifier_bytes, what=f"the weights of {name}", hint=_SMALLER)
    if num_classes is not None:
        options["num_classes"] = num_classes
    make = partial(timm.create_model, timm_name, **options)
    try:
        return make(img_size=image_size)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return make()  # a model for images of any size


def supernet_config(space: AnySpace, recipe: Recipe) -> SupernetConfig:
    """Return the config of a supernet: the stochastic depth, patch classifier and sharing that a recipe needs.

    Raises:
        InputError: The recipe needs something that the space does not have.
    """
    config_type = SUPERNETS.get(space.family).config_type
    settings: dict[str, Any] = {"drop_path": recipe.regularization.drop_path}
    if recipe.regularization.patch_loss:
        if space.family != "resnas":
            message = "only ViT-ResNAS has a classifier of patches"
            raise InputError(message, got=space.name, hint="regularization.patch_loss=false mix.token_mixup=false")
        settings["patch_logits"] = "training"
    if recipe.strategy.name in ("bilateral", "cyclic"):
        if recipe.strategy.name not in SHARING.get(space.family, ()):
            message = f"strategy {recipe.strategy.name} needs a ViTAS space with such sharing"
            raise InputError(message, got=space.name, hint="strategy.name=single")
        settings["sharing"] = recipe.strategy.name
    if recipe.sharing != "default":
        settings |= _sharing_settings(space, recipe)
    config: SupernetConfig = config_type(**settings)
    return config


def _sharing_settings(space: AnySpace, recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a supernet with the sharing that a recipe names.

    Raises:
        InputError: The family or the strategy does not have such sharing.
    """
    known, strategy = SHARING.get(space.family, ()), recipe.strategy.name
    if recipe.sharing not in known:
        message = f"sharing must be one that supernets of {space.name} have"
        raise InputError(message, got=recipe.sharing, known=["default", *known])
    if strategy in ("bilateral", "cyclic") and recipe.sharing != strategy:
        message = f"strategy {strategy} needs {strategy} sharing"
        raise InputError(message, got=recipe.sharing, hint="strategy.name=single")
    return {"share" if space.family == "glit" else "sharing": recipe.sharing}


@torch.no_grad()
def initialize_weights(model: nn.Module, config: InitializationConfig) -> None:
    """Draw weights from torch's global generator under `fan-in`; `published` ones are already in place."""
    if config.weights == "published":
        return
    # The biases of heads for detection are the logits of rare objects, without which their loss explodes.
    heads = [part for part in model.modules() if isinstance(part, PyramidHead)]
    own = {part for head in heads for part in head.modules()}
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) and module not in own:
            nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in _TOKEN_PARAMETERS:
            nn.init.trunc_normal_(parameter, std=config.token_std)


def _require_memory(make: Callable[[], nn.Module], what: str) -> None:
    """Raise an InputError if a module would not fit into memory, without allocating it."""
    with torch.device("meta"):
        require_memory(_state_bytes(make()), what=what, hint=_SMALLER)


def _state_bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator for fresh weights within the context."""
    with torch.random.fork_rng(devices=[]):
        seed_torch(torch_seed(seed, "weights"), torch.device("cpu"))
        yield


def _patch_options(supernet: AnySupernet, recipe: Recipe) -> dict[str, Any]:
    """Return the options of a network of ViT-ResNAS whose classifier of patches is trained."""
    has_classifier = getattr(supernet.config, "patch_logits", "never") != "never"
    return {"patch_logits": "training"} if recipe.regularization.patch_loss and has_classifier else {}


def num_classes_of(model: nn.Module) -> int:
    """Return the number of classes of a supernet, a network or another model with `num_classes`."""
    if isinstance(model, Supernet):
        return int(model.space.config.num_classes)
    if isinstance(model, Network):
        return int(model.get_submodule("head.classifier").out_features)  # type: ignore[arg-type]
    classes = getattr(model, "num_classes", None)
    if not isinstance(classes, int):
        raise InputError("a model to train must have num_classes", got=type(model).__name__)
    return classes


def patches_per_side(model: nn.Module) -> int | None:
    """Return the patches along one side of an image that a model classifies in training; None: it classifies none."""
    if isinstance(model, Supernet):
        classified = getattr(model.config, "patch_logits", "never") != "never"
        return int(model.space.config.grids[-1]) if classified else None
    if not any(isinstance(module, TrainingHead) and module.classifies_patches for module in model.modules()):
        return None
    grids = [module.grid // 2 for module in model.modules() if isinstance(module, Reduction)]
    return grids[-1] if grids else None


def has_distillation_token(model: nn.Module) -> bool:
    """Return True if networks of a model have a classifier that learns a teacher's labels."""
    return any(isinstance(module, TrainingHead) and module.distillation for module in model.modules())


def largest_macs(model: nn.Module) -> int:
    """Return the multiply-accumulates of one image in the largest network of a model; 0 if they are unknown."""
    if isinstance(model, Supernet):
        space = model.space
        return int(space.costs(space.encode([space.largest()])).macs[0])
    if isinstance(model, Network) and model.input_shape is not None:
        from hwnas.export.tracer import trace_module

        channels, size, _ = model.input_shape
        size = getattr(getattr(model, "stem", None), "image_size", None) or size  # images are resized, which is free
        return int(trace_module(model, input_shape=(1, channels, size, size)).macs)
    return 0


def model_identity(model: nn.Module) -> dict[str, Any]:
    """Return what identifies a model in a checkpoint: space and config, or a digest of names and shapes of tensors."""
    if isinstance(model, Supernet):
        space = {"space": model.space.name, "space_config": to_mapping(model.space.config)}
        return {**space, "supernet": to_mapping(model.config)}
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    return {"type": type(model).__name__, "shapes": digest(shapes)}


def arch_names(model: nn.Module, archs: Sequence[Arch]) -> list[str]:
    """Describe networks of a model in an error, by their ids."""
    if not isinstance(model, Supernet):
        return ["the network"]
    return [f"arch {candidate.arch_id}" for candidate in model.space.candidates(model.space.encode(archs))]
