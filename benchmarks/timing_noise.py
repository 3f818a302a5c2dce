"""The noise of one measurement by the statistic that its runs are reduced to, and by the samples of a turn.

    python -m benchmarks.timing_noise profiles/DEVICE/NAME... [--save]
    python -m benchmarks.timing_noise --measure 12 [--space autoformer-micro] [--pairs 16] [--save]

With profiles, the statistics are compared on their rows: the noise floor from networks that were measured twice, and
the share of measurements whose 95 % interval is wider than the limit of a stable one. With --measure, networks are
measured here twice with one sample in each turn and twice with up to four, in alternating order, the reference network
loaded anew for each pass. Latencies are relative to those with one sample, before which no run refills the caches if it
is a single run.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.saving import Line, asked, markdown, printed, save
from hwnas.devices import detect, require
from hwnas.metrics import Deployment
from hwnas.profile import timing
from hwnas.profile.network_timer import NetworkTimer
from hwnas.profile.runners.runner import default_runtime, exporter_for
from hwnas.profile.sampling import sample_evenly
from hwnas.profile.statistics import MAX_INTERVAL, MIN_RUNS, latency_interval, latency_ratio, valid_runs
from hwnas.profile.subjects import space_subject
from hwnas.profile.worker_messages import MeasurementTask
from hwnas.records import Measurement, Samples, Setting, load_profile
from hwnas.space import SPACES

Runs = NDArray[np.float64]
Statistic = Callable[[Runs], Runs]


def fastest(share: float) -> Statistic:
    """The mean of the fastest share of the runs."""

    def mean(runs: Runs) -> Runs:
        count = max(1, round(share * runs.shape[-1]))
        found: Runs = np.sort(runs, axis=-1)[..., :count].mean(axis=-1)
        return found

    return mean


STATISTICS: dict[str, Statistic] = {
    "20 % quantile": lambda runs: np.quantile(runs, 0.2, axis=-1),
    "median": lambda runs: np.median(runs, axis=-1),
    "mean": lambda runs: runs.mean(axis=-1),
    "fastest 20 %": fastest(0.2),
    "fastest 30 %": fastest(0.3),
    "fastest 40 %": fastest(0.4),
}
STATISTICS_HEADER: Line = ("profile", "networks measured twice", *STATISTICS)
SAMPLES_HEADER: Line = (
    "samples in a turn",
    "networks",
    "noise",
    "wide intervals",
    "latency",
    "seconds per measurement",
)


def counted(row: Measurement) -> tuple[Runs, Runs]:
    """The runs that count of a network and of the reference network."""
    assert row.samples is not None
    assert row.reference is not None
    return valid_runs(row.samples), valid_runs(row.reference)


def noise(pairs: Iterable[tuple[float, float]]) -> float:
    """The mean error of one of two values, without the shift that all pairs share."""
    first, second = np.asarray(list(pairs)).T
    logs = np.log(second / first)
    return float(np.mean(np.abs(logs - np.median(logs))) / np.sqrt(2))


def is_wide(runs: Runs, reference: Runs, statistic: Statistic, rng: np.random.Generator) -> bool:
    """Return True if the 95 % interval of a ratio is wider than that of a stable measurement."""
    draws = rng.integers(0, len(runs), (300, len(runs)))
    # Runs of a pair are drawn together, as for the interval of a measurement.
    theirs = draws if len(runs) == len(reference) else rng.integers(0, len(reference), (300, len(reference)))
    ratios = np.asarray(statistic(runs[draws]) / statistic(reference[theirs]))
    low, high = np.quantile(ratios, (0.025, 0.975))
    return bool((high - low) / (statistic(runs) / statistic(reference)) > MAX_INTERVAL)


def statistics_line(path: Path) -> Line:
    """Noise floor and share of wide intervals of a profile, by statistic."""
    rows = [row for row in load_profile(path).measured if row.samples and row.reference]
    runs = [both for both in map(counted, rows) if min(map(len, both)) >= MIN_RUNS]
    by_network: dict[str, list[tuple[Runs, Runs]]] = {}
    for row in rows:
        if min(map(len, counted(row))) >= MIN_RUNS:
            by_network.setdefault(f"{row.subject.network_id} {row.setting}", []).append(counted(row))
    twice = [found[:2] for found in by_network.values() if len(found) > 1]
    cells = []
    for statistic in STATISTICS.values():
        pairs = [tuple(float(statistic(ours) / statistic(theirs)) for ours, theirs in both) for both in twice]
        rng = np.random.default_rng(0)
        wide = np.mean([is_wide(*both, statistic, rng) for both in runs])
        cells.append(f"{100 * noise((one, two) for one, two in pairs):.2f} %, {100 * wide:.0f} % wide")
    return (path.name, str(len(twice)), *cells)


def samples_lines(arguments: argparse.Namespace) -> Iterator[Line]:
    """Noise, share of wide intervals and time of measurements with one sample in a turn and with more."""
    space, cpu = SPACES.get(arguments.space), require("cpu")
    runtime = default_runtime(cpu)
    deployment = Deployment(device=cpu.name, runtime=runtime, precision="fp32", batch=1, threads=1)
    subjects = [space_subject(space, candidate) for candidate in sample_evenly(space, arguments.measure, seed=0)]
    setting = Setting(deployment=deployment, exporter=exporter_for(runtime, subjects[0]))
    ratios: dict[int, list[list[float]]] = {1: [], 4: []}
    wide: dict[int, list[bool]] = {1: [], 4: []}
    seconds: dict[int, list[float]] = {1: [], 4: []}
    for samples in (1, 4, 4, 1):
        with closing(NetworkTimer()) as timer, patch.object(timing, "_MAX_SAMPLES_PER_TURN", samples):
            timer.measure(MeasurementTask(subject=subjects[0], setting=setting, seed=0, pairs=8))  # loads libraries
            found = []
            for subject in subjects:
                began = time.perf_counter()
                done = timer.measure(MeasurementTask(subject=subject, setting=setting, seed=0, pairs=arguments.pairs))
                seconds[samples].append(time.perf_counter() - began)
                if done.samples is None or done.reference is None:
                    raise SystemExit(f"{subject.network_id}: {done.failure}")
                found.append(latency_ratio(done.samples, done.reference))
                wide[samples].append(width(done.samples, done.reference) > MAX_INTERVAL)
            ratios[samples].append(found)
    for samples, (first, second) in ratios.items():
        latency = np.median(np.mean(ratios[samples], axis=0) / np.mean(ratios[1], axis=0))
        yield (
            "1" if samples == 1 else f"up to {samples}",
            str(len(first)),
            f"{100 * noise(zip(first, second, strict=True)):.2f} %",
            f"{100 * np.mean(wide[samples]):.0f} %",
            f"{latency:.3f}",
            f"{np.median(seconds[samples]):.2f}",
        )


def width(samples: Samples, reference: Samples) -> float:
    """The relative width of the 95 % interval of a measurement."""
    interval = latency_interval(samples, reference, reference_ms=1.0, seed=0)
    return (interval.high_ms - interval.low_ms) / latency_ratio(samples, reference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profiles", type=Path, nargs="*")
    parser.add_argument("--measure", type=int, default=0, help="networks to measure")
    parser.add_argument("--space", default="autoformer-micro")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    header = SAMPLES_HEADER if given.measure else STATISTICS_HEADER
    title = "Noise of one measurement, by the samples of a turn" if given.measure else "Noise of one measurement"
    print(markdown(header, ()))
    lines = printed(samples_lines(given) if given.measure else map(statistics_line, given.profiles))
    if given.save:
        name = f"timing_noise-samples-{given.space}" if given.measure else "timing_noise"
        command, device = f"python -m benchmarks.timing_noise {asked()}", detect().cpu.slug
        notes = f"An interval is wide above {MAX_INTERVAL:.0%} of the latency."
        print(save(markdown(header, lines), name=name, device=device, title=title, command=command, notes=notes))


if __name__ == "__main__":
    main()
