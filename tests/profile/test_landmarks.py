from pathlib import Path

import pytest

from hwnas.data_paths import PROFILES, data_search_path
from hwnas.errors import InputError, UsageError
from hwnas.metrics import Deployment
from hwnas.pipeline.export_plan import export_plan
from hwnas.pipeline.measure import measure
from hwnas.pipeline.predictors.fit import FitOptions, fit_predictors
from hwnas.pipeline.predictors.workloads import WORKLOADS, known_workloads
from hwnas.profile.landmarks import LANDMARKS
from hwnas.profile.options import CampaignOptions
from hwnas.profile.plan import load_plan, make_plan, write_plan
from hwnas.profile.reference import REFERENCE_NETWORKS
from hwnas.records import load_profile
from tests.pipeline.campaigns import CPU, FakeEnvironment
from tests.pipeline.measured_profiles import fast_fits

OPTIONS = CampaignOptions(landmarks=True, device="cpu", runtime="onnxruntime")


def test_ten_different_models_whose_operations_are_known() -> None:
    assert len({subject.network_id for subject in LANDMARKS}) == len(LANDMARKS) == 10
    assert LANDMARKS[:2] == REFERENCE_NETWORKS
    folder = next(path for path, _ in data_search_path(PROFILES) if (path / WORKLOADS).is_file())
    traced = known_workloads(folder)
    workloads = {subject.name: traced.models[subject.name, subject.image_size] for subject in LANDMARKS}
    macs = [workload.macs for workload in workloads.values() if workload is not None]
    assert len(macs) == 10
    assert max(macs) / min(macs) > 10
    assert all(traced.own_sizes[subject.name] == subject.image_size for subject in LANDMARKS)
    plain = [name for name in workloads if name.startswith(("vit_", "deit_", "deit3_", "eva", "beit"))]
    assert 3 <= len(plain) <= 7


def test_a_plan_measures_each_once_and_is_read_back(tmp_path: Path) -> None:
    plan = make_plan(OPTIONS, CPU, num_samples=100)
    assert [task.subject for task in plan.tasks if task.repeat] == []
    assert {task.subject.network_id for task in plan.tasks} == {subject.network_id for subject in LANDMARKS}
    assert plan.space is None
    assert " ".join(plan.origin.command) == "hwnas profile --landmarks --device cpu --runtime onnxruntime"
    written = write_plan(CampaignOptions(landmarks=True, device="a100", batches=(1, 64)), tmp_path / "plan.jsonl")
    assert (written.num_networks, written.num_tasks) == (10, 20)
    assert load_plan(tmp_path / "plan.jsonl").space is None
    with pytest.raises(InputError, match="must have networks of a space to export"):
        export_plan(tmp_path / "plan.jsonl", out=tmp_path / "out")


@pytest.mark.parametrize(
    ("more", "got"),
    [({"samples": 20}, "--samples"), ({"minutes": 5.0}, "--minutes"), ({"reference_networks": False}, "--no-ref")],
)
def test_options_of_a_space_are_refused(more: dict[str, object], got: str) -> None:
    with pytest.raises(UsageError, match="--landmarks measures networks that are fixed") as caught:
        CampaignOptions(landmarks=True, **more)  # type: ignore[arg-type]
    assert str(caught.value.got).startswith(got)


def test_their_profile_gives_a_predictor_of_any_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast_fits(monkeypatch)
    options = CampaignOptions(landmarks=True, device="cpu", runtime="onnxruntime", out=tmp_path / "profiles")
    measured = measure(options, campaign_environment=FakeEnvironment().make())
    assert (measured.num_measured, measured.num_failed) == (10, 0)
    folder = measured.profiles[0].path
    assert folder == tmp_path / "profiles" / CPU / "timm-onnxruntime-fp32-b1-t1"
    assert load_profile(folder).manifest.space is None
    report = fit_predictors(
        FitOptions(deployment=Deployment(device=CPU), profiles=tmp_path / "profiles", out=tmp_path / "predictors")
    )
    assert report.fitted[0].path.parent.name == "any-onnxruntime-fp32-b1-t1"
    assert report.fitted[0].card.data.num_networks == 10
    again = measure(options, campaign_environment=FakeEnvironment().make())
    assert (again.num_measured, again.num_skipped) == (0, 10)
