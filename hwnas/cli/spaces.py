"""`hwnas spaces`: print the search spaces."""

import click

from hwnas.cli.options import json_option
from hwnas.cli.output import Column, print_json, print_table
from hwnas.pipeline.spaces import SpaceSummary
from hwnas.pipeline.spaces import spaces as list_spaces


@click.command()
@json_option
def spaces(*, as_json: bool) -> None:
    """List the search spaces and their published networks.

    For each space: number of networks, image size, and the range of parameters and MACs.
    """
    summaries = list_spaces()
    if as_json:
        print_json(summaries)
    else:
        print_table(_COLUMNS, map(_row, summaries))


_COLUMNS = (
    "space",
    "family",
    Column("networks", numeric=True),
    Column("pixels", numeric=True),
    Column("params", numeric=True),
    Column("macs", numeric=True),
    "published networks",
)


def _row(summary: SpaceSummary) -> tuple[object, ...]:
    return (
        summary.name,
        summary.family,
        f"{summary.size:.1e}",
        summary.image_size,
        f"{_short(summary.min_params)} – {_short(summary.max_params)}",
        f"{_short(summary.min_macs)} – {_short(summary.max_macs)}",
        ", ".join(summary.published) or None,
    )


def _short(count: int) -> str:
    """Format a count with three digits: 5.87M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
