"""A search that has ended is asked again, from what it stored."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwnas.errors import HwnasError, InputError
from hwnas.metrics import Deployment
from hwnas.pipeline.predictors.predict import PredictOptions, predict_networks
from hwnas.pipeline.search.query import query
from hwnas.pipeline.search.run import SearchRun, search_networks
from hwnas.predict.predictor import Predictor
from hwnas.predict.saving import save_predictor
from hwnas.search.result import load_search
from hwnas.search.spec import PostSearch
from tests.pipeline.campaigns import CPU, FakeEnvironment
from tests.pipeline.search.workbench import FIRST, SPEED, free, options, write_bench, write_predictor


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_bench(tmp_path_factory.mktemp("bench"), FIRST)


@pytest.fixture(scope="module")
def searched(bench: dict[str, Any]) -> SearchRun:
    wanted = options(bench, objectives=("throughput",), strategy="nsga2", budget=20)
    return search_networks(wanted, out=bench["runs"] / "run", campaign_environment=FakeEnvironment().make())


def test_the_same_question_has_the_same_answer(searched: SearchRun) -> None:
    found = query(searched.run)
    assert {network.arch_id for network in found.networks} == set(searched.record.front)
    assert found.objectives == searched.record.spec.objectives
    assert all(SPEED in network.measured for network in found.networks)
    frame = found.to_frame()
    assert list(frame["arch_id"]) == [network.arch_id for network in found.networks]
    assert list(frame[f"{SPEED}_lower"]) == [network.lower[SPEED] for network in found.networks]
    assert list(frame[f"{SPEED}_measured"]) == [network.measured[SPEED] for network in found.networks]
    assert "macs_lower" not in frame


def test_the_balanced_network_is_that_of_the_search_and_measured(searched: SearchRun) -> None:
    found = query(searched.run)
    assert found.balanced is not None
    assert found.balanced.arch_id == load_search(searched.run).pick("balanced").id
    predicted = [replace(network, measured={}) for network in found.networks]
    (kept, *_) = [network for network in found.networks if network.arch_id != found.balanced.arch_id]
    mixed = tuple(kept if network.arch_id == kept.arch_id else network for network in predicted)
    assert replace(found, networks=mixed).balanced == kept
    assert replace(found, networks=()).balanced is None


def test_another_constraint_needs_no_search(searched: SearchRun) -> None:
    every = sorted(network.metrics["macs"] for network in query(searched.run).networks)
    bound = every[0]
    began = time.thread_time()
    found = query(searched.run, constraints=[f"macs<={bound:.0f}"])
    assert time.thread_time() - began < 1
    assert 0 < len(found.networks) < len(every)
    assert max(network.metrics["macs"] for network in found.networks) <= bound
    assert query(searched.run, constraints=["macs<=1"]).networks == ()


def test_a_metric_that_was_searched_is_found_by_its_name(searched: SearchRun) -> None:
    found = query(searched.run, objectives=["throughput"], constraints=[f"throughput@{CPU}>=1"])
    assert found.objectives == ("accuracy", "macs", SPEED)
    assert found.constraints == (f"{SPEED}>=1",)
    assert [note for note in found.notes if "are extrapolated" not in note] == []


def test_a_metric_that_was_not_searched_is_predicted(searched: SearchRun, bench: dict[str, Any]) -> None:
    found = query(searched.run, objectives=["latency_ms"], predictors=bench["predictors"])
    latency = f"latency_ms@{CPU}/onnxruntime/fp32/b1"
    assert found.objectives == ("accuracy", "macs", latency)
    assert all(network.lower[latency] < network.metrics[latency] < network.upper[latency] for network in found.networks)
    assert found.notes[0].startswith(f"predictor {latency}")


def test_another_device_is_asked_through_its_predictor(searched: SearchRun, tmp_path: Path) -> None:
    write_predictor(tmp_path, FIRST, device="h200")
    found = query(searched.run, device="h200", predictors=tmp_path)
    assert found.objectives == ("accuracy", "macs", "throughput@h200/onnxruntime/fp32/b1")
    assert found.networks


def test_networks_that_a_predictor_was_fitted_to_none_like_are_marked(searched: SearchRun, tmp_path: Path) -> None:
    folder = write_predictor(tmp_path, FIRST, device="h200")
    predictor = Predictor.load(folder)
    whole = predictor.fitted_range
    narrow = replace(whole, high=whole.low + 0.3 * (whole.high - whole.low))
    save_predictor(replace(predictor, fitted_range=narrow), folder)
    found = query(searched.run, device="h200", predictors=tmp_path)
    marked = [network for network in found.networks if network.outside]
    assert marked
    assert {network.outside for network in marked} == {"throughput"}
    assert any(note.startswith(f"throughput@h200/onnxruntime/fp32/b1: {len(marked)} of") for note in found.notes)
    assert list(found.to_frame()["outside"]) == [network.outside for network in found.networks]
    # hwnas predict refuses the same networks.
    for network in found.networks:
        target = f"{FIRST}:{json.dumps(network.arch)}"
        wanted = PredictOptions(deployment=Deployment(device="h200"), metrics=("throughput",), predictors=tmp_path)
        if network.outside:
            with pytest.raises(InputError, match="outside the fitted range"):
                predict_networks([target], wanted)
        else:
            assert predict_networks([target], wanted).outside == ()


def test_a_constraint_can_be_held_with_confidence(searched: SearchRun) -> None:
    some = query(searched.run).networks
    bound = sorted(network.metrics[SPEED] for network in some)[len(some) // 2]
    plain = query(searched.run, constraints=[f"throughput>={bound}"])
    held = query(searched.run, constraints=[f"throughput>={bound}"], confidence=0.9)
    assert held.confidence == 0.9
    assert all(network.lower[SPEED] >= bound for network in held.networks)
    assert len(held.networks) <= len(plain.networks)


def test_measured_networks_are_checked_by_their_measured_values(searched: SearchRun) -> None:
    bound = max(network.measured[SPEED] for network in query(searched.run).networks)
    found = query(searched.run, constraints=[f"throughput>={bound:.6g}", "macs>=1"])
    for network in found.networks:
        value = network.measured.get(SPEED, network.metrics[SPEED])
        assert value >= float(f"{bound:.6g}")
        assert network.predicted == ("" if SPEED in network.measured else "throughput")
    assert list(found.to_frame()["predicted"]) == [network.predicted for network in found.networks]
    assert found.closest == ()
    # Not even the predictions meet this one.
    unmet = query(searched.run, constraints=["throughput>=10000k", "macs>=1"])
    assert unmet.networks == ()
    assert len(unmet.closest) == 3
    shares = [near.missed[0].share for near in unmet.closest]
    assert shares == sorted(shares)
    for near in unmet.closest:
        (missed,) = near.missed
        assert (missed.constraint, missed.metric) == (f"{SPEED}>=1e+07", "throughput")
        assert missed.value == pytest.approx((1 - missed.share) * 1e7)


def test_the_confidence_of_the_search_is_lowered_to_what_another_device_supports(
    bench: dict[str, Any], tmp_path: Path
) -> None:
    wanted = free(
        bench, confidence=0.9, constraints=("throughput>=1",), post_search=PostSearch(verify=False, export_top=0)
    )
    run = search_networks(wanted, out=tmp_path / "run").run
    folder = write_predictor(tmp_path / "other", FIRST, device="h200")
    predictor = Predictor.load(folder)
    few = replace(predictor.card, data=replace(predictor.card.data, num_networks=10))
    save_predictor(replace(predictor, card=few), folder)
    assert query(run).confidence == 0.9
    elsewhere = query(run, device="h200", predictors=tmp_path / "other")
    assert elsewhere.confidence == 0.81
    assert elsewhere.notes[-1].startswith("confidence 0.81: the predictors were fitted to too few networks")
    with pytest.raises(InputError, match="10 networks support no interval at this confidence"):
        query(run, device="h200", predictors=tmp_path / "other", confidence=0.9)


def test_intervals_are_of_the_confidence_that_is_asked_for(searched: SearchRun) -> None:
    stored = {network.arch_id: network for network in query(searched.run).networks}
    for network in query(searched.run, confidence=0.5).networks:
        wide, (low, high) = stored[network.arch_id], (network.lower[SPEED], network.upper[SPEED])
        assert wide.lower[SPEED] < low < high < wide.upper[SPEED]
        assert network.metrics[SPEED] == pytest.approx(wide.metrics[SPEED])


def test_constraints_of_the_search_stay_unless_others_are_given(bench: dict[str, Any], tmp_path: Path) -> None:
    write_predictor(tmp_path / "other", FIRST, device="h200")
    wanted = free(bench, constraints=("macs<=3M", "throughput>=1"), post_search=PostSearch(verify=False, export_top=0))
    run = search_networks(wanted, out=tmp_path / "run").run
    assert query(run, objectives=["throughput"]).constraints == ("macs<=3e+06", f"{SPEED}>=1")
    assert query(run, objectives=["throughput"], constraints=["macs<=2M"]).constraints == ("macs<=2e+06",)
    narrow = query(run, objectives=["params"], constraints=["macs<=2M"], device="h200")
    assert narrow.notes == ("no metric of a device is requested, so h200 changes nothing",)
    elsewhere = query(run, device="h200", predictors=tmp_path / "other")
    assert elsewhere.constraints == ("macs<=3e+06",)
    assert elsewhere.notes[0] == f"without {SPEED}>=1: the search's device is another one"


def test_a_metric_without_a_device_is_of_the_device_of_the_search(bench: dict[str, Any], tmp_path: Path) -> None:
    for name in ("throughput", "latency_ms"):
        write_predictor(tmp_path, FIRST, name, device="h200")
    wanted = free({**bench, "predictors": tmp_path}, device="h200", post_search=PostSearch(verify=False, export_top=0))
    run = search_networks(wanted, out=tmp_path / "run").run
    found = query(run, constraints=["latency_ms<=100"], predictors=tmp_path)
    assert found.constraints == ("latency_ms@h200/onnxruntime/fp32/b1<=100",)


def test_an_alias_of_the_device_and_a_new_metric_beside_the_stored_one(
    searched: SearchRun, bench: dict[str, Any], tmp_path: Path
) -> None:
    # Only the latency has a predictor there: the throughput is in the study.
    write_predictor(tmp_path, FIRST, "latency_ms")
    wanted = ["throughput@cpu>=1", "latency_ms@cpu<=100"]
    found = query(searched.run, constraints=wanted, predictors=tmp_path)
    assert found.constraints == (f"{SPEED}>=1", f"latency_ms@{CPU}/onnxruntime/fp32/b1<=100")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"constraints": ["macs=<3"]}, "must be METRIC<=BOUND"),
        ({"objectives": ["speed"]}, "objective 'speed' is not known"),
        ({"objectives": ["energy_j"]}, "energy_j|predictor"),
        ({"device": "a100"}, "no predictor for a100"),
    ],
)
def test_bad_questions_are_told(searched: SearchRun, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HwnasError, match=message):
        query(searched.run, predictors=tmp_path, **changes)


def test_only_a_search_that_has_ended_answers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be the run of a search that has ended"):
        query(tmp_path)
