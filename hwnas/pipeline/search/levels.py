"""GLiT's search with a supernet for each level: layouts first, then the details of the best layout.

    RUN/levels/manifest.json       the options of the search
    RUN/levels/layouts             the search of the first level
    RUN/levels/networks/ID         the training of one of its most accurate layouts on its own
    RUN/levels/choice.json         their accuracies, and the layout that was chosen
    RUN/levels/supernet            the supernet of the second level

The search of the second level is that of RUN itself.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.config import dump_toml, from_mapping, load_json, to_mapping
from hwnas.errors import InputError, UsageError
from hwnas.files import WriterLock, file_errors, remove_temporaries, write_atomic
from hwnas.pipeline.search.options import DEFAULT_BUDGET, SearchOptions
from hwnas.pipeline.search.run_folder import require_new
from hwnas.progress import Reporter
from hwnas.runs import LOCK, MANIFEST, Run, command_line
from hwnas.search.record import NETWORKS
from hwnas.search.result import FoundNetwork, load_search
from hwnas.search.spec import PostSearch, SearchSpec, read_spec
from hwnas.space import SPACES
from hwnas.space.deployed import networks_of
from hwnas.space.glit import DETAILS, LAYOUT, GlitArch

if TYPE_CHECKING:
    from hwnas.pipeline.search.context import SearchContext
    from hwnas.train.options import TrainOptions

LEVELS, LAYOUTS = "levels", "layouts"
"""Folders of a run with the levels, and in it of the search of the first level."""

CHOICE, SUPERNET = "choice.json", "supernet"
"""In the folder of levels: accuracies of trained layouts, and the run of the supernet of the second level."""

_DEFAULT = f"{LAYOUT}glit-tiny"

TRAINED_LAYOUTS = 5
"""Layouts of the first level that are trained on their own, as in the paper."""


@dataclass(frozen=True, kw_only=True)
class TrainedLayout:
    """A layout of the first level, with its accuracy on held-out images."""

    arch_id: str
    groups: str
    """Attention groups of the blocks, a digit each."""
    inherited: float
    trained: float
    """After a training of its own from fresh weights."""


@dataclass(frozen=True, kw_only=True)
class LayoutChoice:
    """The layouts that were trained on their own, and the most accurate one."""

    layouts: tuple[TrainedLayout, ...]

    @property
    def best(self) -> TrainedLayout:
        """The most accurate layout; of equal ones, that with more inherited accuracy."""
        return max(self.layouts, key=lambda layout: (layout.trained, layout.inherited))


def first_level(options: SearchOptions) -> SearchOptions:
    """Return the options of the search of layouts, with half of the budget.

    Raises:
        UsageError: The options cannot be those of two levels.
    """
    if not options.accuracy:
        message = "levels with a supernet each are searched by accuracy"
        raise UsageError(message, got="--no-accuracy", hint="leave out --levels")
    if not isinstance(options.strategy, str | None):
        raise UsageError("levels are searched by a strategy with a name", got=type(options.strategy).__name__)
    if options.budget == 1:
        raise UsageError("two levels need a budget of at least 2", got=options.budget)
    space = options.space
    if space is None and options.supernet is None:
        space = _DEFAULT
    if space is not None and not space.casefold().startswith(LAYOUT):
        space = SPACES.resolve(LAYOUT + SPACES.resolve(space))
    total = _evaluations(options)
    return replace(
        options,
        space=space,
        levels="shared",
        budget=None if total is None else total // 2,
        minutes=None if options.minutes is None else options.minutes / 2,
        random_baseline=False,
        post_search=PostSearch(
            verify=False, export_top=0, retrain_from="scratch", retrain_epochs=options.post_search.retrain_epochs
        ),
    )


def _evaluations(options: SearchOptions) -> int | None:
    return DEFAULT_BUDGET if options.budget is None and options.minutes is None else options.budget


def require_layouts(context: "SearchContext", options: SearchOptions) -> None:
    """Raise an InputError if the supernet of a search is not the run of one of layouts."""
    from hwnas.pipeline.search.retraining import require_retrainable

    supernet, name = context.supernet, context.spec.space
    assert supernet is not None, "a search of layouts without a supernet"
    if not name.startswith(LAYOUT):
        has_both = context.space.family == "glit" and not name.startswith(DETAILS)
        hint = f"hwnas train --space {LAYOUT + name if has_both else _DEFAULT} --data DIR"
        raise InputError(
            "the first level is searched in a supernet of layouts", got=f"{supernet.path}, of {name}", hint=hint
        )
    if not (supernet.path / MANIFEST).is_file():
        message = "the supernet of the second level is trained as that of the first"
        raise InputError(
            message, got=f"{supernet.path}, a file of weights, which names no recipe", hint="--supernet RUN"
        )
    require_retrainable(supernet, context.spec.post_search)
    if options.post_search.retrain:
        require_retrainable(supernet, options.post_search)


def create_levels(run: Path, options: SearchOptions, context: "SearchContext") -> None:
    """Make the folder of levels in a new run folder.

    Args:
        run: A new or an empty folder.
        options: Options of the search.
        context: The inputs of the search of layouts.

    Raises:
        InputError: The folder holds something.
    """
    supernet = context.spec.supernet
    assert supernet is not None, "a search of layouts without a supernet"
    kept = replace(
        options,
        supernet=supernet.path,
        data=supernet.data,
        space=context.spec.space,
        runs=options.runs.resolve(),
        predictors=options.predictors and options.predictors.resolve(),
        profiles=options.profiles and options.profiles.resolve(),
    )
    require_new(run)
    Run.create(run / LEVELS, command=command_line(), config=kept, seeds={"seed": options.seed})


def read_levels(run: Path) -> SearchOptions | None:
    """Return the options of a search of two levels that has not begun its second; None: the run is another one."""
    if (run / MANIFEST).is_file() or not (run / LEVELS / MANIFEST).is_file():
        return None
    return from_mapping(SearchOptions, Run.open(run / LEVELS).manifest.config, where=str(run / LEVELS / MANIFEST))


def lock_levels(run: Path) -> WriterLock:
    """Become the only writer of the levels of a run, and remove what a killed writer left there."""
    lock = WriterLock(run / LEVELS / LOCK, activity="search")
    remove_temporaries(run)
    remove_temporaries(run / LEVELS)
    return lock


def second_level(run: Path, options: SearchOptions, *, reporter: Reporter) -> SearchOptions:
    """Train the best layouts, then the supernet of the best one; each unless it is done.

    Args:
        run: A run with the finished search of layouts.
        options: Options of the search.
        reporter: Receives messages and progress.

    Returns:
        The options of the search of details, with the rest of the budget.
    """
    folder = run / LEVELS
    spec = read_spec(Run.open(folder / LAYOUTS))
    choice = _choose(folder, spec, reporter=reporter)
    best = choice.best
    reporter.message(f"layout {best.groups}: {best.trained:.2%} trained on its own, the best of {len(choice.layouts)}")
    space = f"{DETAILS}{best.groups}-{spec.space.removeprefix(LAYOUT)}"
    _train(folder / SUPERNET, reporter=reporter, options=lambda: supernet_options(spec, space=space, folder=folder))
    total = _evaluations(options)
    return replace(
        options,
        space=space,
        supernet=folder / SUPERNET,
        levels="shared",
        budget=None if total is None else total - total // 2,
        minutes=None if options.minutes is None else options.minutes / 2,
    )


def _choose(folder: Path, spec: SearchSpec, *, reporter: Reporter) -> LayoutChoice:
    if (folder / CHOICE).is_file():
        return from_mapping(LayoutChoice, load_json(folder / CHOICE), where=str(folder / CHOICE))
    layouts = _most_accurate(folder / LAYOUTS)
    choice = LayoutChoice(
        layouts=tuple(_trained(network, arch, spec, folder, reporter=reporter) for network, arch in layouts)
    )
    write_atomic(folder / CHOICE, json.dumps(to_mapping(choice), indent=2) + "\n")
    return choice


def _most_accurate(layouts: Path) -> list[tuple[FoundNetwork, GlitArch]]:
    """Return the layouts with most inherited accuracy; those that violate a constraint come last."""
    networks = load_search(layouts).networks
    ranked = sorted(networks, key=lambda network: (not network.feasible, -network.metrics["accuracy"]))
    best: dict[str, tuple[FoundNetwork, GlitArch]] = {}
    for network in ranked:  # a search in several deployments has a layout several times
        assert isinstance(network.candidate.arch, GlitArch)
        best.setdefault(network.arch_id, (network, network.candidate.arch))
    return list(best.values())[:TRAINED_LAYOUTS]


def _trained(
    network: FoundNetwork, arch: GlitArch, spec: SearchSpec, folder: Path, *, reporter: Reporter
) -> TrainedLayout:
    """Train a layout from fresh weights without the held-out images, and evaluate it on them."""
    from hwnas.pipeline.evaluate import evaluate
    from hwnas.pipeline.search.retraining import retraining_options

    own = folder / NETWORKS / network.arch_id
    space = networks_of(spec.load_space(folder / LAYOUTS))
    with file_errors(own, "written"):
        own.mkdir(parents=True, exist_ok=True)
    groups = "".join(str(block.groups) for block in arch.blocks)
    reporter.message(f"layout {groups}: {network.metrics['accuracy']:.2%} inherited; training of its own")
    _train(
        own / "training",
        options=lambda: retraining_options(spec, arch, space=space, folder=own, hold_out=True),
        reporter=reporter,
    )
    (row,) = evaluate(own / "training").networks
    assert row.top1 is not None, "a classifier without accuracy"
    return TrainedLayout(
        arch_id=network.arch_id, groups=groups, inherited=network.metrics["accuracy"], trained=row.top1
    )


def _train(folder: Path, *, options: "Callable[[], TrainOptions]", reporter: Reporter) -> None:
    """Begin a training, or go on with it; one that has ended is not repeated."""
    from hwnas.pipeline.train import train_model
    from hwnas.train.options import TrainOptions

    resume = (folder / MANIFEST).is_file()
    train_model(TrainOptions() if resume else options(), out=folder, resume=resume, reporter=reporter)


def supernet_options(spec: SearchSpec, *, space: str, folder: Path) -> "TrainOptions":
    """Return the options of training the supernet of another space as that of a search was; a recipe is written.

    Args:
        spec: The search, with the run of a supernet.
        space: The other space.
        folder: Folder of the recipe.
    """
    from hwnas.pipeline.search.retraining import RECIPE, data_options
    from hwnas.train.options import TrainOptions, read_train_config

    supernet = spec.supernet
    assert supernet is not None, "levels without a supernet"
    config = read_train_config(Run.open(supernet.path))
    write_atomic(folder / RECIPE, dump_toml(config.recipe))
    data = replace(config.data, name=supernet.data or config.data.name)
    return TrainOptions(
        space=space,
        image_size=config.image_size,
        config_file=folder / RECIPE,
        seed=config.seed,
        teacher=config.teacher,
        heldout=data.heldout,
        **data_options(data),
    )
