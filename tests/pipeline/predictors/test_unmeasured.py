import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwnas.devices import DEVICES, Device
from hwnas.errors import HwnasError, InputError
from hwnas.metrics import Deployment, Metric, parse_metric
from hwnas.pipeline.predictors.predict import PredictOptions, predict_networks
from hwnas.pipeline.predictors.unmeasured import choose_unmeasured, save_unmeasured
from hwnas.pipeline.search.run import dry_run_search, search_networks
from hwnas.predict.card import UNMEASURED
from hwnas.predict.lookup import find_predictors
from hwnas.predict.models import AnalyticLearner
from hwnas.predict.pooled import sustained_conditions
from hwnas.report.gather import gather
from hwnas.report.verdict import banners
from hwnas.search.spec import PostSearch
from tests.pipeline.device_tables import BATCH, SPACE, device_times, networks, write_tables
from tests.pipeline.search.workbench import free

THROUGHPUT = Metric(name="throughput", deployment=Deployment(device="a100"))


@pytest.fixture(autouse=True)
def without_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law is a sum of costs, which trees cannot better."""
    monkeypatch.setattr("hwnas.predict.pooled.BoostedLearner", AnalyticLearner)
    monkeypatch.setattr("hwnas.predict.saving.parity_plot", lambda card: "<svg/>")


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(tmp_path_factory.mktemp("tables"))


def test_power_limits_what_a_device_sustains() -> None:
    rates = {
        name: sustained_conditions(DEVICES.get(name), precision="fp16").op_per_s
        for name in ("rtx4090", "rtx3090", "rtx-pro-6000-maxq", "a100")
    }
    assert rates["rtx3090"] == DEVICES.get("rtx3090").fp16_flop_per_s
    assert rates["rtx4090"] == pytest.approx(165.2e12, rel=0.03)
    assert rates["rtx-pro-6000-maxq"] < 0.5 * 438.9e12
    assert 100e12 < rates["a100"] < 312e12
    i9 = DEVICES.get("i9-10940x")
    assert sustained_conditions(i9, precision="fp32").op_per_s == i9.fp32_flop_per_s
    with pytest.raises(InputError, match="the datasheet of jetson-thor must state its rate in fp16"):
        sustained_conditions(DEVICES.get("jetson-thor"), precision="fp16")


def test_an_unmeasured_device_is_predicted_from_the_others(profiles: Path) -> None:
    chosen = choose_unmeasured(THROUGHPUT, profiles=profiles)
    assert str(chosen.metric) == f"throughput@a100/torch/fp16/b{BATCH}"
    card = chosen.predictor.card
    assert card.is_unmeasured
    assert UNMEASURED in chosen.note
    assert "rtx4090" in card.notes[0]
    assert card.protocol.held_out == "devices"
    assert card.scores.mape < 0.08
    workloads = networks(60)
    found = chosen.predictor.predict(workloads, batch=BATCH)
    expected = 1e3 * BATCH / device_times("a100", workloads, seed=9)
    error = np.log(found.mean / expected)
    assert np.abs(error).mean() < 0.1
    assert ((found.lower < expected) & (expected < found.upper)).mean() > 0.85
    assert found.outside.mean() < 0.3


def test_an_architecture_that_the_pool_lacks_has_wider_intervals(profiles: Path) -> None:
    def width(device: str) -> float:
        metric = Metric(name="throughput", deployment=Deployment(device=device))
        found = choose_unmeasured(metric, profiles=profiles).predictor.predict(networks(5), batch=BATCH)
        return float(np.log(found.upper / found.lower).mean())

    assert width("h100") > 1.4 * width("l4")


def test_predictions_say_that_the_device_was_not_measured(profiles: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    options = PredictOptions(
        deployment=Deployment(device="l40s"),
        profiles=profiles,
        predictors=tmp_path / "none",
        metrics=("latency_ms",),
        allow_outside=True,
    )
    found = predict_networks([f"{SPACE}:min"], options)
    assert not found.predictors[0].measured
    assert found.notes[0].startswith(UNMEASURED)
    assert found.predictions[0].lower < found.predictions[0].mean < found.predictions[0].upper


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("memory_mb@a100", "memory_mb does not follow from a datasheet"),
        ("latency_ms@some-cpu-4c-avx2", "must have a datasheet, which some-cpu-4c-avx2 lacks"),
        ("latency_ms@i9-10940x", "must be measured, or 2 other CPUs with a datasheet"),
        ("latency_ms@a100/torch-compile", "must be measured, or 2 other GPUs with a datasheet"),
        ("latency_ms@rtx4090", "rtx4090 was measured: fit a predictor to that"),
        ("latency_ms@jetson-thor", "the datasheet of jetson-thor must state its rate"),
    ],
)
def test_what_no_datasheet_tells_is_refused(profiles: Path, metric: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_unmeasured(parse_metric(metric), profiles=profiles)


def test_a_pool_of_one_device_is_refused(tmp_path: Path) -> None:
    write_tables(tmp_path / "one", {"rtx4090": 1.0}, count=12)
    with pytest.raises(InputError, match="2 other GPUs") as caught:
        choose_unmeasured(THROUGHPUT, profiles=tmp_path / "one")
    assert caught.value.known == ("torch/fp16: rtx4090",)
    (tmp_path / "none").mkdir()
    options = PredictOptions(
        deployment=Deployment(device="a100"), predictors=tmp_path / "none", profiles=tmp_path / "one"
    )
    with pytest.raises(HwnasError, match="there is no predictor for a100; and from other devices: a100 must be meas"):
        predict_networks([f"{SPACE}:min"], options)
    options = replace(options, deployment=Deployment(device="some-cpu-4c"))
    with pytest.raises(HwnasError, match=r"^there is no predictor for some-cpu-4c\n"):
        predict_networks([f"{SPACE}:min"], options)


def test_of_two_versions_the_newer_one_is_pooled(tmp_path: Path) -> None:
    folder = write_tables(tmp_path, count=12)
    (folder / "rtx4090" / "timm-torch-fp16-bany").rename(folder / "rtx4090" / "old")
    manifest = folder / "rtx4090" / "old" / "table.json"
    manifest.write_text(manifest.read_text().replace("2.9.1", "2.10.0"))
    write_tables(tmp_path, count=12)
    sources = choose_unmeasured(THROUGHPUT, profiles=folder).predictor.card.data.sources
    assert set(sources) == {"rtx3090/timm-torch-fp16-bany", "rtx4090/old"}


def test_answers_state_the_versions_that_were_pooled(profiles: Path, tmp_path: Path) -> None:
    same = choose_unmeasured(THROUGHPUT, profiles=profiles).predictor.card
    assert "predicted from rtx3090 (torch 2.9.1), rtx4090 (torch 2.9.1) by" in same.notes[0]
    assert not any("different versions" in note for note in same.notes)
    write_tables(tmp_path, {"rtx4090": 1.0}, count=12)
    write_tables(tmp_path, {"rtx3090": 1.06}, count=12, torch="2.4.0")
    mixed = choose_unmeasured(THROUGHPUT, profiles=tmp_path).predictor.card
    assert "predicted from rtx3090 (torch 2.4.0), rtx4090 (torch 2.9.1) by" in mixed.notes[0]
    assert mixed.notes[1].startswith("the measured devices ran different versions of the runtime")
    assert "torch" not in mixed.environment


def test_a_written_predictor_is_not_found_by_its_device(profiles: Path, tmp_path: Path) -> None:
    chosen = save_unmeasured(choose_unmeasured(THROUGHPUT, profiles=profiles), tmp_path)
    assert chosen.path == tmp_path / "unmeasured/a100/any-torch-fp16-bany/throughput"
    assert find_predictors(((tmp_path, "own"),), device="a100") == ((), ())
    assert find_predictors(((tmp_path, "own"),)) == ((), ())


def test_a_search_uses_other_devices_when_it_is_asked_to(
    profiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none").mkdir()
    bench = {"predictors": tmp_path / "none", "runs": tmp_path / "runs", "profiles": profiles}
    options = free({**bench, "space": SPACE}, device="l4", profiles=profiles)
    with pytest.raises(HwnasError, match="there is no predictor for l4"):
        dry_run_search(options)
    post_search = PostSearch(verify=False, pairs=8, export_top=0)
    asked = free(
        {**bench, "space": SPACE}, device="l4", profiles=profiles, unmeasured=True, post_search=post_search, budget=20
    )
    run = search_networks(asked)
    assert any(UNMEASURED in note for note in run.record.notes)
    assert UNMEASURED in json.dumps(json.loads((run.run / "search.json").read_text()))
    assert any(UNMEASURED in banner.text for banner in banners(gather(run.run)) if banner.level == "warning")


def test_a_device_of_ones_own_is_predicted(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Device(
        name="x900",
        kind="gpu",
        vendor="nvidia",
        architecture="ada",
        fp16_flop_per_s=1e14,
        memory_byte_per_s=1e12,
    )
    monkeypatch.setattr(DEVICES, "_entries", {**DEVICES._entries, "x900": board})
    monkeypatch.setattr(DEVICES, "_names", {**DEVICES._names, "x900": "x900"})
    chosen = choose_unmeasured(parse_metric("latency_ms@x900"), profiles=profiles)
    assert chosen.metric.deployment.device == "x900"
