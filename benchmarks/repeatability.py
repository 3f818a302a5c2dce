"""How far two campaigns agree on the same networks, some time apart: undisturbed latency beside a plain median.

    python -m benchmarks.repeatability [--space autoformer-tiny] [--networks 10] [--gap-minutes 60] [--save]

The first call measures the networks and writes them to a file; a later one, after the gap, measures them again in
other processes and compares. Run it without arguments twice, or once with `--wait`, which sleeps in between. In each
campaign every network has a process of its own, which times it in strict pairs with the reference network
(`latency_ms`), and then in `--runs` more runs, whose median on the wall is what a plain benchmark would report.

The spread is the standard deviation of one measurement: the rms log-ratio of the two over the square root of 2.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.saving import save
from hwnas.config import from_mapping, to_mapping
from hwnas.devices import detect
from hwnas.files import write_atomic
from hwnas.metrics import DEFAULT_DEPLOYMENT, Deployment
from hwnas.profile.statistics import latency_median_ms, latency_ms, reference_latency_ms
from hwnas.profile.subjects import space_subject
from hwnas.profile.timing import PAIRS
from hwnas.profile.worker import Worker
from hwnas.profile.worker_messages import MeasurementTask
from hwnas.records import Samples, Setting, Subject
from hwnas.space import SPACES

HEADER = ("network", "latency_ms first", "second", "differ by", "plain median first", "second", "differ by")


def subjects(name: str, *, networks: int) -> list[Subject]:
    space = SPACES.get(name)
    candidates = space.candidates(space.sample(np.random.default_rng(0), networks))
    return [space_subject(space, candidate) for candidate in candidates]


def campaign(options: argparse.Namespace) -> dict[str, Any]:
    """Both measurements of every network, in an order of its own; a new process for each network."""
    deployment = Deployment(device=detect().cpu.slug, runtime=options.runtime).completed(DEFAULT_DEPLOYMENT)
    setting = Setting(deployment=deployment)
    found = {}
    chosen = subjects(options.space, networks=options.networks)
    order = np.random.default_rng(time.time_ns()).permutation(len(chosen))
    for place in order:
        subject = chosen[place]
        rows = {}
        with Worker() as worker:
            for kind, pairs in (("pairs", options.pairs), ("plain", options.runs)):
                task = MeasurementTask(subject=subject, setting=setting, seed=0, pairs=pairs)
                outcome = worker.measure(task)
                if outcome.failure is not None or outcome.samples is None or outcome.reference is None:
                    raise SystemExit(f"{subject.network_id}: {outcome.failure}")
                rows[kind] = {"samples": to_mapping(outcome.samples), "reference": to_mapping(outcome.reference)}
        found[subject.network_id] = rows
        print(f"{len(found)}/{len(chosen)} {subject.network_id}", flush=True)
    return {"ended_s": time.time(), "networks": found}


def references(found: dict[str, Any]) -> list[Samples]:
    return [from_mapping(Samples, rows["pairs"]["reference"]) for rows in found["networks"].values()]


def figures(found: dict[str, Any], *, reference_ms: float) -> dict[str, tuple[float, float]]:
    """Of each network the undisturbed latency and the plain median, in milliseconds."""
    return {
        name: (
            latency_ms(
                from_mapping(Samples, rows["pairs"]["samples"]),
                from_mapping(Samples, rows["pairs"]["reference"]),
                reference_ms=reference_ms,
            ),
            latency_median_ms(from_mapping(Samples, rows["plain"]["samples"])),
        )
        for name, rows in found["networks"].items()
    }


def compared(first: dict[str, Any], second: dict[str, Any]) -> str:
    """The table; both campaigns share the reference network's latency, as the sessions of one profile do."""
    before, after = references(first), references(second)
    both = reference_latency_ms([*before, *after])
    rows = table(figures(first, reference_ms=both), figures(second, reference_ms=both))
    one, two = reference_latency_ms(before), reference_latency_ms(after)
    return f"{rows}\n\nThe reference network by itself: {one:.2f} ms, then {two:.2f} ms ({two / one - 1:+.1%})."


def spread(ratios: Sequence[float]) -> float:
    return math.sqrt(sum(math.log(ratio) ** 2 for ratio in ratios) / len(ratios) / 2)


def table(first: dict[str, tuple[float, float]], second: dict[str, tuple[float, float]]) -> str:
    lines = [HEADER, tuple("---" for _ in HEADER)]
    ratios: list[list[float]] = [[], []]
    for name, before in first.items():
        cells = []
        for index in range(2):
            ratio = second[name][index] / before[index]
            ratios[index].append(ratio)
            cells += [f"{before[index]:.2f}", f"{second[name][index]:.2f}", f"{ratio - 1:+.1%}"]
        lines.append((name, *cells))
    spreads = [f"{spread(values):.2%}" for values in ratios]
    worst = [f"{max(abs(ratio - 1) for ratio in values):.1%}" for values in ratios]
    lines.append(("spread of one measurement", "", "", f"{spreads[0]} (worst {worst[0]})", "", "", ""))
    lines[-1] = (*lines[-1][:6], f"{spreads[1]} (worst {worst[1]})")
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def load(path: Path, options: argparse.Namespace) -> dict[str, Any] | None:
    """The first campaign, if there is one of the same networks."""
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    wanted = {subject.network_id for subject in subjects(options.space, networks=options.networks)}
    if wanted != found["networks"].keys():
        raise SystemExit(f"{path} holds other networks: remove it, or ask for the same ones")
    return found


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="autoformer-tiny")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--networks", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=PAIRS, help="strict pairs with the reference network")
    parser.add_argument("--runs", type=int, default=100, help="runs of the plain median")
    parser.add_argument("--gap-minutes", type=float, default=60, help="between the two campaigns, at least")
    parser.add_argument("--wait", action="store_true", help="sleep through the gap and go on")
    parser.add_argument("--file", type=Path, default=Path("repeatability.json"), help="where the first campaign is")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    first = load(options.file, options)
    if first is None:
        first = campaign(options)
        write_atomic(options.file, json.dumps(first))
    left_s = first["ended_s"] + 60 * options.gap_minutes - time.time()
    if left_s > 0 and not options.wait:
        print(f"the first campaign is in {options.file}; run this again in {left_s / 60:.0f} minutes")
        return
    time.sleep(max(0.0, left_s))
    gap_minutes = (time.time() - first["ended_s"]) / 60
    second = campaign(options)
    print(text := compared(first, second))
    if options.save:
        command = f"python -m benchmarks.repeatability --space {options.space} --networks {options.networks} --save"
        notes = f"Two campaigns, {gap_minutes:.0f} minutes apart; {options.pairs} pairs, {options.runs} plain runs."
        title = "Repeatability: the same networks in two campaigns"
        path = save(text, name="repeatability", device=detect().cpu.slug, title=title, command=command, notes=notes)
        print(f"saved {path}")


if __name__ == "__main__":
    main()
