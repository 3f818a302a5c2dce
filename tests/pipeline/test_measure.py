import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.devices import detect
from hwnas.errors import InputError, MissingError, UnknownNameError, UsageError
from hwnas.pipeline.measure import MeasureResult, measure, measure_plan
from hwnas.profile.options import CampaignOptions
from hwnas.profile.plan import load_plan, write_plan
from hwnas.profile.reference import REFERENCE
from hwnas.profile.runners.openvino import OpenVinoRunner
from hwnas.records import Profile, load_profile
from hwnas.runs import CommandOutcome
from tests.devices.test_machine import machine
from tests.pipeline.campaigns import CPU, FakeEnvironment, Listener
from tests.profile.test_network_timer import Willing

REQUEST = CampaignOptions(
    space="autoformer-micro", device="cpu", samples=6, repeats=2, runtime="onnxruntime", reference_networks=False
)


@pytest.fixture
def request_here(tmp_path: Path) -> CampaignOptions:
    return replace(REQUEST, out=tmp_path / "profiles")


def loaded(measured: MeasureResult) -> Profile:
    (item,) = measured.profiles
    return load_profile(item.path)


def test_a_campaign_leaves_a_profile_that_explains_itself(request_here: CampaignOptions) -> None:
    measured = measure(request_here, campaign_environment=FakeEnvironment().make())
    assert str(measured.deployment) == f"{CPU}/onnxruntime/fp32/t1"
    assert (measured.num_measured, measured.num_failed, measured.num_skipped, measured.num_left) == (8, 0, 0, 0)
    profile = loaded(measured)
    assert profile.path == request_here.out / CPU / "autoformer-micro-onnxruntime-fp32-b1-t1"
    manifest = profile.manifest
    assert manifest.space == "autoformer-micro"
    assert manifest.reference == REFERENCE
    assert manifest.environment["torch"] == "2.15.0"
    assert manifest.environment["onnxruntime.version"] == "1"
    assert "click" not in manifest.environment
    assert manifest.sessions[0].command == request_here.command()
    assert manifest.device["name"] == CPU
    assert Counter(profile.counts.values()) == {1: 4, 2: 2}
    assert measured.profiles[0].quality.num_repeated == 2
    frame = measured.to_frame()
    assert len(frame["latency_ms"]) == len(profile.measured) == 8
    assert set(frame["profile"]) == {measured.profiles[0].name}


def test_published_and_reference_networks_are_measured_too(tmp_path: Path) -> None:
    request = replace(REQUEST, space="autoformer-tiny", samples=2, repeats=0, reference_networks=True, out=tmp_path)
    request = replace(request, extra_models=("timm:vit_tiny_patch16_224@112", "timm:deit_tiny_patch16_224"))
    rows = loaded(measure(request, campaign_environment=FakeEnvironment().make())).measurements
    names = {row.subject.network_id: row.setting.exporter for row in rows if row.subject.source == "timm"}
    assert names == {
        "timm:deit_tiny_patch16_224": "dynamo",
        "timm:deit_small_patch16_224": "dynamo",
        "timm:vit_tiny_patch16_224@112": "dynamo",
    }
    assert {row.subject.image_size for row in rows} == {112, 224}
    assert sum(row.subject.source == "space" and row.setting.exporter == "composed" for row in rows) == 3


def test_the_same_request_again_goes_on(request_here: CampaignOptions) -> None:
    place = FakeEnvironment()
    measure(request_here, campaign_environment=place.make())
    again = measure(request_here, campaign_environment=place.make())
    assert (again.num_measured, again.num_skipped) == (0, 8)
    more = measure(replace(request_here, samples=10), campaign_environment=place.make())
    assert (more.num_measured, more.num_skipped) == (4, 8)
    assert [len(session.command) > 0 for session in loaded(more).manifest.sessions] == [True, True]


def test_batches_are_profiles_of_their_own(request_here: CampaignOptions) -> None:
    measured = measure(replace(request_here, batches=(1, 8)), campaign_environment=FakeEnvironment().make())
    assert [item.path.name[-5:] for item in measured.profiles] == ["b1-t1", "b8-t1"]
    assert measured.num_measured == 16
    assert {row.setting.batch for row in load_profile(measured.profiles[1].path).measurements} == {8}


def test_another_environment_is_refused_and_new_begins_a_profile_beside_it(request_here: CampaignOptions) -> None:
    measure(request_here, campaign_environment=FakeEnvironment().make())
    other = FakeEnvironment(versions=("torch==2.16.0",))
    with pytest.raises(InputError, match="rows are not mixed") as caught:
        measure(request_here, campaign_environment=other.make())
    assert "torch: 2.15.0 recorded, 2.16.0 now" in str(caught.value.got)
    beside = measure(request_here, new=True, campaign_environment=other.make())
    assert beside.profiles[0].path.name == "autoformer-micro-onnxruntime-fp32-b1-t1-2"
    assert measure(request_here, campaign_environment=other.make()).num_skipped == 8  # it is found again
    assert measure(request_here, campaign_environment=FakeEnvironment().make()).num_skipped == 8


def test_the_worker_processes_are_ended_also_after_an_error(request_here: CampaignOptions) -> None:
    place = FakeEnvironment()
    measure(request_here, campaign_environment=place.make())
    other = FakeEnvironment(versions=("torch==2.16.0",))
    with pytest.raises(InputError):
        measure(request_here, campaign_environment=other.make())
    assert all(worker.closed for worker in place.workers + other.workers)


def test_notes_and_progress_are_told(request_here: CampaignOptions) -> None:
    listener = Listener()
    measure(request_here, campaign_environment=FakeEnvironment(notes=("no clocks",)).make(), reporter=listener)
    assert listener.texts == ["no clocks"]
    assert [state.done for state in listener.states] == list(range(9))


def test_a_time_is_spent_in_stages_that_extend_each_other(request_here: CampaignOptions) -> None:
    minutes = replace(request_here, samples=None, minutes=0.02)
    measured = measure(minutes, campaign_environment=FakeEnvironment().make())
    assert measured.num_measured > 24
    assert measured.num_left > 0
    assert max(loaded(measured).counts.values()) == 2


@pytest.mark.parametrize("device", ["a100", "jetson-orin"])
def test_a_device_that_is_not_here_ends_with_3_and_helps(request_here: CampaignOptions, device: str) -> None:
    with pytest.raises(MissingError) as caught:
        measure(
            replace(request_here, device=device, out=Path("profiles")),
            campaign_environment=FakeEnvironment().make(),
        )
    assert caught.value.exit_code == 3
    assert caught.value.known[-1] == CPU
    hint = str(caught.value.hint)
    assert f"hwnas profile --space autoformer-micro --device {device} --samples 6" in hint
    assert "--plan-only --out plan.jsonl" in hint
    assert "there  hwnas profile --plan plan.jsonl\n" in hint
    assert hint.endswith(f"put its folder profiles/{device} under profiles")


def test_the_hint_for_a_device_elsewhere_has_no_runtime_that_it_cannot_use(tmp_path: Path) -> None:
    request = replace(REQUEST, device="a100", runtime="openvino")
    with pytest.raises(MissingError) as caught:
        measure(request, campaign_environment=FakeEnvironment().make())
    assert "--runtime auto --plan-only --out plan.jsonl\n" in str(caught.value.hint)
    assert "openvino" not in str(caught.value.hint)
    with pytest.raises(UsageError, match="openvino cannot use a100") as refused:
        write_plan(request, tmp_path / "plan.jsonl")
    assert refused.value.hint == "--runtime auto"
    write_plan(replace(request, device="amd-epyc-4c"), tmp_path / "plan.jsonl")


def test_a_plan_measures_what_the_request_would(request_here: CampaignOptions, tmp_path: Path) -> None:
    planned = write_plan(request_here, tmp_path / "plan.jsonl")
    assert (planned.device, planned.num_tasks, planned.num_networks) == (CPU, 8, 6)
    measured = measure_plan(
        tmp_path / "plan.jsonl", out=tmp_path / "there", campaign_environment=FakeEnvironment().make()
    )
    direct = measure(request_here, campaign_environment=FakeEnvironment().make())
    assert [row.subject for row in loaded(measured).measurements] == [
        row.subject for row in loaded(direct).measurements
    ]
    assert [row.setting for row in loaded(measured).measurements] == [
        row.setting for row in loaded(direct).measurements
    ]


def test_a_plan_for_another_device_leaves_the_runtime_open(tmp_path: Path) -> None:
    request = replace(REQUEST, device="a100", runtime="auto")
    write_plan(request, tmp_path / "plan.jsonl")
    plan = load_plan(tmp_path / "plan.jsonl")
    assert {task.setting.runtime for task in plan.tasks} == {"auto"}
    assert plan.origin.command == request.command()
    with pytest.raises(MissingError, match="'a100' is not in this machine") as caught:
        measure_plan(tmp_path / "plan.jsonl", out=tmp_path, campaign_environment=FakeEnvironment().make())
    assert "and there: hwnas profile --plan plan.jsonl" in str(caught.value.hint)


def test_auto_takes_the_best_runtime_that_is_here_and_says_so(request_here: CampaignOptions) -> None:
    listener = Listener()
    measured = measure(
        replace(request_here, runtime="auto"),
        campaign_environment=FakeEnvironment().make(),
        reporter=listener,
    )
    best = "openvino" if OpenVinoRunner().available(detect().cpu.device).available else "onnxruntime"
    assert (measured.deployment.runtime, measured.deployment.precision) == (best, "fp32")
    assert listener.texts == [f"runtime {best} on {CPU}"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"space": "autoformer-teeny"}, UnknownNameError, "space 'autoformer-teeny' is not known"),
        ({"device": "b52"}, UnknownNameError, "device 'b52' is not known"),
        ({"runtime": "onnxrt"}, UnknownNameError, "runtime 'onnxrt' is not known"),
        ({"runtime": "torch-graph"}, MissingError, "runtime torch-graph cannot be used on this machine"),
        ({"precision": "tf32"}, InputError, "onnxruntime must be able to run in this setting"),
        ({"extra_models": ("deit_tiny",)}, InputError, "must be one of timm"),
        ({"extra_models": ("timm:deit_teeny",)}, UnknownNameError, "timm model 'deit_teeny' is not known"),
        ({"extra_models": ("timm:deit_tiny_patch16_224@x",)}, InputError, "image size must be a whole number"),
        ({"samples": 0, "space": "vitas-micro"}, UsageError, "there must be something to measure"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_measured(
    request_here: CampaignOptions, change: dict[str, object], error: type[Exception], message: str
) -> None:
    place = FakeEnvironment()
    with pytest.raises(error, match=message):
        measure(replace(request_here, **change), campaign_environment=place.make())  # type: ignore[arg-type]
    assert not any(worker.tasks for worker in place.workers)
    assert not request_here.out.exists()


def test_a_plan_needs_a_number_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a plan needs a number of networks"):
        write_plan(replace(REQUEST, samples=None, minutes=1.0), tmp_path / "plan.jsonl")
    with pytest.raises(InputError, match="in a folder that exists"):
        write_plan(REQUEST, tmp_path / "none" / "plan.jsonl")


def test_rows_of_a_plan_are_plain_json(tmp_path: Path) -> None:
    write_plan(REQUEST, tmp_path / "plan.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "plan.jsonl").read_text().splitlines()]
    assert lines[0]["schema"] == "hwnas.plan/2"
    assert lines[1]["subject"]["arch"]["embed_dim"]


# --------------------------------------------------------------------------------------------- GPUs

TWO_H200 = machine(CommandOutcome(output="NVIDIA H200, 9 MiB, 570.1, GPU-a\nNVIDIA H200, 9 MiB, 570.1, GPU-b\n"))
ON_GPU = replace(REQUEST, device="auto", samples=20, runtime="torch-graph", batches=(1, 8))


@pytest.fixture
def with_gpus(monkeypatch: pytest.MonkeyPatch) -> FakeEnvironment:
    monkeypatch.setattr("hwnas.profile.environment.load_runner", lambda name: Willing())
    return FakeEnvironment(machine=TWO_H200)


def gpus_of(measured: MeasureResult) -> set[str | None]:
    return {row.gpu for item in measured.profiles for row in load_profile(item.path).measurements}


def test_without_gpus_the_first_one_measures_and_its_rows_say_so(with_gpus: FakeEnvironment, tmp_path: Path) -> None:
    measured = measure(replace(ON_GPU, out=tmp_path), campaign_environment=with_gpus.make())
    assert (measured.deployment.device, gpus_of(measured)) == ("h200", {"GPU-a"})
    assert set(with_gpus.gpus) == {"GPU-a"}
    assert measured.profiles[0].quality.gpus == ("GPU-a",)


def test_one_campaign_runs_over_equal_gpus_and_resumes_on_any(with_gpus: FakeEnvironment, tmp_path: Path) -> None:
    options = replace(ON_GPU, out=tmp_path)
    measured = measure(replace(options, samples=15), gpus=("all",), campaign_environment=with_gpus.make())
    assert (measured.num_measured, gpus_of(measured)) == (34, {"GPU-a", "GPU-b"})
    assert set(with_gpus.gpus) == {"GPU-a", "GPU-b"}
    assert load_profile(measured.profiles[0].path).manifest.environment["model"] == "NVIDIA H200"
    assert all(worker.closed for worker in with_gpus.workers)
    more = measure(options, gpus=("1",), campaign_environment=with_gpus.make())
    assert (more.num_measured, more.num_skipped) == (10, 34)


def test_a_plan_runs_over_several_gpus_and_a_gpu_that_is_gone_is_named(
    with_gpus: FakeEnvironment, tmp_path: Path
) -> None:
    write_plan(replace(ON_GPU, device="h200"), tmp_path / "plan.jsonl")
    with_gpus.gone = {"GPU-b": MissingError("torch finds no GPU on this machine")}
    listener = Listener()
    measured = measure_plan(
        tmp_path / "plan.jsonl",
        out=tmp_path / "out",
        gpus=("0", "1"),
        campaign_environment=with_gpus.make(),
        reporter=listener,
    )
    assert (measured.num_measured, gpus_of(measured)) == (44, {"GPU-a"})
    assert "GPU-b is given up, its networks go to the other GPUs: torch finds no GPU" in "\n".join(listener.texts)


def test_gpus_that_are_no_one_device_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    mixed = machine(CommandOutcome(output="NVIDIA H200, 9 MiB, 570.1, GPU-a\nNVIDIA L4, 9 MiB, 570.1, GPU-b\n"))
    place = FakeEnvironment(machine=mixed)
    with pytest.raises(InputError, match="must be equal"):
        measure(replace(ON_GPU, out=tmp_path), gpus=("all",), campaign_environment=place.make())
    write_plan(replace(ON_GPU, device="a100"), tmp_path / "plan.jsonl")
    with pytest.raises(MissingError, match="'a100' is not in this machine"):
        measure_plan(tmp_path / "plan.jsonl", out=tmp_path, gpus=("0",), campaign_environment=place.make())
    assert not place.workers


# ----------------------------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": -1}, "--samples must be a whole number from 0"),
        ({"repeats": -1}, "--repeats must be a whole number from 0"),
        ({"threads": 0}, "--threads must be a whole number from 1"),
        ({"pairs": 3}, "--pairs must be a whole number from 8"),
        ({"samples": None, "minutes": 0.0}, "--minutes must be a time above 0"),
        ({"minutes": 1.0}, "exclude each other"),
        ({"batches": (1, 1)}, "--batch must be different numbers"),
        ({"batches": (0,)}, "--batch must be different numbers"),
        ({"batches": ()}, "--batch must be different numbers"),
        ({"precision": "fp64"}, "precision 'fp64' is not known"),
    ],
)
def test_a_request_that_cannot_be_meant_is_a_usage_error(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(REQUEST, **change)  # type: ignore[arg-type]


def test_a_request_says_its_command() -> None:
    assert " ".join(CampaignOptions().command()) == "hwnas profile --space autoformer-tiny --device auto"
    request = replace(
        REQUEST, batches=(1, 8), extra_models=("timm:a", "timm:b"), minutes=2.5, samples=None, out=Path("x")
    )
    assert " ".join(request.command()[6:]) == (
        "--minutes 2.5 --batch 1,8 --runtime onnxruntime --repeats 2 --extra-model timm:a --extra-model timm:b --out x "
        "--no-reference-networks"
    )


def test_in_the_own_folder_a_profile_begins_beside_those_of_another_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    measure(REQUEST, campaign_environment=FakeEnvironment().make())
    other, listener = FakeEnvironment(versions=("torch==2.16.0",)), Listener()
    beside = measure(REQUEST, campaign_environment=other.make(), reporter=listener)
    assert (beside.profiles[0].path.name, beside.num_measured) == ("autoformer-micro-onnxruntime-fp32-b1-t1-2", 8)
    assert "(torch: 2.15.0 recorded, 2.16.0 now); measuring into profiles/" in listener.texts[0]
    assert measure(REQUEST, campaign_environment=other.make()).num_skipped == 8
    assert measure(REQUEST, campaign_environment=FakeEnvironment().make()).num_skipped == 8


def edited_plan(path: Path, *, head: dict[str, object], setting: dict[str, object]) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0].update(head)
    lines[2]["setting"]["deployment"].update(setting)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("head", "setting", "message"),
    [
        ({"pairs": 7}, {}, r"line 1: head\.pairs must be between 8 and"),
        ({"device": "a100"}, {}, "line 2: the deployment must be that of the whole plan"),
        ({}, {"device": "a100"}, "line 3: the deployment must be that of the whole plan"),
        ({}, {"runtime": "torch"}, "line 3: the deployment must be"),
        ({}, {"precision": "fp16"}, "line 3: the deployment must be"),
        ({}, {"threads": 2}, "line 3: the deployment must be"),
        ({}, {"batch": 0}, r"line 3: task\.setting\.deployment\.batch must be between 1 and"),
    ],
)
def test_a_plan_that_is_no_one_campaign_is_refused(
    tmp_path: Path, head: dict[str, object], setting: dict[str, object], message: str
) -> None:
    write_plan(REQUEST, tmp_path / "plan.jsonl")
    edited_plan(tmp_path / "plan.jsonl", head=head, setting=setting)
    with pytest.raises(InputError, match=message):
        measure_plan(tmp_path / "plan.jsonl", out=tmp_path / "out", campaign_environment=FakeEnvironment().make())
    assert not (tmp_path / "out").exists()


def test_a_plan_of_nothing_is_refused(tmp_path: Path) -> None:
    write_plan(REQUEST, tmp_path / "plan.jsonl")
    head = json.loads((tmp_path / "plan.jsonl").read_text().splitlines()[0])
    (tmp_path / "plan.jsonl").write_text(json.dumps({**head, "num_tasks": 0}) + "\n")
    with pytest.raises(InputError, match=r"head\.num_tasks must be between 1 and"):
        measure_plan(tmp_path / "plan.jsonl", out=tmp_path / "out", campaign_environment=FakeEnvironment().make())
