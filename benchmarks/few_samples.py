"""Error of predictors of a GPU from ten measured networks, with models of other GPUs: each is left out in turn.

    python -m benchmarks.few_samples --tables DIR [--save]

DIR holds tables of timm's inference benchmark as they are published; they are imported into a temporary folder as by
`hwnas profiles import-timm`. Each table is predicted from the newest ones of the other GPUs in the same runtime: from
none of its networks (`hwnas predict`), and from ten. Ten by design are those that `hwnas fit --samples 10` takes, of a
random half of the table, as a table has more networks than anybody measures; random ten are of the whole table; the
landmarks are those of `hwnas profile --landmarks` that the table has. `hwnas` is what `hwnas fit` makes of them, `one
ratio` the answer from none of them times the median ratio.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.devices_out import run
from benchmarks.support.measured_tables import newest_tables, table_models
from benchmarks.support.public_data import PLAIN
from benchmarks.support.saving import Line
from hwnas.metrics import Metric
from hwnas.pipeline.predictors.measured_networks import MeasuredNetworks, measured_table
from hwnas.pipeline.predictors.unmeasured import _part, _sustained
from hwnas.predict.active import representative
from hwnas.predict.arrays import Numbers
from hwnas.predict.calibrated import calibrated_predictor
from hwnas.predict.metrics import scores
from hwnas.predict.pooled import MeasuredDevice, fit_pool, pooled_predictor, sustained_conditions
from hwnas.profile.landmarks import LANDMARKS
from hwnas.profile.lookup import TableEntry

HEADER = (
    "runtime",
    "device left out",
    "torch",
    "ten networks",
    "one ratio: MAPE % plain",
    "all",
    "hwnas: MAPE % plain",
    "all",
    "Spearman",
    "coverage %",
)
SEEDS = 3
COUNT = 10
Rows = NDArray[np.intp]


def samples(networks: MeasuredNetworks, names: Sequence[str]) -> Iterator[tuple[str, list[Rows]]]:
    """Ways to choose ten networks, with the rows by seed."""
    halves = [np.random.default_rng(seed).permutation(len(networks))[: len(networks) // 2] for seed in range(SEEDS)]
    yield "design", [half[representative(networks.features.take(half), count=COUNT)] for half in map(np.sort, halves)]
    yield "random", [half[:COUNT] for half in halves]
    yield "first rows", [np.arange(COUNT)]
    places = {name.partition(".")[0]: row for row, name in reversed(list(enumerate(names)))}
    yield "landmarks", [np.array([places[subject.name] for subject in LANDMARKS if subject.name in places])]


def lines_of(entry: TableEntry, pool: Sequence[MeasuredDevice]) -> Iterator[Line]:
    networks, names = measured_table(entry), table_models(entry)
    deployment = networks.deployment
    start = (str(deployment.runtime), networks.device.name, entry.manifest.environment.get("torch", ""))
    plain = np.array([bool(PLAIN.match(name)) for name in names])
    target = networks.values["latency_ms"]
    base = fit_pool(pool).predict(_part(networks).features)
    if len({part.device.name for part in pool}) > 1:
        made = pooled_predictor(
            pool,
            device=networks.device,
            metric=Metric(name="latency_ms", deployment=deployment),
            conditions=sustained_conditions(networks.device, precision="fp16", runtime=str(deployment.runtime)),
            environment={},
        )
        low, high = made.intervals.bounds(base, _part(networks).features, confidence=0.9)
        covered = f"{100 * float(((low <= target) & (target <= high)).mean()):.0f} of 90"
    else:
        covered = ""
    zero = [scores(base[rows], target[rows]) for rows in (plain, np.ones(len(plain), dtype=bool))]
    none = ("none", "", "", *(f"{100 * part.mape:.1f}" for part in zero), f"{zero[1].spearman:.4f}", covered)
    yield (*start, *none)
    for name, by_seed in samples(networks, names):
        figures = np.array([errors(networks, rows, pool, base=base, plain=plain) for rows in by_seed]).mean(axis=0)
        count = len(by_seed[0])
        yield (
            *start,
            name if count == COUNT else f"{name}, {count} of them",
            *(f"{100 * figure:.1f}" for figure in figures[:4]),
            f"{figures[4]:.4f}",
            f"{100 * figures[5]:.0f} of {100 * figures[6]:.0f}",
        )


def errors(
    networks: MeasuredNetworks, rows: Rows, pool: Sequence[MeasuredDevice], *, base: Numbers, plain: NDArray[np.bool_]
) -> tuple[float, ...]:
    """Errors on all other networks, of plain ones and of all, rank correlation, coverage and its confidence."""
    few = networks.take(rows)
    made = calibrated_predictor(
        pool,
        few.observations("latency_ms"),
        features=few.features_for(replace(_sustained(few), batch=few.batches)),
        conditions=_sustained(few),
    )
    features = networks.features_for(replace(made.conditions, batch=networks.batches))
    predicted, target = made.model.predict(features), networks.values["latency_ms"]
    rest = np.setdiff1d(np.arange(len(networks)), rows)
    one = base * float(np.exp(np.median(np.log(target[rows] / base[rows]))))
    low, high = made.intervals.bounds(predicted, features, confidence=made.default_confidence)
    of_plain, ranked = rest[plain[rest]], scores(predicted[rest], target[rest])
    return (
        scores(one[of_plain], target[of_plain]).mape,
        scores(one[rest], target[rest]).mape,
        scores(predicted[of_plain], target[of_plain]).mape,
        ranked.mape,
        float(ranked.spearman or 0.0),
        float(((low <= target) & (target <= high))[rest].mean()),
        made.default_confidence,
    )


def all_lines(entries: Sequence[TableEntry]) -> Iterator[Line]:
    for runtime in ("torch-compile", "torch"):
        same = [entry for entry in entries if entry.manifest.deployment.runtime == runtime]
        parts = [_part(measured_table(entry)) for entry in newest_tables(same, runtime=runtime).values()]
        for entry in same:
            pool = [part for part in parts if part.device.name != entry.manifest.deployment.device]
            yield from lines_of(entry, pool)


def main() -> None:
    run(
        all_lines,
        header=HEADER,
        name="few_samples",
        title="A GPU from ten networks",
        about=__doc__,
        notes=f"Mean error over the networks that were not measured, of {SEEDS} seeds where the choice is random:\n"
        "plain vision transformers, and all families. Coverage of intervals at the highest confidence that so many\n"
        "networks support. The landmarks were chosen with some of these tables, those that ship.",
    )


if __name__ == "__main__":
    main()
