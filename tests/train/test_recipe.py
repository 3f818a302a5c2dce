import os
from pathlib import Path

import pytest

from hwnas.config import dump_toml, load_toml, to_mapping
from hwnas.errors import InputError, UnknownNameError
from hwnas.space import SPACES
from hwnas.train.presets import (
    AUTOFORMER,
    MICRO,
    RECIPES,
    RESNAS,
    VITAS,
    default_recipe,
    resolve_recipe,
    single_network_recipe,
)
from hwnas.train.recipe import Recipe, diff_tables, with_file, with_overrides

# From the published code of each system: epochs, rate at a total batch of 1024, warm-up, lowest rate, drop path,
# clipping, repeated augmentation.
SHEET: dict[str, tuple[float, ...]] = {
    "autoformer": (500, 1e-3, 20, 1e-5, 0.1, 0, 3),
    "resnas": (120, 1e-3, 5, 1e-5, 0.2, 0, 1),
    "resnas-retrain": (300, 1e-3, 5, 1e-5, 0.2, 0, 1),
    "resnas-small": (120, 1e-3, 5, 1e-5, 0.3, 0, 1),
    "resnas-small-retrain": (300, 1e-3, 5, 1e-5, 0.3, 0, 1),
    "vitas": (300, 1e-3, 5, 0, 0, 0, 1),
    "vitas-retrain": (300, 1e-3, 5, 0, 0.1, 0, 1),
    "glit": (300, 1e-3, 5, 1e-5, 0.1, 1, 3),
}


@pytest.mark.parametrize("name", SHEET)
def test_presets_are_those_of_the_sheet(name: str) -> None:
    recipe = RECIPES.get(name)
    schedule, regularization = recipe.schedule, recipe.regularization
    found = (recipe.epochs, recipe.optimizer.scaled_lr(1024), schedule.warmup_epochs, schedule.min_lr)
    assert (*found, regularization.drop_path, regularization.clip_grad, recipe.augment.repeats) == SHEET[name]
    assert (recipe.batch_size, recipe.optimizer.name, recipe.optimizer.weight_decay) == (1024, "adamw", 0.05)
    assert recipe.mix.smoothing == 0.1
    assert recipe.augment.erase == 0.25


def test_what_is_special_in_each_preset() -> None:
    assert (AUTOFORMER.mix.mixup, AUTOFORMER.mix.cutmix) == (0.8, 1.0)
    assert AUTOFORMER.strategy.name == "single"
    assert (RESNAS.strategy.name, RESNAS.sampling.widening_epochs) == ("several", 30)
    assert [RESNAS.strategy.networks_of(images) for images in (1024, 128, 64, 8)] == [16, 2, 1, 1]
    assert (AUTOFORMER.teacher.labels, AUTOFORMER.teacher.weight, AUTOFORMER.teacher.smoothing) == ("hard", 0.5, 0.1)
    assert (RESNAS.teacher.labels, RESNAS.teacher.weight) == ("hard", 0.5)
    retrained = RECIPES.get("vitas-retrain").augment
    assert (retrained.color_jitter, retrained.jitter_always, bool(retrained.rand_augment)) == (0.4, True, True)
    assert RESNAS.mix.token_mixup
    assert RESNAS.optimizer.no_weight_decay == ("class_token",)
    assert (VITAS.augment.rand_augment, VITAS.augment.color_jitter) == ("", 0)
    assert (VITAS.mix.mixup, VITAS.mix.cutmix) == (0, 1.0)
    assert MICRO.initialization.weights == "fan-in"


def test_presets_of_fine_tuning() -> None:
    small, large = RECIPES.get("finetune-small"), RECIPES.get("resnas-highres")
    optimizer = small.optimizer
    assert (small.epochs, small.batch_size, optimizer.name) == (1000, 768, "sgd")
    assert (optimizer.scaled_lr(768), optimizer.weight_decay) == (0.01, 1e-4)
    assert (small.augment.erase, small.regularization.drop_path) == (0, 0)
    assert (small.augment.rand_augment, small.mix) == (AUTOFORMER.augment.rand_augment, AUTOFORMER.mix)
    assert (large.epochs, large.batch_size, large.regularization.drop_path) == (30, 256, 0.75)
    assert (large.optimizer.scaled_lr(256), large.schedule.min_lr) == (2.5e-6, 5e-6)
    assert large.optimizer.weight_decay == 1e-8
    assert {small.strategy.name, large.strategy.name} == {"network"}


@pytest.mark.parametrize("name", RECIPES)
def test_presets_survive_toml(name: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(dump_toml(RECIPES.get(name)))
    assert load_toml(Recipe, tmp_path / "recipe.toml") == RECIPES.get(name)


@pytest.mark.parametrize(
    ("space", "recipe"),
    [
        ("autoformer-small", "autoformer"),
        ("resnas-tiny", "resnas"),
        ("resnas-small", "resnas-small"),
        ("vitas-deit-base", "vitas"),
        ("vitas-twins-small", "vitas"),
        ("glit-tiny-paper", "glit"),
        ("autoformer-micro", "micro"),
        ("vitas-twins-micro", "micro"),
        ("resnas-micro", "micro-several"),
        ("glit-micro", "micro-several"),
    ],
)
def test_default_recipes(space: str, recipe: str) -> None:
    assert default_recipe(SPACES.get(space)) == recipe


def test_rates_grow_with_the_batch_where_they_should() -> None:
    assert AUTOFORMER.optimizer.scaled_lr(256) == pytest.approx(2.5e-4)
    assert VITAS.optimizer.scaled_lr(256) == 1e-3


def test_values_are_changed_by_dotted_keys() -> None:
    changes = {"optimizer.lr": "1e-4", "epochs": "77", "mix.token_mixup": "false", "unused_weights": "decay"}
    recipe = with_overrides(RESNAS, {**changes, "optimizer.betas": "[0.9, 0.95]", "strategy.name": "single"})
    assert (recipe.optimizer.lr, recipe.epochs, recipe.mix.token_mixup, recipe.unused_weights) == (
        1e-4,
        77,
        False,
        "decay",
    )
    assert (recipe.optimizer.betas, recipe.strategy.name) == ((0.9, 0.95), "single")
    assert set(diff_tables(to_mapping(RESNAS), to_mapping(recipe))) == {*changes, "optimizer.betas", "strategy.name"}


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("optimizer.rate", "1", r"optimizer: key 'rate' is not known"),
        ("optimiser.lr", "1", r"key 'optimiser' is not known"),
        ("optimizer.lr", "fast", r"optimizer.lr must be a number"),
        ("precision", "fp8", r"precision: 'fp8' is not known"),
        ("optimizer", "1", r"by its full name"),
        ("epochs.more", "1", r"by its full name"),
        ("epochs", "-1", r"epochs must be between 0 and 100000"),
        ("epochs", "1e26", r"epochs must be a whole number"),
        ("epochs", "1" + 30 * "0", r"epochs must be a whole number"),
        ("batch_size", "100000000000000000000", r"batch_size must be"),
        ("grad_accum_steps", "-1", r"grad_accum_steps must be between"),
        ("optimizer.momentum", "5", r"momentum must be at least 0 and below 1"),
        ("optimizer.momentum", "nan", r"momentum must be a finite number"),
        ("optimizer.weight_decay", "1e308", r"weight_decay must be between 0 and 10"),
        ("optimizer.betas", "[0.9, 1.0]", r"betas\[1\] must be at least 0 and below 1"),
        ("optimizer.lr", "nan", r"lr must be a finite number"),
        ("optimizer.lr", "-1e-3", r"lr must be greater than 0"),
        ("optimizer.lr", "1e400", r"lr must be a finite number"),
        ("optimizer.eps", "0", r"eps must be greater than 0"),
        ("schedule.min_lr", "-1", r"min_lr must be between 0"),
        ("schedule.warmup_lr", "inf", r"warmup_lr must be a finite number"),
        ("initialization.token_std", "-1", r"token_std must be greater than 0"),
        ("mix.mixup", "1e308", r"mixup must be between 0 and 100"),
        ("mix.cutmix", "-0.1", r"cutmix must be between 0 and 100"),
        ("regularization.clip_grad", "-1", r"clip_grad must be between 0"),
        ("augment.flip", "1.5", r"flip must be between 0 and 1"),
        ("augment.color_jitter", "1e308", r"color_jitter must be between 0 and 10"),
        ("augment.repeats", "0", r"repeats must be between 1 and 100"),
        ("augment.rand_augment", "rand-m9-n99999999999", r"rand_augment must be in timm's notation"),
        ("augment.rand_augment", "rand-m9-mmax999", r"rand_augment must be in timm's notation"),
        ("sampling.macs_high", "-1", r"macs_high must be between"),
        ("strategy.temperature", "1e-300", r"temperature must be between 0.01 and 1000"),
        ("optimizer.lr", "[" * 5000, r"lr must be a number"),
        ("optimizer.lr", "1" * 5000, r"lr must be a number"),
        ("epochs", "1", r"warmup_epochs must be less than epochs"),
        ("regularization.drop_path", "1.0", r"drop_path must be at least 0 and below 1"),
        ("sampling.widening_epochs", "99", r"widening_epochs must not be more than epochs"),
        ("ema.decay", "1", r"decay must be at least 0 and below 1"),
        ("teacher.temperature", "0", r"temperature must be between 0.01"),
        ("strategy.num_networks", "-1", r"num_networks must be between 0"),
        ("strategy.images_per_network", "-1", r"images_per_network must be between 0"),
        ("sharing", "suffix", r"sharing: 'suffix' is not known"),
        ("schedule.interval", "hour", r"interval: 'hour' is not known"),
        ("mix.prob", "2", r"prob must be between 0 and 1"),
        ("mix.smoothing", "1", r"smoothing must be at least 0 and below 1"),
        ("optimizer.lr", "0", r"lr must be greater than 0"),
    ],
)
def test_wrong_changes_are_named(key: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_overrides(MICRO, {key: text})


def test_the_number_of_networks_has_one_rule(tmp_path: Path) -> None:
    assert with_overrides(RESNAS, {"strategy.images_per_network": "32"}).strategy.networks_of(1024) == 32
    one = with_overrides(RESNAS, {"strategy.images_per_network": "0", "strategy.num_networks": "3"})
    assert one.strategy.networks_of(1024) == 3
    assert with_overrides(RESNAS, {"strategy.num_networks": "3"}).strategy == one.strategy
    assert with_overrides(one, {"strategy.images_per_network": "64"}) == RESNAS
    file = tmp_path / "mine.toml"
    file.write_text("[strategy]\nnum_networks = 3\n")
    assert with_file(RESNAS, file).strategy == one.strategy
    with pytest.raises(InputError, match="either num_networks or images_per_network above 0"):
        with_overrides(RESNAS, {"strategy.num_networks": "3", "strategy.images_per_network": "64"})
    with pytest.raises(InputError, match="either num_networks or images_per_network above 0"):
        with_overrides(one, {"strategy.num_networks": "0"})
    with pytest.raises(InputError, match="strategy sandwich must have num_networks above 0"):
        with_overrides(RESNAS, {"strategy.name": "sandwich", "strategy.num_networks": "0"})
    assert with_overrides(RESNAS, {"strategy.name": "sandwich"}).strategy.num_networks == 2


@pytest.mark.parametrize(
    ("sharing", "strategy"), [("prefix", "single"), ("bilateral", "bilateral"), ("cyclic", "cyclic")]
)
def test_the_strategy_of_vitas_follows_its_sharing(tmp_path: Path, sharing: str, strategy: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'sharing = "{sharing}"\n')
    for recipe in (with_overrides(VITAS, {"sharing": sharing}), with_file(VITAS, file)):
        assert (recipe.sharing, recipe.strategy.name) == (sharing, strategy)
    given = with_overrides(VITAS, {"sharing": "prefix", "strategy.name": "cyclic"})
    assert given.strategy.name == "cyclic"  # what a user names is not changed, and refused with the supernet


@pytest.mark.parametrize("overrides", [{"sharing": "prefix"}, {"sharing": "prefix", "epochs": "50"}, {}])
def test_a_strategy_that_a_file_names_does_not_follow_the_sharing(tmp_path: Path, overrides: dict[str, str]) -> None:
    file, space = tmp_path / "mine.toml", SPACES.get("vitas-micro")
    sharing = "" if overrides else 'sharing = "prefix"\n'
    file.write_text(f'{sharing}[strategy]\nname = "bilateral"\n')
    recipe = resolve_recipe(space=space, one_network=False, file=file, overrides=overrides)
    assert (recipe.sharing, recipe.strategy.name) == ("prefix", "bilateral")
    file.write_text("[strategy]\nnum_networks = 3\n")
    recipe = resolve_recipe(space=space, one_network=False, name="vitas", file=file, overrides={"sharing": "prefix"})
    assert recipe.strategy.name == "single"


def test_token_mixup_needs_both_kinds() -> None:
    with pytest.raises(InputError, match="needs both mixup and cutmix"):
        with_overrides(RESNAS, {"mix.cutmix": "0"})


def test_a_file_changes_some_values(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("epochs = 9\n[optimizer]\nlr = 1e-2\n")
    recipe = with_file(MICRO, file)
    assert set(diff_tables(to_mapping(MICRO), to_mapping(recipe))) == {"epochs", "optimizer.lr"}
    assert recipe.optimizer.weight_decay == MICRO.optimizer.weight_decay


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = ", "mine.toml cannot be read as TOML"),
        ("[mix]\nmixed = 1", "mine.toml: mix: key 'mixed' is not known"),
        ("epochs = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("[" + ".".join("a" * 5000) + "]\nb = 1", "key 'a' is not known|nested too deeply"),
        ("epochs = " + "1" * 5000, "mine.toml"),
        ("[optimizer]\nmomentum = true", "optimizer.momentum must be a number"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        with_file(MICRO, file)
    with pytest.raises(InputError, match="there is no file"):
        with_file(MICRO, tmp_path / "none.toml")


def test_only_ordinary_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    for name, message in {
        "pipe.toml": "a named pipe",
        "latin.toml": "utf-8",
        ".": "a folder",
        "x" * 300: "too long",
    }.items():
        with pytest.raises(InputError, match=message):
            with_file(MICRO, tmp_path / name)


def test_a_warm_up_longer_than_the_training_is_refused() -> None:
    with pytest.raises(InputError, match="warmup_epochs must be less than epochs"):
        with_overrides(MICRO, {"schedule.name": "constant", "schedule.warmup_epochs": "20"})


def test_parts_of_a_step_must_be_whole_and_even() -> None:
    assert with_overrides(MICRO, {"grad_accum_steps": "2", "batch_size": "64"}).microbatch_size(4) == 8
    with pytest.raises(InputError, match="divide into equal parts"):
        with_overrides(MICRO, {"grad_accum_steps": "3"}).microbatch_size(1)
    with pytest.raises(InputError, match="of even size if images are mixed"):
        with_overrides(MICRO, {"mix.mixup": "0.8", "batch_size": "9"}).microbatch_size(1)


def test_the_recipe_of_one_network() -> None:
    recipe = single_network_recipe(RESNAS)
    assert (recipe.strategy.name, recipe.mix.token_mixup, recipe.regularization.patch_loss) == ("network", False, False)
    assert recipe.sampling.widening_epochs == 0
    assert recipe.optimizer == RESNAS.optimizer
    assert single_network_recipe(RESNAS, patches=True).mix.token_mixup


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="autoformer"):
        RECIPES.get("autofomer")


@pytest.mark.parametrize(
    ("num_images", "batch_size", "epochs", "lr"),
    [(None, None, 20, 1e-4), (50_000, None, 20, 1e-4), (5_000, None, 100, 1e-5), (40_000, 128, 32, 1e-5)],
)
def test_the_elastic_recipe_is_longer_and_gentler_for_few_images(
    num_images: int | None, batch_size: int | None, epochs: int, lr: float
) -> None:
    recipe = resolve_recipe(space=None, one_network=False, name="elastic", num_images=num_images, batch_size=batch_size)
    assert recipe.epochs == epochs
    assert recipe.optimizer.lr == pytest.approx(lr)
    assert recipe.sampling.widening_epochs == epochs // 2
    chosen = resolve_recipe(
        space=None,
        one_network=False,
        name="elastic",
        num_images=num_images,
        epochs=3,
        overrides={"optimizer.lr": "0.5"},
    )
    assert (chosen.epochs, chosen.optimizer.lr) == (3, 0.5)


@pytest.mark.parametrize(
    ("text", "setting"),
    [("classifier_epochs = 3\n", "classifier_epochs=3"), ("[teacher]\nweight = 0.5\n", "teacher.weight=0.5")],
)
def test_a_file_that_learns_labels_is_refused_for_images_without_classes(
    tmp_path: Path, text: str, setting: str
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InputError, match="images without classes") as caught:
        resolve_recipe(space=None, one_network=False, name="elastic", file=file, labelled=False)
    assert caught.value.got == setting
