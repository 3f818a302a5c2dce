"""`hwnas import`: conversion of an official checkpoint to a weight file."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.arguments import checked_arguments
from hwnas.errors import InputError, unknown
from hwnas.space import FAMILIES, SPACES
from hwnas.space.arch import Arch
from hwnas.space.lookup import adapted, find_arch
from hwnas.space.space import AnySpace

if TYPE_CHECKING:
    from hwnas.supernet.official.checkpoint import OfficialCheckpoint


@dataclass(frozen=True, kw_only=True)
class ImportedCheckpoint:
    """Weight file of a converted checkpoint: a supernet, or the network of `arch`."""

    path: Path
    space: str
    kind: str
    arch: Arch | None
    arch_id: str | None
    network_id: str | None
    params: int
    image_size: int
    num_classes: int
    entry: str | None
    """Entry of the checkpoint that held the weights; None: the checkpoint holds the weights alone."""
    other_entries: tuple[str, ...]
    """Other entries of the checkpoint that hold weights."""


@checked_arguments
def import_checkpoint(
    family: str,
    file: Path,
    *,
    space: str,
    out: Path,
    arch: str | None = None,
    image_size: int | None = None,
    num_classes: int | None = None,
    entry: str | None = None,
    overwrite: bool = False,
) -> ImportedCheckpoint:
    """Convert an official checkpoint to a weight file, without running code from it.

    Args:
        family: Family of the checkpoint.
        file: The checkpoint.
        space: Name of a space of the family.
        out: The weight file to write.
        arch: The network that the checkpoint holds; None: it holds a supernet of the space.
        image_size: Height and width of the images, to which position tables are interpolated; None: those of the space.
        num_classes: Number of classes of the checkpoint; None: that of the space.
        entry: Entry of the checkpoint with the weights; None: the usual one.
        overwrite: Replace an existing file at `out`; the checkpoint itself is never replaced.

    Returns:
        What the file holds.

    Raises:
        UnknownNameError: The family, the space, the network or the entry is not known.
        InputError: The checkpoint cannot be read or does not fit the network, or `out` cannot be written.
    """
    from hwnas.supernet.official.checkpoint import read_checkpoint
    from hwnas.supernet.official.importers import IMPORTERS
    from hwnas.supernet.store import save_network, save_supernet

    chosen = adapted(_space(family, space), image_size=image_size, num_classes=num_classes)
    network = None if arch is None else find_arch(chosen, arch, command="--space {space} --arch {arch}")
    _require_free(out, file, overwrite=overwrite)
    checkpoint, importer = read_checkpoint(file, entry=entry), IMPORTERS.get(chosen.family)
    if network is None:
        supernet = importer.supernet(chosen, checkpoint.weights)
        save_supernet(supernet, out)
        params = sum(parameter.numel() for parameter in supernet.parameters())
    else:
        module = importer.network(chosen, network, checkpoint.weights)
        save_network(module, out, space=chosen, arch=network)
        params = sum(parameter.numel() for parameter in module.parameters())
    return _imported(out, chosen, network, params, checkpoint)


def _require_free(out: Path, file: Path, *, overwrite: bool) -> None:
    """Raise InputError unless `out` is a new file, or one that may be replaced, in a writable folder."""
    try:
        if _is_same_file(out, file):
            raise InputError("--out must be another file than the checkpoint", got=out, hint="another name for --out")
        if out.is_dir() or not out.parent.is_dir():
            raise InputError("--out must name a file in a folder that exists", got=out)
        if not overwrite and (out.exists() or out.is_symlink()):
            raise InputError(f"{out} must be a new file", got="one that exists", hint="--force to replace it")
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise InputError(f"{out} cannot be written", got=error.strerror or error) from error


def _is_same_file(out: Path, file: Path) -> bool:
    try:
        return out.samefile(file)  # also through links
    except OSError:  # one of them does not exist
        return False


def _space(family: str, space: str) -> AnySpace:
    if space not in SPACES:
        raise unknown("space", space, SPACES, hint="--space {}")
    chosen, kind = SPACES.get(space), FAMILIES.resolve(family)
    if chosen.family != kind:
        names = [candidate.name for candidate in SPACES.values() if candidate.family == kind]
        raise InputError(f"the space must be one of the family {kind}", got=f"{space}, of {chosen.family}", known=names)
    return chosen


def _imported(
    path: Path, space: AnySpace, arch: Arch | None, params: int, checkpoint: "OfficialCheckpoint"
) -> ImportedCheckpoint:
    candidate = None if arch is None else space.candidate(arch)
    return ImportedCheckpoint(
        path=path,
        space=space.name,
        kind="supernet" if arch is None else "network",
        arch=arch,
        arch_id=None if candidate is None else candidate.arch_id,
        network_id=None if candidate is None else candidate.network_id,
        params=params,
        image_size=space.config.image_size,
        num_classes=space.config.num_classes,
        entry=checkpoint.entry,
        other_entries=checkpoint.other_entries,
    )
