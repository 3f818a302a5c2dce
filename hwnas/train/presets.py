"""The recipes of the four systems, as their code and papers have them, and one for networks that are tiny."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hwnas.registry import Registry
from hwnas.space.space import AnySpace
from hwnas.train.data.augment import AugmentConfig
from hwnas.train.recipe import (
    EmaConfig,
    InitializationConfig,
    MixConfig,
    OptimizerConfig,
    Recipe,
    RegularizationConfig,
    ScheduleConfig,
    StrategyConfig,
    with_file,
    with_overrides,
)
from hwnas.train.sampling import SamplingConfig

_DEIT_AUGMENT = AugmentConfig(
    crop="random-resized",
    scale=(0.08, 1.0),
    flip=0.5,
    rand_augment="rand-m9-mstd0.5-inc1",
    color_jitter=0.4,
    erase=0.25,
    interpolation="bicubic",
    repeats=3,
)
_DEIT_MIX = MixConfig(mixup=0.8, cutmix=1.0, prob=1.0, switch_prob=0.5, smoothing=0.1)
_TOKENS = ("class_token", "position", "cls_token", "pos_embed")

AUTOFORMER = Recipe(
    epochs=500,
    batch_size=1024,
    precision="fp16",
    optimizer=OptimizerConfig(lr=5e-4, lr_base_size=512, weight_decay=0.05, no_weight_decay=_TOKENS),
    schedule=ScheduleConfig(warmup_epochs=20, warmup_lr=1e-6, min_lr=1e-5),
    augment=_DEIT_AUGMENT,
    mix=_DEIT_MIX,
    regularization=RegularizationConfig(drop_path=0.1),
    strategy=StrategyConfig(name="single"),
)
"""DeiT's recipe for 500 epochs, one uniform network a step; the tables of relative position are decayed."""

RESNAS = Recipe(
    epochs=120,
    batch_size=1024,
    precision="fp16",
    optimizer=OptimizerConfig(lr=5e-4, lr_base_size=512, weight_decay=0.05, no_weight_decay=("class_token",)),
    schedule=ScheduleConfig(warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5),
    augment=replace(_DEIT_AUGMENT, repeats=1),
    mix=MixConfig(mixup=0.8, cutmix=1.0, smoothing=0.1, token_mixup=True),
    regularization=RegularizationConfig(drop_path=0.2, patch_loss=True),
    sampling=SamplingConfig(widening_epochs=30, distinct=True),
    strategy=StrategyConfig(name="several", num_networks=2, sort_units=True),
)
"""Two networks a step on each process, with token labels; widening and sorting in the first 30 epochs. Of the small
space: `regularization.drop_path=0.3`."""

VITAS = Recipe(
    epochs=300,
    batch_size=1024,
    optimizer=OptimizerConfig(lr=1e-3, weight_decay=0.05),
    schedule=ScheduleConfig(warmup_epochs=5, warmup_lr=1e-6, min_lr=0.0),
    augment=replace(_DEIT_AUGMENT, rand_augment="", color_jitter=0.0, repeats=1),
    mix=MixConfig(cutmix=1.0, prob=1.0, smoothing=0.1),
    strategy=StrategyConfig(name="cyclic"),
)
"""Weak augmentation and CutMix alone, one network a step on the ring. Give a budget with `sampling.budget=identity`,
`sampling.macs_low` and `sampling.macs_high`; the first version is `strategy.name=bilateral`."""

GLIT = Recipe(
    epochs=300,
    batch_size=1024,
    precision="fp16",
    optimizer=OptimizerConfig(lr=5e-4, lr_base_size=512, weight_decay=0.05, no_weight_decay=_TOKENS),
    schedule=ScheduleConfig(warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5),
    augment=_DEIT_AUGMENT,
    mix=_DEIT_MIX,
    regularization=RegularizationConfig(drop_path=0.1, clip_grad=1.0),
    strategy=StrategyConfig(name="single"),
)
"""DeiT's recipe with clipped gradients. It is the published one of retraining: that of the supernet never was. Its
average of the weights was kept and never evaluated, and is left out."""

MICRO = Recipe(
    epochs=20,
    batch_size=128,
    optimizer=OptimizerConfig(lr=4e-3, weight_decay=0.02, no_weight_decay=_TOKENS),
    schedule=ScheduleConfig(warmup_epochs=1, warmup_lr=1e-5, min_lr=1e-5),
    augment=AugmentConfig(
        crop="none",
        scale=(1.0, 1.0),
        flip=0.0,
        rand_augment="",
        color_jitter=0.0,
        erase=0.0,
        interpolation="bicubic",
        repeats=1,
    ),
    regularization=RegularizationConfig(clip_grad=1.0),
    initialization=InitializationConfig(weights="fan-in", token_std=0.5),
    strategy=StrategyConfig(name="single"),
)
"""For networks of some ten thousand weights that train about a minute on one core: weights start by their fan-in,
nothing is augmented or mixed."""

MICRO_SEVERAL = replace(MICRO, epochs=8, strategy=StrategyConfig(name="several", num_networks=4))
"""The same with four networks in one step, which the micro spaces of ViT-ResNAS and GLiT learn more from."""

RESNAS_RETRAIN = replace(
    RESNAS,
    epochs=300,
    ema=EmaConfig(decay=0.99996),
    sampling=SamplingConfig(),
    strategy=StrategyConfig(name="network"),
)
"""A network of ViT-ResNAS from scratch."""

VITAS_RETRAIN = replace(
    VITAS,
    augment=replace(_DEIT_AUGMENT, repeats=1),
    mix=MixConfig(smoothing=0.1),
    regularization=RegularizationConfig(drop_path=0.1),
    strategy=StrategyConfig(name="network"),
)
"""A small network of ViTAS from scratch; those from 2.7 GMACs on were trained with `mix.mixup=0.8 mix.cutmix=1.0`."""

RECIPES: Registry[Recipe] = Registry(
    "recipe",
    [
        ("autoformer", AUTOFORMER),
        ("resnas", RESNAS),
        ("resnas-retrain", RESNAS_RETRAIN),
        ("vitas", VITAS),
        ("vitas-retrain", VITAS_RETRAIN),
        ("glit", GLIT),
        ("micro", MICRO),
        ("micro-several", MICRO_SEVERAL),
    ],
)
"""The recipes by name."""


def default_recipe(space: AnySpace) -> str:
    """The name of the recipe of a space: one for networks of its size if it is a micro space, else its family's."""
    if space.name.endswith("-micro"):
        return "micro-several" if space.family in ("resnas", "glit") else "micro"
    return RECIPES.resolve(space.family.partition("-")[0])


def single_network_recipe(recipe: Recipe, *, patches: bool = False) -> Recipe:
    """The recipe for one network of its own: nothing is sampled; without a classifier of patches unless `patches`."""
    mix = recipe.mix if patches else replace(recipe.mix, token_mixup=False)
    return replace(
        recipe,
        sampling=SamplingConfig(),
        strategy=StrategyConfig(name="network"),
        regularization=replace(recipe.regularization, patch_loss=patches and recipe.regularization.patch_loss),
        mix=mix,
    )


_RETRAIN = "-retrain"
_REFERENCE = "autoformer"
"""The recipe of a model that belongs to no space: DeiT's."""


def resolve_recipe(
    *,
    space: AnySpace | None,
    one_network: bool,
    name: str | None = None,
    file: Path | None = None,
    changes: Mapping[str, str] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
) -> Recipe:
    """The preset of that name, or else of the space, with what a file and single values change.

    Where the number of epochs is changed, warm-up and widening keep their shares of it, unless they are given too.
    """
    recipe = _preset(space, name, one_network=one_network)
    if file is not None:
        recipe = with_file(recipe, file)
    if epochs is not None:
        recipe = with_epochs(recipe, epochs)
    if batch_size is not None:
        recipe = replace(recipe, batch_size=batch_size)
    recipe = with_overrides(recipe, changes or {})
    return single_network_recipe(recipe, patches=recipe.regularization.patch_loss) if one_network else recipe


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe over so many epochs; warm-up and widening keep their shares."""
    share = epochs / recipe.epochs
    warmup, widening = recipe.schedule.warmup_epochs, recipe.sampling.widening_epochs
    return replace(
        recipe,
        epochs=epochs,
        schedule=replace(recipe.schedule, warmup_epochs=min(_part(warmup, share), epochs - 1)),
        sampling=replace(recipe.sampling, widening_epochs=_part(widening, share)),
    )


def _part(length: int, share: float) -> int:
    return max(1, round(length * share)) if length else 0


def _preset(space: AnySpace | None, name: str | None, *, one_network: bool) -> Recipe:
    if name is None:
        name = _REFERENCE if space is None else default_recipe(space)
        if one_network and name + _RETRAIN in RECIPES:
            name += _RETRAIN
    return RECIPES.get(name)
