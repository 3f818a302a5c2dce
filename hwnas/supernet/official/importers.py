"""Conversion of official weights, family by family: supernets and single networks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.registry import Registry
from hwnas.space.arch import Arch
from hwnas.space.space import AnySpace
from hwnas.supernet.autoformer import AutoFormerSupernetConfig
from hwnas.supernet.families import make_network, make_supernet
from hwnas.supernet.network import Network
from hwnas.supernet.official.keys import fill, translate
from hwnas.supernet.official.rules import (
    AUTOFORMER_RULES,
    GLIT_RULES,
    TWINS_RULES,
    VITAS_NETWORK_RULES,
    VITAS_SUPERNET_RULES,
    close_gaps,
    locality_shapes,
    resnas_rules,
)
from hwnas.supernet.resnas import ResNasSupernetConfig
from hwnas.supernet.supernet import AnySupernet
from hwnas.supernet.transfer import resize_positions
from hwnas.supernet.vitas import VitasSupernetConfig

State = Mapping[str, Tensor]
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Importer:
    """Functions that convert the official weights of a family: a space (and an arch) and a state dict to a module."""

    supernet: Callable[[AnySpace, State], AnySupernet]
    network: Callable[[AnySpace, Arch, State], Network]


def _autoformer_supernet(space: AnySpace, state: State) -> AnySupernet:
    translated = translate(state, AUTOFORMER_RULES)
    position = translated.get("stem.position")
    # The released supernets allocate wider embeddings than any of their networks use.
    widest = None if position is None or position.ndim != 3 else position.shape[-1]
    supernet = make_supernet(space, AutoFormerSupernetConfig(embed_dim=widest, plain_bias=True))
    return _filled(supernet, supernet.shared, translated)


def _autoformer_network(space: AnySpace, arch: Arch, state: State) -> Network:
    # The released files of sub-networks hold the weights of a supernet, fine-tuned for that sub-network.
    return _autoformer_supernet(space, state).subnet(arch)


def _resnas_supernet(space: AnySpace, state: State) -> AnySupernet:
    patch_head = "patch_head.weight" in state
    supernet = make_supernet(space, ResNasSupernetConfig(patch_logits="training" if patch_head else "never"))
    assert isinstance(supernet.shared, Network)
    rules = resnas_rules(supernet.shared.outline, state, patch_head=patch_head)
    return _filled(supernet, supernet.shared, translate(state, rules))


def _resnas_network(space: AnySpace, arch: Arch, state: State) -> Network:
    network = make_network(space, arch)
    return _filled(network, network, translate(state, resnas_rules(network.outline, state, patch_head=False)))


def _vitas_supernet(space: AnySpace, state: State) -> AnySupernet:
    # The options that reproduce the outputs of the official supernet.
    config = VitasSupernetConfig(
        sharing="bilateral", attention_scale="official-supernet", joint_qk=True, collapsed_positions=True
    )
    supernet = make_supernet(space, config)
    return _filled(supernet, supernet.shared, translate(state, VITAS_SUPERNET_RULES))


def _vitas_network(space: AnySpace, arch: Arch, state: State) -> Network:
    network = make_network(space, arch, VitasSupernetConfig(attention_scale="official-network"))
    return _filled(network, network, close_gaps(translate(state, VITAS_NETWORK_RULES)))


def _twins_network(space: AnySpace, arch: Arch, state: State) -> Network:
    network = make_network(space, arch)
    return _filled(network, network, translate(state, TWINS_RULES))


def _glit_network(space: AnySpace, arch: Arch, state: State) -> Network:
    network = make_network(space, arch)
    return _filled(network, network, locality_shapes(translate(state, GLIT_RULES)))


def _no_supernet(space: AnySpace, state: State) -> AnySupernet:
    known = tuple(space.published)
    hint = f"--arch {known[0]}" if known else "--arch with the network that the file holds"
    raise InputError(f"no supernet of the family {space.family} was ever released, only networks", hint=hint)


def _filled(result: Result, module: nn.Module, tensors: Mapping[str, Tensor]) -> Result:
    """Fill the module, with position tables interpolated to its image size, and return the result."""
    targets = dict(module.named_parameters())
    positions = {name for name, target in targets.items() if name.endswith("position") and target.ndim == 3}
    resized = {
        name: resize_positions(tensor, tokens=targets[name].shape[1]) if name in positions else tensor
        for name, tensor in tensors.items()
    }
    fill(module, resized)
    return result


IMPORTERS: Registry[Importer] = Registry(
    "family",
    (
        ("autoformer", Importer(supernet=_autoformer_supernet, network=_autoformer_network)),
        ("resnas", Importer(supernet=_resnas_supernet, network=_resnas_network)),
        ("vitas", Importer(supernet=_vitas_supernet, network=_vitas_network)),
        ("vitas-twins", Importer(supernet=_no_supernet, network=_twins_network)),
        ("glit", Importer(supernet=_no_supernet, network=_glit_network)),
    ),
)
"""Importers of the families whose official checkpoints can be converted."""
