"""A network of a space as a module: with weights from a file, or with fresh ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.errors import InputError
from hwnas.space import SPACES
from hwnas.space.arch import Arch
from hwnas.space.lookup import adapted, find_arch
from hwnas.space.space import AnySpace

if TYPE_CHECKING:
    from hwnas.supernet.network import Network


@dataclass(frozen=True, kw_only=True)
class WeightedNetwork:
    """A module in evaluation mode, and where its weights are from."""

    module: "Network"
    space: AnySpace
    arch: Arch
    weights: str
    """The file, or that they are fresh."""
    fresh: bool


def weighted_network(
    space: str,
    arch: str | Path | Mapping[str, Any] | Arch | None,
    *,
    weights: Path | None = None,
    seed: int = 0,
    image_size: int | None = None,
    num_classes: int | None = None,
    command: str,
) -> WeightedNetwork:
    """A network with the weights of a file of ours, a supernet's or its own; without one, fresh ones from the seed.

    `arch` may be left out where the file holds one network. `command` is what an error tells the user to try.
    """
    if weights is not None:
        found = _from_file(space, arch, weights, command=command)
    else:
        found = _fresh(space, arch, seed=seed, image_size=image_size, num_classes=num_classes, command=command)
    found.module.eval()
    return found


def _fresh(
    name: str, arch: Any, *, seed: int, image_size: int | None, num_classes: int | None, command: str
) -> WeightedNetwork:
    import torch

    from hwnas.supernet.families import make_network

    space = adapted(SPACES.get(name), image_size=image_size, num_classes=num_classes)
    network = find_arch(space, _given(space, arch, command=command), command=command)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make_network(space, network)
    return WeightedNetwork(
        module=module, space=space, arch=network, weights=f"fresh, random, of seed {seed}", fresh=True
    )


def _from_file(name: str, arch: Any, path: Path, *, command: str) -> WeightedNetwork:
    from hwnas.supernet.store import load_network, load_supernet, read_about

    if read_about(path).get("kind") == "supernet":
        supernet = load_supernet(path)
        space = _same_space(name, supernet.space, path)
        network = find_arch(space, _given(space, arch, command=command), command=command)
        space.encode([network])
        return WeightedNetwork(
            module=supernet.subnet(network), space=space, arch=network, weights=str(path), fresh=False
        )
    stored = load_network(path)
    space = _same_space(name, stored.space, path)
    if arch is not None:
        _require_same_network(space, find_arch(space, arch, command=command), stored.arch, path)
    return WeightedNetwork(module=stored.network, space=space, arch=stored.arch, weights=str(path), fresh=False)


def _given(space: AnySpace, arch: Any, *, command: str) -> Any:
    if arch is None:
        hint = command.format(space=space.name, arch=next(iter(space.published), "max"))
        raise InputError("a network of the space must be named", got="none", known=space.published, hint=hint)
    return arch


def _same_space(name: str, found: AnySpace, path: Path) -> AnySpace:
    wanted = SPACES.resolve(name)
    if found.name != wanted:
        raise InputError(f"{path} must hold weights of {wanted}", got=found.name, hint=f"the space {found.name}")
    return found


def _require_same_network(space: AnySpace, wanted: Arch, stored: Arch, path: Path) -> None:
    if space.network_id(wanted) != space.network_id(stored):
        message = f"{path} must hold the network {space.network_id(wanted)}"
        raise InputError(
            message, got=space.network_id(stored), hint="leave the network out, or --weights of a supernet"
        )
