from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwnas.data_paths import PROFILES, data_search_path
from hwnas.metrics import Deployment
from hwnas.pipeline.predictors.fit import FitOptions, fit_predictors
from hwnas.pipeline.predictors.grouping import group_profiles
from hwnas.pipeline.predictors.measured_networks import MeasuredNetworks, measured_table
from hwnas.pipeline.predictors.unmeasured import _part, _sustained, calibrate_pool, why_not_pooled
from hwnas.predict.active import representative
from hwnas.predict.arrays import Numbers
from hwnas.predict.calibrated import ONE_FACTOR, THREE_FACTORS, calibrated_predictor, fit_factors
from hwnas.predict.fit import fit_predictor
from hwnas.predict.folds import group_equal_networks, make_folds
from hwnas.predict.models import AnalyticLearner
from hwnas.predict.pooled import fit_pool
from hwnas.predict.predictor import Predictor
from hwnas.predict.selection import Protocol
from hwnas.profile.lookup import table_entries
from tests.pipeline.device_tables import write_tables

LARGEST_LOSS = 1.03
"""Largest error on networks that were not measured, as a multiple of that of the same model times one ratio."""
DEVICES = {"rtx4090": 1.0, "rtx3090": 1.06, "rtx-pro-6000-maxq": 1.3}


def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwnas.predict.pooled.BoostedLearner", AnalyticLearner)
    monkeypatch.setattr("hwnas.predict.saving.parity_plot", lambda card: "<svg/>")


def tables(folder: Path | None) -> list[MeasuredNetworks]:
    return [measured_table(entry) for entry in table_entries(data_search_path(PROFILES, folder))]


def sampled(networks: MeasuredNetworks, count: int = 10) -> MeasuredNetworks:
    return networks.take(representative(networks.features, count=count))


def errors(networks: MeasuredNetworks, few: MeasuredNetworks, others: list[MeasuredNetworks]) -> tuple[float, float]:
    """Errors on networks outside the sample: of the answer, and of a model of the other devices times one ratio."""
    made = calibrate_pool(few, "latency_ms", devices=[other.device.name for other in others])
    assert made is not None
    model = fit_pool([_part(other) for other in others])

    def logs(part: MeasuredNetworks) -> Numbers:
        conditions = replace(_sustained(part), batch=part.batches)
        return np.log(part.values["latency_ms"] / model.predict(part.features_for(conditions)))

    ratio = np.median(logs(few))
    networks = networks.take(np.setdiff1d(np.arange(len(networks)), representative(networks.features, count=len(few))))
    one = float(np.abs(np.expm1(ratio - logs(networks))).mean())
    conditions = replace(made.conditions, batch=networks.batches)
    predicted = made.model.predict(networks.features_for(conditions))
    return float(np.abs(predicted / networks.values["latency_ms"] - 1).mean()), one


def test_a_table_gives_samples_that_differ_in_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast(monkeypatch)
    folder = write_tables(tmp_path / "profiles", DEVICES, count=60)
    deployment = Deployment(device="rtx-pro-6000-maxq")
    options = FitOptions(deployment=deployment, samples=10, profiles=folder, out=tmp_path / "out")
    report = fit_predictors(options)
    card = report.fitted[0].card
    assert card.data.num_networks == 10
    assert card.model in (ONE_FACTOR, THREE_FACTORS)
    assert "10 networks and a model of rtx3090 (torch 2.9.1), rtx4090 (torch 2.9.1): compute takes" in card.notes[-1]
    assert not card.is_unmeasured
    (networks,) = [part for part in tables(folder) if part.device.name == deployment.device]
    few = sampled(networks)
    total = networks.features.total()
    first_rows = float(np.ptp(np.log(total[:10])))
    assert float(np.ptp(np.log(few.features.total()))) > 0.4 * first_rows
    made = Predictor.load(report.fitted[0].path)
    predicted = made.predict(networks.workloads, batch=256)
    assert np.abs(predicted.mean / networks.values["latency_ms"] - 1).mean() < 0.05
    assert report.fitted[1].card.metric.name == "throughput"


def test_ten_samples_of_known_devices_are_taken_from_those_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast(monkeypatch)
    folder = write_tables(tmp_path / "profiles", DEVICES)
    (networks,) = [part for part in tables(folder) if part.device.name == "rtx-pro-6000-maxq"]
    made = calibrate_pool(sampled(networks), "latency_ms", devices=["rtx3090"], profiles=folder)
    assert made is not None
    assert "a model of rtx3090 (torch 2.9.1):" in made.card.notes[-1]
    assert calibrate_pool(networks, "latency_ms", profiles=folder) is None  # 40 networks are fitted for themselves
    assert calibrate_pool(sampled(networks), "latency_ms", devices=["h100"], profiles=folder) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hwnas.pipeline.predictors.unmeasured.DEVICES", {})
        assert calibrate_pool(sampled(networks), "latency_ms", profiles=folder) is None


def test_a_few_networks_in_another_runtime_than_other_devices_are_said_to_be_alone(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "profiles", DEVICES)
    (networks,) = [part for part in tables(folder) if part.device.name == "rtx-pro-6000-maxq"]
    few = sampled(networks, 7)
    assert [len(part) for part in group_profiles([few]).to_fit] == [7]
    assert calibrate_pool(few, "latency_ms", profiles=folder) is not None
    assert why_not_pooled(few, "latency_ms", profiles=folder) is None
    other = replace(few, deployment=replace(few.deployment, runtime="torch-compile"))
    assert why_not_pooled(other, "latency_ms", profiles=folder) == (
        "few networks, and fewer than 2 other GPUs measured in torch-compile/fp16; models of others are for torch/fp16"
    )
    assert why_not_pooled(networks, "latency_ms", profiles=folder) is None


def test_equal_networks_are_fitted_as_before(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "profiles", DEVICES)
    (networks,) = [part for part in tables(folder) if part.device.name == "rtx3090"]
    ten_equal = networks.take(np.zeros(10, dtype=np.intp))
    assert calibrate_pool(ten_equal, "latency_ms", profiles=folder) is None


def test_all_measurements_of_a_network_are_left_out_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast(monkeypatch)
    folder = write_tables(tmp_path / "profiles", DEVICES)
    (networks,) = [part for part in tables(folder) if part.device.name == "rtx-pro-6000-maxq"]
    once = sampled(networks, 5)
    # A second measurement of each network that is equal to the first says nothing more.
    one, two = (
        calibrate_pool(part, "latency_ms", profiles=folder) for part in (once, once.take(np.tile(np.arange(5), 2)))
    )
    assert one is not None
    assert two is not None
    ratios = {ranked.model: ranked.scores.mape for ranked in one.card.ranking}
    again = {ranked.model: ranked.scores.mape for ranked in two.card.ranking}
    assert again[ONE_FACTOR] == pytest.approx(ratios[ONE_FACTOR], rel=1e-9)
    assert (two.card.data.num_rows, two.card.data.num_networks, two.card.protocol.num_folds) == (10, 5, 5)
    held_out = [row.predicted for row in two.card.held_out]
    assert held_out[:5] == held_out[5:]
    assert two.card.model == ONE_FACTOR  # three factors would be another fit: the same evidence counts twice
    assert held_out[:5] == pytest.approx([row.predicted for row in one.card.held_out], rel=1e-9)
    assert [part.share for part in two.card.coverage] == [part.share for part in one.card.coverage]


def test_factors_are_found_and_without_evidence_stay_equal() -> None:
    rng = np.random.default_rng(0)
    slopes = rng.dirichlet((2, 2, 1), size=40)
    found = fit_factors(slopes, slopes @ np.array([0.3, 0.1, 0.2]), model=THREE_FACTORS)
    assert np.abs(slopes @ found - slopes @ np.array([0.3, 0.1, 0.2])).max() < 0.05
    alike = np.tile([0.7, 0.2, 0.1], (5, 1))
    factors = fit_factors(alike, np.full(5, 0.2), model=THREE_FACTORS)
    assert np.ptp(factors) < 0.02
    assert fit_factors(alike, np.full(5, 0.2), model=ONE_FACTOR) == pytest.approx(0.2)


@pytest.fixture(scope="module")
def shipped() -> list[MeasuredNetworks]:
    return tables(None)


@pytest.fixture(scope="module")
def stored(shipped: list[MeasuredNetworks]) -> list[MeasuredNetworks]:
    """Every tenth network of the tables that ship."""
    return [part.take(np.arange(0, len(part), 10)) for part in shipped]


def share_inside(networks: MeasuredNetworks, groups: Sequence[str]) -> float:
    """Share of networks inside 90 % intervals of predictors that were fitted without their group."""
    inside = []
    for fold in make_folds(len(networks), num_folds=4, seed=0, groups=groups):
        fitted, held_out = networks.take(fold.fit), networks.take(fold.held_out)
        made = fit_predictor(
            fitted.observations("latency_ms"),
            learners=(AnalyticLearner(freedoms=(10.0,)),),
            protocol=Protocol(repeats=1),
            with_curve=False,
        ).predict_features(held_out.features, batch=1)
        measured = held_out.values["latency_ms"]
        inside.append((made.lower <= measured) & (measured <= made.upper))
    return float(np.concatenate(inside).mean())


@pytest.mark.parametrize(
    "table",
    [
        "rtx3090/timm-torch-fp16-bany",
        "rtx4090/timm-torch-fp16-bany",
        "rtx4090/timm-torch-compile-fp16-bany",
        "rtx-pro-6000-maxq/timm-torch-fp16-bany",
        "rtx-pro-6000-maxq/timm-torch-compile-fp16-bany",
    ],
)
def test_intervals_hold_for_new_networks_and_for_new_families(shipped: list[MeasuredNetworks], table: str) -> None:
    (whole,) = [part for part in shipped if part.name == table]
    networks = whole.take(np.arange(0, len(whole), 4))
    assert len(set(networks.families)) >= 40
    by_network = share_inside(networks, list(map(str, group_equal_networks(networks.features))))
    by_family = share_inside(networks, networks.families)
    # Of 140 to 164 networks, 90 % are inside with a standard error of 2.5 points; those of a family are alike.
    assert 0.85 <= by_network <= 0.95
    assert 0.85 <= by_family <= 0.95


PAIRS = [
    (runtime, name, other)
    for runtime, devices in {
        "torch-compile": ("rtx4090", "rtx-pro-6000-maxq"),
        "torch": ("rtx3090", "rtx4090", "rtx-pro-6000-maxq"),
    }.items()
    for name in devices
    for other in devices
    if other != name
]


@pytest.mark.parametrize(("runtime", "name", "other"), PAIRS)
def test_ten_samples_are_hardly_worse_than_the_answer_from_another_device_times_one_ratio(
    stored: list[MeasuredNetworks], runtime: str, name: str, other: str
) -> None:
    same = {part.device.name: part for part in stored if part.deployment.runtime == runtime}
    networks, source = same[name], _part(same[other])
    rows = representative(networks.features, count=10)
    few = networks.take(rows)
    made = calibrated_predictor(
        [source],
        few.observations("latency_ms"),
        features=few.features_for(replace(_sustained(few), batch=few.batches)),
        conditions=_sustained(few),
    )
    model = fit_pool([source])

    def logs(part: MeasuredNetworks) -> Numbers:
        conditions = replace(_sustained(part), batch=part.batches)
        return np.log(part.values["latency_ms"] / model.predict(part.features_for(conditions)))

    # On the measured networks by construction, exactly: one ratio is the median of the others.
    own = logs(few)
    ratios = np.array([np.median(np.delete(own, row)) for row in range(len(own))])
    one_ratio = float(np.abs(np.expm1(ratios - own)).mean())
    ranking = {ranked.model: ranked.scores.mape for ranked in made.card.ranking}
    assert ranking[ONE_FACTOR] == pytest.approx(one_ratio, rel=1e-9)
    assert made.card.scores.mape <= ranking[ONE_FACTOR]
    # On the other networks of these tables no more than chance.
    rest = networks.take(np.setdiff1d(np.arange(len(networks)), rows))
    error, one = (
        float(np.abs(np.expm1(predicted)).mean())
        for predicted in (answer_logs(made, rest), np.median(own) - logs(rest))
    )
    assert error <= LARGEST_LOSS * one
    if made.card.model == ONE_FACTOR:
        assert answer_logs(made, rest) == pytest.approx(np.median(own) - logs(rest), abs=1e-9)


def answer_logs(made: Predictor, networks: MeasuredNetworks) -> Numbers:
    """Logarithms of predicted over measured."""
    predicted = made.model.predict(networks.features_for(replace(made.conditions, batch=networks.batches)))
    return np.log(predicted / networks.values["latency_ms"])


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["torch", "torch-compile"])
def test_ten_samples_are_hardly_worse_than_one_ratio_on_the_stored_tables(runtime: str) -> None:
    stored = [part for part in tables(None) if part.deployment.runtime == runtime]
    assert len(stored) >= 2
    for networks in stored:
        others = [part for part in stored if part.device.name != networks.device.name]
        error, one = errors(networks, sampled(networks), others)
        assert error <= LARGEST_LOSS * one, networks.name
