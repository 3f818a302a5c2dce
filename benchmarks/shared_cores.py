"""Training beside other programs, with threads that wait briefly and with those of OpenMP's default.

    python -m benchmarks.shared_cores [--space vitas-twins-mini-64] [--max-images 1500] [--save]

One epoch on generated images with two threads, in turn in both ways, while no, one and two other programs keep a core
busy. CPU time counts the waiting of threads, wall time is what a user sees.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.support.saving import Line, asked, markdown, printed, save
from hwnas.devices import detect

HEADER: Line = ("other programs", "wall s, by default", "briefly", "CPU s, by default", "briefly")
WAYS = {"default": "300000", "briefly": "1000"}
"""Turns of the loop in which a thread waits: OpenMP's default with a core for each thread, and those of hwnas."""


@contextmanager
def busy_program() -> Iterator[None]:
    """Another program that keeps a core busy."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def train(turns: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """Train for an epoch, and return wall and CPU time in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", "--space", arguments.space, "--data", "digits-clutter", "--recipe", "small", "--epochs", "1"]
        words += ["--max-images", str(arguments.max_images), "--threads", "2", "--out", str(Path(folder) / "run")]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        environ = {**os.environ, "GOMP_SPINCOUNT": turns}
        subprocess.run([sys.executable, "-m", "hwnas", *words], env=environ, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def lines(arguments: argparse.Namespace) -> Iterator[Line]:
    for others in range(3):
        with ExitStack() as stack:
            for _ in range(others):
                stack.enter_context(busy_program())
            found = {way: train(turns, arguments) for way, turns in WAYS.items()}
        walls, cpus = zip(*found.values(), strict=True)
        yield (str(others), *(f"{seconds:.0f}" for seconds in (*walls, *cpus)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="vitas-twins-mini-64")
    parser.add_argument("--max-images", type=int, default=1500)
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    print(markdown(HEADER, ()))
    table = printed(lines(given))
    if given.save:
        command, device = f"python -m benchmarks.shared_cores {asked()}", detect().cpu.slug
        notes = "Two cores, two threads; the first run includes what any start of the command takes."
        title = "Training beside other programs"
        print(
            save(markdown(HEADER, table), name="shared_cores", device=device, title=title, command=command, notes=notes)
        )


if __name__ == "__main__":
    main()
