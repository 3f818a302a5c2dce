"""Searches that choose a runtime and a precision for each network."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from hwnas.errors import CheckFailedError, InputError, UsageError
from hwnas.pipeline.quantisation import QuantisationOptions
from hwnas.pipeline.report import write_report
from hwnas.pipeline.run_network import network_of_run, searched_precision
from hwnas.pipeline.search.query import query
from hwnas.pipeline.search.run import SearchRun, dry_run_search, search_networks
from hwnas.progress import EvaluationProgress, NullReporter, ProgressEvent
from hwnas.report.compact import run_values
from hwnas.report.figures import draw_front
from hwnas.report.gather import gather
from hwnas.search.pareto import on_front
from hwnas.search.record import read_record, write_record
from hwnas.search.result import load_search
from hwnas.search.spec import PostSearch
from hwnas.search.study import Study
from hwnas.space import SPACES
from hwnas.space.deployed import DeployedSpace
from tests.pipeline.campaigns import CPU, FakeEnvironment
from tests.pipeline.search.workbench import FIRST, free, options, write_bench, write_predictor
from tests.search.test_record import RECORD, SPEC

OPEN = f"throughput@{CPU}/b1"
DEPLOYMENTS = ("onnxruntime/fp32", "torch/bf16")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("deployed")
    bench = write_bench(folder, FIRST)
    for name in ("throughput", "latency_ms"):
        for deployment in ("torch/bf16", "torch/fp32", "onnxruntime/int8"):
            write_predictor(folder / "predictors", FIRST, name, deployment=deployment)
    return {**bench, "precisions": ("fp32", "bf16")}


@pytest.fixture(scope="module")
def found(deployed: dict[str, Any]) -> SearchRun:
    post_search = PostSearch(pairs=8, export_top=2)
    return search_networks(
        options(deployed, post_search=post_search),
        out=deployed["runs"] / "whole",
        campaign_environment=FakeEnvironment().make(),
    )


def test_the_front_says_network_and_deployment(found: SearchRun) -> None:
    record = found.record
    assert record.spec.deployments == DEPLOYMENTS
    assert record.spec.objectives == ("accuracy", "macs", OPEN)
    assert [item.metric for item in record.spec.predictors] == [f"throughput@{CPU}/{name}/b1" for name in DEPLOYMENTS]
    assert record == read_record(found.run)
    rows = list(csv.DictReader((found.run / "front.csv").read_text().splitlines()))
    assert [row["arch_id"] for row in rows] == list(record.front)
    assert {row["deployment"] for row in rows} <= set(DEPLOYMENTS)
    for row in rows:
        arch_id, _, slug = row["arch_id"].partition("-")
        assert slug == row["deployment"].replace("/", "-")
        assert arch_id == SPACES.get(FIRST).adapted(num_classes=10).arch_id(
            SPACES.get(FIRST).parse(json.loads(row["arch"]))
        )


def test_one_evaluation_of_a_network_is_its_accuracy_in_both_precisions(found: SearchRun) -> None:
    record, space = found.record, found.record.spec.load_space(found.run)
    assert isinstance(space, DeployedSpace)
    with Study.read(found.run) as study:
        table = study.table(space=space)
    known = np.isfinite(table.metrics["accuracy"].mean)
    networks = np.unique(table.genomes[known][:, :-1], axis=0)
    assert record.evaluations == len(networks) == 12
    assert known.sum() == 24
    assert record.history[-1][:2] == (len(table.genomes), 12)
    values = np.column_stack([-table.metrics["accuracy"].mean, table.metrics["macs"].mean, -table.metrics[OPEN].mean])
    assert {candidate.id for candidate in space.candidates(table.genomes[on_front(values)])} == set(record.front)


def test_winners_are_measured_in_their_own_deployment(found: SearchRun) -> None:
    verification = found.record.verification
    assert verification is not None
    assert verification.status == "verified"
    on_the_front = {member.arch_id.partition("-")[2] for member in verification.members}
    assert {Path(profile.path).name.split("-b1")[0].split(f"{FIRST}-")[-1] for profile in verification.profiles} == {
        *on_the_front
    }
    for profile in verification.profiles:
        lines = (found.run / profile.path / "measurements.jsonl").read_text().splitlines()
        networks = {json.loads(line)["subject"]["network_id"] for line in lines}
        slug = next(name for name in on_the_front if name in profile.path)
        own = {member.network_id for member in verification.members if member.arch_id.endswith(slug)}
        assert own == {name for name in networks if not name.startswith("timm:")}
    assert set(verification.mape) == {f"throughput@{CPU}/{name.replace('-', '/', 1)}/b1" for name in on_the_front}
    assert all(member.metrics[OPEN].measured for member in verification.members)
    names = [network.name for network in found.record.reference_networks]
    assert names == [f"{name} {deployment}" for name in ("DeiT-Ti", "DeiT-S") for deployment in DEPLOYMENTS]


def test_winners_are_exported_in_their_precision(found: SearchRun) -> None:
    for winner in found.record.winners:
        assert winner.failure is None
        precision = winner.arch_id.rpartition("-")[2]
        graphs = [name for name in winner.files if name.endswith(".onnx")]
        assert [name.partition(f"-{precision}-")[2] for name in graphs] == ["b1.onnx", "bany.onnx"]
        arch = json.loads((found.run / winner.folder / "arch.json").read_text())
        assert winner.arch_id == f"{arch['arch_id']}-{arch['deployment'].replace('/', '-')}"
        assert f"- deployment {arch['deployment']}" in (found.run / winner.folder / "card.md").read_text()


def test_a_candidate_is_found_by_its_id(found: SearchRun) -> None:
    record = found.record
    winner = record.winners[0]
    for name in (winner.arch_id, winner.arch_id.partition("-")[0]):
        network = network_of_run(found.run, name)
        assert network.space.arch_id(network.arch) == winner.arch_id.partition("-")[0]
        assert network.weights is not None
        assert network.weights.parent.parent == found.run / "networks"
    other = next(name for name in record.front if name not in {item.arch_id for item in record.winners})
    assert network_of_run(found.run, other).weights == record.spec.supernet.path if record.spec.supernet else None
    with pytest.raises(InputError, match="ends with a deployment that was searched") as caught:
        network_of_run(found.run, f"{winner.arch_id.partition('-')[0]}-torch-compile-fp16")
    assert caught.value.known == tuple(name.replace("/", "-") for name in DEPLOYMENTS)


def test_results_know_the_deployment(found: SearchRun) -> None:
    result = load_search(found.run)
    frame = result._columns(result.front)
    assert frame["arch_id"] == [network.id for network in result.front]
    assert set(frame["deployment"]) <= set(DEPLOYMENTS)
    assert {network.id for network in result.front} == set(found.record.measured_front or ())
    assert "deployment" in result._repr_html_()
    members = gather(found.run).front
    assert [member.arch_id for member in members] == list(found.record.front)
    assert {member.deployment for member in members} <= set(DEPLOYMENTS)


def test_the_report_shows_deployments(found: SearchRun, tmp_path: Path) -> None:
    data = gather(found.run)
    values = run_values(data)
    assert values["deployments"] == list(DEPLOYMENTS)
    assert values["dimensions"][-1] == {
        "name": "deployment",
        "stage": None,
        "block": None,
        "choices": list(DEPLOYMENTS),
    }
    for member, shown in zip(data.front, values["front"], strict=True):
        assert DEPLOYMENTS[shown["deployment"]] == member.deployment
        assert shown["network"] == member.network_id
    assert [(item["metric"], item["deployment"]) for item in values["predictors"]] == [(OPEN, 0), (OPEN, 1)]
    report = write_report(found.run, out=tmp_path)
    names = {path.name for path in report.figures}
    assert {"front.png", "parity.png", "parity2.png"} <= names
    assert f" in {data.front[0].deployment}" in report.runs[0].verdict or " in " in report.runs[0].verdict
    page = report.page.read_text()
    assert "sameNetworks" in page
    table = (tmp_path / "front.md").read_text()
    assert all(str(member.deployment) in table for member in data.front)


def test_the_figure_has_a_shape_for_each_deployment_and_joins_networks(found: SearchRun) -> None:
    figure = Figure()
    axes = figure.add_subplot()
    data = gather(found.run)
    draw_front(axes, [data])
    labels = axes.get_legend_handles_labels()[1]
    assert {label.partition(",")[0] for label in labels} >= {str(member.deployment) for member in data.front}
    markers = {line.get_label(): line.get_marker() for line in axes.lines if line.get_label() in DEPLOYMENTS}
    assert len(set(markers.values())) == len(markers)


def test_an_interrupted_search_ends_as_if_it_was_not(
    found: SearchRun, deployed: dict[str, Any], tmp_path: Path
) -> None:
    class Impatient(NullReporter):
        def update(self, event: ProgressEvent) -> None:
            if isinstance(event, EvaluationProgress) and event.done == 5:
                raise KeyboardInterrupt

    environment = FakeEnvironment().make()
    with pytest.raises(KeyboardInterrupt):
        search_networks(options(deployed), out=tmp_path / "run", reporter=Impatient(), campaign_environment=environment)
    again = search_networks(resume=tmp_path / "run", campaign_environment=environment).record
    assert again.front == found.record.front
    assert again.history == found.record.history
    assert again.evaluations == found.record.evaluations
    assert again.measured_front == found.record.measured_front


def test_constraints_hold_in_the_own_deployment(deployed: dict[str, Any], tmp_path: Path) -> None:
    wanted = free(deployed, objectives=("throughput",), constraints=("latency_ms<=0.35",), precisions=("fp32", "bf16"))
    record = search_networks(wanted, out=tmp_path / "run", campaign_environment=FakeEnvironment().make()).record
    assert record.spec.constraints == (f"latency_ms@{CPU}/b1<=0.35",)
    with Study.read(tmp_path / "run") as study:
        table = study.table(space=record.spec.load_space(tmp_path / "run"))
    assert record.front
    latency = table.metrics[f"latency_ms@{CPU}/b1"].mean
    fast = table.genomes[latency <= 0.35]
    assert len(fast) < len(latency)


def test_a_query_knows_deployments(found: SearchRun, deployed: dict[str, Any]) -> None:
    same = query(found.run)
    assert {network.arch_id for network in same.networks} == set(found.record.front)
    assert list(same.to_frame()["deployment"]) == [network.deployment for network in same.networks]
    only = query(found.run, precisions=["fp32"])
    assert {network.deployment for network in only.networks} == {"onnxruntime/fp32"}
    bound = max(network.metrics[OPEN] for network in only.networks)
    assert all(
        network.deployment == "torch/bf16"
        for network in query(found.run, constraints=[f"throughput>={1.01 * bound}"]).networks
    )
    # A metric that was not searched is predicted in each deployment.
    latency = f"latency_ms@{CPU}/b1"
    other = query(found.run, objectives=["latency_ms"], predictors=deployed["predictors"])
    assert other.objectives == ("accuracy", "macs", latency)
    assert {network.deployment for network in other.networks} == {network.deployment for network in same.networks}
    with pytest.raises(InputError, match="must have had a requested deployment"):
        query(found.run, precisions=["int8"])
    with pytest.raises(InputError, match="must leave open the precision"):
        query(found.run, objectives=["memory_mb@cpu/onnxruntime/int8"])


def test_a_query_on_another_device_keeps_what_was_searched_alone(deployed: dict[str, Any], tmp_path: Path) -> None:
    wanted = free(deployed, runtimes=("torch",), precisions=("fp32", "bf16"))
    run = search_networks(wanted, out=tmp_path / "run", campaign_environment=FakeEnvironment().make()).run
    for deployment in ("onnxruntime/fp32", "torch-compile/bf16"):
        write_predictor(tmp_path / "predictors", FIRST, device="h200", deployment=deployment)
    found = query(run, device="h200", predictors=tmp_path / "predictors")
    assert found.objectives == ("macs", "throughput@h200/b1")
    assert {network.deployment for network in found.networks} <= {"torch/fp32", "torch/bf16"}


def test_a_search_without_a_choice_has_no_deployments_to_select(deployed: dict[str, Any], tmp_path: Path) -> None:
    wanted = free(deployed, precisions=(), post_search=PostSearch(verify=False, export_top=0))
    run = search_networks(wanted, out=tmp_path / "run").run
    with pytest.raises(InputError, match="must have chosen among runtimes or precisions"):
        query(run, precisions=["fp32"])


def test_a_runtime_is_searched_as_well(deployed: dict[str, Any]) -> None:
    wanted = free(deployed, runtimes=("onnxruntime", "torch"), precisions=("fp32",))
    spec = dry_run_search(wanted).spec
    assert spec.deployments == ("onnxruntime/fp32", "torch/fp32")
    assert spec.objectives == ("macs", OPEN)


def test_deployments_share_a_batch_that_all_have(deployed: dict[str, Any], tmp_path: Path) -> None:
    """Throughput alone would take the largest batch of the first precision, which the other lacks."""
    predictors = tmp_path / "predictors"
    for deployment, batch in (("torch/fp32", 8), ("torch/fp32", 1), ("torch/bf16", 1)):
        write_predictor(predictors, FIRST, deployment=deployment, batch=batch)
    alone = dry_run_search(free({**deployed, "predictors": predictors}, precisions=("fp32",))).spec
    assert alone.objectives == ("macs", f"throughput@{CPU}/torch/fp32/b8")
    together = dry_run_search(free({**deployed, "predictors": predictors}, precisions=("fp32", "bf16"))).spec
    assert together.objectives == ("macs", OPEN)
    assert together.deployments == ("torch/fp32", "torch/bf16")


def test_combinations_without_a_predictor_are_left_out_with_a_note(deployed: dict[str, Any]) -> None:
    wanted = free(deployed, runtimes=("onnxruntime", "torch"), precisions=("fp32", "bf16"))
    spec = dry_run_search(wanted).spec
    assert spec.deployments == ("onnxruntime/fp32", "torch/fp32", "torch/bf16")
    assert any(note.startswith("without onnxruntime/bf16: no predictor") for note in spec.notes)


def test_one_deployment_is_no_choice(deployed: dict[str, Any]) -> None:
    spec = dry_run_search(free(deployed, runtimes=("torch",), precisions=("bf16",))).spec
    assert spec.deployments is None
    assert spec.objectives == ("macs", f"throughput@{CPU}/torch/bf16/b1")
    assert "deployments" not in spec.study_config


def test_all_that_is_missing_is_said_at_once(deployed: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        dry_run_search(free(deployed, precisions=("fp32", "fp16", "tf32")))
    assert all(f"--precision {name} --batch 1, then" in str(caught.value.hint) for name in ("fp16", "tf32"))


@pytest.mark.parametrize("exported", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_accuracy_in_int8_is_evaluated_in_int8(deployed: dict[str, Any], tmp_path: Path, exported: int) -> None:
    post_search = PostSearch(pairs=8, export_top=exported)
    wanted = options(deployed, precisions=("fp32", "int8"), budget=10, post_search=post_search, seed=1)
    environment = FakeEnvironment().make()
    run = search_networks(wanted, out=tmp_path / "run", campaign_environment=environment)
    record, space = run.record, run.record.spec.load_space(run.run)
    assert record.spec.deployments == ("onnxruntime/fp32", "onnxruntime/int8")
    with Study.read(run.run) as study:
        table = study.table(space=space)
    known = np.isfinite(table.metrics["accuracy"].mean)
    assert record.evaluations == known.sum() == 10, "int8 has an accuracy of its own, which costs an evaluation"
    rows = [json.loads(line) for line in (run.run / "accuracies.jsonl").read_text().splitlines()]
    in_precision = {(row["arch_id"], row["precision"].partition(",")[0]): row["top1"] for row in rows}
    for candidate, value in zip(space.candidates(table.genomes), table.metrics["accuracy"].mean.tolist(), strict=True):
        assert candidate.deployment is not None
        if np.isfinite(value):
            assert in_precision[candidate.arch_id, str(candidate.deployment.precision)] == value
    assert {row["precision"].partition(",")[0] for row in rows} == {"fp32", "int8"}
    require_float_accuracies(run, in_precision)
    quantised = [item for item in record.winners if item.arch_id.endswith("-int8")]
    assert bool(quantised) == (exported > 0)
    for item in record.winners:
        assert item.failure is None
        assert (item.file_accuracy is not None) == (item in quantised)
    for item in quantised:
        assert item.file_accuracy is not None
        searched = in_precision[item.arch_id.partition("-")[0], "int8"]
        assert item.file_accuracy == pytest.approx(searched, abs=2.5 / 360)
        assert "accuracy of the exported graph" in (run.run / item.folder / "card.md").read_text()
        assert any(name.endswith("-int8-b1.onnx") for name in item.files)
    assert search_networks(resume=run.run, campaign_environment=environment).record == record


def require_float_accuracies(run: SearchRun, in_precision: dict[tuple[str, str], float]) -> None:
    """Networks in int8 have their accuracy in float32 as well: in the record, the tables, a query and the report."""
    expected = {
        name: in_precision[name.partition("-")[0], "fp32"] for name in run.record.front if name.endswith("-int8")
    }
    assert expected
    table = {row["arch_id"]: row for row in csv.DictReader((run.run / "front.csv").read_text().splitlines())}
    assert {name: float(table[name]["accuracy_fp32"]) for name in expected} == expected
    others = [row for name, row in table.items() if name not in expected]
    assert all(row["accuracy_fp32"] == row["accuracy"] for row in others)
    known = {network.arch_id: network.float_accuracy for network in query(run.run).networks}
    assert {name: known[name] for name in expected if name in known} == {
        name: value for name, value in expected.items() if name in known
    }
    names = "Nothing is compared with DeiT-Ti and DeiT-S, which"
    assert str(gather(run.run).references_note).startswith(names), "each once, although there are two deployments"
    shown = {member["id"]: member.get("floatAccuracy") for member in run_values(gather(run.run))["front"]}
    assert {name: shown[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_a_winner_in_int8_passes_the_gate_of_the_search_or_is_none(
    deployed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss that the options allow is that of the exported graph; a graph that loses more leaves no file."""
    allowed: list[float] = []

    def lossy(*network: object, quantisation: QuantisationOptions | None = None, **options: object) -> None:
        assert quantisation is not None
        allowed.append(quantisation.max_drop)
        raise CheckFailedError("int8 must keep the accuracy of fp32", got="3.0 points lost")

    monkeypatch.setattr("hwnas.pipeline.export_network.export_network", lossy)
    wanted = options(
        deployed, precisions=("int8",), budget=10, post_search=PostSearch(pairs=8, export_top=1, max_drop=0.005)
    )
    run = search_networks(wanted, out=tmp_path / "run", campaign_environment=FakeEnvironment().make())
    (winner,) = run.record.winners
    assert allowed == [0.005]
    assert winner.failure == "int8 must keep the accuracy of fp32"
    assert winner.files == ()
    assert not list((run.run / winner.folder).glob("*.onnx"))
    assert len(run.record.float_accuracies) == len(run.record.front)


@pytest.mark.parametrize(
    ("ending", "alone", "precision"),
    [
        ("-onnxruntime-int8", None, "int8"),
        ("-torch-bf16", None, "bf16"),
        ("-onnxruntime-fp32", None, "fp32"),
        ("-openvino-int8", None, "fp32"),
        ("", "int8", "int8"),
        ("", None, "fp32"),
    ],
)
def test_a_candidate_is_exported_in_its_own_precision(
    tmp_path: Path, ending: str, alone: str | None, precision: str
) -> None:
    texts = None if alone else ("onnxruntime/fp32", "torch/bf16", "onnxruntime/int8")
    assert SPEC.supernet is not None
    spec = replace(SPEC, deployments=texts, supernet=replace(SPEC.supernet, precision=alone))
    write_record(tmp_path, replace(RECORD, spec=spec, front=()))
    assert searched_precision(str(tmp_path), f"1f2e3d4c5b6a7988{ending}") == precision
    assert searched_precision("autoformer-micro", "max") == "fp32"


def test_the_first_digits_of_an_id_name_the_precision_if_it_is_one(tmp_path: Path) -> None:
    spec = replace(SPEC, deployments=("onnxruntime/fp32", "onnxruntime/int8"), supernet=None)
    front = (
        "1f2e3d4c5b6a7988-onnxruntime-int8",
        "aa2e3d4c5b6a7988-onnxruntime-int8",
        "aa2e3d4c5b6a7988-onnxruntime-fp32",
    )
    write_record(tmp_path, replace(RECORD, spec=spec, front=front))
    assert searched_precision(str(tmp_path), "1F2E") == "int8"
    assert searched_precision(str(tmp_path), "bb2e") == "fp32"
    with pytest.raises(InputError, match="on the front in several precisions") as caught:
        searched_precision(str(tmp_path), "aa2e3d4c5b6a7988")
    assert caught.value.known == tuple(sorted(front[1:]))


def test_a_search_in_int8_alone_evaluates_in_int8(deployed: dict[str, Any]) -> None:
    spec = dry_run_search(options(deployed, precisions=("int8",))).spec
    assert spec.deployments is None
    assert spec.supernet is not None
    assert spec.supernet.precision == "int8"
    exact = dry_run_search(options(deployed, precisions=("fp32",))).spec
    assert exact.supernet is not None
    assert exact.supernet.precision is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precisions": ("fp33",)}, "precision"),
        ({"runtimes": ("onnx",)}, "runtime"),
        ({"objectives": ("throughput@cpu/fp32",)}, "must leave open the precision"),
    ],
)
def test_bad_deployments_are_refused(deployed: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dry_run_search(free(deployed, **{"precisions": ("fp32", "bf16"), **changes}))


def test_precisions_without_a_metric_of_a_device_have_no_effect(deployed: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--precision has no effect"):
        dry_run_search(free({**deployed}, objectives=("params",), predictors=None, precisions=("fp32", "bf16")))
