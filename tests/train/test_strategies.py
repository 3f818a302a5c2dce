from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hwnas.errors import InputError, UnknownNameError
from hwnas.space.resnas import distilled
from hwnas.space.space import AnySpace
from hwnas.supernet.families import make_supernet
from hwnas.supernet.resnas import ResNasSupernet
from hwnas.supernet.segments import SlicedSegment
from hwnas.supernet.vitas import VitasSupernet
from hwnas.train.losses import Microbatch
from hwnas.train.metrics_file import read_metrics
from hwnas.train.mixing import MixedBatch
from hwnas.train.models import build_network, build_supernet
from hwnas.train.presets import RESNAS as RESNAS_RECIPE
from hwnas.train.presets import single_network_recipe
from hwnas.train.recipe import EmaConfig, MixConfig, Recipe, RegularizationConfig, StrategyConfig, with_overrides
from hwnas.train.sampling import SamplingConfig
from hwnas.train.strategies import make_strategy
from tests.train.toys import (
    AUTOFORMER,
    ELASTIC,
    GLIT,
    RESNAS,
    TWINS,
    VITAS,
    stepper,
    toy_loader,
    toy_recipe,
    toy_trainer,
    weights,
)


def strategy_recipe(name: str, **settings: Any) -> Recipe:
    return toy_recipe(epochs=6, strategy=StrategyConfig(name=name, **settings))


SEVERAL = replace(
    strategy_recipe("several", num_networks=2, sort_units=True),
    sampling=SamplingConfig(widening_epochs=3, distinct=True),
    regularization=RegularizationConfig(patch_loss=True, drop_path=0.1),
    mix=MixConfig(mixup=0.1, cutmix=1.0, token_mixup=True),
    ema=EmaConfig(decay=0.5),
)
CASES: list[tuple[AnySpace, Recipe]] = [
    (AUTOFORMER, strategy_recipe("single")),
    (GLIT, strategy_recipe("single")),
    (RESNAS, SEVERAL),
    (RESNAS, strategy_recipe("several", num_networks=3)),
    (VITAS, strategy_recipe("bilateral")),
    (VITAS, strategy_recipe("cyclic")),
    (TWINS, strategy_recipe("cyclic")),
    (AUTOFORMER, strategy_recipe("sandwich", num_networks=1)),
    (
        RESNAS,
        replace(strategy_recipe("sandwich", num_networks=1), regularization=RegularizationConfig(patch_loss=True)),
    ),
]


@pytest.mark.parametrize(("space", "recipe"), CASES, ids=lambda value: getattr(value, "name", ""))
def test_the_loss_falls(space: AnySpace, recipe: Recipe, tmp_path: Path) -> None:
    outcome = toy_trainer(tmp_path / "run", space, recipe).run()
    losses = [row["loss"] for row in read_metrics(tmp_path / "run")]
    assert outcome.steps == len(losses) == 36
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])


def test_one_network_learns_too(tmp_path: Path) -> None:
    recipe = single_network_recipe(strategy_recipe("single"))
    network = build_network(AUTOFORMER, AUTOFORMER.largest(), recipe, seed=0)
    outcome = toy_trainer(tmp_path / "run", AUTOFORMER, recipe, model=network).run()
    assert outcome.loss is not None
    assert outcome.loss < 0.4


def lesson(space: AnySpace, count: int = 6) -> Microbatch:
    batch = next(toy_loader(space, toy_recipe(batch_size=count)).epoch(0))
    return Microbatch(MixedBatch(batch.images, F.one_hot(batch.labels, space.config.num_classes).float()))


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_sandwich_gradients_are_those_of_largest_and_pupils() -> None:
    recipe = strategy_recipe("sandwich", num_networks=1, temperature=2.0)
    supernet = build_supernet(AUTOFORMER, recipe, seed=0).train()
    strategy, taught = make_strategy(supernet, recipe, seed=0), lesson(AUTOFORMER)
    networks = strategy.draw(numbers(), epoch=0)
    assert networks.archs[:2] == (AUTOFORMER.largest(), AUTOFORMER.smallest())
    assert len(networks.archs) == len(networks.macs) == 3
    for loss in strategy.losses(taught, networks):
        loss.backward()  # type: ignore[no-untyped-call]
    found = {name: gradient.clone() for name, gradient in gradients(supernet).items()}
    supernet.zero_grad()
    output = supernet(taught.mixed.images, networks.archs[0])
    soft = F.softmax(output.detach() / 2, -1)
    total = -(taught.mixed.targets * F.log_softmax(output, -1)).sum(-1).mean()
    for arch in networks.archs[1:]:
        total = total - 4 * (soft * F.log_softmax(supernet(taught.mixed.images, arch) / 2, -1)).sum(-1).mean()
    total.backward()  # type: ignore[no-untyped-call]
    expected = gradients(supernet)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def numbers() -> Any:
    import numpy as np

    return np.random.default_rng(0)


def test_bilateral_sums_the_logits_of_both_sides() -> None:
    recipe = strategy_recipe("bilateral")
    supernet = build_supernet(VITAS, recipe, seed=0)
    strategy, taught = make_strategy(supernet, recipe, seed=0), lesson(VITAS)
    networks = strategy.draw(numbers(), epoch=0)
    (loss,) = strategy.losses(taught, networks)
    assert isinstance(supernet, VitasSupernet)
    sides = supernet(taught.mixed.images, networks.archs[0], side="left") + supernet.from_side("right")(
        taught.mixed.images, networks.archs[0]
    )
    assert loss.item() == pytest.approx(F.cross_entropy(sides, taught.mixed.targets).item())


def test_several_networks_share_the_images() -> None:
    recipe = strategy_recipe("several", num_networks=2)
    supernet = build_supernet(AUTOFORMER, recipe, seed=0)
    strategy, taught = make_strategy(supernet, recipe, seed=0), lesson(AUTOFORMER)
    networks = strategy.draw(numbers(), epoch=0)
    (loss,) = strategy.losses(taught, networks)
    parts = [
        F.cross_entropy(supernet(taught.mixed.images[number::2], arch), taught.mixed.targets[number::2])
        for number, arch in enumerate(networks.archs)
    ]
    assert loss.item() == pytest.approx(torch.stack(parts).mean().item(), rel=1e-5)
    assert not strategy.same_on_all_ranks


def test_there_is_a_network_for_every_64_images_of_a_step() -> None:
    recipe = replace(SEVERAL, batch_size=1024, strategy=RESNAS_RECIPE.strategy)
    supernet = build_supernet(RESNAS, recipe, seed=0)
    counts = {}
    for processes in (1, 8, 32):
        strategy = make_strategy(supernet, recipe, seed=0, world_size=processes)
        counts[processes] = len(strategy.draw(numbers(), epoch=0).archs)
    assert counts == {1: 16, 8: 2, 32: 1}
    small = make_strategy(supernet, replace(recipe, grad_accum_steps=128), seed=0)
    assert len(small.draw(numbers(), epoch=0).archs) == 1024 // 128


def test_vitas_may_share_prefixes() -> None:
    recipe = with_overrides(strategy_recipe("cyclic"), {"sharing": "prefix"})
    supernet = build_supernet(VITAS, recipe, seed=0)
    narrow = supernet.subnet(VITAS.smallest()).state_dict()["head.classifier.weight"]
    shared = supernet.shared.state_dict()["head.classifier.weight"]
    assert narrow.shape[1] < shared.shape[1]
    assert torch.equal(narrow, shared[:, : narrow.shape[1]])
    make_strategy(supernet, recipe, seed=0)


def tensors(segments: Iterable[SlicedSegment]) -> set[str]:
    return {part.name for segment in segments for source in segment.sources.values() for part in source}


def test_choices_of_glit_may_share_nothing() -> None:
    supernet = build_supernet(GLIT, replace(strategy_recipe("single"), sharing="none"), seed=0)
    smallest, largest = (supernet.path(arch).values() for arch in (GLIT.smallest(), GLIT.largest()))
    common = tensors(smallest) & tensors(largest)
    assert common
    assert not any("blocks" in name for name in common)


def test_sorting_leaves_the_network_of_the_widest_choices_as_it_is() -> None:
    sorting, plain = SEVERAL, replace(SEVERAL, strategy=replace(SEVERAL.strategy, sort_units=False))
    results = []
    for recipe in (sorting, plain):
        batch = next(toy_loader(RESNAS, recipe).epoch(0))
        training = stepper(RESNAS, recipe, steps_per_epoch=1)
        results.append([training.run(step, [batch], training.draw_networks(step)).loss for step in range(2)])
    # In the first epochs all networks are the largest one, which sorting does not change: nor do its two first steps.
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_units_are_sorted_while_choices_widen_and_not_after(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(SEVERAL, epochs=6)
    seen: list[int] = []
    monkeypatch.setattr("hwnas.train.step.sort_units", lambda *_, **__: seen.append(1))
    training, batch = stepper(RESNAS, recipe, steps_per_epoch=2), next(toy_loader(RESNAS, recipe).epoch(0))
    for step in range(12):
        before = len(seen)
        training.run(step, [batch], training.draw_networks(step))
        assert len(seen) - before == (step in (0, 2, 4, 6))  # the starts of epochs 0 to 3


@pytest.mark.parametrize(
    ("space", "recipe", "message"),
    [
        (AUTOFORMER, strategy_recipe("cyclic"), "needs a ViTAS space"),
        (TWINS, strategy_recipe("bilateral"), "needs a ViTAS space"),
        (VITAS, replace(strategy_recipe("cyclic"), sharing="prefix"), "strategy cyclic needs cyclic sharing"),
        (GLIT, replace(strategy_recipe("single"), sharing="prefix"), "sharing must be one that supernets of"),
        (AUTOFORMER, replace(strategy_recipe("single"), sharing="none"), "sharing must be one that supernets of"),
        (AUTOFORMER, toy_recipe(regularization=RegularizationConfig(patch_loss=True)), "only ViT-ResNAS has"),
    ],
)
def test_strategies_that_a_space_cannot_have(space: AnySpace, recipe: Recipe, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_supernet(space, recipe, seed=0)


def test_strategies_that_a_model_cannot_have() -> None:
    network = build_network(AUTOFORMER, AUTOFORMER.smallest(), toy_recipe(), seed=0)
    with pytest.raises(InputError, match="strategy single trains a supernet"):
        make_strategy(network, toy_recipe(), seed=0)
    with pytest.raises(InputError, match="strategy network trains a single network"):
        make_strategy(make_supernet(VITAS), strategy_recipe("network"), seed=0)
    with pytest.raises(InputError, match="must have bilateral sharing"):
        make_strategy(make_supernet(VITAS), strategy_recipe("bilateral"), seed=0)
    with pytest.raises(InputError, match="sorted in a supernet of ViT-ResNAS or of an elastic space only"):
        make_strategy(make_supernet(VITAS), strategy_recipe("single", sort_units=True), seed=0)
    with pytest.raises(InputError, match="needs networks without a distillation token"):
        make_strategy(make_supernet(distilled(RESNAS)), strategy_recipe("sandwich"), seed=0)
    with pytest.raises(UnknownNameError, match="sandwich"):
        make_strategy(make_supernet(VITAS), strategy_recipe("sandwhich"), seed=0)


def test_batch_norms_of_the_supernet_move() -> None:
    training, batch = stepper(RESNAS, strategy_recipe("single")), next(toy_loader(RESNAS, toy_recipe()).epoch(0))
    assert isinstance(training.model, ResNasSupernet)
    before = weights(training.model)["shared.stem.conv1.norm.running_mean"]
    training.run(0, [batch], training.draw_networks(0))
    assert not torch.equal(weights(training.model)["shared.stem.conv1.norm.running_mean"], before)


def test_features_alone_are_learned_without_labels_and_logits() -> None:
    recipe = toy_recipe(strategy=StrategyConfig(name="elastic", outputs="features"))
    (batch, *_) = toy_loader(ELASTIC, recipe).epoch(0)
    supernet = build_supernet(ELASTIC, recipe, seed=3)
    strategy = make_strategy(supernet, recipe, seed=0)
    with torch.no_grad():
        dict(supernet.shared.named_parameters())["head.classifier.weight"].mul_(3)
    networks = strategy.draw(np.random.default_rng(0), epoch=0)
    targets = F.one_hot(batch.labels, ELASTIC.config.num_classes).float()
    found, again = (
        [float(loss.detach()) for loss in strategy.losses(Microbatch(MixedBatch(batch.images, values)), networks)]
        for values in (targets, targets.flip(0))
    )
    assert found == again
    assert found[0] == pytest.approx(0, abs=1e-6)  # the largest network computes what the model does
