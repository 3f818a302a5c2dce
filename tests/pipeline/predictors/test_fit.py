import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.devices import DEVICES
from hwnas.errors import InputError, MissingError
from hwnas.metrics import Deployment
from hwnas.pipeline.predictors.fit import FitOptions, _first, find_sources, fit_predictors
from hwnas.pipeline.predictors.grouping import group_profiles
from hwnas.pipeline.predictors.measured_networks import (
    family_of,
    measured_profile,
    measured_table,
    pool_profiles,
    select_space,
)
from hwnas.pipeline.predictors.predict import PredictOptions, predict_networks, require_all_inside
from hwnas.pipeline.predictors.workloads import subject_workloads
from hwnas.predict.card import load_card
from hwnas.predict.features.conditions import conditions_of
from hwnas.predict.features.counting import workload_features
from hwnas.predict.models import BlocksLearner
from hwnas.predict.models.analytic import Analytic
from hwnas.predict.predictor import Source
from hwnas.profile.lookup import profile_entries, table_entries
from hwnas.progress import MessageRecorder
from hwnas.records.profile import MEASUREMENTS
from tests.pipeline.device_tables import write_tables
from tests.pipeline.measured_profiles import DEVICE, NOISE, fast_fits, make_profile, subjects_of, true_ms

SPACE = "autoformer-micro"
OWN = f"{DEVICE}/{SPACE}-onnxruntime-fp32-b1-t1"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    fast_fits(monkeypatch)


def options(folder: Path, *, device: str = DEVICE, **changes: object) -> FitOptions:
    deployment = Deployment(device=device)
    values = {"deployment": deployment, "profiles": folder / "profiles", "out": folder / "predictors", **changes}
    return FitOptions(**values)  # type: ignore[arg-type]


def test_without_options_every_figure_of_a_profile_is_fitted(tmp_path: Path) -> None:
    make_profile(tmp_path / "profiles")
    recorder = MessageRecorder()
    report = fit_predictors(options(tmp_path), reporter=recorder)
    assert [(str(item.path.relative_to(tmp_path)), item.card.space) for item in report.fitted] == [
        (f"predictors/{OWN}/{name}", SPACE) for name in ("latency_ms", "throughput", "memory_mb")
    ]
    latency, throughput, _ = (item.card for item in report.fitted)
    assert (latency.data.num_rows, latency.data.num_networks, latency.metric.deployment.threads) == (42, 30, 1)
    assert latency.noise_floor == pytest.approx(0.8 * NOISE, rel=0.5)
    assert latency.scores.mape < 5 * NOISE
    off = [abs(row.predicted / row.measured - 1) for row in throughput.held_out]
    assert throughput.scores.mape == pytest.approx(np.mean(off))
    assert throughput.scores.max_error == pytest.approx(max(off))
    assert throughput.scores.mape == pytest.approx(latency.scores.mape, rel=0.05)
    assert throughput.scores.mape != latency.scores.mape
    assert throughput.model == latency.model
    assert {ranked.model for ranked in throughput.ranking} == {ranked.model for ranked in latency.ranking}
    assert throughput.notes == latency.notes == ()
    assert [point.count for point in throughput.learning_curve] == [point.count for point in latency.learning_curve]
    assert throughput.noise_floor == pytest.approx(latency.noise_floor, rel=0.05)
    assert throughput.held_out[0].measured == pytest.approx(1e3 / latency.held_out[0].measured)
    assert (latency.environment["torch"], latency.data.kinds) == ("2.15.0", (SPACE,))
    assert recorder.messages == [f"{OWN}: fitting {name} to 42 rows" for name in ("latency_ms", "memory_mb")]
    assert load_card(report.fitted[0].path) == latency


def test_own_profiles_are_fitted_in_place_of_those_that_ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_profile(tmp_path / "mine", "resnas-micro")
    make_profile(tmp_path / "shipped")
    paths = ((tmp_path / "mine", "own"), (tmp_path / "shipped", "shipped"))
    monkeypatch.setattr("hwnas.pipeline.predictors.fit.data_search_path", lambda kind, given: paths)
    recorder, wanted = MessageRecorder(), options(tmp_path, metrics=("latency_ms",), profiles=None)
    report = fit_predictors(wanted, reporter=recorder)
    assert [item.card.space for item in report.fitted] == ["resnas-micro"]
    names = f"{DEVICE}/resnas-micro-onnxruntime-fp32-b1-t1"
    assert (
        recorder.messages[0] == f"fitting your own: {names}; 1 that ship with hwnas are left out (--mixed takes them)"
    )
    assert {item.card.space for item in fit_predictors(replace(wanted, mixed=True)).fitted} == {
        "resnas-micro",
        SPACE,
        None,
    }
    assert [item.card.space for item in fit_predictors(replace(wanted, space=SPACE)).fitted] == [SPACE]


def test_spaces_of_one_setting_give_a_predictor_of_any_network(tmp_path: Path) -> None:
    make_profile(tmp_path / "profiles")
    make_profile(tmp_path / "profiles", "resnas-micro")
    make_profile(tmp_path / "profiles", "resnas-micro", batch=8)
    report = fit_predictors(options(tmp_path, metrics=("latency_ms",)))
    found = {item.path.parent.name: item.card.data for item in report.fitted}
    assert list(found) == [
        f"{SPACE}-onnxruntime-fp32-b1-t1",
        "resnas-micro-onnxruntime-fp32-b1-t1",
        "resnas-micro-onnxruntime-fp32-b8-t1",
        "any-onnxruntime-fp32-b1-t1",
    ]
    assert found["any-onnxruntime-fp32-b1-t1"].kinds == (SPACE, "resnas-micro")
    assert found["any-onnxruntime-fp32-b1-t1"].num_rows == 84


def test_profiles_of_other_environments_are_not_put_together_unless_asked(tmp_path: Path) -> None:
    make_profile(tmp_path / "profiles")
    make_profile(tmp_path / "profiles", "resnas-micro", environment={"torch": "2.99"})
    report = fit_predictors(options(tmp_path, metrics=("latency_ms",)))
    assert [item.card.space for item in report.fitted] == [SPACE, "resnas-micro"]
    (left_out,) = report.left_out
    assert left_out.name == "any-onnxruntime-fp32-b1-t1"
    assert "were measured in different environments" in left_out.reason
    mixed = fit_predictors(options(tmp_path, metrics=("latency_ms",), mixed=True)).fitted[-1].card
    assert (mixed.space, mixed.data.is_mixed) == (None, True)


def test_of_two_versions_of_torch_the_newer_table_is_fitted(tmp_path: Path) -> None:
    write_tables(tmp_path, {"rtx4090": 1.0}, count=10, torch="2.10.0")
    (tmp_path / "rtx4090" / "timm-torch-fp16-bany").rename(tmp_path / "rtx4090" / "a")
    write_tables(tmp_path, {"rtx4090": 1.1}, count=10, torch="2.9.1")
    parts = [measured_table(entry) for entry in table_entries(((tmp_path, "own"),))]
    groups = group_profiles(parts)
    assert [part.sources for part in groups.to_fit] == [("rtx4090/a",)]
    assert [(part.name, part.reason) for part in groups.left_out] == [
        ("rtx4090/timm-torch-fp16-bany", "rtx4090/a is newer (--mixed fits both)")
    ]
    (both,) = group_profiles(parts, mixed=True).to_fit
    assert len(both) == 20
    assert len(set(both.environments)) == 2


def test_one_profile_that_cannot_be_fitted_keeps_no_other_from_it(tmp_path: Path) -> None:
    make_profile(tmp_path / "profiles")
    make_profile(tmp_path / "profiles", "resnas-micro", 5, batch=8)
    report = fit_predictors(options(tmp_path, metrics=("latency_ms",)))
    assert [item.card.space for item in report.fitted] == [SPACE]
    assert "at least 8 distinct networks" in report.left_out[0].reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": "glit-tiny"}, "no profile of toy-2c matches these options"),
        ({"deployment": Deployment(device=DEVICE, runtime="tensorrt")}, "no profile of toy-2c matches these options"),
        ({"samples": 5}, "at least 8 distinct networks"),
        ({"metrics": ("energy_j",)}, "none of these metrics was measured"),
        ({"device": "h200"}, "there is no profile of h200"),
        ({"device": "rtx9999"}, "device 'rtx9999' is not known"),
    ],
)
def test_what_cannot_be_fitted_is_said(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    make_profile(tmp_path / "profiles", count=12)
    with pytest.raises(InputError, match=message):
        fit_predictors(options(tmp_path, **changes))


def test_an_unknown_metric_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="metric 'latncy' is not known"):
        options(tmp_path, metrics=("latncy",))


def test_a_few_networks_lean_on_another_device_where_that_helps(tmp_path: Path) -> None:
    make_profile(tmp_path / "profiles", count=60, device="source-4c")
    make_profile(tmp_path / "profiles", count=60, factor=2.5)
    fit_predictors(options(tmp_path, device="source-4c", metrics=("latency_ms",)))
    leaning = options(
        tmp_path,
        metrics=("latency_ms",),
        sources=("source-4c",),
        samples=10,
        predictors=tmp_path / "predictors",
    )
    (item,) = fit_predictors(leaning).fitted
    assert (item.card.model, item.card.data.num_networks) == ("transfer", 10)
    errors = {ranked.model: ranked.scores.mape for ranked in item.card.ranking}
    assert errors["transfer"] < min(errors["from scratch"], errors["from scratch, gaussian"])
    assert "source-4c/onnxruntime/fp32/b1 scaled" in errors
    asked = PredictOptions(
        deployment=Deployment(device=DEVICE), predictors=tmp_path / "predictors", confidence=0.8, allow_outside=True
    )
    subjects = subjects_of(SPACE, 60)[30:50]
    answers = predict_networks([f"{SPACE}:{json.dumps(subject.arch)}" for subject in subjects], asked)
    truth = np.array([2.5 * true_ms(subject) for subject in subjects])
    assert np.abs(np.array([figure.mean for figure in answers.predictions]) / truth - 1).mean() < 0.02
    bare = PredictOptions(deployment=Deployment(device=DEVICE), predictors=tmp_path / "predictors", allow_outside=True)
    found = predict_networks([f"{SPACE}:min"], bare)
    assert found.confidence == 0.81
    frame = found.to_frame()
    assert (frame["label"][0], frame["mean"][0]) == (found.predictions[0].label, found.predictions[0].mean)
    assert found.notes == ("intervals of 81%: 10 networks were fitted, too few for 90%",)
    with pytest.raises(InputError, match="support no interval at this confidence"):
        predict_networks([f"{SPACE}:min"], replace(bare, confidence=0.9))


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_fitted(tmp_path: Path) -> None:
    make_profile(tmp_path / "profiles")
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        recorder = MessageRecorder()
        with pytest.raises(InputError, match="cannot be written"):
            fit_predictors(options(tmp_path, out=out), reporter=recorder)
        assert recorder.messages == []
    assert (tmp_path / "file").read_text() == "mine"


def test_a_link_does_not_lead_a_fit_out_of_its_folder(tmp_path: Path) -> None:
    make_profile(tmp_path / "profiles")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "predictors").mkdir()
    (tmp_path / "predictors" / DEVICE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="a path must stay within"):
        fit_predictors(options(tmp_path, metrics=("latency_ms",)))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_only_the_networks_that_are_needed_are_kept_of_a_profile(tmp_path: Path) -> None:
    (entry,) = profile_entries(((make_profile(tmp_path / "new", count=60).parents[1], "own"),))
    whole, part = measured_profile(entry), measured_profile(entry, num_networks=5)
    assert len(part) < len(whole)
    assert part.noise_floors == whole.noise_floors
    expected, first = (_first(select_space(networks, SPACE), 5) for networks in (whole, part))
    assert first.subjects == expected.subjects
    np.testing.assert_array_equal(first.values["latency_ms"], expected.values["latency_ms"])


def test_rows_that_were_measured_on_slowed_cores_are_marked(tmp_path: Path) -> None:
    folder = make_profile(tmp_path / "profiles", count=12)
    rows = [json.loads(line) for line in (folder / MEASUREMENTS).read_text().splitlines()]
    slowed = rows[1]["samples"]
    slowed |= {"loop_ns": [1_500] * len(slowed["wall_ns"]), "quickest_loop_ns": 1_000}
    (folder / MEASUREMENTS).write_text("".join(f"{json.dumps(made)}\n" for made in rows))
    (entry,) = profile_entries(((tmp_path / "profiles", "own"),))
    undisturbed = measured_profile(entry).observations("latency_ms").undisturbed
    assert undisturbed is not None
    assert np.flatnonzero(~undisturbed).tolist() == [1]


def test_sources_of_another_runtime_or_kind_of_device_are_told_apart(tmp_path: Path) -> None:
    for device in ("source-4c", "a100"):
        make_profile(tmp_path / "profiles", count=20, device=device)
        fit_predictors(options(tmp_path, device=device, metrics=("latency_ms",)))
    (entry,) = profile_entries(((make_profile(tmp_path / "new", count=20).parents[1], "own"),))
    here = select_space(measured_profile(entry), SPACE)
    eager = replace(here, deployment=replace(here.deployment, runtime="torch"))
    devices, place = ("source-4c", "a100"), tmp_path / "predictors"
    cpu, gpu = (f"{device}/onnxruntime/fp32/b1" for device in devices)
    assert find_sources(here, "latency_ms", devices, predictors=place).unlike == {gpu}
    # No predictor is of torch: those of another runtime are named as what they are.
    assert find_sources(eager, "latency_ms", devices, predictors=place).unlike == {cpu, gpu}


def test_a_source_of_any_batch_answers_at_the_batch_of_each_row() -> None:
    subjects = subjects_of(SPACE, 4)
    workloads = subject_workloads(subjects)
    conditions = conditions_of(DEVICES.get("rtx4090"), precision="fp16")
    features = workload_features(workloads, conditions)
    model = Analytic(cost_names=features.cost_names, coefficients=np.ones(len(features.cost_names)))
    source = Source(conditions=conditions, batch=None, model=model)
    batches = np.array([1, 8, 64, 512])
    found = source.predict(lambda given: workload_features(workloads, given), batch=batches)
    alone = source.model.predict(workload_features(workloads, replace(conditions, batch=batches)))
    usual = source.model.predict(workload_features(workloads, replace(conditions, batch=8)))
    np.testing.assert_allclose(found, alone)
    fixed = replace(source, batch=8).predict(lambda given: workload_features(workloads, given), batch=batches)
    np.testing.assert_allclose(fixed, usual)
    np.testing.assert_allclose(fixed[1], found[1])
    assert fixed[3] < found[3]


@pytest.mark.parametrize(
    ("model", "family"),
    [("vit_base_patch16_224.augreg", "vit"), ("hiera_tiny_224", "hiera"), ("swinv2_cr_small_224", "swinv2_cr")],
)
def test_families_of_models_are_the_beginnings_of_their_names(model: str, family: str) -> None:
    assert family_of(model) == family


def test_families_are_left_out_where_networks_are_of_any_kind(tmp_path: Path) -> None:
    for space in (SPACE, "resnas-micro"):
        make_profile(tmp_path / "profiles", space)
    parts = [measured_profile(entry) for entry in profile_entries(((tmp_path / "profiles", "own"),))]
    pooled = pool_profiles(parts, name="any").observations("latency_ms")
    assert {SPACE, "resnas-micro"} <= set(pooled.families)
    assert len(pooled.families) == len(pooled.values)
    own = select_space(parts[0], parts[0].main_space_name).observations("latency_ms")
    assert own.families == ()
    assert len(own.repeated) == 12
    first, second = own.repeated[0]
    assert own.features.costs[first].tolist() == own.features.costs[second].tolist()


def test_a_fit_of_one_space_counts_its_blocks_and_another_device_may_lean_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_fits(monkeypatch, [BlocksLearner()])
    make_profile(tmp_path / "profiles", device="source-4c")
    make_profile(tmp_path / "profiles", factor=2.5)
    (item,) = fit_predictors(options(tmp_path, device="source-4c", metrics=("latency_ms",))).fitted
    assert item.card.model == "blocks"
    assert item.card.data.count_names
    predictors = tmp_path / "predictors"
    targets = [f"{SPACE}:{json.dumps(subject.arch)}" for subject in subjects_of(SPACE, 30)[:9]]
    truth = np.array([true_ms(subject) for subject in subjects_of(SPACE, 30)[:9]])
    leaning = options(
        tmp_path, metrics=("latency_ms",), sources=("source-4c",), samples=10, predictors=predictors, space=SPACE
    )
    (leant,) = fit_predictors(leaning).fitted
    assert leant.card.model == "transfer"
    assert leant.card.data.count_names == item.card.data.count_names
    for device, factor in (("source-4c", 1.0), (DEVICE, 2.5)):
        asked = PredictOptions(
            deployment=Deployment(device=device), predictors=predictors, confidence=0.8, allow_outside=True
        )
        means = np.array([figure.mean for figure in predict_networks(targets, asked).predictions])
        assert np.abs(means / (factor * truth) - 1).mean() < 0.02


def test_a_figure_that_cannot_be_fitted_keeps_no_other_from_it(tmp_path: Path) -> None:
    make_profile(tmp_path / "profiles", count=60, device="source-4c")
    make_profile(tmp_path / "profiles", factor=2.5)
    fit_predictors(options(tmp_path, device="source-4c", metrics=("memory_mb",)))
    report = fit_predictors(options(tmp_path, sources=("source-4c",), predictors=tmp_path / "predictors"))
    assert [item.card.metric.name for item in report.fitted] == ["memory_mb"]
    assert [item.name for item in report.left_out] == [f"{OWN}: latency_ms", f"{OWN}: throughput"]
    assert "no predictor for source-4c fits this metric" in report.left_out[0].reason


def test_another_deployment_of_the_same_device_may_be_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast_fits(monkeypatch)
    make_profile(tmp_path / "profiles", batch=8)
    fit_predictors(options(tmp_path, metrics=("latency_ms",)))
    make_profile(tmp_path / "profiles", factor=2.5)
    few = options(tmp_path, metrics=("latency_ms",), space=SPACE, samples=10, predictors=tmp_path / "predictors")
    few = replace(few, deployment=replace(few.deployment, batch=1))
    (entry,) = [item for item in profile_entries(((tmp_path / "profiles", "own"),)) if "-b1-" in item.name]
    networks = select_space(measured_profile(entry), SPACE)
    name = f"{DEVICE}/onnxruntime/fp32/b8/t1"
    found = find_sources(networks, "latency_ms", ["b8", "onnxruntime/fp32/b8"], predictors=few.predictors)
    assert found.sources.keys() == {name}
    narrow = replace(networks, deployment=replace(networks.deployment, precision="bf16"))
    with pytest.raises(InputError, match=f"no predictor for {DEVICE} fits this metric") as caught:
        find_sources(narrow, "latency_ms", ["b8"], predictors=few.predictors)
    assert caught.value.got == f"latency_ms@{DEVICE}/onnxruntime/bf16/b8/t1"
    assert (found.sources[name].batch, found.unlike) == (8, frozenset())
    eight = np.array([true_ms(subject, batch=8) for subject in networks.subjects])
    assert np.abs(found.predictions[name] / eight - 1).mean() < 0.03
    assert len(fit_predictors(replace(few, sources=(name,))).fitted) == 1
    for wrong in ("onnxruntime/fp32", f"{DEVICE}/b1"):
        with pytest.raises(InputError, match="--from must name another device, or another runtime"):
            fit_predictors(replace(few, sources=(wrong,)))
    with pytest.raises(InputError, match="the part"):
        fit_predictors(replace(few, sources=(f"{DEVICE}/fast",)))
    with pytest.raises(InputError, match=f"no predictor for {DEVICE} fits this metric"):
        fit_predictors(replace(few, sources=("openvino/bf16",)))


def test_too_few_networks_of_any_kind_are_reported(tmp_path: Path) -> None:
    write_tables(tmp_path / "profiles", {"rtx4090": 1.0}, count=7)
    with pytest.raises(InputError, match="at least 8 distinct networks") as caught:
        fit_predictors(options(tmp_path, device="rtx4090"))
    assert caught.value.got == "7 rows of 7"
    write_tables(tmp_path / "profiles", {"rtx4090": 1.0}, count=2)
    with pytest.raises(InputError, match="no profile of rtx4090 can be fitted") as caught:
        fit_predictors(options(tmp_path, device="rtx4090"))
    assert caught.value.got == "any-torch-fp16-bany: 2 networks, at least 3 are needed"


def test_a_device_is_no_source_of_itself(tmp_path: Path) -> None:
    make_profile(tmp_path / "profiles")
    with pytest.raises(InputError, match="--from must name another device"):
        fit_predictors(options(tmp_path, sources=(DEVICE,)))


def test_predictions_are_near_the_truth_and_say_where_they_are_from(tmp_path: Path) -> None:
    make_profile(tmp_path / "profiles", count=40)
    fit_predictors(options(tmp_path))
    asked = PredictOptions(
        deployment=Deployment(device=DEVICE),
        predictors=tmp_path / "predictors",
        metrics=("latency_ms", "throughput"),
        space=SPACE,
    )
    subjects = subjects_of(SPACE, 60)[40:44]
    found = predict_networks([json.dumps(subject.arch) for subject in subjects], asked)
    assert [figure.metric.split("@")[0] for figure in found.predictions] == ["latency_ms"] * 4 + ["throughput"] * 4
    for figure, subject in zip(found.predictions, subjects, strict=False):
        assert figure.mean == pytest.approx(true_ms(subject), rel=0.05)
        assert figure.lower < figure.mean < figure.upper
        assert figure.network_id == subject.network_id
    assert [used.path.name for used in found.predictors] == ["latency_ms", "throughput"]
    assert found.predictors[0].environment["torch"] == "2.15.0"
    assert found.predictors[0].sources == (OWN,)


def test_files_hold_archs_descriptions_and_words(tmp_path: Path) -> None:
    make_profile(tmp_path / "profiles")
    fit_predictors(options(tmp_path, metrics=("latency_ms",)))
    subject = subjects_of(SPACE, 30)[3]
    lines = [
        json.dumps(subject.arch),
        json.dumps({"space": SPACE, "arch": subject.arch}),
        json.dumps("random:4"),
        "",
        json.dumps({"space": SPACE, "arch": "random:4"}),
    ]
    file = tmp_path / "networks.jsonl"
    file.write_text("\n".join(lines))
    asked = PredictOptions(
        deployment=Deployment(device=DEVICE), predictors=tmp_path / "predictors", space=SPACE, allow_outside=True
    )
    figures = predict_networks([str(file)], asked).predictions
    assert [figure.label for figure in figures] == [f"{file}:1", f"{file}:2", "random:4", f"{file}:5"]
    assert figures[0].mean == figures[1].mean
    assert figures[2].mean == figures[3].mean


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"space": "autoformer-micro"}', "key 'space' is not known"),
        ("[1]", "networks.jsonl:1 must hold a network"),
        ('{"space": "none", "arch": "min"}', "networks.jsonl:1 must name a space"),
        ("{", "is not JSON"),
        ('"networks.jsonl"', "networks.jsonl:1 must be a network, not another file"),
        (" \n", "is empty, but it must hold networks"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "networks.jsonl"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        predict_networks([str(file)], PredictOptions(space=SPACE))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("AutoFormer-T", "a network must be named with its space"),
        ("autoformer-tiny:AutoFormer-X", "network 'AutoFormer-X' is not known"),
        ("timm:vit_tiny_patch16_224@x", "an image size must be a whole number"),
        ("timm:vit_tiny_patch16_224@0", "an image size must be a whole number"),
        ("timm:vit_tiny_patch16_224@16385", "an image size must be a whole number"),
        ("timm:vit_tiny_patch16_224@" + "9" * 5000, "an image size must be a whole number"),
        ("\0.jsonl", "cannot be read"),
        ("none.jsonl", "there is no file none.jsonl"),
    ],
)
def test_bad_targets_are_told(target: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        predict_networks([target])


def test_a_file_of_networks_is_an_ordinary_file_of_text(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "latin.jsonl").write_bytes(b'"\xe9"')
    for name, message in (("pipe", "ordinary file"), ("folder", "ordinary file"), ("latin", "cannot be read")):
        with pytest.raises(InputError, match=message):
            predict_networks([str(tmp_path / f"{name}.jsonl")])


def test_a_network_outside_is_an_error_alone_and_a_mark_among_others(tmp_path: Path) -> None:
    make_profile(tmp_path / "profiles")
    make_profile(tmp_path / "profiles", "resnas-micro")
    fit_predictors(options(tmp_path, metrics=("latency_ms",)))
    asked = PredictOptions(deployment=Deployment(device=DEVICE), predictors=tmp_path / "predictors")
    with pytest.raises(InputError, match="vitas-twins-small:max is outside") as caught:
        predict_networks(["vitas-twins-small:max"], asked)
    assert "the fitted range is" in str(caught.value.got)
    several = predict_networks(["vitas-twins-small:max", "autoformer-micro:random:1"], asked)
    assert [bool(figure.outside) for figure in several.predictions] == [True, False]
    with pytest.raises(InputError, match="1 networks are outside"):
        require_all_inside(several)


def test_a_device_without_predictors_is_missing(tmp_path: Path) -> None:
    (tmp_path / "predictors").mkdir()
    with pytest.raises(MissingError, match="there is no predictor for h200"):
        predict_networks(
            ["autoformer-tiny:min"],
            PredictOptions(
                deployment=Deployment(device="h200"), predictors=tmp_path / "predictors", metrics=("memory_mb",)
            ),
        )
