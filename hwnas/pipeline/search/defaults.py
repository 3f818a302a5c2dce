"""What a search takes where nobody says: the space, the newest supernet of it, the predictors of the device."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hwnas.devices import Machine, detect, resolve
from hwnas.errors import HwnasError, InputError, MissingError, unknown
from hwnas.metrics import Metric
from hwnas.predict.selector import ChosenPredictor, choose_predictor
from hwnas.profile.lookup import entries, search_path
from hwnas.progress import Reporter
from hwnas.runs import MANIFEST, Manifest, Run
from hwnas.search.objective import Constraint, Objective
from hwnas.space import SPACES


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Objectives and constraints with every metric complete, and the predictors behind them."""

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    chosen: tuple[ChosenPredictor, ...]


def known_space(name: str) -> str:
    """The listed name of a space."""
    if name not in SPACES:
        raise unknown("space", name, SPACES, hint="hwnas search --space {}")
    return SPACES.resolve(name)


def newest_supernet(space: str, *, runs: Path) -> Path | None:
    """The run under a folder that trained the supernet of a space last, and to the end."""
    found = [(manifest.created_utc, path.stat().st_mtime, path) for path, manifest in _trainings(runs, space)]
    return max(found)[2] if found else None


def _trainings(runs: Path, space: str) -> list[tuple[Path, Manifest]]:
    from hwnas.train.weights import SUPERNET

    if not runs.is_dir():
        return []
    found = []
    for folder in sorted(runs.iterdir()):
        if (folder / SUPERNET).is_file() and (folder / MANIFEST).is_file():
            manifest = _manifest(folder)
            config = {} if manifest is None else manifest.config
            if manifest is not None and "recipe" in config and config.get("space") == space:
                found.append((folder, manifest))
    return found


def _manifest(folder: Path) -> Manifest | None:
    """The manifest of a run; one that cannot be read is of no run that could be taken unasked."""
    try:
        return Run.open(folder).manifest
    except HwnasError:
        return None


def complete(
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    *,
    space: str,
    device: str | None,
    predictors: Path | None,
    profiles: Path | None,
    fitted: Path | None,
    reporter: Reporter,
    machine: Machine | None = None,
) -> Asked:
    """Give every device metric its predictor; where there is none but a profile, fit one into `fitted`, if given."""
    found: dict[Metric, ChosenPredictor] = {}
    here = machine or detect()
    for metric in _device_metrics(objectives, constraints):
        wanted = replace(metric, device=resolve(metric.device or device or "auto", machine=here))
        try:
            found[metric] = choose_predictor(wanted, space=space, predictors=predictors, machine=here)
        except (InputError, MissingError) as error:
            found[metric] = _fitted(
                wanted, error, space=space, profiles=profiles, out=fitted, reporter=reporter, machine=here
            )
    chosen = {str(item.metric): item for item in found.values()}
    return Asked(
        objectives=tuple(replace(one, metric=_completed(one.metric, found)) for one in objectives),
        constraints=tuple(replace(one, metric=_completed(one.metric, found)) for one in constraints),
        chosen=tuple(chosen.values()),
    )


def _device_metrics(objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> list[Metric]:
    every = [*(one.metric for one in objectives), *(one.metric for one in constraints)]
    return list(dict.fromkeys(metric for metric in every if metric.quantity.on_device))


def _completed(metric: Metric, found: dict[Metric, ChosenPredictor]) -> Metric:
    return found[metric].metric if metric in found else metric


def _fitted(
    metric: Metric,
    error: HwnasError,
    *,
    space: str,
    profiles: Path | None,
    out: Path | None,
    reporter: Reporter,
    machine: Machine,
) -> ChosenPredictor:
    """A predictor that is fitted now, to the newest profile of the space on the device; else the error stands."""
    if out is None or not fit_now(metric, space=space, profiles=profiles, out=out, reporter=reporter):
        raise error
    return choose_predictor(metric, space=space, predictors=out, machine=machine)


def missing(problems: Sequence[HwnasError]) -> HwnasError:
    """One error for all that is missing: each with the command that makes it."""
    if len(problems) == 1:
        return problems[0]
    kind = MissingError if all(isinstance(item, MissingError) for item in problems) else InputError
    said = "; ".join(item.message for item in problems)
    return kind("a search needs more than is here", got=said, hint="; ".join(item.hint or "" for item in problems))


def fit_now(metric: Metric, *, space: str, profiles: Path | None, out: Path, reporter: Reporter) -> bool:
    """Fit the predictor of a metric to the profiles of a space on its device; whether there were such profiles."""
    from hwnas.pipeline.predictors.fit import FitOptions, fit_predictors

    assert metric.device is not None
    wanted = {name: getattr(metric, name) for name in ("runtime", "precision", "batch")}
    found = [
        entry
        for entry in entries(search_path(profiles))
        if (entry.manifest.setting.device, entry.manifest.space) == (metric.device, space)
        and all(value in (None, getattr(entry.manifest.setting, name)) for name, value in wanted.items())
    ]
    if not found:
        return False
    reporter.message(f"no predictor of {metric} yet: fitting one to {', '.join(entry.name for entry in found)}")
    options = FitOptions(
        device=metric.device, space=space, metrics=(metric.name,), profiles=profiles, out=out, **wanted
    )
    fit_predictors(options, reporter=reporter)
    return True
