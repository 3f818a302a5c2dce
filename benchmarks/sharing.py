"""What the sharing strategies of the systems bring, each against its plain alternative, at a small scale.

    python -m benchmarks.sharing --data digits-clutter [--pairs vitas] [--budget 25] [--seeds 2] [--state DIR] [--save]
    python -m benchmarks.sharing --data DIR --pairs autoformer,resnas,vitas,glit,locality --device cuda --save

A pair has two sides that train a micro space with the same recipe for the same number of epochs:

- autoformer: the sandwich rule with in-place distillation against one network a step. (AutoFormer has no supernet
  here whose choices do not share weights: shared against separate blocks is what the pair `glit` compares.)
- resnas: two networks a step, each on half of the pictures, against one.
- vitas: channels on a ring against prefixes.
- glit: slices of one set of weights a block against weights of its own for all that a block can be.
- locality: the space of GLiT against its networks of attention alone.

Of each side: the held-out accuracy of random networks with inherited weights, and Kendall's correlation of inherited
with standalone accuracy, over networks that are trained on their own with the same recipe and as many epochs. The
number of epochs follows from `--budget` and a few steps that are timed; on a CPU its minutes are those of one core.

Each finished training is written to `--state`, and another call goes on after the last one, whatever ended the first.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch

from benchmarks.support.saving import asked, save
from benchmarks.support.sharing_pairs import PAIRS, Side
from benchmarks.support.sharing_trainings import Bench
from hwnas.devices import detect
from hwnas.supernet.matmul import VARIABLE, matmul_backend

HEADER = (
    "| pair | side | random networks, mean % | best of them % | standalone, mean % "
    "| Kendall, inherited with standalone | s a supernet |"
)


def rows(bench: Bench) -> list[str]:
    """The table's, one for each side; ranges are over the seeds."""
    return [_row(bench, pair, side) for pair, both in bench.pairs.items() for side in both]


def _row(bench: Bench, pair: str, side: Side) -> str:
    done = bench.state["done"]
    count = bench.options.standalone
    alone = [done[f"{side.space.name} network {index}"]["accuracy"] for index in range(count)]
    runs = [done[f"{pair}, {side.name}, seed {seed}"] for seed in range(bench.options.seeds)]
    cells = [
        pair,
        side.name,
        _ranged([100 * mean(run["random"]) for run in runs], digits=1),
        _ranged([100 * max(run["random"]) for run in runs], digits=1),
        f"{100 * mean(alone):.1f}",
        _ranged([_kendall(run["own"], alone) for run in runs], digits=2),
        f"{mean(run['seconds'] for run in runs):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _kendall(inherited: Sequence[float], alone: Sequence[float]) -> float:
    from scipy.stats import kendalltau  # type: ignore[import-untyped]

    return float(kendalltau(inherited, alone).statistic)


def _ranged(values: Sequence[float], *, digits: int) -> str:
    middle = f"{mean(values):.{digits}f}"
    return f"{middle} ({min(values):.{digits}f} – {max(values):.{digits}f})" if len(values) > 1 else middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits-clutter", help="digits-clutter, or a folder of 10 classes")
    parser.add_argument("--pairs", default="vitas", help=f"of {', '.join(PAIRS)}; separated by commas")
    parser.add_argument("--budget", type=float, default=25, help="minutes")
    parser.add_argument("--epochs", type=int, help="instead of as many as the budget has room for")
    parser.add_argument("--limit", type=int, default=10_000, help="training pictures")
    parser.add_argument("--heldout", type=int, default=2_500, help="pictures to judge with")
    parser.add_argument("--seeds", type=int, default=2, help="supernets of each side")
    parser.add_argument("--networks", type=int, default=30, help="random networks that are judged")
    parser.add_argument("--standalone", type=int, default=12, help="networks that are trained on their own")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--state", default="runs/sharing", help="folder in which finished trainings are kept")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault(VARIABLE, matmul_backend())  # tried once, not at the start of each training
    Path(options.state).mkdir(parents=True, exist_ok=True)
    bench = Bench(options)
    bench.run()
    print(text := "\n".join([HEADER, "|" + " --- |" * (HEADER.count("|") - 1), *rows(bench)]))
    if options.save:
        print(f"saved {report(text, bench)}")


def report(text: str, bench: Bench) -> Path:
    """Keep the table."""
    machine, options = detect(), bench.options
    clocked = "CPU seconds of one thread" if options.device == "cpu" else "Seconds"
    spent = sum(result["seconds"] for result in bench.state["done"].values()) / 60
    pictures = f"{len(bench.data.train):,} training and {len(bench.data.heldout):,} held-out pictures"
    trainings = f"{options.seeds} seeds, {options.networks} random and {options.standalone} standalone networks"
    return save(
        text,
        name=f"sharing-{options.pairs.replace(',', '-')}",
        device=machine.cpu.slug if options.device == "cpu" else machine.devices[0].name,
        title=f"Sharing strategies against their plain alternatives: {Path(options.data).name}",
        command=f"python -m benchmarks.sharing {asked()}",
        notes=f"{pictures}, {bench.state['epochs']} epochs, {trainings}.\n"
        f"{clocked}, {spent:.1f} minutes in all; matrix products run on: {matmul_backend()}.",
    )


if __name__ == "__main__":
    main()
