from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.config import to_mapping
from hwnas.errors import InputError
from hwnas.runs import Run
from hwnas.search.spec import PostSearch, read_spec
from hwnas.search.strategies.nsga2 import Nsga2Search
from hwnas.space import SPACES
from tests.search.test_record import SPACE, SPEC


def test_a_specification_is_read_from_the_manifest_of_its_run(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", command=("hwnas", "search"), config=SPEC)
    assert read_spec(Run.open(run.path)) == SPEC


def test_it_makes_space_problem_and_strategy() -> None:
    space = SPEC.load_space(Path("run"))
    assert (space.config.image_size, space.config.num_classes) == (32, 7)
    problem = SPEC.make_problem(space)
    assert problem.metrics == ("accuracy", "macs")
    assert (str(problem.constraints[0]), problem.confident) == ("macs<=3e+06", False)
    assert replace(SPEC, confidence=0.9).make_problem(space).confident
    assert SPEC.make_strategy() == Nsga2Search(pool=5)


def test_a_study_does_not_depend_on_paths_or_on_what_follows_the_search() -> None:
    assert SPEC.supernet is not None
    moved = replace(SPEC.supernet, path=Path("elsewhere"), data="digits")
    other = replace(SPEC, supernet=moved, num_seeds=3, random_baseline=True, notes=("a note",))
    assert replace(other, post_search=PostSearch(export_top=5)).study_config == SPEC.study_config
    for changed in (replace(SPEC, seed=4), replace(SPEC, supernet=replace(SPEC.supernet, digest="other"))):
        assert changed.study_config != SPEC.study_config
    assert "supernet" not in replace(SPEC, supernet=None).study_config


def test_a_space_that_has_changed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(SPACES.get(SPACE.name).config, mlp_ratios=(2.5, 3.0))
    monkeypatch.setitem(SPACES._entries, SPACE.name, replace(SPACES.get(SPACE.name), config=other))
    with pytest.raises(InputError, match="must be of autoformer-micro as it is now") as caught:
        SPEC.load_space(Path("run"))
    assert caught.value.hint == "use hwnas==0.1, which made the run, or start a new search"


def test_a_search_of_an_older_version_is_refused(tmp_path: Path) -> None:
    old = {"search": to_mapping(SPEC), "finish": {"kit": 1}}
    run = Run.create(tmp_path / "run", command=("hwnas", "search"), config=old)
    with pytest.raises(InputError, match=r"which hwnas\.search/2 introduced") as caught:
        read_spec(run)
    assert "hwnas.search/1" in str(caught.value.got)
    assert "start a new search" in str(caught.value.hint)


def test_another_command_has_no_specification(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", command=("hwnas", "train"), config={"recipe": {}})
    with pytest.raises(InputError, match="must be the run of a search"):
        read_spec(run)


def test_numbers_of_winners_are_not_negative() -> None:
    with pytest.raises(InputError, match="retrain must be between 0 and 10000"):
        PostSearch(retrain=-1)
    with pytest.raises(InputError, match="export_top must be between 0 and 10000"):
        PostSearch(export_top=-1)
