"""Time and memory to list and to show a profile of many rows, by the command line in a process of its own.

    python -m benchmarks.store_scale [--rows 100000] [--save]

Rows are those of a profile that ships with hwnas, each under a network id of its own, one in eight measured twice. The
first listing reads all rows and leaves a summary next to them; after it, listing and showing are timed. Time is that of
the whole process, CPU and wall; memory is its peak.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.support.saving import asked, save
from hwnas.devices import detect
from hwnas.records.manifest import MANIFEST
from hwnas.records.profile import MEASUREMENTS

SHIPPED = Path(__file__).parents[1] / "profiles"
HEADER = ("command", "CPU s", "wall s", "peak MB")


def make_store(folder: Path, *, rows: int) -> None:
    """Write a profile of many rows: those of a shipped one, repeated under new network ids."""
    source = min(path.parent for path in SHIPPED.glob(f"*/autoformer-tiny-*/{MANIFEST}"))
    folder.mkdir(parents=True)
    shutil.copy(source / MANIFEST, folder / MANIFEST)
    lines = [json.loads(line) for line in (source / MEASUREMENTS).read_text(encoding="utf-8").splitlines()]
    measured = [line for line in lines if "failure" not in line]
    with (folder / MEASUREMENTS).open("w", encoding="utf-8") as file:
        for number in range(rows):
            row = measured[number % len(measured)]
            network = number - 1 if number % 8 == 7 else number  # the repeat of the network before it
            row["subject"]["network_id"], row["process_id"] = f"net{network:013d}", f"process{number % 8}"
            file.write(json.dumps(row, separators=(",", ":")) + "\n")


def measured_command(arguments: Sequence[str]) -> tuple[str, str, str]:
    """Run a command of hwnas; returns CPU seconds, wall seconds and peak megabytes of its process."""
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "hwnas", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"hwnas {' '.join(arguments)} ended with {process.returncode}")
    wall = time.perf_counter() - begin
    return f"{usage.ru_utime + usage.ru_stime:.2f}", f"{wall:.2f}", f"{_peak_mb(usage):.0f}"


def _peak_mb(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss * 1024 / 1e6


def main() -> None:
    """Print a table, and save it with `--save`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        store = root / "toy-2c" / "large"
        make_store(store, rows=options.rows)
        size = (store / MEASUREMENTS).stat().st_size / 1e6
        listing, showing = ("profiles", "--profiles", str(root)), ("profiles", "show", "large", "--profiles", str(root))
        rows = [("profiles, for the first time", *measured_command(listing))]
        rows += [("profiles", *measured_command(listing)), ("profiles show", *measured_command(showing))]
    lines = [f"| {' | '.join(row)} |" for row in (HEADER, ("---", "--:", "--:", "--:"), *rows)]
    table = "\n".join(lines)
    print(table)
    if options.save:
        title = f"A store of {options.rows} rows ({size:.0f} MB): list and show"
        command = f"python -m benchmarks.store_scale {asked()}".strip()
        print(save(table, name="store_scale", device=detect().cpu.slug, title=title, command=command, notes=""))


if __name__ == "__main__":
    main()
