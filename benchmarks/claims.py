"""Claims of the four papers, each tested with networks of a size that a CPU trains.

    python -m benchmarks.claims --data FOLDER [--transfer FOLDER] [--claims a,b] [--budget 60] [--seeds 3] [--save]

The folders hold images of 10 classes, for example CIFAR-10, and of other classes, for example Tiny ImageNet; images are
resized to 32 pixels. The spaces are the micro spaces, trained by their recipe with images moved and mirrored:

- a. AutoFormer: networks with inherited weights against the same ones trained on their own, for entangled blocks and
  for blocks with weights of their own.
- b. ViT-ResNAS: with and without the skip of its spatial reductions; four networks a step against one for as much time.
- c. ViTAS: channels on a ring against prefixes, identity shifting, weak against strong augmentation.
- d. GLiT: with and without locality at equal MACs; a search on two levels against one of as many evaluations.
- e. All: the network that is searched in the supernet against DeiT scaled by hand, equally fast and trained as long.
- f. AutoFormer: with a convolutional teacher, and after training on other images, each against without.

Each finished part is written to `--state`; another call goes on with those that are left. `--budget` is the minutes
after which no part is begun. Random networks have uniform genes: with identities anywhere that is three of four blocks
on average, and two and a half in the shifted space. A claim holds if the difference of the means exceeds the range over
the seeds on either side, and does not hold if the opposite does; else it is not decided. In e the network by hand is
another one with each seed, so that these ranges are wide; differences by seed stand beside. Test images choose nothing.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.support.claim_trainings import OWN_NETWORKS, RANDOM_NETWORKS, TEACHER, Trainings
from benchmarks.support.claim_variants import SEARCHED
from benchmarks.support.saving import RESULTS, asked, save
from hwnas.devices import detect
from hwnas.registry import Registry
from hwnas.supernet.matmul import matmul_backend

Part = tuple[str, Callable[[], dict[str, Any]]]
Values = Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two sides of a claim by seed; of `values`, the more the better."""

    claim: str
    figure: str
    sides: tuple[str, str]
    values: tuple[Values, Values]
    digits: int = 2

    @property
    def verdict(self) -> str:
        """The answer that the seeds allow."""
        ahead = mean(self.values[0]) - mean(self.values[1])
        spread = max(max(values) - min(values) for values in self.values)
        if len(self.values[0]) < 2 or abs(ahead) <= spread:
            return "not decided"
        return "holds" if ahead > 0 else "does not hold at this scale"

    def row(self) -> str:
        """Return the line of the table."""
        (first, second), digits = self.values, self.digits
        cells = [self.claim, self.figure]
        cells += [f"{side}: {_ranged(values, digits)}" for side, values in zip(self.sides, self.values, strict=True)]
        pairs = [one - other for one, other in zip(first, second, strict=True)]
        return f"| {' | '.join([*cells, _ranged(pairs, digits, sign='+'), self.verdict])} |"


HEADER = "| claim | figure | with | without | difference, by seed | |"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The parts that a claim needs, and its comparisons once they are done."""

    parts: Callable[[Trainings, int], Iterator[Part]]
    """Return the parts of one seed."""
    comparisons: Callable[[Mapping[str, Any], int], Iterator[Comparison]]
    """Return the comparisons from results by part, for a number of seeds."""


def _supernets(*names: str) -> Callable[[Trainings, int], Iterator[Part]]:
    def parts(trainings: Trainings, seed: int) -> Iterator[Part]:
        for name in names:
            yield f"supernet {name} {seed}", partial(trainings.supernet, name, seed)

    return parts


def _entangled_parts(trainings: Trainings, seed: int) -> Iterator[Part]:
    yield from _supernets(*_ENTANGLED)(trainings, seed)
    if seed == 0:
        for index in range(OWN_NETWORKS):
            yield f"own autoformer {index}", partial(trainings.own, "autoformer", index)


_ENTANGLED = ("autoformer", "autoformer, separate blocks")


def _entangled(done: Mapping[str, Any], seeds: int) -> Iterator[Comparison]:
    alone = [done[f"own autoformer {index}"]["heldout"] for index in range(OWN_NETWORKS)]
    inherited = [[done[f"supernet {name} {seed}"]["own"] for seed in range(seeds)] for name in _ENTANGLED]
    sides = ("entangled", "separate")
    gaps = [[100 * (mean(values) - mean(alone)) for values in side] for side in inherited]
    yield Comparison(
        claim="a. Weight entanglement: accuracy nearer to that of networks trained on their own",
        figure="inherited minus own training, points",
        sides=sides,
        values=(gaps[0], gaps[1]),
    )
    ranks = [[_kendall(values, alone) for values in side] for side in inherited]
    yield Comparison(
        claim="a. Weight entanglement ranks networks better",
        figure="Kendall of inherited with own training",
        sides=sides,
        values=(ranks[0], ranks[1]),
    )


def _reduction_parts(trainings: Trainings, seed: int) -> Iterator[Part]:
    yield from _supernets("resnas", "resnas, no skip", "resnas, one network a step")(trainings, seed)
    for name in ("resnas", "resnas, no skip"):
        yield f"largest {name} {seed}", partial(trainings.largest, name, seed)


def _reduction(done: Mapping[str, Any], seeds: int) -> Iterator[Comparison]:
    claim, sides = "b. Residual spatial reduction", ("with the skip", "without")
    names = ("resnas", "resnas, no skip")
    yield Comparison(
        claim=claim,
        figure="largest network on its own, test top-1 %",
        sides=sides,
        values=_pair(names, lambda name, seed: 100 * done[f"largest {name} {seed}"]["test"], seeds),
    )
    yield _random(done, seeds, claim=claim, names=names, sides=sides)
    yield _random(
        done,
        seeds,
        claim="b. Several networks a step, equal time",
        names=("resnas", "resnas, one network a step"),
        sides=("four", "one"),
    )


_VITAS = {
    "vitas, prefix": ("c. Channels on a ring", "ring", "prefix"),
    "vitas, identities anywhere": ("c. Identity shifting", "shifted", "anywhere"),
    "vitas, strong augmentation": ("c. Weak augmentation of the supernet", "weak", "strong"),
}


def _vitas(done: Mapping[str, Any], seeds: int) -> Iterator[Comparison]:
    for name, (claim, ours, other) in _VITAS.items():
        yield _random(done, seeds, claim=claim, names=("vitas", name), sides=(ours, other))


def _locality_parts(trainings: Trainings, seed: int) -> Iterator[Part]:
    yield from _supernets(*_GLIT)(trainings, seed)
    for name in _GLIT:
        yield f"within macs {name} {seed}", partial(trainings.found, name, seed, kind="within_macs")
    yield f"levels {seed}", partial(trainings.levels, seed)


_GLIT = ("glit", "glit, attention alone")


def _locality(done: Mapping[str, Any], seeds: int) -> Iterator[Comparison]:
    yield Comparison(
        claim="d. Locality at equal MACs",
        figure="network found, trained on its own, test top-1 %",
        sides=("with locality", "attention alone"),
        values=_pair(_GLIT, lambda name, seed: 100 * done[f"within macs {name} {seed}"]["test"], seeds),
    )
    if levels := [done[f"levels {seed}"] for seed in range(seeds) if f"levels {seed}" in done]:
        yield Comparison(
            claim="d. Search on two levels, equal evaluations",
            figure="best found, inherited, held-out top-1 %",
            sides=("two levels", "one"),
            values=([100 * mean(found["two"]) for found in levels], [100 * mean(found["one"]) for found in levels]),
        )


def _searched_parts(trainings: Trainings, seed: int) -> Iterator[Part]:
    for name in SEARCHED:
        yield from _supernets(name)(trainings, seed)
        yield f"searched {name} {seed}", partial(trainings.found, name, seed, kind="searched")
        yield f"by hand {name} {seed}", partial(trainings.by_hand, name, seed)


def _searched(done: Mapping[str, Any], seeds: int) -> Iterator[Comparison]:
    for name in SEARCHED:
        values = _pair(("searched", "by hand"), lambda kind, seed: 100 * done[f"{kind} {name} {seed}"]["test"], seeds)  # noqa: B023 (used at once)
        found = [done[f"supernet {name} {seed}"]["searched"] for seed in range(seeds)]
        times = ", ".join(f"{row['ms'] / row['hand_ms']:.2f}" for row in found)
        yield Comparison(
            claim=f"e. The searched network, {name}",
            figure=f"trained on its own, test top-1 % (time relative to the other: {times})",
            sides=("searched", "by hand"),
            values=values,
        )


def _taught_parts(trainings: Trainings, seed: int) -> Iterator[Part]:
    yield f"largest autoformer {seed}", partial(trainings.largest, "autoformer", seed)
    yield f"distilled {seed}", partial(trainings.distilled, seed)
    if trainings.options.transfer:
        yield f"transferred {seed}", partial(trainings.transferred, seed)


def _taught(done: Mapping[str, Any], seeds: int) -> Iterator[Comparison]:
    plain = [100 * done[f"largest autoformer {seed}"]["test"] for seed in range(seeds)]
    teachers = [100 * done[f"distilled {seed}"]["teacher"] for seed in range(seeds)]
    for kind, claim in (("distilled", "f. Distillation"), ("transferred", "f. Transfer from other images")):
        if f"{kind} 0" not in done:
            continue
        figure = "largest network, test top-1 %"
        if kind == "distilled":
            figure += f" (teacher {TEACHER}: {_ranged(teachers, 2)})"
        values = [100 * done[f"{kind} {seed}"]["test"] for seed in range(seeds)]
        yield Comparison(claim=claim, figure=figure, sides=("with", "without"), values=(values, plain))


CLAIMS: Registry[Claim] = Registry(
    "claim",
    [
        ("a", Claim(parts=_entangled_parts, comparisons=_entangled)),
        ("b", Claim(parts=_reduction_parts, comparisons=_reduction)),
        ("c", Claim(parts=_supernets("vitas", *_VITAS), comparisons=_vitas)),
        ("d", Claim(parts=_locality_parts, comparisons=_locality)),
        ("e", Claim(parts=_searched_parts, comparisons=_searched)),
        ("f", Claim(parts=_taught_parts, comparisons=_taught)),
    ],
)


def _random(
    done: Mapping[str, Any], seeds: int, *, claim: str, names: tuple[str, str], sides: tuple[str, str]
) -> Comparison:
    """Compare random networks with inherited weights."""
    return Comparison(
        claim=claim,
        figure=f"mean of {RANDOM_NETWORKS} random networks, inherited, held-out top-1 %",
        sides=sides,
        values=_pair(names, lambda name, seed: 100 * mean(done[f"supernet {name} {seed}"]["random"]), seeds),
    )


def _pair(names: tuple[str, str], value: Callable[[str, int], float], seeds: int) -> tuple[list[float], list[float]]:
    first, second = ([value(name, seed) for seed in range(seeds)] for name in names)
    return first, second


def _kendall(one: Values, other: Values) -> float:
    from scipy.stats import kendalltau  # type: ignore[import-untyped]

    return float(kendalltau(one, other).statistic)


def _ranged(values: Values, digits: int, *, sign: str = "") -> str:
    middle, low, high = (f"{value:{sign}.{digits}f}" for value in (mean(values), min(values), max(values)))
    return f"{middle} ({low} – {high})" if len(values) > 1 else middle


def table(done: Mapping[str, Any], claims: Sequence[str], *, seeds: int) -> str:
    """Return the comparisons of all claims whose first seeds are finished."""
    lines = [HEADER, "|" + " --- |" * (HEADER.count("|") - 1)]
    for name in claims:
        for count in range(seeds, 0, -1):
            try:
                rows = [comparison.row() for comparison in CLAIMS.get(name).comparisons(done, count)]
            except KeyError:  # a part of this seed is not finished
                continue
            lines += rows
            break
        else:
            lines.append(f"| {name}. | not finished | | | | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder or Parquet files of 10 classes with test images")
    parser.add_argument("--transfer", help="folder of images of other classes, for claim f")
    parser.add_argument("--claims", default=",".join(CLAIMS), help="separated by commas")
    parser.add_argument("--budget", type=float, default=60, help="minutes after which no part is begun")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_000, help="training images")
    parser.add_argument("--heldout", type=int, default=2_000, help="images that networks are chosen by")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=120, help="networks that each search evaluates")
    parser.add_argument("--state", type=Path, default=RESULTS / "claims.json", help="file of finished parts")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    until = time.monotonic() + 60 * options.budget
    claims = options.claims.split(",")
    trainings = Trainings(options)
    parts = [
        part for seed in range(options.seeds) for name in claims for part in CLAIMS.get(name).parts(trainings, seed)
    ]
    left = [key for key, make in parts if not trainings.part(key, make, until=until)]
    print(text := table(trainings.done, claims, seeds=options.seeds))
    if left:
        print(f"\nNot finished, for another call: {'; '.join(left)}.")
    if options.save:
        print(f"saved {report(text, trainings, left=len(left))}")


def report(text: str, trainings: Trainings, *, left: int) -> Path:
    """Keep the table."""
    options, done = trainings.options, trainings.done
    minutes = sum(part["seconds"] for part in done.values()) / 60
    machines = ", ".join(sorted({part["cpu"] for part in done.values()}))
    return save(
        text + (f"\n\n{left} parts are not finished." if left else ""),
        name="claims",
        device=detect().cpu.slug,
        title="Claims of the papers, tested at a small scale",
        command=f"python -m benchmarks.claims {asked()}",
        notes=f"{len(trainings.data.train):,} training and {options.heldout:,} held-out images of 32 pixels; "
        f"{options.epochs} epochs; up to {options.seeds} seeds, ranges in brackets; searches of "
        f"{options.evaluations} evaluations. {minutes:.0f} CPU minutes of one thread in all, on {machines}; "
        f"matrix products run on: {matmul_backend()}.",
    )


if __name__ == "__main__":
    main()
