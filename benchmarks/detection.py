"""Searched detectors against detectors scaled by hand, what inherited mAP says, and what a supernet's step costs.

    python -m benchmarks.detection [--space retinanet-vitas-twins-micro] [--budget 60] [--seeds 3] [--save]

All networks are detectors of one space for the scenes of `digits-scene`, with the same head:

- searched: a search in a supernet for the best mAP on held-out scenes of networks that are as fast as one scaled by
  hand, whose every size is at the same share of its range. Both are then trained on their own, equally long, and
  compared by mAP on test scenes. Their time is measured side by side, in CPU milliseconds of a batch without the choice
  of boxes.
- ranks: mAP of 8 random networks with inherited weights against that of the same networks trained on their own.
- step: CPU seconds of a training step of the supernet against one of the same network on its own, networks in turn.

Each finished part is written to `--state`; another call goes on with those that are left. `--budget` is the minutes
after which no part is begun. Nothing is chosen by the test scenes.
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.claims import HEADER, Comparison, Part
from benchmarks.support.detection_trainings import RANKED, DetectionTrainings
from benchmarks.support.saving import RESULTS, asked, save
from hwnas.devices import detect
from hwnas.supernet.matmul import matmul_backend

NOT_FINISHED = "not finished"


def parts(trainings: DetectionTrainings, *, seeds: int) -> Iterator[Part]:
    """Return all parts; those of the first seed come first."""
    yield "step", trainings.step_cost
    for seed in range(seeds):
        yield f"supernet {seed}", partial(trainings.supernet, seed)
        yield f"searched {seed}", partial(trainings.alone, seed, "searched")
        yield f"by hand {seed}", partial(trainings.alone, seed, "hand")
        if seed == 0:
            for index in range(RANKED):
                yield f"ranked {index}", partial(trainings.ranked, index)


def table(done: Mapping[str, Any], *, seeds: int) -> str:
    """Return the figures of all parts that are finished."""
    return "\n".join(
        [HEADER, "|" + " --- |" * (HEADER.count("|") - 1), _searched(done, seeds), _ranks(done), _step(done)]
    )


def _searched(done: Mapping[str, Any], seeds: int) -> str:
    count = sum(all(f"{part} {seed}" in done for part in ("searched", "by hand")) for seed in range(seeds))
    values = [[100 * done[f"{part} {seed}"]["test"] for seed in range(count)] for part in ("searched", "by hand")]
    if not count:
        return _unfinished("searched against scaled by hand")
    found = [done[f"supernet {seed}"] for seed in range(count)]
    times = ", ".join(f"{row['searched_ms'] / row['hand_ms']:.2f}" for row in found)
    return Comparison(
        claim="The searched detector, trained on its own",
        figure=f"test mAP % (time relative to the other: {times})",
        sides=("searched", "by hand"),
        values=(values[0], values[1]),
    ).row()


def _ranks(done: Mapping[str, Any]) -> str:
    from scipy.stats import kendalltau, spearmanr  # type: ignore[import-untyped]

    if "supernet 0" not in done or not all(f"ranked {index}" in done for index in range(RANKED)):
        return _unfinished("ranks of inherited mAP")
    inherited: Sequence[float] = done["supernet 0"]["ranked"]
    own = [done[f"ranked {index}"]["heldout"] for index in range(RANKED)]
    cells = [
        "Ranks of inherited mAP",
        f"held-out mAP % of {RANKED} random networks",
        f"inherited: {100 * mean(inherited):.2f}",
        f"trained on their own: {100 * mean(own):.2f}",
        f"Kendall {kendalltau(inherited, own).statistic:.2f}",
        f"Spearman {spearmanr(inherited, own).statistic:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _step(done: Mapping[str, Any]) -> str:
    if "step" not in done:
        return _unfinished("cost of a step")
    row = done["step"]
    cells = [
        "Cost of a step",
        "CPU seconds, median over networks",
        f"supernet: {row['supernet_s']:.3f}",
        f"the same network alone: {row['alone_s']:.3f}",
        f"{row['ratio']:.2f} times",
        "",
    ]
    return f"| {' | '.join(cells)} |"


def _unfinished(name: str) -> str:
    return f"| {name} | {NOT_FINISHED} | | | | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="retinanet-vitas-twins-micro")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--budget", type=float, default=60, help="minutes after which no part is begun")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=2_000, help="training scenes")
    parser.add_argument("--heldout", type=int, default=200, help="scenes that networks are chosen by")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--evaluations", type=int, default=80, help="networks that each search evaluates")
    parser.add_argument("--state", type=Path, default=RESULTS / "detection.json", help="file of finished parts")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    until = time.monotonic() + 60 * options.budget
    trainings = DetectionTrainings(options)
    left = [key for key, make in parts(trainings, seeds=options.seeds) if not trainings.part(key, make, until=until)]
    print(text := table(trainings.done, seeds=options.seeds))
    if left:
        print(f"\nNot finished, for another call: {'; '.join(left)}.")
    if options.save:
        print(f"saved {report(text, trainings, left=len(left))}")


def report(text: str, trainings: DetectionTrainings, *, left: int) -> Path:
    """Keep the table."""
    options, done = trainings.options, trainings.done
    minutes = sum(part["seconds"] for part in done.values()) / 60
    machines = ", ".join(sorted({part["cpu"] for part in done.values()}))
    return save(
        text + (f"\n\n{left} parts are not finished." if left else ""),
        name="detection",
        device=detect().cpu.slug,
        title="Searched detectors on scenes of digits",
        command=f"python -m benchmarks.detection {asked()}",
        notes=f"{options.space} at {options.image_size} pixels; {options.images:,} training, {options.heldout:,} "
        f"held-out and {len(trainings.test):,} test scenes; {options.epochs} epochs; up to {options.seeds} seeds, "
        f"ranges in brackets; searches of {options.evaluations} evaluations. {minutes:.0f} CPU minutes of one thread "
        f"in all, on {machines}; "
        f"matrix products run on: {matmul_backend()}.",
    )


if __name__ == "__main__":
    main()
