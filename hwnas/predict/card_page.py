"""Rendering of a card as Markdown with a parity plot."""

import io
from collections.abc import Sequence

from hwnas.predict.card import Card
from hwnas.predict.metrics import Scores

PARITY = "parity.svg"
"""File name of the plot."""

_HEADER = ("model", "MAPE", "RMSPE", "within 5 %", "within 10 %", "Spearman", "Kendall", "largest error")


def card_page(card: Card) -> str:
    """Return the text of `card.md`."""
    models = [
        (f"**{row.model}**" if row.model == card.model else row.model, *_cells(row.scores)) for row in card.ranking
    ]
    shares = [(f"{entry.confidence:.0%}", f"{entry.share:.1%}") for entry in card.coverage]
    parts = [f"# {card.metric}", _summary(card), "## Models", _markdown(_HEADER, models)]
    parts += ["## Intervals", _markdown(("confidence", "held-out networks inside"), shares)]
    if card.learning_curve:
        floor = "-" if card.noise_floor is None else f"{card.noise_floor:.2%}"
        points = [(str(point.count), f"{point.mape:.2%}", floor) for point in card.learning_curve]
        parts += ["## How many samples", _markdown(("measurements fitted", "MAPE", "noise floor"), points)]
    parts += ["## Predicted and measured", f"![held-out networks]({PARITY})", "## Where it is from", _origin(card)]
    return "\n\n".join(parts) + "\n"


def parity_plot(card: Card) -> str:
    """Return an SVG plot of predicted against measured values of held-out networks."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    unit = card.metric.quantity.unit
    measured = [row.measured for row in card.held_out]
    predicted = [row.predicted for row in card.held_out]
    with mpl.rc_context({"svg.hashsalt": "hwnas", "svg.fonttype": "none"}):
        figure = Figure(figsize=(4.5, 4.5))
        figure.subplots_adjust(left=0.18, bottom=0.13, right=0.97, top=0.92)  # a layout of its own takes twice as long
        axes = figure.add_subplot(xscale="log", yscale="log", xlabel=f"measured, {unit}", ylabel=f"predicted, {unit}")
        ends = [min(measured + predicted), max(measured + predicted)]
        axes.plot(ends, ends, color="0.6", linewidth=1)
        axes.scatter(measured, predicted, s=12, alpha=0.6)
        axes.set_title(str(card.metric), fontsize=9)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _summary(card: Card) -> str:
    scores, data = card.scores, card.data
    lines = [
        f"Held-out networks are predicted to {scores.mape:.2%} on average (median {scores.median_error:.2%}, largest "
        f"{scores.max_error:.1%}) by the model `{card.model}`, fitted to {data.num_rows} measurements of "
        f"{data.num_networks} networks."
    ]
    if card.unlike is not None:
        inside = next(entry.share for entry in card.unlike.coverage if entry.confidence == 0.9)
        lines.append(
            f"Networks of families that were not fitted are predicted to {card.unlike.scores.mape:.2%} on average, "
            f"and {inside:.1%} of them are inside their 90% intervals ({card.unlike.num_families} families)."
        )
    if card.noise_floor is not None and card.error_over_floor is not None:
        lines.append(
            f"A perfect predictor would reach {card.noise_floor:.2%}, the noise floor of measuring again: "
            f"the error is {card.error_over_floor:.2f} times that."
        )
        if scores.spearman is not None and card.best_spearman is not None:
            lines.append(
                f"For the same reason its rank correlation would be about {card.best_spearman:.4f}: this one has "
                f"{scores.spearman:.4f}."
            )
    else:
        lines.append("The noise floor of these measurements is not known.")
    return "\n".join([*lines, *card.notes])


def _cells(scores: Scores) -> tuple[str, ...]:
    return (
        f"{scores.mape:.2%}",
        f"{scores.rmspe:.2%}",
        f"{scores.within_5:.0%}",
        f"{scores.within_10:.0%}",
        "-" if scores.spearman is None else f"{scores.spearman:.4f}",
        "-" if scores.kendall is None else f"{scores.kendall:.4f}",
        f"{scores.max_error:.1%}",
    )


def _origin(card: Card) -> str:
    protocol = card.protocol
    facts = [("created", card.created_utc), ("fitted to", ", ".join(card.data.sources) or "-")]
    facts += [
        (
            "protocol",
            f"{protocol.num_folds} folds, {protocol.repeats} times, seed {protocol.seed}, {protocol.held_out} held out",
        )
    ]
    facts += [("mixed environments", "yes")] if card.data.is_mixed else []
    return _markdown(("", ""), [*facts, *sorted(card.environment.items())])


def _markdown(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
