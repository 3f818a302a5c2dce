"""Noise floors of profiles with and without runs on slowed cores, from the same rows.

    hwnas profile --space autoformer-micro --device cpu --samples 24 --pairs 16 --out PROFILES
    python -m benchmarks.slowed_cores PROFILES/DEVICE/NAME... [--save]

Without: as many pairs as were asked for, the first ones, whatever the core. With: the runs that count. Both sides are
of measurements that moved to quick cores, so the difference to a campaign that stays where it is would be larger.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.support.saving import Line, asked, markdown, printed, save
from hwnas.devices import detect
from hwnas.profile.results import assess_measurements
from hwnas.profile.statistics import MAX_SLOWED, MIN_RUNS, valid_runs
from hwnas.records import Measurement, Samples, load_profile

HEADER: Line = ("profile", "measurements", "slowed runs", "too few others", "noise floor without", "with")


def num_pairs(row: tuple[Samples, Samples]) -> int:
    """The pairs of a measurement: the faster network may have several samples in each."""
    return min(len(samples.wall_ns) for samples in row)


def first_runs(samples: Samples, share: float) -> Samples:
    """The first share of the runs, all of which count."""
    runs = round(share * len(samples.wall_ns))
    return replace(
        samples,
        wall_ns=samples.wall_ns[:runs],
        cpu_ns=samples.cpu_ns[:runs],
        switches=samples.switches[:runs],
        loop_ns=(),
        quickest_loop_ns=None,
    )


def floor(rows: Sequence[Measurement]) -> str:
    found = assess_measurements(rows).noise_floor
    return "-" if found is None else f"{100 * found.mean_error:.1f} %"


def line(path: Path) -> Line:
    rows = [row for row in load_profile(path).measured if row.samples and row.samples.loop_ns and row.reference]
    both = [(row, row.samples, row.reference) for row in rows if row.samples and row.reference]
    pairs = min(num_pairs((samples, reference)) for _, samples, reference in both)
    without = []
    for row, samples, reference in both:
        share = pairs / num_pairs((samples, reference))
        without.append(replace(row, samples=first_runs(samples, share), reference=first_runs(reference, share)))
    slowed = [np.asarray(one.loop_ns) > MAX_SLOWED * (one.quickest_loop_ns or 1) for _, *two in both for one in two]
    few = sum(min(len(valid_runs(one)) for one in two) < MIN_RUNS for _, *two in both)
    slow = float(np.mean(np.concatenate(slowed)))
    return (path.name, str(len(both)), f"{100 * slow:.0f} %", str(few), floor(without), floor(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profiles", type=Path, nargs="+")
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    lines = printed(map(line, given.profiles))
    if given.save:
        device, command = detect().cpu.slug, f"python -m benchmarks.slowed_cores {asked()}"
        title, notes = "Noise with and without runs on slowed cores", "The machine had other work at the same time."
        print(
            save(markdown(HEADER, lines), name="slowed_cores", device=device, title=title, command=command, notes=notes)
        )


if __name__ == "__main__":
    main()
