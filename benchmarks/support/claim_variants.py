"""The supernets that the claims are tested with: a space, how its weights are shared, and how it is trained."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from benchmarks.support.claim_models import ResNasWithoutSkip, SeparateAutoFormer
from benchmarks.support.sharing_pairs import AttentionAlone
from hwnas.registry import Registry
from hwnas.space import SPACES
from hwnas.space.arch import Arch
from hwnas.space.space import AnySpace
from hwnas.supernet.families import make_supernet
from hwnas.supernet.network import Network
from hwnas.supernet.supernet import AnySupernet
from hwnas.train.models import initialize_weights, supernet_config
from hwnas.train.presets import MICRO, single_network_recipe, with_epochs
from hwnas.train.recipe import Recipe, StrategyConfig, with_overrides
from hwnas.train.seeds import torch_seed

_SEVERAL = StrategyConfig(name="several", num_networks=4)
_STRONG = {
    "augment.crop": "random-resized",
    "augment.scale": "[0.35, 1.0]",
    "augment.rand_augment": "rand-m9-mstd0.5-inc1",
    "augment.color_jitter": "0.4",
    "augment.erase": "0.25",
    "mix.mixup": "0.8",
    "mix.cutmix": "1.0",
    "mix.smoothing": "0.1",
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train the networks of a space together."""

    name: str
    space: AnySpace
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    sharing: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, str] = field(default_factory=dict)
    make: Callable[..., AnySupernet] = make_supernet
    as_long_as: str | None = None
    """The variant whose CPU time decides the number of epochs; None: as many as all others have."""

    def recipe(self, epochs: int) -> Recipe:
        """Return the recipe of its supernet: that of the micro spaces, with images moved and mirrored."""
        augment = replace(MICRO.augment, crop="pad", flip=0.5)
        recipe = with_epochs(replace(MICRO, augment=augment, strategy=self.strategy), epochs)
        return with_overrides(recipe, self.overrides)

    def network_recipe(self, epochs: int) -> Recipe:
        """Return the recipe of one of its networks on its own."""
        return single_network_recipe(self.recipe(epochs))

    def supernet(self, *, seed: int) -> AnySupernet:
        """Build the supernet with fresh weights."""
        recipe = self.recipe(1)
        with torch.random.fork_rng():
            torch.manual_seed(torch_seed(seed, "weights"))
            config = replace(supernet_config(self.space, recipe), **self.sharing)
            supernet = self.make(self.space, config)
            initialize_weights(supernet, recipe.initialization)
        return supernet

    def network(self, arch: Arch, *, seed: int) -> Network:
        """Build one of its networks with fresh weights."""
        with torch.device("meta"):
            supernet = self.make(self.space, replace(supernet_config(self.space, self.recipe(1)), **self.sharing))
        return fresh(Network(supernet.outline(arch), input_shape=self.space.config.input_shape), seed=seed)


def fresh(network: Network, *, seed: int) -> Network:
    """Draw the weights of a network as the recipe of the micro spaces does."""
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(seed, "weights"))
        built = Network(network.outline, input_shape=network.input_shape)
        initialize_weights(built, MICRO.initialization)
    return built


def _micro(family: str, **config: Any) -> AnySpace:
    space = SPACES.get(f"{family}-micro")
    if not config:
        return space
    changed: AnySpace = type(space)(name=f"{family}-micro-changed", config=replace(space.config, **config))
    return changed


_AUTOFORMER, _RESNAS, _VITAS, _GLIT = (_micro(family) for family in ("autoformer", "resnas", "vitas", "glit"))
_ATTENTION = AttentionAlone(name="glit-micro-attention", config=_GLIT.config)

VARIANTS: Registry[Variant] = Registry("variant")
"""All variants by name."""

for _variant in (
    Variant(name="autoformer", space=_AUTOFORMER),
    Variant(name="autoformer, separate blocks", space=_AUTOFORMER, make=SeparateAutoFormer),
    Variant(name="resnas", space=_RESNAS, strategy=_SEVERAL),
    Variant(name="resnas, one network a step", space=_RESNAS, as_long_as="resnas"),
    Variant(name="resnas, no skip", space=_RESNAS, strategy=_SEVERAL, make=ResNasWithoutSkip),
    Variant(name="vitas", space=_VITAS, sharing={"sharing": "cyclic"}),
    Variant(name="vitas, prefix", space=_VITAS, sharing={"sharing": "prefix"}),
    Variant(
        name="vitas, identities anywhere",
        space=_micro("vitas", identity="anywhere"),
        sharing={"sharing": "cyclic"},
    ),
    Variant(name="vitas, strong augmentation", space=_VITAS, sharing={"sharing": "cyclic"}, overrides=_STRONG),
    Variant(name="glit", space=_GLIT, strategy=_SEVERAL),
    Variant(name="glit, attention alone", space=_ATTENTION, strategy=_SEVERAL),
):
    VARIANTS.add(_variant.name, _variant)

SEARCHED = ("autoformer", "resnas", "vitas", "glit")
"""Variants whose best network is compared with one that is scaled by hand."""
