"""Results of searches as objects, loaded from their runs."""

from pathlib import Path

import numpy as np
import pytest

import hwnas
from hwnas.cli.app import run as run_command
from hwnas.errors import InputError
from hwnas.pipeline.search.options import SearchOptions
from hwnas.pipeline.search.run import SearchRun, search_networks
from hwnas.search.result import load_search
from hwnas.search.spec import PostSearch
from hwnas.search.study import Study


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SearchRun:
    options = SearchOptions(
        space="autoformer-micro",
        accuracy=False,
        objectives=("params",),
        constraints=("macs<=3M",),
        budget=40,
        post_search=PostSearch(verify=False, export_top=0),
    )
    return search_networks(options, out=tmp_path_factory.mktemp("runs") / "run")


def test_the_result_of_a_run_has_its_candidates_and_its_front(found: SearchRun) -> None:
    result = load_search(str(found.run))
    assert [network.arch_id for network in result.front] == list(found.record.front)
    assert (len(result.networks), result.evaluations) == (found.record.candidates, found.record.evaluations)
    assert result.hypervolume == found.record.history[-1][2]
    assert {network.feasible for network in result.networks} == {True}
    with Study.read(found.run) as study:
        macs = study.table().metrics["macs"].mean
    np.testing.assert_array_equal([network.metrics["macs"] for network in result.networks], macs)
    assert result.best(macs="<=2M").metrics["macs"] <= 2e6
    for network in result.front:  # a number counts with all its digits
        limit = network.metrics["macs"]
        assert result.best(macs=limit) is next(item for item in result.front if item.metrics["macs"] <= limit)
    assert repr(found.result) == repr(result)


def test_a_network_of_the_front_is_picked_by_a_rule(found: SearchRun, tmp_path: Path) -> None:
    result = load_search(found.run)
    assert result.pick("fast").metrics["macs"] == min(network.metrics["macs"] for network in result.front)
    assert result.pick("macs<=2M,params>=1k").id == result.best(macs="<=2M").id
    assert result.pick() in result.front
    with pytest.raises(InputError, match="no network on the front meets macs<=1"):
        result.pick("macs<=1")
    most = max(network.metrics["params"] for network in result.front)
    with pytest.raises(InputError, match=r"no network on the front meets params>=1e\+09,macs<=1e\+12") as none:
        result.pick("params>=1G,macs<=1T")
    assert none.value.got == f"{len(result.front)} networks on the front, params of {most:,.6g} at best"
    rule = str(none.value.hint).removeprefix("--pick '").rstrip("'")
    assert result.pick(rule).metrics["params"] >= 0.99 * most
    assert rule.endswith(",macs<=1e+12")
    exported = tmp_path / "exported"
    run = ("export", str(found.run), "--format", "safetensors", "--out", str(exported), "--json")
    assert run_command([*run, "--pick", "fast"]) == 0
    (weights,) = exported.glob("*.safetensors")
    assert result.pick("fast").candidate.network_id in weights.name
    assert run_command([*run, "--pick", "fast", "--arch", "min"]) == 2
    assert run_command([*run, "--pick", "quick"]) == 1


def test_only_the_run_of_a_finished_search_has_a_result(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be the run of a search that has ended"):
        load_search(tmp_path)
    hwnas.optimize("autoformer-micro", objectives=["macs", "params"], budget=5, out=tmp_path / "study")
    with pytest.raises(InputError, match="must be the run of a search") as caught:
        load_search(tmp_path / "study")
    assert caught.value.got == "a study of hwnas.optimize"


def test_two_searches_in_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    options = SearchOptions(
        space="autoformer-micro",
        accuracy=False,
        objectives=("params",),
        budget=3,
        runs=tmp_path,
        post_search=PostSearch(verify=False, export_top=0),
    )
    assert len({search_networks(options).run for _ in range(3)}) == 3
