"""GLiT's levels with a supernet each: `hwnas search --levels separate`."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwnas.errors import HwnasError, InputError, UsageError
from hwnas.pipeline import train as training
from hwnas.pipeline.evaluate import evaluate
from hwnas.pipeline.search import levels
from hwnas.pipeline.search.levels import LayoutChoice, TrainedLayout, first_level
from hwnas.pipeline.search.options import SearchOptions
from hwnas.pipeline.search.run import SearchRun, dry_run_search, search_networks
from hwnas.pipeline.train import train_model
from hwnas.runs import Run
from hwnas.search.result import load_search
from hwnas.search.spec import PostSearch
from hwnas.search.strategies.published import GlitEvolution
from hwnas.space.glit import GlitArch
from hwnas.train.options import TrainOptions, read_train_config
from hwnas.train.trainer import TrainerConfig
from tests.pipeline.search.workbench import write_supernet

BUDGET, LAYOUTS = 7, 2


def options(supernet: Path, **changes: Any) -> SearchOptions:
    values: dict[str, Any] = {"strategy": "glit", "budget": BUDGET, "post_search": PostSearch(export_top=0), **changes}
    return SearchOptions(supernet=supernet, levels="separate", runs=supernet.parent, **values)


@pytest.fixture(scope="module")
def supernet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("levels") / "supernet"
    given = TrainOptions(
        space="layout-glit-micro",
        data="digits",
        max_images=128,
        batch_size=64,
        heldout=60,
        epochs=1,
        seed=3,
        overrides={"sharing": "none", "optimizer.lr": "2e-3"},
    )
    return train_model(given, out=folder, trainer_config=TrainerConfig(threads=1)).run


@pytest.fixture(scope="module", autouse=True)
def _two_layouts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(levels, "TRAINED_LAYOUTS", LAYOUTS)
        yield


@pytest.fixture(scope="module")
def whole(supernet: Path) -> SearchRun:
    return search_networks(options(supernet), out=supernet.parent / "whole")


def _choice(run: Path) -> list[dict[str, Any]]:
    layouts: list[dict[str, Any]] = json.loads((run / "levels" / "choice.json").read_text())["layouts"]
    return layouts


def test_the_most_accurate_layouts_are_trained_from_scratch_and_the_best_one_is_taken(whole: SearchRun) -> None:
    found = load_search(whole.run / "levels" / "layouts")
    inherited = sorted((network.metrics["accuracy"] for network in found.networks), reverse=True)
    layouts = _choice(whole.run)
    assert [row["inherited"] for row in layouts] == inherited[:LAYOUTS]
    for row in layouts:
        run = whole.run / "levels" / "networks" / row["arch_id"] / "training"
        assert evaluate(run).networks[0].top1 == row["trained"]
        config = read_train_config(Run.open(run))
        assert (config.supernet, config.data.heldout, config.recipe.optimizer.lr) == (None, 60, 2e-3)
    best = max(layouts, key=lambda row: (row["trained"], row["inherited"]))
    assert whole.record.spec.space == f"details-{best['groups']}-glit-micro"
    for network in whole.result.networks:
        assert isinstance(network.candidate.arch, GlitArch)
        assert "".join(str(block.groups) for block in network.candidate.arch.blocks) == best["groups"]


def test_the_best_layout_is_the_one_with_most_accuracy_of_its_own() -> None:
    rows = [("a", 0.9, 0.5), ("b", 0.1, 0.6), ("c", 0.2, 0.6), ("d", 0.8, 0.4)]
    layouts = tuple(TrainedLayout(arch_id=name, groups="0", inherited=one, trained=own) for name, one, own in rows)
    assert LayoutChoice(layouts=layouts).best.arch_id == "c"


def test_each_level_has_half_of_the_budget_and_a_supernet_trained_alike(whole: SearchRun, supernet: Path) -> None:
    found = load_search(whole.run / "levels" / "layouts")
    assert (found.evaluations, whole.record.evaluations) == (BUDGET // 2, BUDGET - BUDGET // 2)
    first, second = (read_train_config(Run.open(run)) for run in (supernet, whole.run / "levels" / "supernet"))
    assert second.recipe.sharing == "none"
    assert second.space == whole.record.spec.space
    names = ("recipe", "data", "seed", "image_size", "num_classes", "teacher")
    assert {name: getattr(first, name) for name in names} == {name: getattr(second, name) for name in names}


def test_a_search_of_levels_that_was_interrupted_ends_as_if_it_was_not(
    whole: SearchRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, begun = tmp_path / "run", []
    shutil.copytree(whole.run / "levels", run / "levels", ignore=shutil.ignore_patterns("choice.json", "supernet"))
    shutil.rmtree(run / "levels" / "networks" / _choice(whole.run)[1]["arch_id"])

    def train(*arguments: Any, out: Path, resume: bool, **keywords: Any) -> Any:
        begun.append(resume)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return train_model(*arguments, out=out, resume=resume, **keywords)

    monkeypatch.setattr(training, "train_model", train)
    with pytest.raises(KeyboardInterrupt, match=f"try     hwnas search --resume {run}"):
        search_networks(resume=run)
    with pytest.raises(UsageError, match="the budget that it began with"):
        search_networks(resume=run, budget=40)
    found = search_networks(resume=run)
    assert _choice(run) == _choice(whole.run)
    assert begun == [True, False, True, False, False]
    assert found.record.front == whole.record.front
    assert search_networks(resume=run).record.front == whole.record.front


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accuracy": False}, "searched by accuracy"),
        ({"budget": 1}, "a budget of at least 2"),
        ({"strategy": GlitEvolution()}, "a strategy with a name"),
        ({"space": "autoformer-micro"}, "only a space of GLiT is searched on two levels"),
        ({"space": "details-0123-glit-micro"}, "only a space of GLiT is searched on two levels"),
        ({"space": "nothing"}, "nothing"),
    ],
)
def test_options_that_levels_cannot_have(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HwnasError, match=message):
        first_level(options(Path("supernet"), **changes))


def test_a_space_names_its_layouts() -> None:
    assert first_level(options(Path("supernet"), space="glit-micro")).space == "layout-glit-micro"
    assert first_level(replace(options(Path("supernet")), supernet=None)).space == "layout-glit-tiny"


@pytest.mark.parametrize(
    ("space", "message", "hint"),
    [
        ("glit-micro", "in a supernet of layouts", "hwnas train --space layout-glit-micro"),
        ("details-0123-glit-micro", "in a supernet of layouts", "hwnas train --space layout-glit-tiny"),
        ("layout-glit-micro", "trained as that of the first", "--supernet RUN"),
    ],
)
def test_supernets_that_the_first_level_cannot_have(tmp_path: Path, space: str, message: str, hint: str) -> None:
    file = write_supernet(tmp_path, space)
    for begin in (dry_run_search, search_networks):
        with pytest.raises(InputError, match=message) as caught:
            begin(options(file, data="digits"))
        assert hint in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_holds_something_is_not_taken(supernet: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="must be a new or an empty folder"):
        search_networks(options(supernet), out=tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["notes.txt"]
