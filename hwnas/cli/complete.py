"""Completion of names in a shell: spaces, networks, devices, metrics, recipes and runs.

The names that a parameter takes follow from its own name, so that options of several commands complete alike.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from hwnas.runs import MANIFEST

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

_MAX_NAMES = 200
"""Names that are offered at most."""

_NETWORKS = "networks"
_PRECISIONS = ("fp32", "bf16", "fp16", "tf32", "int8", "fp8")


def add_completion(command: click.Command) -> None:
    """Let the parameters of a command, and of its own commands, complete what their names stand for."""
    for parameter in command.params:
        source = _SOURCES.get(parameter.name or "")
        if parameter.name == "space" and isinstance(parameter, click.Argument):
            source = _spaces_and_runs
        if source is not None and parameter._custom_shell_complete is None and not _has_choices(parameter):
            # What `shell_complete=` of each of these options would set.
            parameter._custom_shell_complete = _completer(source)
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        add_completion(inner)


def _has_choices(parameter: click.Parameter) -> bool:
    return isinstance(parameter.type, click.Choice)


def _completer(source: "_Source") -> Completer:
    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        done, comma, last = incomplete.rpartition(",")  # of several names, the last one is completed
        names = [f"{done}{comma}{name}" for name in _starting_with(last, source(context, last))]
        return [CompletionItem(name) for name in names[:_MAX_NAMES]] or [CompletionItem(incomplete, type="file")]

    return complete


def _starting_with(start: str, names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.casefold().startswith(start.casefold())]


_Source = Callable[[click.Context, str], Iterable[str]]
"""Gives names for the beginning of one; others than those that begin with it are left out."""


def _spaces(context: click.Context, start: str) -> Iterable[str]:
    from hwnas.space import SPACES

    return SPACES


def _spaces_and_runs(context: click.Context, start: str) -> Iterator[str]:
    yield from _spaces(context, start)
    yield from _runs(context, start)


def _networks(context: click.Context, start: str) -> Iterator[str]:
    """Yield the published networks of the space and the ids of the run that the command line names."""
    from hwnas.space import SPACES

    given = [context.params.get(name) for name in ("space", "run", "supernet")]
    # Where the option that is completed comes after the arguments, click has not yet given these to parameters.
    for named in [str(value) for value in given if value is not None] or list(context.args):
        if named in SPACES:
            yield from SPACES.get(named).published
        yield from _ids(Path(named))
    yield from ("min", "max", "random:0")


def _ids(run: Path) -> Iterator[str]:
    """Yield the ids of the front and of the evaluated networks of a run."""
    with suppress(OSError, ValueError, AttributeError, TypeError):
        yield from json.loads((run / "search.json").read_text(encoding="utf-8"))["front"]
    with suppress(OSError, ValueError, AttributeError, TypeError, KeyError):
        for line in (run / "accuracies.jsonl").read_text(encoding="utf-8").splitlines():
            yield str(json.loads(line)["arch_id"])


def _runs(context: click.Context, start: str) -> Iterator[str]:
    """Yield the runs below the folder that the text names so far, and those in the folders there."""
    folder, _, beginning = start.rpartition("/")
    root = Path(folder) if folder else Path("/" if start.startswith("/") else ".")
    for child in _folders(root):
        if not child.name.startswith(beginning):
            continue
        if (child / MANIFEST).is_file():
            yield str(child)
        yield from (str(inner) for inner in _folders(child) if (inner / MANIFEST).is_file())


def _folders(root: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    return []


def _devices(context: click.Context, start: str) -> Iterator[str]:
    from hwnas.devices import DEVICES

    yield from ("auto", "cpu")
    yield from DEVICES


def _metrics(context: click.Context, start: str) -> Iterator[str]:
    from hwnas.metrics import METRICS

    name, at, device = start.partition("@")
    if at:
        yield from (f"{name}@{known}" for known in _devices(context, device))
    else:
        yield from METRICS


def _recipes(context: click.Context, start: str) -> Iterable[str]:
    from hwnas.train.presets import RECIPES

    return RECIPES


def _strategies(context: click.Context, start: str) -> Iterable[str]:
    from hwnas.search.strategies import STRATEGIES

    return STRATEGIES


def _runtimes(context: click.Context, start: str) -> Iterable[str]:
    from hwnas.metrics import RUNTIMES

    return RUNTIMES


def _precisions(context: click.Context, start: str) -> Iterable[str]:
    return _PRECISIONS


def _families(context: click.Context, start: str) -> Iterable[str]:
    from hwnas.space import FAMILIES

    return FAMILIES


def _datasets(context: click.Context, start: str) -> Iterable[str]:
    return ("digits", "digits-clutter")


def _picks(context: click.Context, start: str) -> Iterable[str]:
    return ("balanced", "accuracy", "fast")


_SOURCES: dict[str, _Source] = {
    "arch": _networks,
    "archs": _networks,
    "constraints": _metrics,
    "data": _datasets,
    "device": _devices,
    "devices": _devices,
    "family": _families,
    "metrics": _metrics,
    "named": _networks,
    "objectives": _metrics,
    "pick": _picks,
    "precision": _precisions,
    "precisions": _precisions,
    "recipe": _recipes,
    "resume": _runs,
    "run": _runs,
    "runs": _runs,
    "runtime": _runtimes,
    "runtimes": _runtimes,
    "sources": _devices,
    "space": _spaces,
    "strategy": _strategies,
    "supernet": _runs,
    "targets": _networks,
}
