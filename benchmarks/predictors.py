"""How well predictors do on measurements that others made, beside simple ones in the same folds.

    python -m benchmarks.predictors [--public-data DIR] [--rows NAME ...] [--profiles DIR] [--seeds 1]
        [--state DIR] [--save]

Every figure is of networks that were not fitted: the mean absolute relative error, the share within 10 %, Spearman's
rank correlation. `ours` is what `fit_predictor` chooses by cross-validation inside the fitted part; the single models
beside it are never chosen by their result here. Workloads of timm's models are traced once (some minutes) and kept in
the user's cache folder. Each finished line is written to `--state`, and another call finds it there, unless the data or
the code of `hwnas/predict` has changed since. `--save` writes the table to `benchmarks/results/`.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.support.baselines import BASELINES, Baseline
from benchmarks.support.profiles import find_profiles, profile_data
from benchmarks.support.public_data import Data, hat_data, neusight_data, timm_data
from benchmarks.support.saving import save
from benchmarks.support.state import Line, State, digest_of_arrays, digest_of_code
from benchmarks.support.timm_workloads import cache_folder
from hwnas.devices import detect
from hwnas.metrics import parse_metric
from hwnas.predict.active import choose_next, spread_out
from hwnas.predict.arrays import Numbers
from hwnas.predict.features.conditions import Conditions
from hwnas.predict.features.table import Features, joined, with_source_predictions
from hwnas.predict.fit import Observations, fit_predictor
from hwnas.predict.folds import Fold, Rows, group_equal_networks, make_folds
from hwnas.predict.metrics import scores
from hwnas.predict.models import AnalyticLearner, BoostedLearner, GaussianLearner, Learner, RidgeLearner
from hwnas.predict.transfer import SCRATCHES, SIMPLE, transfer

HEADER = ("data", "fitted", "method", "MAPE %", "within 10 % %", "Spearman", "goal %", "seconds a fit")
Method = Callable[[Data, Rows, Rows], Numbers]
"""Rows that are fitted, rows that are held out; the answers for the latter."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line to beat: where its data is from, how it is held out, what is tried."""

    title: str
    load: Callable[[Path], Data]
    count: int | None
    goal: float
    methods: dict[str, Method]
    by_family: bool = False
    held_out: int | None = None
    """So many random networks instead of folds."""


def chosen(learners: Sequence[Learner] | None = None, *, by_family: bool = False) -> Method:
    """Predict with `fit_predictor`, as `hwnas fit` does, with families and times where the data has them."""

    def method(data: Data, fit: Rows, held_out: Rows) -> Numbers:
        observed = Observations(
            metric=_METRIC,
            conditions=_CONDITIONS,
            features=data.features.take(fit),
            values=data.target[fit],
            families=[data.families[row] for row in fit] if by_family else (),
            times=data.times[fit] if len(data.times) else None,
        )
        fitted = fit_predictor(observed, learners=learners, with_curve=False)
        return fitted.model.predict(data.features.take(held_out))

    return method


def single(learner: Learner) -> Method:
    """One model of ours."""

    def method(data: Data, fit: Rows, held_out: Rows) -> Numbers:
        return learner.fit(data.features.take(fit), data.target[fit]).predict(data.features.take(held_out))

    return method


def simple(baseline: Baseline) -> Method:
    """A baseline, on the counters."""

    def method(data: Data, fit: Rows, held_out: Rows) -> Numbers:
        return baseline(data.counters.take(fit), data.target[fit], data.counters.take(held_out))

    return method


COUNTERS = {name: simple(baseline) for name, baseline in BASELINES.items()}
MODELS = {
    "analytic sum": single(AnalyticLearner()),
    "analytic + Gaussian process": single(GaussianLearner()),
    "analytic + XGBoost": single(BoostedLearner()),
}
_METRIC = parse_metric("latency_ms@benchmark/torch/fp32/b1")
_CONDITIONS = Conditions(kind="gpu", op_per_s=1e13, byte_per_s=1e12, bytes_per_element=4)
"""Return the observations of data whose features are computed already."""
QUADRATIC = RidgeLearner(name="quadratic", squared=True)


def timm(key: str, *, all_families: bool = False) -> Callable[[Path], Data]:
    return lambda root: timm_data(root, key, cache=cache_folder(), all_families=all_families)


ROWS = {
    "plain-compiled-200": Row(
        title="timm plain ViTs, RTX 4090 compiled",
        load=timm("rtx4090-compiled"),
        count=200,
        goal=1.8,
        methods={**COUNTERS, **MODELS, "ours": chosen()},
    ),
    "plain-compiled-50": Row(
        title="timm plain ViTs, RTX 4090 compiled",
        load=timm("rtx4090-compiled"),
        count=50,
        goal=3.5,
        methods={**COUNTERS, **MODELS, "ours": chosen()},
    ),
    "plain-eager-200": Row(
        title="timm plain ViTs, RTX 4090 eager",
        load=timm("rtx4090-eager"),
        count=200,
        goal=3.0,
        methods={**COUNTERS, **MODELS, "ours": chosen()},
    ),
    "plain-i9": Row(
        title="timm plain ViTs, i9 CPU, batch 1",
        load=timm("i9-compiled"),
        count=200,
        goal=4.5,
        methods={**COUNTERS, **MODELS, "ours": chosen()},
    ),
    "families-out": Row(
        title="timm all ViT families, RTX 4090 compiled, families left out",
        load=timm("rtx4090-compiled", all_families=True),
        count=None,
        goal=10.0,
        by_family=True,
        methods={
            **COUNTERS,
            **MODELS,
            "ours": chosen(by_family=True),
        },
    ),
    "hat-titan-xp": Row(
        title="HAT Titan Xp En-De, drift modelled",
        load=lambda root: hat_data(root, "wmt14ende_gpu_titanxp_all"),
        count=None,
        goal=2.7,
        methods={
            **COUNTERS,
            "quadratic ridge": single(QUADRATIC),
            "ours": chosen([AnalyticLearner(), QUADRATIC, BoostedLearner()]),
        },
    ),
    "hat-raspberry-pi": Row(
        title="HAT Raspberry Pi En-Fr",
        load=lambda root: hat_data(root, "wmt14enfr_cpu_raspberrypi_all"),
        count=None,
        goal=0.6,
        methods={**COUNTERS, **MODELS, "ours": chosen([AnalyticLearner(), QUADRATIC, BoostedLearner()])},
    ),
    "neusight-a100": Row(
        title="NeuSight linear, A100",
        load=lambda root: neusight_data(root, "a100-pcie-40gb"),
        count=200,
        goal=6.0,
        held_out=1000,
        methods={**COUNTERS, **MODELS, "ours": chosen()},
    ),
    "neusight-t4": Row(
        title="NeuSight linear, T4",
        load=lambda root: neusight_data(root, "t4"),
        count=200,
        goal=10.0,
        held_out=1000,
        methods={**COUNTERS, **MODELS, "ours": chosen()},
    ),
}


def folds_of(row: Row, data: Data, seed: int) -> Iterator[Fold]:
    if row.held_out is not None:
        order = np.random.default_rng(seed).permutation(len(data.target))
        yield Fold(order[row.held_out : row.held_out + (row.count or len(order))], order[: row.held_out])
        return
    # Models of several names may be one network: it is never on both sides.
    groups = list(data.families) if row.by_family else list(map(str, group_equal_networks(data.features)))
    for number, fold in enumerate(make_folds(len(data.target), num_folds=5, seed=seed, groups=groups)):
        yield Fold(np.random.default_rng([seed, number]).permutation(fold.fit)[: row.count], fold.held_out)


def judge(row: Row, data: Data, method: Method, *, seeds: int) -> tuple[str, ...]:
    predicted, measured, fitted, seconds = [], [], [], []
    for seed in range(seeds):
        for fold in folds_of(row, data, seed):
            start = time.process_time()
            predicted.append(method(data, fold.fit, fold.held_out))
            seconds.append(time.process_time() - start)
            measured.append(data.target[fold.held_out])
            fitted.append(len(fold.fit))
    found = scores(np.concatenate(predicted), np.concatenate(measured))
    per_cent = (f"{100 * found.mape:.2f}", f"{100 * found.within_10:.0f}", f"{found.spearman:.4f}")
    return (f"{int(np.median(fitted))} of {len(data.target)}", *per_cent, f"{np.median(seconds):.1f}")


def table_of(row: Row, root: Path, *, seeds: int, state: State) -> Iterator[Line]:
    data = row.load(root)
    settings = {"data": digest_of(data), "count": row.count, "goal": row.goal, "seeds": seeds}
    for name, method in row.methods.items():
        yield from state.lines(
            f"{row.title} {row.count} {name}", settings, partial(line_of, row, data, name, method, seeds=seeds)
        )


def line_of(row: Row, data: Data, name: str, method: Method, *, seeds: int) -> list[Line]:
    count, mape, within, spearman, seconds = judge(row, data, method, seeds=seeds)
    return [(row.title, count, name, mape, within, spearman, f"≤ {row.goal:.3g}", seconds)]


def digest_of(data: Data) -> str:
    return digest_of_arrays(data.features.costs, data.features.shapes, data.features.counts, data.target)


TRANSFERRED = ("transfer, mixed by leave-one-out", "ours: transfer where it helps")


def transfers(root: Path, *, seeds: int) -> Iterator[Line]:
    """Ten networks of a new device, with the predictors of others."""
    for title, target_key, source_keys, unlike in (
        ("10 samples, RTX 4090 eager from RTX 3090 eager", "rtx4090-eager", ("rtx3090-eager",), ()),
        (
            "10 samples, RTX 4090 compiled from both eager",
            "rtx4090-compiled",
            ("rtx3090-eager", "rtx4090-eager"),
            ("rtx3090-eager", "rtx4090-eager"),
        ),
        ("10 samples, i9 from RTX 4090 compiled", "i9-compiled", ("rtx4090-compiled",), ("rtx4090-compiled",)),
    ):
        data = timm_data(root, target_key, cache=cache_folder())
        sources = {key: timm_data(root, key, cache=cache_folder()) for key in source_keys}
        answers: dict[str, list[Numbers]] = {name: [] for name in (*SCRATCHES, *TRANSFERRED)}
        truth = []
        for seed in range(2 * seeds):
            order = np.random.default_rng(seed).permutation(len(data.target))
            few, rest = order[:10], order[10:]
            # a source was measured on the same networks: that is what one has in practice
            models = {key: BoostedLearner().fit(source.features, source.target) for key, source in sources.items()}
            transferred = with_source_predictions(
                data.features, {key: made.predict(data.features) for key, made in models.items()}
            )
            made = transfer(transferred.take(few), data.target[few], sources=tuple(models), unlike=unlike)
            for name, learner in zip(SCRATCHES, SIMPLE, strict=True):
                scratch = learner.fit(data.features.take(few), data.target[few])
                answers[name].append(scratch.predict(data.features.take(rest)))
            answers["transfer, mixed by leave-one-out"].append(made.fitted.predict(transferred.take(rest)))
            gated = made.fitted.predict(transferred.take(rest)) if made.sources_help else chosen()(data, few, rest)
            answers["ours: transfer where it helps"].append(gated)
            truth.append(data.target[rest])
        for name, given in answers.items():
            found = scores(np.concatenate(given), np.concatenate(truth))
            figures = (f"{100 * found.mape:.2f}", f"{100 * found.within_10:.0f}", f"{found.spearman:.4f}")
            yield title, f"10 of {len(data.target)}", name, *figures, "", ""


def active_orders(root: Path, *, seeds: int) -> Iterator[Line]:
    """Networks chosen by uncertainty and diversity against random ones, at equal counts."""
    data = timm_data(root, "rtx4090-compiled", cache=cache_folder())
    for count in (20, 50, 100):
        errors: dict[str, list[Numbers]] = {"random order": [], "active order": []}
        truth = []
        for seed in range(2 * seeds):
            for fold in make_folds(len(data.target), num_folds=5, seed=seed):
                pool, held_out = data.features.take(fold.fit), data.features.take(fold.held_out)
                target = data.target[fold.fit]
                random = np.random.default_rng(seed).permutation(len(target))[:count]
                active = _actively(pool, target, count=count, seed=seed)
                for name, rows in (("random order", random), ("active order", active)):
                    errors[name].append(BoostedLearner().fit(pool.take(rows), target[rows]).predict(held_out))
                truth.append(data.target[fold.held_out])
        for name, given in errors.items():
            found = scores(np.concatenate(given), np.concatenate(truth))
            figures = (f"{100 * found.mape:.2f}", f"{100 * found.within_10:.0f}", f"{found.spearman:.4f}")
            yield "timm plain ViTs, RTX 4090 compiled", f"{count} of {len(data.target)}", name, *figures, "", ""


def _actively(pool: Features, target: Numbers, *, count: int, seed: int) -> Rows:
    rows = spread_out(pool, count=10, seed=seed)
    while len(rows) < count:
        rest = np.setdiff1d(np.arange(len(target)), rows)
        wanted = min(10, count - len(rows))
        picked = choose_next(pool.take(rest), pool.take(rows), target[rows], count=wanted, seed=seed)
        rows = np.concatenate([rows, rest[picked]])
    return rows


EXTRAS = {"transfer": transfers, "active": active_orders}


def lines_of(name: str, root: Path, *, seeds: int, state: State) -> Iterator[Line]:
    if name in EXTRAS:
        yield from state.lines(name, {"seeds": seeds}, lambda: list(EXTRAS[name](root, seeds=seeds)))
    else:
        yield from table_of(ROWS[name], root, seeds=seeds, state=state)


def own_lines(root: Path, *, seeds: int, state: State) -> Iterator[Line]:
    """Our own profiles: 80 and 200 networks fitted, the goal in noise floors; then each space left out."""
    loaded = {folder: profile_data(folder) for folder in find_profiles(root)}
    for folder, (data, floor) in loaded.items():
        for count, goal in ((80, 1.5), (200, 1.2)):
            if len(data.target) < 1.25 * count:
                continue
            row = Row(
                title=f"{folder.relative_to(root)} (noise floor {'-' if floor is None else f'{100 * floor:.2f} %'})",
                load=lambda _, data=data: data,  # type: ignore[misc]
                count=count,
                goal=100 * goal * (floor or 0.0),
                methods={**COUNTERS, **MODELS, "ours": chosen()},
            )
            yield from table_of(row, root, seeds=seeds, state=state)
    every = {folder: data for folder, (data, _) in loaded.items()}
    settings = {str(folder.relative_to(root)): digest_of(data) for folder, data in every.items()}
    yield from state.lines("spaces left out", settings, lambda: list(left_out_spaces(every, root)))


def left_out_spaces(loaded: dict[Path, Data], root: Path) -> Iterator[Line]:
    """Each space predicted from the others of the same device and setting."""
    for folder, data in loaded.items():
        setting = folder.name.removeprefix(data.families[0])
        others = [
            other
            for path, other in loaded.items()
            if path.parent == folder.parent and path != folder and path.name == other.families[0] + setting
        ]
        if not others:
            continue
        features = joined([other.features for other in others])
        target = np.concatenate([other.target for other in others])
        for name, learner in (("analytic sum", AnalyticLearner()), ("analytic + XGBoost", BoostedLearner())):
            found = scores(learner.fit(features, target).predict(data.features), data.target)
            figures = (f"{100 * found.mape:.2f}", f"{100 * found.within_10:.0f}", f"{found.spearman:.4f}")
            yield f"{folder.relative_to(root)}, space left out", str(len(target)), name, *figures, "", ""


def all_lines(options: argparse.Namespace) -> Iterator[Line]:
    state = State(folder=options.state, code=digest_of_code("hwnas/predict", "benchmarks"))
    if options.public_data is not None:
        for name in options.rows:
            yield from lines_of(name, options.public_data, seeds=options.seeds, state=state)
    if options.profiles is not None:
        yield from own_lines(options.profiles, seeds=options.seeds, state=state)


def table(rows: list[Line]) -> str:
    lines = [HEADER, tuple("---" for _ in HEADER), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public-data", type=Path, help="the folder of public measurements")
    parser.add_argument("--profiles", type=Path, help="a folder of profiles of our own spaces")
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, *EXTRAS], default=[*ROWS, *EXTRAS], help="which lines")
    parser.add_argument("--seeds", type=int, default=1, help="repeats with other folds")
    parser.add_argument("--state", type=Path, help="a folder in which finished lines are kept")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    options = parser.parse_args()
    if options.public_data is None and options.profiles is None:
        parser.error("--public-data DIR or --profiles DIR is needed")
    rows: list[Line] = []
    for line in all_lines(options):
        rows.append(line)
        print(f"| {' | '.join(line)} |", flush=True)
    if options.save:
        chosen_rows = "" if options.rows == [*ROWS, *EXTRAS] else f" --rows {' '.join(options.rows)}"
        folders = (" --public-data DIR" if options.public_data else "") + (
            " --profiles DIR" if options.profiles else ""
        )
        command = f"python -m benchmarks.predictors{folders}{chosen_rows} --seeds {options.seeds} --save"
        notes = "Held-out networks alone; five folds, or 1,000 held-out shapes. No feature is made of a model's name."
        title = "Predictors on public measurements"
        path = save(table(rows), name="predictors", device=detect().cpu.slug, title=title, command=command, notes=notes)
        print(f"saved {path}")


if __name__ == "__main__":
    main()
