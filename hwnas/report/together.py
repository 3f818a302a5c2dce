"""Differences between runs on one page that make their values incomparable."""

from collections.abc import Iterator, Sequence

from hwnas.report.data import RunData


def mismatches(runs: Sequence[RunData]) -> tuple[str, ...]:
    """Return warnings about comparing these runs; none for a single run."""
    if len(runs) < 2:
        return ()
    return (*_deployments(runs), *_images(runs), *_bounds(runs))


def _deployments(runs: Sequence[RunData]) -> Iterator[str]:
    """Metrics of the same name but different deployments, which share an axis of the page."""
    for name in dict.fromkeys(metric.name for data in runs for metric in data.metrics if metric.where):
        wheres = {
            data.name: " and ".join(metric.where for metric in data.metrics if metric.name == name) for data in runs
        }
        known = {run: where for run, where in wheres.items() if where}
        if len(set(known.values())) > 1:
            said = "; ".join(f"{run}: {where}" for run, where in known.items())
            yield f"{name} refers to different deployments ({said})."


def _images(runs: Sequence[RunData]) -> Iterator[str]:
    specs = [data.record.spec.supernet for data in runs if data.record is not None]
    images = {None if spec is None else (spec.data_name, spec.num_images) for spec in specs}
    if len(images) > 1 and all(any(metric.name == "accuracy" for metric in data.metrics) for data in runs):
        yield "Accuracies were evaluated on different images and cannot be compared."


def _bounds(runs: Sequence[RunData]) -> Iterator[str]:
    bounds = {None if data.record is None else (data.record.spec.objectives, data.record.bounds) for data in runs}
    if len(bounds) > 1:
        yield "Hypervolumes are normalised by the bounds of each run and cannot be compared."
