"""Errors of predictors on measurements that others made and on our own, beside simple ones in the same folds.

    python -m benchmarks.predictors [--tables DIR] [--profiles DIR] [--public-data DIR] [--rows NAME ...]
        [--methods NAME ...] [--seeds 3] [--state DIR] [--save]

`--tables` is a folder of tables of timm's benchmark as they are published; they are imported as by `hwnas profiles
import-timm`. `--profiles` has profiles of spaces, `--public-data` the measurements of HAT and NeuSight.

Every figure is of networks that were not fitted: the mean absolute relative error, the mean of the families' errors,
Spearman's rank correlation, the share inside 90 % intervals and their median width. Networks of equal workload are held
out together. `hwnas` is what `hwnas fit` does with these rows: families, times and choice of the model included. The
single models beside it are never chosen by their result here. Devices that are left out are predicted as by
`hwnas predict --device`, and ten of their networks are fitted by `hwnas fit --samples 10 --from` the other devices, or
as a table of ten random ones. Each finished line is written to `--state`, and another call finds it there, unless the
data or the code has changed since. `--save` writes the table to `benchmarks/results/`.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.support.baselines import BASELINES, Baseline
from benchmarks.support.measured_tables import (
    copied_tables,
    digest_of_tables,
    imported_tables,
    keep_rows,
    newest_tables,
    space_data,
    space_profiles,
    table_data,
    table_models,
)
from benchmarks.support.public_data import PLAIN, Data, hat_data, neusight_data
from benchmarks.support.saving import Line, asked, markdown, printed, save
from benchmarks.support.state import State, digest_of_arrays, digest_of_code
from hwnas.devices import detect
from hwnas.errors import InputError
from hwnas.metrics import Deployment, parse_metric
from hwnas.pipeline.predictors.fit import FitOptions, fit_predictors
from hwnas.pipeline.predictors.measured_networks import MeasuredNetworks, measured_table
from hwnas.pipeline.predictors.unmeasured import choose_unmeasured
from hwnas.predict.active import choose_next, spread_out
from hwnas.predict.arrays import Numbers
from hwnas.predict.features.table import Features
from hwnas.predict.fit import fit_predictor
from hwnas.predict.folds import Fold, Rows, group_equal_networks, make_folds
from hwnas.predict.metrics import scores
from hwnas.predict.models import AnalyticLearner, BoostedLearner, GaussianLearner, Learner, RidgeLearner
from hwnas.predict.predictor import Predictor
from hwnas.profile.lookup import TableEntry

HEADER = (
    "data",
    "fitted",
    "method",
    "MAPE %",
    "mean of families %",
    "Spearman",
    "inside 90 % interval %",
    "median width %",
    "aim %",
    "seconds a fit",
)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Predictions of some rows, with the ends of their intervals where there are any."""

    mean: Numbers
    low: Numbers | None = None
    high: Numbers | None = None


Method = Callable[[Data, Rows, Rows], Answers]
"""Rows that are fitted, rows that are held out; the answers for the latter."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Measurements, how they are held out, and what is tried."""

    title: str
    load: Callable[[], Data]
    count: int | None = None
    aim: float
    methods: dict[str, Method]
    by_family: bool = False
    held_out: int | None = None
    """So many random networks instead of folds."""


def answers(predictor: Predictor, features: Features) -> Answers:
    """Predict latencies from features at the batch of each row; those of latency are the same for any common batch."""
    batch = 1 if predictor.card.metric.deployment.fixed_batch is None else None
    made = predictor.predict_features(features, batch=batch)
    return Answers(mean=made.mean, low=made.lower, high=made.upper)


def answers_by_batch(predictor: Predictor, networks: MeasuredNetworks) -> Answers:
    """Predict networks as `hwnas predict --batch` does, those of one batch together."""
    mean, low, high = np.zeros((3, len(networks)))
    for batch in np.unique(networks.batches):
        rows = np.flatnonzero(networks.batches == batch)
        made = predictor.predict([networks.workloads[row] for row in rows], batch=int(batch))
        mean[rows], low[rows], high[rows] = made.mean, made.lower, made.upper
    return Answers(mean=mean, low=low, high=high)


def chosen(*, learners: Sequence[Learner] | None = None, choose: Callable[[Data, Rows], Rows] | None = None) -> Method:
    """Fit as `hwnas fit` does, to some of the rows if `choose` says so."""

    def method(data: Data, fit: Rows, held_out: Rows) -> Answers:
        rows = fit if choose is None else choose(data, fit)
        made = fit_predictor(data.observe(rows), learners=learners, with_curve=False)
        return answers(made, data.features.take(held_out))

    return method


def single(learner: Learner) -> Method:
    """One model of ours."""

    def method(data: Data, fit: Rows, held_out: Rows) -> Answers:
        fitted = learner.fit(data.features.take(fit), data.target[fit])
        return Answers(mean=fitted.predict(data.features.take(held_out)))

    return method


def simple(baseline: Baseline) -> Method:
    """A baseline, on the counters."""

    def method(data: Data, fit: Rows, held_out: Rows) -> Answers:
        return Answers(mean=baseline(data.counters.take(fit), data.target[fit], data.counters.take(held_out)))

    return method


def actively(count: int) -> Callable[[Data, Rows], Rows]:
    """Choose networks in rounds of ten, each by what was measured before."""

    def choose(data: Data, pool: Rows) -> Rows:
        features, target = data.features.take(pool), data.target[pool]
        rows = spread_out(features, count=10, seed=0)
        while len(rows) < count:
            rest = np.setdiff1d(np.arange(len(target)), rows)
            wanted = min(10, count - len(rows))
            picked = choose_next(features.take(rest), features.take(rows), target[rows], count=wanted, seed=0)
            rows = np.concatenate([rows, rest[picked]])
        return pool[rows]

    return choose


def at_random(count: int) -> Callable[[Data, Rows], Rows]:
    return lambda data, pool: np.random.default_rng(len(data.target)).permutation(pool)[:count]


COUNTERS = {name: simple(baseline) for name, baseline in BASELINES.items()}
MODELS = {
    "analytic sum": single(AnalyticLearner()),
    "analytic + Gaussian process": single(GaussianLearner()),
    "analytic + XGBoost": single(BoostedLearner()),
}
FADING = {
    "analytic + Gaussian process, fading": single(GaussianLearner(fading=True)),
    "analytic + XGBoost, fading": single(BoostedLearner(fading=True)),
}
"""The corrections of predictors for networks of any kind."""
QUADRATIC = RidgeLearner(name="quadratic", squared=True)
GPUS = {"rtx4090": "RTX 4090", "rtx-pro-6000-maxq": "RTX PRO 6000 Max-Q", "rtx3090": "RTX 3090"}
RUNTIMES = {"torch-compile": "compiled", "torch": "eager"}
PLAIN_AIMS = {("torch-compile", 200): 1.5, ("torch", 200): 1.8, ("torch-compile", 50): 3.5, ("torch", 50): 4.5}
FAMILY_AIMS = {"torch-compile": 8.0, "torch": 9.0}
DEVICE_AIMS = {("torch-compile", 0): (5.0, 6.0), ("torch", 0): (9.0, 11.0)} | {
    ("torch-compile", 10): (3.5, 4.5),
    ("torch", 10): (6.0, 8.0),
}
"""Aims for plain vision transformers and for all of a device, by runtime and number of its networks."""


def plain_rows(entries: Sequence[TableEntry], *, count: int) -> Iterator[Row]:
    for runtime, spelling in RUNTIMES.items():
        for device, entry in newest_tables(entries, runtime=runtime).items():
            if device == "rtx3090":
                continue
            methods: dict[str, Method] = {**COUNTERS, **MODELS, "hwnas": chosen()}
            if count == 50:
                # The order sees all networks of the fold, and chooses so many of them.
                methods["hwnas, active order"] = chosen(choose=actively(count))
                methods["hwnas, random order"] = chosen(choose=at_random(count))
                methods.pop("hwnas")
            yield Row(
                title=f"timm plain ViTs, {GPUS[device]} {spelling}",
                load=partial(table_data, entry, plain=True),
                count=count,
                aim=PLAIN_AIMS[runtime, count],
                methods=methods,
            )


def family_rows(entries: Sequence[TableEntry]) -> Iterator[Row]:
    for runtime, spelling in RUNTIMES.items():
        for device, entry in newest_tables(entries, runtime=runtime).items():
            if device == "rtx3090":
                continue
            yield Row(
                title=f"timm all ViT families, {GPUS[device]} {spelling}, families left out",
                load=partial(table_data, entry),
                aim=FAMILY_AIMS[runtime],
                by_family=True,
                methods={**COUNTERS, **MODELS, **FADING, "hwnas": chosen()},
            )


def random_rows(entries: Sequence[TableEntry]) -> Iterator[Row]:
    """All families, networks left out at random: the counterpart of `family_rows`."""
    for runtime, spelling in RUNTIMES.items():
        for device, entry in newest_tables(entries, runtime=runtime).items():
            if device == "rtx4090":
                yield Row(
                    title=f"timm all ViT families, {GPUS[device]} {spelling}, networks left out",
                    load=partial(table_data, entry),
                    aim=5.0,
                    methods={**COUNTERS, **FADING, "hwnas": chosen()},
                )


def space_rows(folder: Path) -> Iterator[Row]:
    """Profiles of our own spaces: the aim is in noise floors."""
    for entry in space_profiles(folder):
        data, floor = space_data(entry)
        yield Row(
            title=f"{entry.name} (noise floor {'-' if floor is None else f'{100 * floor:.2f} %'})",
            load=lambda data=data: data,  # type: ignore[misc]
            count=80,
            aim=120 * (floor or 0.0),
            methods={**COUNTERS, **MODELS, "hwnas": chosen()},
        )


def public_rows(root: Path) -> Iterator[Row]:
    few: list[Learner] = [AnalyticLearner(), QUADRATIC, BoostedLearner()]
    for title, load, aim in (
        ("HAT Titan Xp En-De, drift modelled", partial(hat_data, root, "wmt14ende_gpu_titanxp_all"), 2.7),
        ("HAT Raspberry Pi En-Fr", partial(hat_data, root, "wmt14enfr_cpu_raspberrypi_all"), 0.6),
    ):
        yield Row(title=title, load=load, aim=aim, methods={**COUNTERS, **MODELS, "hwnas": chosen(learners=few)})
    for title, device, aim in (("NeuSight linear, A100", "a100-pcie-40gb", 6.0), ("NeuSight linear, T4", "t4", 10.0)):
        yield Row(
            title=title,
            load=partial(neusight_data, root, device),
            count=200,
            aim=aim,
            held_out=1000,
            methods={**COUNTERS, **MODELS, "hwnas": chosen()},
        )


def folds_of(row: Row, data: Data, seed: int) -> Iterator[Fold]:
    if row.held_out is not None:
        order = np.random.default_rng(seed).permutation(len(data.target))
        yield Fold(order[row.held_out : row.held_out + (row.count or len(order))], order[: row.held_out])
        return
    # Models of several names may be one network: it is never on both sides.
    groups = list(data.families) if row.by_family else list(map(str, group_equal_networks(data.features)))
    yield from make_folds(len(data.target), num_folds=5, seed=seed, groups=groups)


def tried(row: Row, data: Data, method: Method, *, seeds: int, orders: bool) -> Line:
    """The scores of a method over all folds; methods with an order of their own get all rows of the fold."""
    found: list[Answers] = []
    held: list[Rows] = []
    fitted, seconds = [], []
    for seed in range(seeds):
        for number, fold in enumerate(folds_of(row, data, seed)):
            count = None if orders else row.count
            rows = np.random.default_rng([seed, number]).permutation(fold.fit)[:count]
            start = time.process_time()
            found.append(method(data, rows, fold.held_out))
            seconds.append(time.process_time() - start)
            held.append(fold.held_out)
            fitted.append(min(len(rows), row.count or len(rows)))
    figures = figures_of(found, [data.target[rows] for rows in held], _families(data, held) if row.by_family else ())
    return (f"{int(np.median(fitted))} of {len(data.target)}", *figures, f"{np.median(seconds):.1f}")


def _families(data: Data, held: Sequence[Rows]) -> list[str]:
    return [data.families[row] for rows in held for row in rows]


def figures_of(found: Sequence[Answers], truth: Sequence[Numbers], families: Sequence[str] = ()) -> Line:
    """MAPE, mean over families, Spearman, coverage and median width of the intervals."""
    mean, measured = np.concatenate([one.mean for one in found]), np.concatenate(truth)
    scored = scores(mean, measured)
    error = np.abs(mean / measured - 1)
    by_family = [float(error[np.array(families) == family].mean()) for family in sorted(set(families))]
    inside = width = ""
    if all(one.low is not None for one in found):
        low = np.concatenate([one.low for one in found if one.low is not None])
        high = np.concatenate([one.high for one in found if one.high is not None])
        inside = f"{100 * ((low <= measured) & (measured <= high)).mean():.0f}"
        width = f"{100 * np.median((high - low) / mean):.1f}"
    of_families = f"{100 * np.mean(by_family):.2f}" if by_family else ""
    return (f"{100 * scored.mape:.2f}", of_families, f"{scored.spearman or 0:.4f}", inside, width)


def table_of(row: Row, *, seeds: int, state: State, methods: Sequence[str] | None = None) -> Iterator[Line]:
    data = row.load()
    settings = {"data": digest_of(data), "count": row.count, "aim": row.aim, "seeds": seeds}

    def made(name: str, method: Method) -> list[Line]:
        count, *figures, seconds = tried(row, data, method, seeds=seeds, orders=name.endswith(" order"))
        return [(row.title, count, name, *figures, f"≤ {row.aim:.3g}", seconds)]

    for name, method in row.methods.items():
        if methods is None or name in methods:
            yield from state.lines(f"{row.title} {row.count} {name}", settings, partial(made, name, method))


def digest_of(data: Data) -> str:
    return digest_of_arrays(data.features.costs, data.features.shapes, data.features.counts, data.target)


def device_lines(entries: Sequence[TableEntry], *, samples: int, seeds: int, state: State) -> Iterator[Line]:
    """Each GPU left out in turn: predicted by the others, with none or ten of its networks."""
    for runtime in RUNTIMES:
        newest = newest_tables(entries, runtime=runtime)
        settings = {"tables": digest_of_tables(list(newest.values())), "seeds": seeds}
        for device in newest:
            make = partial(left_out_device, newest, device, samples=samples, seeds=seeds)
            yield from state.lines(f"{samples} of {device} {runtime}", settings, make)


def left_out_device(newest: dict[str, TableEntry], device: str, *, samples: int, seeds: int) -> list[Line]:
    """A GPU predicted by the others; with samples, those of the design and random ones."""
    networks, models = measured_table(newest[device]), table_models(newest[device])
    plain = np.array([bool(PLAIN.match(model)) for model in models])
    ways: dict[str, list[Callable[[], tuple[Predictor, Rows]]]] = {
        "hwnas predict, not measured": [partial(unmeasured, newest, device)]
    }
    if samples:
        drawn = [np.random.default_rng(seed).permutation(len(models))[:samples] for seed in range(seeds)]
        ways = {
            f"hwnas fit --samples {samples}": [partial(fitted_to_few, newest, device, samples=samples)],
            f"hwnas fit, {samples} random": [
                partial(fitted_to_few, newest, device, samples=samples, rows=rows) for rows in drawn
            ],
        }
    lines = []
    for name, makers in ways.items():
        start = time.process_time()
        try:
            made = [make() for make in makers]
        except InputError as error:  # such as a pool of one device
            runtime = RUNTIMES[str(newest[device].manifest.deployment.runtime)]
            title = f"timm ViTs, {GPUS[device]} {runtime}, device left out"
            lines.append((title, f"{samples} of {len(models)}", f"{name}: {error.message}", *[""] * (len(HEADER) - 3)))
            continue
        seconds = f"{(time.process_time() - start) / len(made):.1f}"
        runtime = str(newest[device].manifest.deployment.runtime)
        for which, aim in zip((plain, np.ones_like(plain)), DEVICE_AIMS[runtime, samples], strict=True):
            kept = [np.setdiff1d(np.flatnonzero(which), rows) for _, rows in made]
            parts = [networks.take(rows) for rows in kept]
            found = [answers_by_batch(predictor, part) for (predictor, _), part in zip(made, parts, strict=True)]
            figures = figures_of(found, [part.values["latency_ms"] for part in parts])
            kind = "plain ViTs" if which is plain else "all ViT families"
            title = f"timm {kind}, {GPUS[device]} {RUNTIMES[runtime]}, device left out"
            lines.append((title, f"{samples} of {len(models)}", name, *figures, f"≤ {aim:.3g}", seconds))
    return lines


def unmeasured(newest: dict[str, TableEntry], device: str) -> tuple[Predictor, Rows]:
    """The answer for a device without measurements, and no rows."""
    deployment = newest[device].manifest.deployment
    with TemporaryDirectory() as folder:
        copied_tables([entry for name, entry in newest.items() if name != device], Path(folder))
        metric = parse_metric(f"latency_ms@{device}/{deployment.runtime}/{deployment.precision}")
        return choose_unmeasured(metric, profiles=Path(folder)).predictor, np.zeros(0, dtype=np.intp)


def fitted_to_few(
    newest: dict[str, TableEntry], device: str, *, samples: int, rows: Rows | None = None
) -> tuple[Predictor, Rows]:
    """Fit some rows of a table next to those of other devices, as `hwnas fit` does; these rows as well."""
    models = table_models(newest[device])
    with TemporaryDirectory() as made:
        profiles, out = Path(made) / "profiles", Path(made) / "predictors"
        copied_tables(list(newest.values()), profiles)
        table = profiles / newest[device].path.parent.name / newest[device].path.name
        if rows is not None:
            keep_rows(table, [models[row] for row in rows])
        options = FitOptions(
            deployment=Deployment(device=device, runtime=newest[device].manifest.deployment.runtime),
            metrics=("latency_ms",),
            samples=samples if rows is None else None,
            sources=tuple(name for name in newest if name != device),
            profiles=profiles,
            out=out,
        )
        predictor = Predictor.load(fit_predictors(options).fitted[0].path)
    if rows is None:
        # The card has the measured values of the rows that were fitted.
        values = measured_table(newest[device]).values["latency_ms"]
        rows = np.flatnonzero(np.isin(values, [row.measured for row in predictor.card.held_out]))
    return predictor, rows


ROWS = ("devices-0", "devices-10", "plain-200", "families-out", "spaces", "plain-50", "networks-out", "public")
MAIN = ROWS[:-2]


def all_lines(options: argparse.Namespace) -> Iterator[Line]:
    state = State(folder=options.state, code=digest_of_code("hwnas/predict", "hwnas/pipeline/predictors", "benchmarks"))
    with TemporaryDirectory() as made:
        tables = Path(made) if options.state is None else options.state / "tables"
        entries = imported_tables(options.tables, tables) if options.tables else ()
        for name in options.rows:
            if name.startswith("devices-") and entries:
                samples = int(name.partition("-")[2])
                yield from device_lines(entries, samples=samples, seeds=options.seeds, state=state)
            else:
                for row in rows_of(name, entries, options):
                    yield from table_of(row, seeds=options.seeds, state=state, methods=options.methods)


def rows_of(name: str, entries: Sequence[TableEntry], options: argparse.Namespace) -> Iterator[Row]:
    if name.startswith("plain-"):
        yield from plain_rows(entries, count=int(name.partition("-")[2]))
    elif name == "families-out":
        yield from family_rows(entries)
    elif name == "networks-out":
        yield from random_rows(entries)
    elif name == "spaces" and options.profiles:
        yield from space_rows(options.profiles)
    elif name == "public" and options.public_data:
        yield from public_rows(options.public_data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, help="a folder of tables of timm's benchmark")
    parser.add_argument("--profiles", type=Path, help="a folder of profiles of spaces")
    parser.add_argument("--public-data", type=Path, help="the folder of measurements of HAT and NeuSight")
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="which lines; without it the usual ones")
    parser.add_argument("--methods", nargs="+", help="only these, of lines without a device left out")
    parser.add_argument("--seeds", type=int, default=3, help="repeats with other folds")
    parser.add_argument("--state", type=Path, help="a folder in which finished lines are kept")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    options = parser.parse_args()
    if options.tables is None and options.profiles is None and options.public_data is None:
        parser.error("--tables DIR, --profiles DIR or --public-data DIR is needed")
    # What is read only for these lines is not given for nothing.
    options.rows = options.rows or [*MAIN, *(["public"] if options.public_data else [])]
    rows = printed(all_lines(options))
    if not rows:
        parser.error(f"nothing was given to make these lines from: {', '.join(options.rows)}")
    if options.save:
        path = save(
            markdown(HEADER, rows),
            name="predictors",
            device=detect().cpu.slug,
            title="Predictors on measurements of others and of our own",
            command=f"python -m benchmarks.predictors {asked()}",
            notes="Networks, families or devices that were not fitted alone. No feature is made of a model's name.",
        )
        print(f"saved {path}")


if __name__ == "__main__":
    main()
