"""Searches from predictors and a supernet to a verified front, in every family, at toy size."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.cli.front import verification_lines
from hwnas.errors import HwnasError, InputError, MissingError, UsageError
from hwnas.metrics import Deployment
from hwnas.pipeline.search import verify
from hwnas.pipeline.search.options import SearchOptions
from hwnas.pipeline.search.query import query
from hwnas.pipeline.search.reference_networks import NAMES
from hwnas.pipeline.search.run import SearchRun, rehearse_search, search_networks
from hwnas.profile.results import NetworkResult
from hwnas.progress import EvaluationProgress, NullReporter, ProgressEvent
from hwnas.records import Failure
from hwnas.report.gather import gather
from hwnas.report.verdict import banners
from hwnas.runs import Run
from hwnas.search.pareto import on_front
from hwnas.search.record import read_record, write_record
from hwnas.search.spec import PostSearch
from hwnas.search.study import Study
from hwnas.space import SPACES
from tests.pipeline import measured_profiles
from tests.pipeline.campaigns import CPU, FakeEnvironment
from tests.pipeline.search.workbench import FIRST, MICROS, free, options, write_bench, write_supernet
from tests.profile.stand_ins import duration_us

SPEED = f"throughput@{CPU}/onnxruntime/fp32/b1"


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_bench(tmp_path_factory.mktemp("bench"), FIRST)


@pytest.fixture(scope="session")
def searched(bench: dict[str, Any]) -> SearchRun:
    """One search with rounds, verified by workers that measure at once."""
    return search_networks(options(bench), out=bench["runs"] / "whole", campaign_environment=FakeEnvironment().make())


# ------------------------------------------------------------------------------------------ end to end


@pytest.mark.parametrize("space", [name for name in MICROS if name != FIRST])
def test_every_family_is_searched_and_verified(space: str, tmp_path: Path) -> None:
    bench = write_bench(tmp_path, space)
    found = search_networks(
        options(bench, budget=8), out=tmp_path / "run", campaign_environment=FakeEnvironment().make()
    )
    record = found.record
    assert record.spec.strategy == ("hierarchical" if SPACES.get(space).family == "glit" else "rounds")
    assert (record.stop, record.evaluations) == ("evaluations", 8)
    assert record.front
    assert record.verification is not None
    assert record.verification.status == "verified"
    assert [member.arch_id for member in record.verification.members] == list(record.front)


def test_the_front_is_that_of_the_candidates(searched: SearchRun) -> None:
    record = searched.record
    assert record.spec.objectives == ("accuracy", "macs", SPEED)
    assert record == read_record(searched.run)
    assert record.spec.supernet is not None
    assert record.spec.supernet.num_images == 360
    assert record.history[-1][:2] == (record.candidates, record.evaluations)
    space = SPACES.get(FIRST).adapted(num_classes=10)
    with Study.read(searched.run) as study:
        table = study.table()
    values = np.column_stack([-table.metrics["accuracy"].mean, table.metrics["macs"].mean, -table.metrics[SPEED].mean])
    expected = {space.arch_id(arch) for arch in space.decode(table.genomes[on_front(values)])}
    assert set(record.front) == expected
    assert len(record.front) == len(expected)


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
    assert marks["DeiT-Ti"].measured
    assert marks["DeiT-Ti"].metrics[SPEED] == pytest.approx(1e6 / duration_us("timm:deit_tiny_patch16_224"), rel=1e-3)
    assert marks["DeiT-S"].accuracy is None


def test_the_tables_are_in_the_run(searched: SearchRun) -> None:
    lines = (searched.run / "front.csv").read_text().splitlines()
    assert len(lines) == 1 + len(searched.record.front)
    config = Run.open(searched.run).manifest.config
    assert config["objectives"] == ["accuracy", "macs", SPEED]
    assert (searched.run / config["predictors"][0]["path"] / "card.json").is_file()


# --------------------------------------------------------------------------------------- resume


def test_a_search_goes_on_where_it_was_interrupted(searched: SearchRun, bench: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"

    class Impatient(NullReporter):
        def update(self, event: ProgressEvent) -> None:
            if isinstance(event, EvaluationProgress) and event.done == 7:
                raise KeyboardInterrupt

    place = FakeEnvironment().make()
    with pytest.raises(KeyboardInterrupt, match=f"try     hwnas search --resume {run}"):
        search_networks(options(bench), out=run, reporter=Impatient(), campaign_environment=place)
    with pytest.raises(InputError, match="a search that has ended"):
        read_record(run)
    again = search_networks(resume=run, campaign_environment=place)
    assert again.record.front == searched.record.front
    assert [row[:2] for row in again.record.history] == [row[:2] for row in searched.record.history]
    assert again.record.verification == searched.record.verification


def test_a_run_of_another_configuration_is_refused(searched: SearchRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(searched.run, run)
    (run / "search.json").unlink()
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["config"]["seed"] = 5
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="holds a study of another configuration") as caught:
        search_networks(resume=run)
    assert "seed: stored 0, given 5" in str(caught.value.got)


def test_a_space_that_has_changed_in_code_is_refused(
    bench: dict[str, Any], searched: SearchRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_run = tmp_path / "free"
    search_networks(
        free(
            {"predictors": tmp_path / "none", "runs": tmp_path},
            objectives=("params",),
            post_search=PostSearch(verify=False),
        ),
        out=free_run,
    )
    space = SPACES.get(FIRST)
    other = replace(space.config, mlp_ratios=tuple(ratio + 0.5 for ratio in space.config.mlp_ratios))
    monkeypatch.setitem(SPACES._entries, space.name, replace(space, config=other))
    message = f"must be of {FIRST} as it is now"
    for act in (lambda: search_networks(resume=free_run), lambda: query(free_run), lambda: gather(free_run)):
        with pytest.raises(InputError, match=message) as caught:
            act()
        assert "the space has changed since" in str(caught.value.got)
    with pytest.raises(InputError, match=f"must hold a supernet of {FIRST} as it is now"):
        search_networks(options(bench), out=tmp_path / "old supernet")


def test_only_a_search_is_gone_on_with(tmp_path: Path) -> None:
    Run.create(tmp_path / "train", command=("hwnas", "train"), config={"recipe": {}})
    with pytest.raises(InputError, match="must be the run of a search"):
        search_networks(resume=tmp_path / "train")


# -------------------------------------------------------------------------------- without accuracy


def test_without_accuracy_evaluations_are_free_and_random_search_stands_beside(bench: dict[str, Any]) -> None:
    wanted = free(bench, constraints=("macs<=3M",), post_search=PostSearch(verify=False, export_top=0), num_seeds=2)
    record = search_networks(wanted, out=bench["runs"] / "free").record
    assert record.spec.strategy == "nsga2"
    assert record.spec.supernet is None
    assert record.random_history is not None
    assert record.random_history[-1][1] == record.evaluations == 60
    assert record.seeds is not None
    assert record.seeds.seeds == (0, 1)
    assert record.seeds.hypervolume.values[0] == record.history[-1][2]
    assert record.verification is not None
    assert (record.verification.status, record.measured_front) == ("skipped", None)
    assert "--no-verify" in record.verification.reason


def test_nothing_is_said_to_be_verified_without_the_device(bench: dict[str, Any], tmp_path: Path) -> None:
    from tests.pipeline.search.workbench import write_predictor

    write_predictor(tmp_path, FIRST, device="h200")
    wanted = free({**bench, "predictors": tmp_path}, device="h200")
    record = search_networks(wanted, out=tmp_path / "run").record
    assert record.verification is not None
    assert record.verification.status == "skipped"
    assert "h200" in record.verification.reason


def test_a_metric_of_a_device_that_is_elsewhere_is_said_to_be_predicted(
    bench: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.pipeline.search.workbench import write_predictor

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
    assert list(record.reference_networks[0].metrics) == [here]
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
    monkeypatch.setattr(verify, "_measure", refuse)
    again = search_networks(resume=run, campaign_environment=FakeEnvironment().make()).record.verification
    assert again is not None
    assert again.unmeasured == {there: "the device went away"}
    assert again.members == found.members


def test_a_reference_network_says_which_of_its_metrics_are_predicted(searched: SearchRun) -> None:
    latency, memory = "latency_ms@h200", "memory_mb@h200"
    network = replace(searched.record.reference_networks[0], metrics={latency: 1.0, memory: 2.0}, measured=False)
    ids = {name: network_id for network_id, name in NAMES.items()}
    found = verify._with_measured(network, {latency: {ids[network.name]: NetworkResult(latency_ms=3.0)}})
    assert (found.metrics, found.measured, found.predicted) == ({latency: 3.0, memory: 2.0}, True, (memory,))
    found = verify._with_measured(network, {latency: {}})
    assert (found.metrics, found.measured, found.predicted) == (network.metrics, False, ())


# ----------------------------------------------------------------------------------- verification


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


def unverified(searched: SearchRun, folder: Path) -> Path:
    """A copy of a run as it was before its front was measured."""
    run = folder / "run"
    shutil.copytree(searched.run, run, ignore=shutil.ignore_patterns("profiles", "study.lock"))
    write_record(run, replace(searched.record, verification=None, measured_front=None))
    return run


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


def test_winners_are_chosen_again_when_the_front_is_measured_later(
    bench: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwnas.pipeline.search import winners

    exported: list[str] = []

    def export(exporter: Any, member: Any, folder: Path, weights: Any) -> tuple[Path, ...]:
        exported.append(member.candidate.arch_id)
        return (folder / "network.onnx",)

    monkeypatch.setattr(winners.WinnerExporter, "_export_graphs", export)
    run, place = tmp_path / "run", FakeEnvironment().make()
    with monkeypatch.context() as patched:
        patched.setattr(verify, "unavailable_reason", lambda group, **options: "it is elsewhere")
        first = search_networks(
            free(bench, post_search=PostSearch(pairs=8, export_top=3)), out=run, campaign_environment=place
        ).record
    assert exported == [item.arch_id for item in first.winners]
    record = search_networks(resume=run, campaign_environment=place).record
    assert record.measured_front is not None
    assert {item.arch_id for item in record.winners} <= set(record.measured_front)
    assert sorted(exported) == sorted({item.arch_id for item in (*first.winners, *record.winners)})
    assert "measured on" in (run / record.winners[0].folder / "card.md").read_text()


def test_another_supernet_in_place_of_the_searched_one_is_refused(searched: SearchRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(searched.run, run)
    spec = searched.record.spec
    assert spec.supernet is not None
    other = replace(spec, supernet=replace(spec.supernet, digest="another"))
    write_record(run, replace(searched.record, spec=other))
    with pytest.raises(InputError, match="must be the one that was searched"):
        search_networks(resume=run, campaign_environment=FakeEnvironment().make())


def test_each_device_has_a_plan_of_its_own() -> None:
    deployments = [Deployment(device=name, runtime="torch", precision="fp32", threads=1) for name in ("h200", CPU)]
    names = {verify.VerificationCampaign(deployment=deployment, metrics=()).plan_name for deployment in deployments}
    assert len(names) == 2


def test_one_predictor_for_any_batch_can_be_behind_two_metrics(bench: dict[str, Any], tmp_path: Path) -> None:
    from tests.pipeline.search.workbench import write_predictor

    write_predictor(tmp_path, FIRST, batch=None)
    asked = ("throughput@cpu/onnxruntime/fp32/b1", "throughput@cpu/onnxruntime/fp32/b8")
    wanted = free(
        {**bench, "predictors": tmp_path}, objectives=asked, post_search=PostSearch(verify=False, export_top=0)
    )
    record = search_networks(wanted, out=tmp_path / "run").record
    assert [used.metric[-3:] for used in record.spec.predictors] == ["/b1", "/b8"]
    assert len({used.path for used in record.spec.predictors}) == 1


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"objectives": ("thruput",)}, InputError, "objective 'thruput' is not known"),
        ({"constraints": ("latency_ms<=8parsec",)}, InputError, "unit of latency_ms: 'parsec' is not known"),
        ({"constraints": ("macs<=1M", "macs>=2M")}, InputError, "must not exclude each other"),
        ({"constraints": ("macs<=1",)}, InputError, "satisfiable: no, the smallest network has macs"),
        ({"objectives": ("energy_j",)}, HwnasError, "energy_j|predictor"),
        ({"strategy": "annealing"}, InputError, "strategy 'annealing' is not known"),
        ({"confidence": 1.5}, UsageError, "--confidence must be between 0 and 1"),
        ({"confidence": 0.99}, InputError, "support no interval at this confidence"),
        ({"space": "glit-micro"}, InputError, "must hold a supernet of glit-micro"),
        ({"space": "glit-mikro"}, InputError, "space 'glit-mikro' is not known"),
        ({"minutes": -1.0}, UsageError, "--minutes must be above 0"),
        ({"minutes": float("nan")}, UsageError, "--minutes must be above 0"),
        ({"budget": 0}, UsageError, "--budget must be at least 1"),
        ({"strategy": "glit"}, InputError, "glit searches groups first, which autoformer-micro does not have"),
        (
            {"accuracy": False, "post_search": PostSearch(retrain=1)},
            UsageError,
            "a search without accuracy has no supernet",
        ),
        ({"data": None}, InputError, "does not say which images"),
        ({"supernet": Path("nowhere")}, InputError, "there is no run and no file nowhere"),
    ],
)
def test_bad_input_is_told(
    bench: dict[str, Any], tmp_path: Path, changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        search_networks(
            options({**bench, **changes}), out=tmp_path / "run", campaign_environment=FakeEnvironment().make()
        )
    assert not (tmp_path / "run").exists()


def test_rounds_need_accuracy(bench: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="rounds need accuracy"):
        rehearse_search(free(bench, strategy="rounds"))


def test_a_mistyped_objective_is_answered_with_the_whole_command(bench: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        rehearse_search(options(bench, objectives=("thruput",)))
    assert str(caught.value).splitlines() == [
        "objective 'thruput' is not known",
        "  got     thruput",
        "  known   accuracy, energy_j, latency_ms, macs, memory_mb, params, throughput",
        "  try     hwnas search --objective throughput",
    ]


def test_what_is_missing_is_named_with_the_commands_that_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(HwnasError) as caught:
        rehearse_search(
            SearchOptions(objectives=("throughput",), predictors=tmp_path / "none", profiles=tmp_path / "none")
        )
    text = str(caught.value)
    assert "there is no trained supernet of autoformer-tiny under runs" in text
    assert "hwnas train --space autoformer-tiny --data DIR" in text
    assert re.search(r"hwnas profile --space autoformer-tiny --device \S+", text)


def test_the_newest_supernet_is_taken_and_said(bench: dict[str, Any], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name, created in (("old", "2026-01-01T00:00:00+00:00"), ("new", "2026-02-01T00:00:00+00:00")):
        run = Run.create(runs / name, command=(), config={"recipe": {}, "space": FIRST}).path
        manifest = json.loads((run / "manifest.json").read_text())
        (run / "manifest.json").write_text(json.dumps({**manifest, "created_utc": created}))
        write_supernet(run, FIRST).rename(run / "supernet.safetensors")
    from hwnas.pipeline.search.defaults import newest_supernet

    assert newest_supernet(FIRST, runs=runs) == runs / "new"
    assert newest_supernet("glit-micro", runs=runs) is None


def test_a_folder_that_holds_something_is_no_new_run(bench: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="must be a new or an empty folder"):
        search_networks(free(bench), out=tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_rehearsal_that_must_fit_a_predictor_keeps_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured_profiles.fast_fits(monkeypatch)
    monkeypatch.chdir(tmp_path)
    measured_profiles.make_profile(tmp_path / "profiles", FIRST, device=CPU)
    (tmp_path / "none").mkdir()
    before = sorted(tmp_path.rglob("*"))
    asked = free({"predictors": tmp_path / "none", "runs": tmp_path / "runs"}, objectives=("latency_ms",))
    found = rehearse_search(replace(asked, profiles=tmp_path / "profiles"))
    assert sorted(tmp_path.rglob("*")) == before
    assert found.spec.objectives[-1] == f"latency_ms@{CPU}/onnxruntime/fp32/b1"
    assert any("fitted one to" in note for note in found.spec.notes)
    assert any(note.endswith("; fitted for this dry run and not kept") for note in found.spec.notes)


def test_a_rehearsal_writes_nothing(bench: dict[str, Any]) -> None:
    found = rehearse_search(options(bench, constraints=("macs<=3M",), minutes=2.0, budget=None))
    assert found.satisfiable.holds
    assert found.spec.supernet is not None
    assert found.spec.supernet.num_images == 360
    assert found.seconds_per_evaluation is not None
    assert (found.spec.budget.evaluations, found.spec.budget.minutes) == (None, 2.0)
    assert any(note.startswith("predictor throughput@") for note in found.spec.notes)
