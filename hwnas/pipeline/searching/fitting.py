"""A predictor fitted on the way, where a device has a profile of the space but no predictor yet."""

from collections.abc import Callable
from pathlib import Path

from hwnas.profile.library import entries, search_path
from hwnas.search.metric import Metric


def fit_now(metric: Metric, *, space: str, profiles: Path | None, out: Path, say: Callable[[str], None]) -> bool:
    """Fit the predictor of a metric to the profiles of a space on its device; whether there were such profiles."""
    from hwnas.pipeline.fit import FitOptions, fit_predictors

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
    say(f"no predictor of {metric} yet: fitting one to {', '.join(entry.name for entry in found)}")
    options = FitOptions(
        device=metric.device, space=space, metrics=(metric.name,), profiles=profiles, out=out, **wanted
    )
    fit_predictors(options, say=say)
    return True
