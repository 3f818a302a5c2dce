"""Where the tables of benchmarks are kept, and what stands above them."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from hwnas.files import write_atomic
from hwnas.runs import environment

Line = tuple[str, ...]
RESULTS = Path(__file__).parents[1] / "results"


def asked() -> str:
    """The arguments of this process, paths by their last part: where a machine keeps its files says nothing."""
    return " ".join(Path(part).name if "/" in part else part for part in sys.argv[1:])


def printed(lines: Iterable[Line]) -> list[Line]:
    """Print the lines of a table as they are made, and return them."""
    made = []
    for line in lines:
        made.append(line)
        print(_row(line), flush=True)
    return made


def markdown(header: Line, lines: Sequence[Line]) -> str:
    """The table of a header and lines."""
    return "\n".join(map(_row, (header, tuple("---" for _ in header), *lines)))


def save(table: str, *, name: str, device: str, title: str, command: str, notes: str) -> Path:
    """Write a table with the command, the machine, the versions and the commit that made it."""
    env = environment()
    versions = [
        entry for entry in env.packages if entry.startswith(("numpy==", "onnxruntime==", "openvino==", "torch=="))
    ]
    commit = f"commit {env.commit}{' with changes' if env.modified else ''}"
    facts = f"Python {env.python}, {', '.join(versions)}, hwnas {env.hwnas}, {commit}"
    path = RESULTS / f"{name}-{device}-{datetime.now(UTC):%Y-%m-%d}.md"
    write_atomic(path, f"# {title}\n\n`{command}` on {device};\n{facts}.\n{notes}\n\n{table}\n")
    return path


def _row(line: Line) -> str:
    return f"| {' | '.join(line)} |"
