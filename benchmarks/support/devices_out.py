"""The command of benchmarks that leave out each GPU of a folder of timm's tables."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.support.measured_tables import imported_tables
from benchmarks.support.saving import Line, asked, markdown, printed, save
from hwnas.devices import detect
from hwnas.profile.lookup import TableEntry


def run(
    lines_of: Callable[[Sequence[TableEntry]], Iterable[Line]],
    *,
    header: Line,
    name: str,
    title: str,
    about: str | None,
    notes: str,
) -> None:
    """Print the lines of the tables of `--tables DIR`, and keep them in the results with `--save`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True, help="a folder of tables of timm's benchmark")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        lines = printed(lines_of(imported_tables(options.tables, Path(folder))))
    if options.save:
        text, command = markdown(header, lines), f"python -m benchmarks.{name} {asked()}"
        path = save(text, name=name, device=detect().cpu.slug, title=title, command=command, notes=notes)
        print(f"saved {path}")
