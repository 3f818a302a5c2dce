"""Commands that others suggest next, for the runs that the user has."""

from collections.abc import Sequence
from pathlib import Path

from hwnas.cli.project import project_supernet
from hwnas.runs import Run


def trained_space(spaces: Sequence[str]) -> str:
    """Return the space of the project's supernet, else that whose supernet is the newest, else the first of several."""
    from hwnas.pipeline.search.defaults import newest_supernet

    for space in spaces:
        if project_supernet(space) is not None:
            return space
    runs = {space: newest_supernet(space, runs=Path("runs")) for space in spaces}
    created = {space: Run.open(run).manifest.created_utc for space, run in runs.items() if run is not None}
    return max(created, key=lambda space: created[space], default=spaces[0])


def search_command(space: str, device: str, *, objective: str, options: Sequence[str] = ()) -> tuple[str, ...]:
    """Return a search of a space with the supernet of the project or the newest one; without one, by costs alone.

    Args:
        space: The space.
        device: The device whose speed is searched for.
        objective: Its metric.
        options: Other options.
    """
    from hwnas.pipeline.search.defaults import newest_supernet

    supernet = project_supernet(space) or newest_supernet(space, runs=Path("runs"))
    what = ("--space", space) if supernet is None else ("--supernet", str(supernet))
    more = ("--no-accuracy",) if supernet is None else ()
    return ("hwnas", "search", *what, "--device", device, *options, "--objective", objective, *more)
