"""Networks of a space as modules, with weights from a file or fresh ones."""

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
    """A network in evaluation mode, and the origin of its weights."""

    module: "Network"
    space: AnySpace
    arch: Arch
    weights: str
    """The weight file, or a note that the weights are fresh."""
    fresh: bool


def weighted_network(
    space: str,
    arch: str | Path | Mapping[str, object] | Arch | None,
    *,
    weights: Path | None = None,
    seed: int = 0,
    image_size: int | None = None,
    num_classes: int | None = None,
    command: str,
) -> WeightedNetwork:
    """Make a network with the weights of a file, or with fresh weights.

    Args:
        space: Name of the space.
        arch: The network, in any form that `find_arch` takes; may be None if the file holds one network.
        weights: The file of a supernet or of a network that hwnas wrote; None: fresh weights.
        seed: Seed of fresh weights.
        image_size: Image size of a network with fresh weights; None: that of the space.
        num_classes: Classes of a network with fresh weights; None: those of the space.
        command: Command that errors suggest, with placeholders for a space and an arch.

    Returns:
        The network, in evaluation mode.

    Raises:
        InputError: The space, the network or the file is unknown, or they do not belong together.
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
    space = adapted(SPACES.get(name), image_size=image_size, num_classes=num_classes)
    network = find_arch(space, _required(space, arch, command=command), command=command)
    import torch  # after the checks, as it takes seconds

    from hwnas.supernet.families import make_network

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
        network = find_arch(space, _required(space, arch, command=command), command=command)
        space.encode([network])
        return WeightedNetwork(
            module=supernet.subnet(network), space=space, arch=network, weights=str(path), fresh=False
        )
    stored = load_network(path)
    space = _same_space(name, stored.space, path)
    if arch is not None:
        wanted, found = space.network_id(find_arch(space, arch, command=command)), space.network_id(stored.arch)
        if wanted != found:
            hint = "leave the network out, or --weights of a supernet"
            raise InputError(f"{path} must hold the network {wanted}", got=found, hint=hint)
    return WeightedNetwork(module=stored.network, space=space, arch=stored.arch, weights=str(path), fresh=False)


def _required(space: AnySpace, arch: Any, *, command: str) -> Any:
    if arch is None:
        hint = command.format(space=space.name, arch=next(iter(space.published), "max"))
        raise InputError("a network of the space must be named", got="none", known=space.published, hint=hint)
    return arch


def _same_space(name: str, found: AnySpace, path: Path) -> AnySpace:
    wanted = SPACES.resolve(name)
    if found.name != wanted:
        raise InputError(f"{path} must hold weights of {wanted}", got=found.name, hint=f"the space {found.name}")
    return found
