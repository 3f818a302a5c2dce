"""Recipes by name: those of the four original implementations, and small ones for networks that train in minutes.

`resolve_recipe` combines a preset with a TOML file and single values.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hwnas.errors import InputError
from hwnas.registry import Registry
from hwnas.space.lookup import classifier_name
from hwnas.space.resnas import DISTILLED
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
    TeacherConfig,
    names_strategy,
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
    schedule=ScheduleConfig(interval="epoch", warmup_epochs=20, warmup_lr=1e-6, min_lr=1e-5),
    augment=_DEIT_AUGMENT,
    mix=_DEIT_MIX,
    regularization=RegularizationConfig(drop_path=0.1),
    strategy=StrategyConfig(name="single"),
    teacher=TeacherConfig(labels="hard", smoothing=0.1, weight=0.5),
)
"""AutoFormer: DeiT's recipe for 500 epochs, one uniformly drawn network per step. Tables of relative positions have
weight decay. A teacher gives hard labels."""

RESNAS = Recipe(
    epochs=120,
    batch_size=1024,
    precision="fp16",
    optimizer=OptimizerConfig(lr=5e-4, lr_base_size=512, weight_decay=0.05, no_weight_decay=("class_token",)),
    schedule=ScheduleConfig(interval="epoch", warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5),
    augment=replace(_DEIT_AUGMENT, repeats=1),
    mix=MixConfig(mixup=0.8, cutmix=1.0, smoothing=0.1, token_mixup=True),
    regularization=RegularizationConfig(drop_path=0.2, patch_loss=True),
    sampling=SamplingConfig(widening_epochs=30, distinct=True),
    strategy=StrategyConfig(name="several", num_networks=0, images_per_network=64, sort_units=True),
    teacher=TeacherConfig(labels="hard", smoothing=0.0, weight=0.5),
)
"""ViT-ResNAS: one network for 64 images of a step, with a label for each patch; choices are widened and units sorted in
the first 30 epochs. A teacher gives hard labels."""

RESNAS_SMALL = replace(RESNAS, regularization=replace(RESNAS.regularization, drop_path=0.3))
"""The recipe of the small space of ViT-ResNAS."""

VITAS = Recipe(
    epochs=300,
    batch_size=1024,
    optimizer=OptimizerConfig(lr=1e-3, weight_decay=0.05),
    schedule=ScheduleConfig(warmup_epochs=5, warmup_lr=0.0, warmup_prefix=True, min_lr=0.0),
    augment=replace(_DEIT_AUGMENT, rand_augment="", color_jitter=0.0, repeats=1),
    mix=MixConfig(cutmix=1.0, prob=1.0, smoothing=0.1),
    strategy=StrategyConfig(name="cyclic"),
)
"""ViTAS: weak augmentation with CutMix, one network per step, channels shared cyclically. Set a budget of MACs with
`sampling.budget=identity`, `sampling.macs_low` and `sampling.macs_high`. The paper's first version has
`strategy.name=bilateral`."""

GLIT = Recipe(
    epochs=300,
    batch_size=1024,
    precision="fp16",
    optimizer=OptimizerConfig(lr=5e-4, lr_base_size=512, weight_decay=0.05, no_weight_decay=_TOKENS),
    schedule=ScheduleConfig(interval="epoch", warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5),
    augment=_DEIT_AUGMENT,
    mix=_DEIT_MIX,
    regularization=RegularizationConfig(drop_path=0.1, clip_grad=1.0),
    strategy=StrategyConfig(name="single"),
)
"""GLiT: DeiT's recipe with clipped gradients. The original published its recipe for retraining only, and computed an
average of the weights that was never evaluated; there is none here."""

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
"""For networks of about ten thousand weights, which train for about a minute on one core: initialized by fan-in,
without augmentation or mixing."""

MICRO_SEVERAL = replace(MICRO, epochs=8, strategy=StrategyConfig(name="several", num_networks=4))
"""`micro` with four networks per step, which the micro spaces of ViT-ResNAS and GLiT learn more from."""

SMALL = Recipe(
    epochs=50,
    batch_size=128,
    precision="bf16",
    optimizer=OptimizerConfig(lr=2e-3, weight_decay=0.05, no_weight_decay=_TOKENS),
    schedule=ScheduleConfig(warmup_epochs=3, warmup_lr=1e-5, min_lr=1e-5),
    augment=AugmentConfig(crop="random-resized", scale=(0.2, 1.0), flip=0.5, rand_augment="rand-m6-mstd0.5-inc1"),
    mix=MixConfig(mixup=0.2, cutmix=1.0, prob=0.5, smoothing=0.1),
    regularization=RegularizationConfig(clip_grad=1.0),
    initialization=InitializationConfig(weights="fan-in", token_std=0.1),
    strategy=StrategyConfig(name="single"),
)
"""For networks of about a million weights and thousands to tens of thousands of images, from scratch."""

RESNAS_RETRAIN = replace(
    RESNAS,
    epochs=300,
    ema=EmaConfig(decay=0.99996),
    sampling=SamplingConfig(),
    strategy=StrategyConfig(name="network"),
)
"""ViT-ResNAS: one network, from scratch."""

RESNAS_SMALL_RETRAIN = replace(RESNAS_RETRAIN, regularization=RESNAS_SMALL.regularization)
"""One network of the small space of ViT-ResNAS, from scratch."""

RESNAS_HIGHRES = replace(
    RESNAS_RETRAIN,
    epochs=30,
    batch_size=256,
    optimizer=replace(RESNAS.optimizer, lr=5e-6, weight_decay=1e-8),
    schedule=replace(RESNAS.schedule, min_lr=5e-6),
    regularization=replace(RESNAS.regularization, drop_path=0.75),
    ema=EmaConfig(),
)
"""One trained network of ViT-ResNAS at a larger image size (280, 336 or 392 pixels). As in the original, the rate is
scaled to 2.5e-6 and the cosine rises to `min_lr` from there."""

VITAS_RETRAIN = replace(
    VITAS,
    augment=replace(_DEIT_AUGMENT, repeats=1, jitter_always=True),
    mix=MixConfig(smoothing=0.1),
    regularization=RegularizationConfig(drop_path=0.1),
    strategy=StrategyConfig(name="network"),
)
"""ViTAS: one small network, from scratch. The original trains networks of 2.7 GMACs and more with
`mix.mixup=0.8 mix.cutmix=1.0`."""

FINETUNE_SMALL = replace(
    AUTOFORMER,
    epochs=1000,
    batch_size=768,
    optimizer=OptimizerConfig(name="sgd", lr=0.01, weight_decay=1e-4, no_weight_decay=_TOKENS),
    schedule=ScheduleConfig(interval="epoch", warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5),
    augment=replace(_DEIT_AUGMENT, erase=0.0),
    regularization=RegularizationConfig(),
    strategy=StrategyConfig(name="network"),
)
"""One trained network on a small set of images of other classes (CIFAR, Flowers, Cars, Pets): DeiT's settings, which
AutoFormer follows, with SGD and without random erasing and stochastic depth."""

ELASTIC = Recipe(
    epochs=20,
    classifier_epochs=5,
    classifier_lr=1e-4,
    batch_size=256,
    optimizer=OptimizerConfig(
        lr=1e-4, weight_decay=0.05, layer_decay=0.75, no_weight_decay=("prefix", "position", "scale")
    ),
    schedule=ScheduleConfig(warmup_epochs=1, warmup_lr=1e-7, min_lr=1e-6),
    augment=AugmentConfig(crop="random-resized", scale=(0.35, 1.0), flip=0.5, rand_augment="rand-m5-mstd0.5-inc1"),
    ema=EmaConfig(decay=0.9998, warmup=True),
    sampling=SamplingConfig(widening_epochs=10, first_choices=2, spread="macs"),
    strategy=StrategyConfig(name="elastic", num_networks=2),
    teacher=TeacherConfig(weight=0.8),
)
"""The networks inside a pretrained model: the largest, the smallest and two random ones in each step learn the outputs
of the model itself; narrow choices come in during the first half. A model whose classifier has other classes than the
data is trained on labels first. For fewer than 50,000 images it has a tenth of the learning rate and up to 100
epochs."""

FINETUNE = Recipe(
    epochs=20,
    batch_size=128,
    precision="bf16",
    optimizer=OptimizerConfig(lr=1e-4, weight_decay=0.05, no_weight_decay=_TOKENS),
    schedule=ScheduleConfig(warmup_epochs=1, warmup_lr=1e-6, min_lr=1e-6),
    augment=replace(ELASTIC.augment),
    mix=MixConfig(smoothing=0.1),
    regularization=RegularizationConfig(drop_path=0.1, clip_grad=1.0),
    strategy=StrategyConfig(name="network"),
)
"""A pretrained model on other images and classes: a tenth of the learning rates from scratch and light augmentation."""

SMALL_SET = 50_000
"""Number of training images below which the recipe `elastic` has a tenth of the learning rate and more epochs."""
_SMALL_SET_EPOCHS, _SMALL_SET_STEPS = 100, 10_000
"""So many epochs, or fewer if they have so many steps."""

FINETUNE_RECIPE = "finetune"
"""Default recipe of a model of timm that begins with weights."""

RECIPES: Registry[Recipe] = Registry(
    "recipe",
    [
        ("autoformer", AUTOFORMER),
        ("resnas", RESNAS),
        ("resnas-retrain", RESNAS_RETRAIN),
        ("resnas-small", RESNAS_SMALL),
        ("resnas-small-retrain", RESNAS_SMALL_RETRAIN),
        ("resnas-highres", RESNAS_HIGHRES),
        ("vitas", VITAS),
        ("vitas-retrain", VITAS_RETRAIN),
        ("glit", GLIT),
        ("finetune-small", FINETUNE_SMALL),
        ("elastic", ELASTIC),
        (FINETUNE_RECIPE, FINETUNE),
        ("micro", MICRO),
        ("micro-several", MICRO_SEVERAL),
        ("small", SMALL),
    ],
)
"""All recipes by name."""


RETRAIN = "-retrain"
"""Ending of the name of a recipe for one network of a supernet that was trained with the recipe of the same name."""
_TIMM_DEFAULT = "autoformer"
"""Default recipe of a model of timm: DeiT's."""


def default_recipe(space: AnySpace) -> str:
    """Return the name of the default recipe of a space: its own or its family's, or a micro one for a micro space."""
    if space.name.endswith("-micro"):
        return "micro-several" if space.family in ("resnas", "glit") else "micro"
    if space.name.rpartition("-")[0].endswith("-mini"):
        return "small"
    name = classifier_name(space.name).removeprefix(DISTILLED)
    return name if name in RECIPES else RECIPES.resolve(space.family.partition("-")[0])


def single_network_recipe(recipe: Recipe, *, patches: bool = False) -> Recipe:
    """Adapt a supernet's recipe to a single network.

    Args:
        recipe: Recipe of a supernet.
        patches: Keep the classifier of patches, if the recipe has one.
    """
    mix = recipe.mix if patches else replace(recipe.mix, token_mixup=False)
    return replace(
        recipe,
        sampling=SamplingConfig(),
        strategy=StrategyConfig(name="network"),
        regularization=replace(recipe.regularization, patch_loss=patches and recipe.regularization.patch_loss),
        mix=mix,
    )


def resolve_recipe(
    *,
    space: AnySpace | None,
    one_network: bool,
    name: str | None = None,
    file: Path | None = None,
    overrides: Mapping[str, str] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    num_images: int | None = None,
    labelled: bool = True,
) -> Recipe:
    """Combine a preset with the values of a file and single values.

    Args:
        space: Space of the networks; None: a model of timm is trained.
        one_network: Train one network rather than a supernet.
        name: Name of the preset; None: the default of the space.
        file: TOML file with values of the recipe.
        overrides: Values by dotted key, applied last.
        epochs: Number of epochs; warm-up and widening keep their shares of it unless `overrides` sets them.
        batch_size: Images of one step.
        num_images: Training images, by which the recipe `elastic` chooses epochs and learning rates; None: many.
        labelled: The images have classes. False: networks learn the outputs of a pretrained model alone.

    Raises:
        InputError: The name or a key is unknown, or a value is not allowed.
    """
    if name is None:
        name = _TIMM_DEFAULT if space is None else default_recipe(space)
        if one_network and name + RETRAIN in RECIPES:
            name += RETRAIN
    recipe = RECIPES.get(name)
    if recipe is ELASTIC and num_images is not None and num_images < SMALL_SET:
        recipe = _for_small_set(recipe, num_images=num_images, batch_size=batch_size or recipe.batch_size)
    if not labelled:
        recipe = _without_labels(recipe)
    if space is not None and space.config.task_head is not None:
        recipe = _for_task(recipe)
    if file is not None:
        recipe = with_file(recipe, file)
    if epochs is not None:
        recipe = with_epochs(recipe, epochs)
    if batch_size is not None:
        recipe = replace(recipe, batch_size=batch_size)
    recipe = with_overrides(recipe, overrides or {}, strategy_named=file is not None and names_strategy(file))
    if not labelled:
        _require_no_labels(recipe)
    return single_network_recipe(recipe, patches=recipe.regularization.patch_loss) if one_network else recipe


def _for_small_set(recipe: Recipe, *, num_images: int, batch_size: int) -> Recipe:
    """Train a pretrained model more gently and for more epochs, but not for more steps than its networks need."""
    batch_size = min(batch_size, num_images)
    epochs = min(_SMALL_SET_EPOCHS, math.ceil(_SMALL_SET_STEPS * batch_size / num_images))
    longer = with_epochs(recipe, max(epochs, recipe.epochs))
    return replace(
        longer,
        batch_size=batch_size,
        optimizer=replace(longer.optimizer, lr=longer.optimizer.lr / 10),
        schedule=replace(longer.schedule, min_lr=longer.schedule.min_lr / 10),
    )


def _for_task(recipe: Recipe) -> Recipe:
    """Adapt a recipe for classifiers to detection and segmentation: nothing that needs one class of an image."""
    strategy = recipe.strategy
    if strategy.name == "elastic":
        strategy = replace(strategy, name="sandwich")
    return replace(
        recipe,
        classifier_epochs=0,
        mix=MixConfig(),
        strategy=strategy,
        regularization=replace(recipe.regularization, patch_loss=False),
    )


def _without_labels(recipe: Recipe) -> Recipe:
    return replace(recipe, classifier_epochs=0, teacher=replace(recipe.teacher, weight=1.0))


def _require_no_labels(recipe: Recipe) -> None:
    """Raise an InputError if a recipe learns labels, which the images do not have."""
    for name, value, needed in (
        ("strategy.name", recipe.strategy.name, "elastic"),
        ("classifier_epochs", recipe.classifier_epochs, 0),
        ("teacher.weight", recipe.teacher.weight, 1.0),
    ):
        if value != needed:
            message = "images without classes can only be learned from the outputs of a pretrained model"
            raise InputError(message, got=f"{name}={value}", hint=f"--set {name}={needed}, or images with classes")


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """Change the number of epochs; warm-up and widening keep their shares of it."""
    factor = epochs / recipe.epochs
    warmup, widening = recipe.schedule.warmup_epochs, recipe.sampling.widening_epochs
    return replace(
        recipe,
        epochs=epochs,
        classifier_epochs=_scaled_epochs(recipe.classifier_epochs, factor),
        schedule=replace(recipe.schedule, warmup_epochs=min(_scaled_epochs(warmup, factor), max(epochs - 1, 0))),
        sampling=replace(recipe.sampling, widening_epochs=_scaled_epochs(widening, factor)),
    )


def _scaled_epochs(epochs: int, factor: float) -> int:
    return max(1, round(epochs * factor)) if epochs and factor else 0
