"""Which predictor answers for a metric: what a question leaves out is filled in, and said."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwnas.data_paths import Origin, Places
from hwnas.devices import Machine, resolve
from hwnas.errors import InputError, MissingError
from hwnas.metrics import RUNTIMES, Metric
from hwnas.predict.library import PredictorEntry, devices, entries, search_path
from hwnas.predict.predictor import Predictor
from hwnas.predict.store import load_predictor

PRECISIONS = ("bf16", "fp16", "tf32", "fp32", "int8")
"""By preference, where a question names none."""


@dataclass(frozen=True, kw_only=True)
class ChosenPredictor:
    """The predictor that answers, and the metric as it answers it."""

    metric: Metric
    """Complete: device, runtime, precision and batch are those of the predictor."""
    predictor: Predictor
    path: Path
    origin: Origin
    note: str
    """Which predictor it is and what was filled in, in one sentence."""


def choose_predictor(
    metric: Metric,
    *,
    space: str | None,
    threads: int | None = None,
    predictors: Path | None = None,
    machine: Machine | None = None,
) -> ChosenPredictor:
    """The predictor of a metric on its device, for networks of a space or, without one, for any.

    A predictor of the space itself comes before one that was fitted to all networks; then the best runtime, the
    narrowest precision, the smallest batch (of throughput the largest), the fewest threads.
    """
    device = resolve(metric.device or "auto", machine=machine)
    places = search_path(predictors)
    there = [entry for entry in entries(places, device=device) if entry.card.metric.device == device]
    if not there:
        raise _nothing(metric, device, space, places)
    fitting = [entry for entry in there if _answers(entry, metric, space, threads)]
    if not fitting:
        raise _none_fits(metric, device, space, threads, there)
    best = min(fitting, key=lambda entry: _rank(entry, metric))
    return ChosenPredictor(
        metric=_completed(best, metric),
        predictor=load_predictor(best.path),
        path=best.path,
        origin=best.origin,
        note=_note(best, metric, fitting),
    )


def _answers(entry: PredictorEntry, metric: Metric, space: str | None, threads: int | None) -> bool:
    """Whether it is of that metric, and of whatever else the question names."""
    found = entry.card.metric
    return (
        found.name == metric.name
        and entry.card.space in (None, space)
        and metric.runtime in (None, found.runtime)
        and metric.precision in (None, found.precision)
        and threads in (None, entry.card.threads)
        and (found.batch is None or metric.batch in (None, found.batch))
    )


def _rank(entry: PredictorEntry, metric: Metric) -> tuple[int, ...]:
    found, throughput = entry.card.metric, metric.name == "throughput"
    batch = 0 if found.batch is None else found.batch
    return (
        int(entry.card.space is None),
        _place(RUNTIMES.names(), found.runtime),
        _place(PRECISIONS, found.precision),
        int(found.batch is None),
        -batch if throughput else batch,
        entry.card.threads or 0,
    )


def _place(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _completed(entry: PredictorEntry, metric: Metric) -> Metric:
    found = entry.card.metric
    batch = found.batch or metric.batch or entry.card.data.usual_batch
    return Metric(name=metric.name, device=found.device, runtime=found.runtime, precision=found.precision, batch=batch)


def _note(entry: PredictorEntry, metric: Metric, fitting: Sequence[PredictorEntry]) -> str:
    """Which predictor answers, and why its setting where the question left one out."""
    complete, card = _completed(entry, metric), entry.card
    of = f"{card.data.num_networks} networks of {card.space or 'every kind that was measured there'}"
    filled = [
        text
        for name, text in (
            ("runtime", f"{complete.runtime} is the best runtime with a predictor"),
            ("precision", f"{complete.precision} is the narrowest precision"),
            ("batch", _batch_reason(entry, complete)),
        )
        if getattr(metric, name) is None
    ]
    alike = {
        other.card.threads for other in fitting if (other.card.metric, other.card.space) == (card.metric, card.space)
    }
    if len(alike) > 1 and card.threads is not None:
        filled.append(f"{card.threads} is the fewest threads")
    return f"{complete}, fitted to {of}" + (f" ({'; '.join(filled)})" if filled else "")


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _batch_reason(entry: PredictorEntry, complete: Metric) -> str:
    if entry.card.metric.batch is None:
        return f"batch {complete.batch} is the commonest one measured"
    return f"batch {complete.batch} is the {'largest' if complete.name == 'throughput' else 'smallest'} one"


def _nothing(metric: Metric, device: str, space: str | None, places: Places) -> MissingError:
    known = devices(places)
    return MissingError(
        f"there is no predictor for {device}",
        got=str(metric),
        known=known,
        hint=_commands(device, space),
    )


def _none_fits(
    metric: Metric, device: str, space: str | None, threads: int | None, there: Sequence[PredictorEntry]
) -> InputError:
    networks = "any network" if space is None else f"networks of {space}"
    known = sorted(_described(entry, with_threads=threads is not None) for entry in there)
    return InputError(
        f"no predictor for {device} answers this for {networks}",
        got=f"{metric} with {_threads(threads)}" if threads is not None else str(metric),
        known=known,
        hint=_commands(device, space),
    )


def _described(entry: PredictorEntry, *, with_threads: bool) -> str:
    card = entry.card
    threads = f", {_threads(card.threads)}" if with_threads and card.threads is not None else ""
    return f"{card.metric} ({card.space or 'any'}{threads})"


def _commands(device: str, space: str | None) -> str:
    option = f" --space {space}" if space else ""
    return f"hwnas profile{option} --device {device}, then hwnas fit --device {device}"
