"""Look-up of a network that is named by a space or a run, and by a name or an id in it."""

from collections.abc import Mapping
from pathlib import Path

from hwnas.errors import InputError, unknown
from hwnas.runs import MANIFEST, missing_run
from hwnas.space import SPACES
from hwnas.space.arch import Arch, canonical_json
from hwnas.space.lookup import find_arch
from hwnas.space.space import AnySpace


def find_network(space: str, arch: str | Path | Mapping[str, object] | Arch, *, command: str) -> tuple[AnySpace, Arch]:
    """Find a network of a space or of a run, without its weights.

    Args:
        space: Name of a space, or in place of it the folder of a run.
        arch: A network in any form that `find_arch` takes; of a run also an id, or its first digits.
        command: Command that errors suggest, with placeholders for a space and an arch.

    Raises:
        UnknownNameError: There is no such space or network.
        InputError: The folder is no run that holds the network.
    """
    if not names_run(space) and (space in SPACES or not Path(space).is_dir()):
        if space not in SPACES:
            raise unknown_space(space, command=command.format(space="{}", arch="max"))
        chosen = SPACES.get(space)
        return chosen, find_arch(chosen, arch, command=command)
    from hwnas.pipeline.run_network import network_without_weights  # it loads torch, which spaces do not need

    return network_without_weights(Path(space), arch_text(arch))


def unknown_space(name: str, *, command: str) -> InputError:
    """Make the error for a name in place of a space, which may be a path that leads to no run.

    Args:
        name: The name.
        command: Command that the error suggests, with a placeholder for a space.
    """
    if "/" in name:
        return missing_run(Path(name), f"there is no run folder {name}, and no space of this name")
    return unknown("space", name, SPACES, hint=command)


def names_run(space: str) -> bool:
    """Return True if a name in place of a space is that of an existing run, and not that of a listed space."""
    try:
        return not SPACES.lists(space) and (Path(space) / MANIFEST).is_file()
    except (OSError, ValueError):  # longer than a file name may be, or with a NUL character
        return False


def arch_text(arch: str | Path | Mapping[str, object] | Arch) -> str:
    """Return a network as it is typed: a name, an id, the path of a file or JSON."""
    if isinstance(arch, Arch):
        return canonical_json(arch.to_mapping())
    return canonical_json(dict(arch)) if isinstance(arch, Mapping) else str(arch)
