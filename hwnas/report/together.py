"""What several runs on one page do not share: where it differs, their figures cannot be compared."""

from collections.abc import Iterator, Sequence

from hwnas.report.data import RunData


def mismatches(runs: Sequence[RunData]) -> tuple[str, ...]:
    """What a reader must know before laying these runs over each other; nothing for one run."""
    if len(runs) < 2:
        return ()
    return (*_settings(runs), *_pictures(runs), *_boxes(runs))


def _settings(runs: Sequence[RunData]) -> Iterator[str]:
    """Metrics of one name that are of several devices or settings: they share an axis of the page."""
    for name in dict.fromkeys(metric.name for data in runs for metric in data.metrics if metric.where):
        wheres = {
            data.name: " and ".join(metric.where for metric in data.metrics if metric.name == name) for data in runs
        }
        known = {run: where for run, where in wheres.items() if where}
        if len(set(known.values())) > 1:
            said = "; ".join(f"{run}: {where}" for run, where in known.items())
            yield f"{name} is not of the same device and setting in all runs ({said})."


def _pictures(runs: Sequence[RunData]) -> Iterator[str]:
    specs = [data.record.spec.supernet for data in runs if data.record is not None]
    judged = {None if spec is None else (spec.data_name, spec.num_images) for spec in specs}
    if len(judged) > 1 and all(any(metric.name == "accuracy" for metric in data.metrics) for data in runs):
        yield "Accuracies are of different pictures: they cannot be compared."


def _boxes(runs: Sequence[RunData]) -> Iterator[str]:
    boxes = {None if data.record is None else (data.record.spec.objectives, data.record.bounds) for data in runs}
    if len(boxes) > 1:
        yield "Each hypervolume is relative to its own run's bounds: the hypervolumes cannot be compared."
