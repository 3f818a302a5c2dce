"""Look-up of a network that is named by a space or a run, and by a name or an id in it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.errors import InputError, unknown
from hwnas.metrics import Metric
from hwnas.runs import MANIFEST, NETWORK, SUPERNET, Run
from hwnas.search.record import RECORD_FILE
from hwnas.space import SPACES
from hwnas.space.arch import Arch, canonical_json
from hwnas.space.lookup import find_arch
from hwnas.space.space import AnySpace

if TYPE_CHECKING:
    from hwnas.search.result import FoundNetwork


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
            raise unknown("space", space, SPACES, hint=command.format(space="{}", arch="max"))
        chosen = SPACES.get(space)
        return chosen, find_arch(chosen, arch, command=command)
    from hwnas.pipeline.run_network import network_without_weights  # it loads torch, which spaces do not need

    return network_without_weights(Path(space), arch_text(arch))


def names_run(space: str) -> bool:
    """Return True if a name in place of a space is that of an existing run, and not that of a listed space."""
    try:
        return not SPACES.lists(space) and (Path(space) / MANIFEST).is_file()
    except (OSError, ValueError):  # longer than a file name may be, or with a NUL character
        return False


def require_name(run: Path, arch: str | None) -> None:
    """Require that a network of a run is named where the run holds several; the error lists them, without torch.

    Args:
        run: The run of a search or a training.
        arch: Id or name of the network.
    """
    if arch is not None:
        return
    message = f"the network of {run} must be named"
    if (run / RECORD_FILE).is_file():
        from hwnas.search.result import load_search  # a second of imports that names in spaces do not need

        result = load_search(run)
        metrics = [objective.metric for objective in result.objectives]
        known = [f"{network.id} ({_values(network, metrics)})" for network in result.front]
        hint = f"hwnas export {run} --pick balanced --out exported, or --arch ID"
        raise InputError(message, got="no --arch and no --pick", known=known, hint=hint)
    if (run / SUPERNET).is_file() and not (run / NETWORK).is_file():
        space = Run.open(run).manifest.config.get("space")
        published = SPACES.get(str(space)).published if space in SPACES else ()
        hint = f"hwnas export {run} --arch max --out exported"
        raise InputError(message, got="no --arch", known=("min", "max", "random:SEED", *published), hint=hint)


def arch_text(arch: str | Path | Mapping[str, object] | Arch) -> str:
    """Return a network as it is typed: a name, an id, the path of a file or JSON."""
    if isinstance(arch, Arch):
        return canonical_json(arch.to_mapping())
    return canonical_json(dict(arch)) if isinstance(arch, Mapping) else str(arch)


def _values(network: "FoundNetwork", metrics: Sequence[Metric]) -> str:
    """Return the values of a network as text, such as `accuracy 76.67%, macs 4.3 M, throughput 3,266`."""
    from hwnas.report.data import counted, three_digits

    texts = []
    for metric in metrics:
        value = network.metrics[str(metric)]
        text = counted(value) if metric.name in ("macs", "params") else three_digits(value)
        texts.append(f"{metric.name} {f'{value:.2%}' if metric.quantity.is_share else text}")
    return ", ".join(texts)
