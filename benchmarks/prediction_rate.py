"""Predictions a second, with intervals: a population at once, beside the same networks one by one.

    python -m benchmarks.prediction_rate [--device DEVICE] [--predictors DIR] [--networks 20000] [--single 50] [--save]

Each predictor of a space answers for random networks of it, that of networks of any kind for networks of one of its
spaces, that of timm's models for networks of autoformer-tiny at its usual batch. Both sides begin at genomes and end at
means and intervals of 90 %, which must be the same. CPU time of one thread (run it with OMP_NUM_THREADS=1); the median
of `--repeats` runs, with the slowest and the fastest.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.support.saving import asked, markdown, printed, save
from hwnas.data_paths import PREDICTORS, data_search_path
from hwnas.devices import detect
from hwnas.predict.lookup import PredictorEntry, predictor_entries
from hwnas.predict.predictor import Prediction, Predictor
from hwnas.space import SPACES

HEADER = ("predictor", "model", "a second, at once", "of that features", "a second, one by one", "ratio")
CONFIDENCE = 0.9
OTHER = "autoformer-tiny"
"""The space whose networks a predictor of timm's models answers for."""


def cpu_seconds(task: Callable[[], Any], *, repeats: int) -> tuple[Any, list[float]]:
    """What a task gives, and the CPU seconds of its runs."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        found = task()
        seconds.append(time.process_time() - start)
    return found, seconds


def line(entry: PredictorEntry, *, networks: int, single: int, repeats: int) -> tuple[str, ...]:
    kinds = [kind for kind in entry.card.data.kinds if kind in SPACES]
    space, predictor = SPACES.get(entry.card.space or min(kinds, default=OTHER)), Predictor.load(entry.path)
    batch = entry.card.data.usual_batch
    genomes = space.sample(np.random.default_rng(0), networks)

    def at_once() -> Prediction:
        return predictor.predict(space.workloads(genomes), confidence=CONFIDENCE, batch=batch)

    def one_by_one() -> list[Prediction]:
        rows = [genomes[row : row + 1] for row in range(single)]
        return [predictor.predict(space.workloads(row), confidence=CONFIDENCE, batch=batch) for row in rows]

    _, features_s = cpu_seconds(lambda: predictor.population(space.workloads(genomes), batch=batch), repeats=repeats)
    many, many_s = cpu_seconds(at_once, repeats=repeats)
    singles, single_s = cpu_seconds(one_by_one, repeats=repeats)
    np.testing.assert_allclose([one.upper[0] for one in singles], many.upper[:single], rtol=1e-4)
    ratio = (networks / median(many_s)) / (single / median(single_s))
    return (
        "/".join(entry.path.parts[-2:]),
        entry.card.model,
        spread(networks, many_s),
        f"{median(features_s) / median(many_s):.0%}",
        spread(single, single_s),
        f"{ratio:,.0f}x",
    )


def spread(count: int, seconds: list[float]) -> str:
    """Predictions a second: the median, the lowest and the highest."""
    return f"{count / median(seconds):,.0f} ({count / max(seconds):,.0f} – {count / min(seconds):,.0f})"


def lines(options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    places = data_search_path(PREDICTORS, options.predictors)
    for entry in predictor_entries(places, device=options.device or detect().cpu.slug):
        yield line(entry, networks=options.networks, single=options.single, repeats=options.repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="whose predictors; this CPU's if none is named")
    parser.add_argument("--predictors", type=Path, help="the folder of predictors")
    parser.add_argument("--networks", type=int, default=20_000, help="asked about at once")
    parser.add_argument("--single", type=int, default=50, help="asked about one by one")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    options = parser.parse_args()
    if options.single > options.networks:
        parser.error("--single must not be more than --networks")
    rows = printed(lines(options))
    if not rows:
        parser.error("there must be a predictor for the device")
    if options.save:
        path = save(
            markdown(HEADER, rows),
            name="prediction_rate",
            device=detect().cpu.slug,
            title="Predictions a second, with intervals",
            command=f"python -m benchmarks.prediction_rate {asked()}",
            notes=f"{options.networks:,} random networks at once, {options.single} one by one; CPU time of one thread.",
        )
        print(f"saved {path}")


if __name__ == "__main__":
    main()
