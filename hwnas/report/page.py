"""A self-contained HTML page: data, script, style and plotly are embedded."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from hwnas.report.compact import script_json, values_of
from hwnas.report.data import RunData
from hwnas.report.facts import Facts, facts_of
from hwnas.report.verdict import banners, front_size, mismatches, sentence

TEMPLATE, STYLE = "report.html", "report.css"
SCRIPTS = (
    "base.js",
    "points.js",
    "front.js",
    "choose.js",
    "table.js",
    "networks.js",
    "parallel.js",
    "curves.js",
    "main.js",
)
"""The parts of the page's script, in order of concatenation."""


@dataclass(frozen=True, kw_only=True)
class RunView:
    """Text and tables of one run on the page."""

    name: str
    space: str
    sentence: str
    front_size: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    facts: Facts


def render(runs: Sequence[RunData]) -> str:
    """Return the page of one run, or of several drawn into the same figures."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    views = [_view(data) for data in runs]
    # The distinct notes of all runs, each with the names of its runs.
    texts = dict.fromkeys(text for view in views for text in view.notes)
    return environment.from_string(_asset(TEMPLATE)).render(
        runs=views,
        notes=[(text, [view.name for view in views if text in view.notes]) for text in texts],
        title=", ".join(dict.fromkeys(data.space.name for data in runs)),
        mismatches=mismatches(runs),
        lacks_training=_lacks_training(runs),
        # These are files of the package, and JSON that is escaped for a script; the template escapes all other texts.
        style=Markup(_asset(STYLE)),
        plotly=Markup(get_plotlyjs()),
        data=Markup(script_json(values_of(runs))),
        script=Markup("\n".join(_asset(name) for name in SCRIPTS)),
    )


def _lacks_training(runs: Sequence[RunData]) -> bool:
    """Return True if supernets were searched and there is no curve of a training."""
    has_supernet = any(data.record is not None and data.record.spec.supernet is not None for data in runs)
    return has_supernet and not any(data.trainings for data in runs)


def _asset(name: str) -> str:
    return (files("hwnas.report") / "assets" / name).read_text(encoding="utf-8")


def _view(data: RunData) -> RunView:
    shown = banners(data)
    return RunView(
        name=data.name,
        space=data.space.name,
        sentence=sentence(data),
        front_size=front_size(data),
        warnings=tuple(banner.text for banner in shown if banner.level == "warning"),
        notes=tuple(banner.text for banner in shown if banner.level == "note"),
        facts=facts_of(data),
    )
