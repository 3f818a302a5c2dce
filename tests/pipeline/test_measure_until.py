from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwnas.data_paths import PROFILES, data_search_path
from hwnas.errors import InputError, UsageError
from hwnas.pipeline.measure import measure
from hwnas.pipeline.measure_until import MeasuringRounds, cross_validated, parse_until
from hwnas.pipeline.predictors.measured_networks import measured_table
from hwnas.pipeline.predictors.unmeasured import calibrate_pool
from hwnas.predict.models import AnalyticLearner
from hwnas.profile.lookup import table_entries
from hwnas.profile.options import CampaignOptions
from hwnas.profile.plan import make_plan
from hwnas.profile.subjects import space_network
from hwnas.records import load_profile
from hwnas.space import SPACES
from tests.marks import slow_but
from tests.pipeline.campaigns import FakeEnvironment, Listener
from tests.pipeline.device_tables import write_tables
from tests.pipeline.measured_profiles import fast_fits

REQUEST = CampaignOptions(
    space="autoformer-micro", device="cpu", repeats=2, runtime="onnxruntime", reference_networks=False, samples=60
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    fast_fits(monkeypatch)


@pytest.mark.parametrize(
    ("text", "mape"), [("mape=3%", 0.03), ("mape=0.03", 0.03), ("mape=2.5%", 0.025), (" mape=1% ", 0.01)]
)
def test_a_goal_is_a_share_or_a_percentage(text: str, mape: float) -> None:
    assert parse_until(text).mape == pytest.approx(mape)


@pytest.mark.parametrize("text", ["3%", "mape", "mape=0", "mape=200%", "rmse=1%"])
def test_another_goal_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--until must be an error"):
        parse_until(text)


def test_another_order_is_refused() -> None:
    with pytest.raises(InputError, match="order 'random' is not known"):
        parse_until("mape=3%", order="random")


@pytest.mark.parametrize("order", slow_but(["spread", "active"], "active"))
def test_rounds_end_at_the_goal_or_when_no_more_networks_may_be_measured(tmp_path: Path, order: str) -> None:
    # The stand-in's times follow from the networks' names: no model can tell them to a tenth of a percent.
    listener = Listener()
    until = parse_until("mape=0.1%", order=order)
    request = replace(REQUEST, out=tmp_path)
    measured = measure(request, until=until, campaign_environment=FakeEnvironment().make(), reporter=listener)
    profile = load_profile(measured.profiles[0].path)
    assert len(profile.counts) == 60
    rounds = [text.split(" networks: ")[0] for text in listener.texts if "cross-validated error" in text]
    assert rounds == ["24", "36", "54", "60"]
    assert profile.manifest.sessions[0].command == (*request.command(), *until.cli_options)
    easy = measure(
        replace(REQUEST, out=tmp_path / "easy"),
        until=parse_until("mape=30%", order=order),
        campaign_environment=FakeEnvironment().make(),
    )
    assert easy.profiles[0].quality.num_networks == 24


@pytest.mark.parametrize("order", slow_but(["spread", "active"], "spread"))
def test_the_same_command_again_measures_nothing_more(tmp_path: Path, order: str) -> None:
    until, request = parse_until("mape=0.1%", order=order), replace(REQUEST, samples=30, out=tmp_path)
    measure(request, until=until, campaign_environment=FakeEnvironment().make())
    listener = Listener()
    again = measure(request, until=until, campaign_environment=FakeEnvironment().make(), reporter=listener)
    assert (again.num_measured, len(load_profile(again.profiles[0].path).counts)) == (0, 30)
    assert next(text for text in listener.texts if "cross-validated error" in text).startswith("30 networks")
    assert listener.texts[-1] == "the goal is not reached, and --samples allows no more than 30 networks"
    more = measure(replace(request, samples=40), until=until, campaign_environment=FakeEnvironment().make())
    assert (more.num_measured, len(load_profile(more.profiles[0].path).counts)) == (10, 40)


def test_a_time_and_a_goal_are_not_both_asked_for(tmp_path: Path) -> None:
    request = replace(REQUEST, samples=None, minutes=1.0, out=tmp_path)
    with pytest.raises(UsageError, match="--until and --minutes exclude each other"):
        measure(request, until=parse_until("mape=3%"), campaign_environment=FakeEnvironment().make())


def test_too_few_networks_tell_no_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--until needs at least 8 networks"):
        measure(
            replace(REQUEST, samples=5, out=tmp_path),
            until=parse_until("mape=3%"),
            campaign_environment=FakeEnvironment().make(),
        )


def test_a_gpu_starts_from_a_model_of_other_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwnas.predict.pooled.BoostedLearner", AnalyticLearner)
    write_tables(tmp_path / "tables")
    monkeypatch.setenv("HWNAS_PROFILES", str(tmp_path / "tables"))
    listener = Listener()
    request = replace(REQUEST, device="rtx-pro-6000-maxq", runtime="torch", precision="fp16", repeats=0)
    rounds = MeasuringRounds(request, "rtx-pro-6000-maxq", parse_until("mape=3%"), reporter=listener)
    first = rounds.first()
    chosen = [task.subject for task in first.tasks if task.subject.source == "space"]
    published = len(SPACES.get("autoformer-micro").published)
    assert len(chosen) == 10 + published
    assert listener.texts == ["starting from a model of rtx3090, rtx4090, with 10 networks"]
    macs = [space_network(subject)[0].workload(space_network(subject)[1]).macs for subject in chosen]
    assert max(macs) / min(macs) > 1.5
    even = [task.subject.network_id for task in make_plan(request, "x", num_samples=512).tasks]
    assert {subject.network_id for subject in chosen} <= set(even)
    again = MeasuringRounds(request, "rtx-pro-6000-maxq", parse_until("mape=3%"), reporter=Listener())
    assert again.first().tasks == first.tasks
    few = Listener()
    MeasuringRounds(replace(request, samples=8), "rtx-pro-6000-maxq", parse_until("mape=3%"), reporter=few)
    assert few.texts == ["starting from a model of rtx3090, rtx4090, with 8 networks"]
    unlike = MeasuringRounds(
        replace(request, runtime="torch-graph"), "rtx-pro-6000-maxq", parse_until("mape=3%"), reporter=listener
    )
    assert len([task for task in unlike.first().tasks if task.subject.source == "space"]) == 24 + published


def test_few_networks_are_judged_by_the_adapted_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwnas.predict.pooled.BoostedLearner", AnalyticLearner)
    folder = write_tables(tmp_path / "tables", {"rtx4090": 1.0, "rtx3090": 1.06, "rtx-pro-6000-maxq": 1.3})
    monkeypatch.setenv("HWNAS_PROFILES", str(folder))
    (networks,) = [
        measured_table(entry)
        for entry in table_entries(data_search_path(PROFILES, folder))
        if entry.manifest.deployment.device == "rtx-pro-6000-maxq"
    ]
    request = replace(REQUEST, device="rtx-pro-6000-maxq", runtime="torch", precision="fp16")
    rounds = MeasuringRounds(request, "rtx-pro-6000-maxq", parse_until("mape=3%"), reporter=Listener())
    few = networks.take(np.arange(10))
    made = calibrate_pool(few, "latency_ms")
    assert made is not None
    assert rounds._error(few) == made.card.scores.mape < 0.05
    assert rounds._error(networks) == cross_validated(networks)
