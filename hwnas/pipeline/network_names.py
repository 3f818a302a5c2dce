"""Names of the networks that a run holds, for a command that names none of them."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.errors import InputError
from hwnas.metrics import Metric
from hwnas.runs import NETWORK, SUPERNET, Run
from hwnas.search.record import RECORD_FILE
from hwnas.space import SPACES

if TYPE_CHECKING:
    from hwnas.search.result import FoundNetwork


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
        from hwnas.search.result import load_search

        result = load_search(run)
        metrics = [objective.metric for objective in result.objectives]
        known = [f"{network.id} ({_values(network, metrics)})" for network in result.front]
        hint = f"hwnas export {shlex.quote(str(run))} --pick balanced --out exported, or --arch ID"
        raise InputError(message, got="no --arch and no --pick", known=known, hint=hint)
    if (run / SUPERNET).is_file() and not (run / NETWORK).is_file():
        space = Run.open(run).manifest.config.get("space")
        published = SPACES.get(str(space)).published if space in SPACES else ()
        hint = f"hwnas export {shlex.quote(str(run))} --arch max --out exported"
        raise InputError(message, got="no --arch", known=("min", "max", "random:SEED", *published), hint=hint)


def _values(network: "FoundNetwork", metrics: Sequence[Metric]) -> str:
    """Return the values of a network as text, such as `accuracy 76.67%, macs 4.3 M, throughput 3,266`."""
    from hwnas.report.data import counted, three_digits

    texts = []
    for metric in metrics:
        value = network.metrics[str(metric)]
        text = counted(value) if metric.name in ("macs", "params") else three_digits(value)
        texts.append(f"{metric.name} {f'{value:.2%}' if metric.quantity.is_share else text}")
    return ", ".join(texts)
