"""Fronts of searches are measured on their devices, and what cannot be measured is recorded."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.cli.front import verification_lines
from hwnas.errors import InputError, MissingError
from hwnas.metrics import Deployment, parse_metric
from hwnas.pipeline.search import verify
from hwnas.pipeline.search.predicted_metrics import MetricPredictor
from hwnas.pipeline.search.references import NAMES
from hwnas.pipeline.search.run import SearchRun, search_networks
from hwnas.profile.results import NetworkResult
from hwnas.records import Failure
from hwnas.report.gather import gather
from hwnas.report.verdict import banners
from hwnas.search.spec import PostSearch
from hwnas.search.study import Study
from tests.pipeline.campaigns import CPU, FakeEnvironment
from tests.pipeline.search.workbench import (
    FIRST,
    SPEED,
    fitted,
    free,
    unverified,
    write_predictor,
)
from tests.profile.stand_ins import duration_us


def test_predicted_stands_beside_measured(searched: SearchRun) -> None:
    verification = searched.record.verification
    assert verification is not None
    for member in verification.members:
        check = member.metrics[SPEED]
        # The reference network takes 1 ms in these workers, and each network what its id says.
        assert check.measured == pytest.approx(1e6 / duration_us(member.network_id), rel=1e-3)
        assert check.predicted is not None
        assert check.stable
    errors = [check.predicted / check.measured - 1 for check in _checks(searched)]
    assert verification.mape[SPEED] == pytest.approx(np.mean(np.abs(errors)))
    measured = np.array([check.measured for check in _checks(searched)])
    assert len(set(searched.record.measured_front or ())) == sum(member.on_front for member in verification.members)
    assert searched.record.measured_front
    assert measured.min() > 0
    result = searched.result
    assert {network.arch_id for network in result.front} == set(searched.record.measured_front)
    values = {network.arch_id: network.metrics[SPEED] for network in result.networks}
    assert [values[member.arch_id] for member in verification.members] == measured.tolist()


def _checks(searched: SearchRun) -> list[Any]:
    assert searched.record.verification is not None
    return [member.metrics[SPEED] for member in searched.record.verification.members]


def test_measured_values_are_in_the_study_and_landmarks_beside_them(searched: SearchRun) -> None:
    with Study.read(searched.run) as study:
        assert study.source_of(SPEED) == ("measured", "predicted")
        assert study.source_of("accuracy") == ("supernet",)
    marks = {mark.name: mark for mark in searched.record.reference_networks}
    assert set(marks) == {"DeiT-Ti", "DeiT-S"}
    assert marks["DeiT-Ti"].params == 5_717_416
    assert not marks["DeiT-Ti"].measured  # it takes larger images
    assert marks["DeiT-S"].accuracy is None


def test_nothing_is_said_to_be_verified_without_the_device(bench: dict[str, Any], tmp_path: Path) -> None:
    write_predictor(tmp_path, FIRST, device="h200")
    wanted = free({**bench, "predictors": tmp_path}, device="h200")
    record = search_networks(wanted, out=tmp_path / "run").record
    assert record.verification is not None
    assert record.verification.status == "skipped"
    assert "h200" in record.verification.reason


def test_a_metric_of_a_device_that_is_elsewhere_is_said_to_be_predicted(
    bench: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = SPEED, "latency_ms@h200/onnxruntime/fp32/b1"
    write_predictor(tmp_path, FIRST)
    write_predictor(tmp_path, FIRST, "latency_ms", device="h200")
    asked = ("throughput@cpu", "latency_ms@h200")
    run = tmp_path / "run"
    wanted = free({**bench, "predictors": tmp_path}, objectives=asked, post_search=PostSearch(pairs=8, export_top=1))
    record = search_networks(wanted, out=run, campaign_environment=FakeEnvironment().make()).record
    found = record.verification
    assert found is not None
    assert (found.status, list(found.unmeasured), found.device) == ("partly", [there], CPU)
    assert "h200" in found.unmeasured[there]
    assert (found.covers(here), found.covers(there)) == (True, False)
    assert list(found.mape) == [here]
    assert record.measured_front is not None
    rows = json.loads((run / "front.json").read_text())
    assert all(row[f"{here}_measured"] and row[f"{there}_measured"] is None for row in rows)
    assert {row["verified"] for row in rows} <= {"measured in part", "measured in part, beaten"}
    assert f"`{there}` was not measured" in (run / "front.md").read_text()
    lines = "\n".join(verification_lines(record))
    assert lines.startswith(f"verified in part on {CPU}")
    assert f"not measured: {there}: " in lines
    card = next(run / item.folder for item in record.winners if item.failure is None) / "card.md"
    assert f"not measured: {there}" in card.read_text()
    assert gather(run).unmeasured == found.unmeasured
    assert any(there in banner.text and banner.level == "warning" for banner in banners(gather(run)))

    # Where neither device is, what the first machine measured is not lost.
    monkeypatch.setattr(verify, "unavailable_reason", lambda group, **options: f"no {group.deployment.device}")
    again = search_networks(resume=run, campaign_environment=FakeEnvironment().make()).record.verification
    assert again is not None
    assert again.unmeasured == {there: "no h200"}
    assert again.members == found.members
    assert again.profiles == found.profiles

    # Nor where the other one is here and its campaign fails.
    def refuse(*parts: Any, **options: Any) -> Any:
        raise InputError("the device went away")

    monkeypatch.setattr(
        verify,
        "unavailable_reason",
        lambda group, **options: "no cpu" if group.deployment.device == CPU else None,
    )
    monkeypatch.setattr(verify.FrontVerifier, "_measure", refuse)
    again = search_networks(resume=run, campaign_environment=FakeEnvironment().make()).record.verification
    assert again is not None
    assert again.unmeasured == {there: "the device went away"}
    assert again.members == found.members


def test_a_reference_network_says_which_of_its_metrics_are_predicted(searched: SearchRun) -> None:
    latency, memory = "latency_ms@h200", "memory_mb@h200"
    network = replace(searched.record.reference_networks[0], metrics={latency: 1.0, memory: 2.0}, measured=False)
    ids = {name: network_id for network_id, name in NAMES.items()}
    predictor = MetricPredictor(metric=parse_metric(latency), predictor=fitted(FIRST, "latency_ms", CPU))

    def measured(results: dict[str, NetworkResult]) -> list[verify.MeasuredMetric]:
        return [verify.MeasuredMetric(predictor=predictor, by_network=results)]

    found = verify._with_measured(network, measured({ids[network.name]: NetworkResult(latency_ms=3.0)}))
    assert (found.metrics, found.measured, found.predicted) == ({latency: 3.0, memory: 2.0}, True, (memory,))
    found = verify._with_measured(network, measured({}))
    assert (found.metrics, found.measured, found.predicted) == (network.metrics, False, ())


def test_a_network_that_crashes_costs_itself_alone(searched: SearchRun, tmp_path: Path) -> None:
    run = unverified(searched, tmp_path)
    members = searched.record.verification.members if searched.record.verification else ()
    crashed = members[0].network_id
    place = FakeEnvironment(failing={crashed: Failure(reason="crash", message="the worker died")})
    record = search_networks(resume=run, campaign_environment=place.make()).record
    assert record.verification is not None
    assert record.verification.status == "verified"
    broken = {member.network_id: member.failure for member in record.verification.members if member.failure}
    assert broken == {crashed: "crash: the worker died"}
    assert record.front[0] not in (record.measured_front or ())
    assert record.measured_front


def test_a_device_that_goes_away_is_recorded_and_verified_later(
    bench: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*args: Any, **options: Any) -> Any:
        raise MissingError("device 'h200' is not in this machine", got="h200")

    with monkeypatch.context() as patched:
        patched.setattr(verify, "measure_plan", gone)
        record = search_networks(
            free(bench), out=tmp_path / "run", campaign_environment=FakeEnvironment().make()
        ).record
    assert record.verification is not None
    assert record.verification.status == "failed"
    assert record.verification.reason == "device 'h200' is not in this machine, got h200"
    assert record.front
    again = search_networks(resume=tmp_path / "run", campaign_environment=FakeEnvironment().make()).record
    assert again.verification is not None
    assert again.verification.status == "verified"
    assert again.front == record.front


def test_a_run_is_verified_on_a_machine_with_other_versions(
    searched: SearchRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwnas.pipeline.search import context

    run = unverified(searched, tmp_path)
    monkeypatch.setattr(context, "versions", lambda: ("hwnas==9.9",))
    record = search_networks(resume=run, campaign_environment=FakeEnvironment().make()).record
    assert record.verification is not None
    assert record.verification.status == "verified"


def test_networks_that_all_failed_are_tried_again(searched: SearchRun, tmp_path: Path) -> None:
    run = unverified(searched, tmp_path)
    members = searched.record.verification.members if searched.record.verification else ()
    broken = {member.network_id: Failure(reason="crash", message="out of memory") for member in members}
    record = search_networks(resume=run, campaign_environment=FakeEnvironment(failing=broken).make()).record
    assert record.verification is not None
    assert record.verification.status == "failed"
    again = search_networks(resume=run, campaign_environment=FakeEnvironment().make()).record
    assert again.measured_front == searched.record.measured_front


def test_each_device_has_a_plan_of_its_own() -> None:
    deployments = [Deployment(device=name, runtime="torch", precision="fp32", threads=1) for name in ("h200", CPU)]
    names = {verify.VerificationCampaign(deployment=deployment, metrics=()).plan_name for deployment in deployments}
    assert len(names) == 2
