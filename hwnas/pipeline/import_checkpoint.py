"""`hwnas import`: an official checkpoint turned into a file of ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.errors import InputError
from hwnas.pipeline.archs import find_arch
from hwnas.space import FAMILIES, SPACES
from hwnas.space.arch import Arch
from hwnas.space.space import Space


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an official checkpoint has become: a supernet, or the network of `arch`."""

    path: Path
    space: str
    kind: str
    arch: Arch | None
    arch_id: str | None
    network_id: str | None
    params: int
    image_size: int
    num_classes: int


def import_checkpoint(
    family: str,
    file: Path,
    *,
    space: str,
    out: Path,
    arch: str | None = None,
    image_size: int | None = None,
    num_classes: int | None = None,
) -> Imported:
    """Turn an official checkpoint into ours, and write it to `out`.

    Without `arch` the file holds a supernet of the space; with it, that network. At another image size than the
    checkpoint's, position tables are interpolated. Nothing in the file is run.
    """
    from hwnas.supernet.official.checkpoint import read_checkpoint
    from hwnas.supernet.official.importers import IMPORTERS
    from hwnas.supernet.store import save_network, save_supernet

    chosen = _space(family, space).adapted(image_size=image_size, num_classes=num_classes)
    network = None if arch is None else find_arch(chosen, arch)
    state, importer = read_checkpoint(file), IMPORTERS.get(chosen.family)
    if network is None:
        supernet = importer.supernet(chosen, state)
        save_supernet(supernet, out)
        params = sum(parameter.numel() for parameter in supernet.parameters())
    else:
        module = importer.network(chosen, network, state)
        save_network(module, out, space=chosen, arch=network)
        params = sum(parameter.numel() for parameter in module.parameters())
    return _imported(out, chosen, network, params)


def _space(family: str, space: str) -> Space[Any, Any]:
    chosen, kind = SPACES.get(space), FAMILIES.resolve(family)
    if chosen.family != kind:
        names = [candidate.name for candidate in SPACES.things() if candidate.family == kind]
        raise InputError(f"the space must be one of the family {kind}", got=f"{space}, of {chosen.family}", known=names)
    return chosen


def _imported(path: Path, space: Space[Any, Any], arch: Arch | None, params: int) -> Imported:
    return Imported(
        path=path,
        space=space.name,
        kind="supernet" if arch is None else "network",
        arch=arch,
        arch_id=None if arch is None else space.arch_id(arch),
        network_id=None if arch is None else space.network_id(arch),
        params=params,
        image_size=space.config.image_size,
        num_classes=space.config.num_classes,
    )
