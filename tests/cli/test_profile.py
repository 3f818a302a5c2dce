import json
import re
from pathlib import Path

import pytest

from hwnas.profile.environment import CampaignEnvironment
from hwnas.profile.worker_messages import MeasurementTask, TaskResult
from hwnas.records import Failure, load_profile
from tests.cli.commands import CommandLine, command_line
from tests.pipeline.campaigns import CPU, FakeEnvironment
from tests.profile.stand_ins import FakeWorker

__all__ = ["command_line"]

SMALL = (
    "profile",
    "--space",
    "autoformer-micro",
    "--device",
    "cpu",
    "--runtime",
    "onnxruntime",
    "--no-reference-networks",
)
FOLDER = "autoformer-micro-onnxruntime-fp32-b1-t1"


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeEnvironment:
    """A working folder of its own, and workers that take no time."""
    found = FakeEnvironment()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CampaignEnvironment, "of_this_machine", lambda **options: found.make())
    return found


def test_a_campaign_prints_what_it_did_and_how_good_it_is(command_line: CommandLine) -> None:
    assert command_line(*SMALL, "--samples", "14") == 0
    lines = command_line.out.splitlines()
    assert lines[0] == f"26 measured with onnxruntime on {CPU}, 0 failed, 0 measured before"
    assert lines[2] == f"profiles/{CPU}/{FOLDER}"
    assert re.search(r"^networks +14$", command_line.out, re.MULTILINE)
    assert re.search(
        r"^noise floor +0\.00% \(sigma 0\.00%, 12 networks; second passes [+-]0\.0%\)$", command_line.out, re.MULTILINE
    )
    assert re.search(r"^drift of the reference +\+0\.0% ", command_line.out, re.MULTILINE)
    assert command_line.err.splitlines()[-1] == f"26 of 26 measured on {CPU}"
    assert re.search(rf"^measuring 1 of 26 on {CPU}, estimated ", command_line.err, re.MULTILINE)


def test_the_next_command_fits_what_was_measured(command_line: CommandLine) -> None:
    assert command_line(*SMALL, "--samples", "14") == 0
    assert command_line.out.splitlines()[-1] == f"next: hwnas fit --device {CPU} --space autoformer-micro"
    assert command_line("profile", "--landmarks", "--device", "cpu", "--runtime", "onnxruntime", "--out", "x") == 0
    assert command_line.out.splitlines()[-1] == f"next: hwnas fit --device {CPU} --profiles x"


def test_noisy_times_are_to_be_measured_again_before_they_are_fitted(
    command_line: CommandLine, place: FakeEnvironment
) -> None:
    place.noise = 0.3
    assert command_line(*SMALL, "--samples", "14", "--pairs", "8") == 0
    assert re.search(r"doubtful: the noise floor is \d+\.\d%, at most 2% is allowed\n", command_line.out)
    assert "  try an idle machine, more --pairs, or a larger --batch" in command_line.out
    again, fit = command_line.out.splitlines()[-2:]
    what = "--space autoformer-micro --device cpu --samples 14 --runtime onnxruntime --pairs 32 --no-reference-networks"
    assert again == f"next: hwnas profile {what} --new"
    assert fit == f"or: hwnas fit --device {CPU} --space autoformer-micro"
    place.noise = 0.0
    assert command_line(*again.split()[2:]) == 0
    assert f"profiles/{CPU}/{FOLDER}-2\n" in command_line.out
    assert "an idle machine" not in command_line.out


def test_the_same_command_again_measures_nothing(command_line: CommandLine) -> None:
    command_line(*SMALL, "--samples", "3")
    assert command_line(*SMALL, "--samples", "3") == 0
    assert command_line.out.startswith("0 measured with onnxruntime")
    assert "6 measured before" in command_line.out.splitlines()[0]


def test_json_is_one_document(command_line: CommandLine) -> None:
    assert command_line(*SMALL, "--samples", "3", "--batch", "1,8", "--json") == 0
    document = json.loads(command_line.out)
    assert (document["deployment"]["device"], document["num_measured"]) == (CPU, 12)
    first, second = document["profiles"]
    assert first["path"] == f"profiles/{CPU}/{FOLDER}"
    assert second["quality"]["num_networks"] == 3
    assert first["quality"]["problems"] == ["3 networks were measured twice, a noise floor needs 12"]


def test_several_precisions_are_measured_one_after_the_other(command_line: CommandLine) -> None:
    assert command_line(*SMALL, "--samples", "3", "--precision", "fp32,int8", "--json") == 0
    campaigns = json.loads(command_line.out)["campaigns"]
    assert [item["deployment"]["precision"] for item in campaigns] == ["fp32", "int8"]
    assert [item["num_measured"] for item in campaigns] == [6, 6]
    assert {path.name for path in (Path("profiles") / CPU).iterdir()} == {FOLDER, FOLDER.replace("fp32", "int8")}
    assert command_line(*SMALL, "--samples", "3", "--precision", "fp32,int8") == 0
    assert "0 measured with onnxruntime in int8" in command_line.out
    assert command_line.out.count("try") <= 1


def test_all_precisions_are_checked_before_the_first_is_measured(command_line: CommandLine) -> None:
    assert command_line(*SMALL, "--samples", "3", "--precision", "fp32,bf16") == 1
    assert "onnxruntime must be able to run in this setting" in command_line.err
    assert not Path("profiles").exists()
    assert command_line(*SMALL, "--precision", "fp32,int8", "--plan-only", "--out", "plan.jsonl") == 2
    assert not Path("plan.jsonl").exists()


def test_failures_are_told_while_it_runs_and_in_the_summary(command_line: CommandLine, place: FakeEnvironment) -> None:
    command_line(*SMALL, "--samples", "2", "--out", "first")
    bad = load_profile(Path("first") / CPU / FOLDER).measurements[0].subject.network_id
    place.failing = {bad: Failure(reason="crash", message="the process was killed by SIGSEGV")}
    assert command_line(*SMALL, "--samples", "2") == 0
    assert f"autoformer-micro {bad}: crash: the process was killed by SIGSEGV" in command_line.err
    assert "failed: 1 by crash, for example: the process was killed by SIGSEGV" in command_line.out


def all_failing(place: FakeEnvironment, command_line: CommandLine) -> None:
    command_line(*SMALL, "--samples", "3", "--out", "names")
    rows = load_profile(Path("names") / CPU / FOLDER).measurements
    place.failing = {row.subject.network_id: Failure(reason="memory", message="it does not fit") for row in rows}


def test_a_campaign_in_which_all_fails_ends_with_4_and_does_so_again(
    command_line: CommandLine, place: FakeEnvironment
) -> None:
    all_failing(place, command_line)
    assert command_line(*SMALL, "--samples", "3") == 4
    assert "0 measured with onnxruntime" in command_line.out
    assert "error: no network could be measured, all failed" in command_line.err
    assert f"got     {CPU}/{FOLDER}: 3 memory" in command_line.err
    assert "--retry to measure failed networks again" in command_line.err
    assert command_line(*SMALL, "--samples", "3", "--json") == 4  # nothing is tried again, and still nothing is there
    assert json.loads(command_line.out)["num_failed"] == 0
    place.failing = {}
    assert command_line(*SMALL, "--samples", "3", "--retry") == 0


def test_networks_of_a_space_may_answer_other_classes(command_line: CommandLine) -> None:
    assert command_line(*SMALL, "--samples", "3", "--classes", "7", "--plan-only", "--out", "plan.jsonl") == 0
    lines = [json.loads(line) for line in Path("plan.jsonl").read_text().splitlines()[1:]]
    assert {line["subject"]["num_classes"] for line in lines} == {7}
    assert command_line("profile", "--landmarks", "--classes", "7") == 2
    assert "--classes" in command_line.err


def test_networks_of_a_space_may_take_other_images(command_line: CommandLine) -> None:
    size = ("--image-size", "64")
    assert command_line(*SMALL, "--samples", "3", *size, "--plan-only", "--out", "plan.jsonl") == 0
    head, *lines = [json.loads(line) for line in Path("plan.jsonl").read_text().splitlines()]
    assert " ".join(size) in " ".join(head["origin"]["command"])
    assert {line["subject"]["image_size"] for line in lines} == {64}
    assert command_line(*SMALL, "--samples", "14") == 0
    assert command_line(*SMALL, "--samples", "14", *size) == 0  # the others are other networks
    assert "26 measured with onnxruntime" in command_line.out
    assert command_line("profile", "--landmarks", *size) == 2
    assert "--image-size" in command_line.err


def test_a_plan_of_which_all_fails_ends_with_4(command_line: CommandLine, place: FakeEnvironment) -> None:
    all_failing(place, command_line)
    assert command_line(*SMALL, "--samples", "3", "--plan-only", "--out", "plan.jsonl") == 0
    assert command_line("profile", "--plan", "plan.jsonl") == 4
    assert "no network could be measured" in command_line.err


def test_one_batch_of_which_all_fails_is_no_success(command_line: CommandLine, place: FakeEnvironment) -> None:
    all_failing(place, command_line)
    fails, place.failing = place.failing, {}
    assert command_line(*SMALL, "--samples", "3") == 0
    place.failing = fails
    assert command_line(*SMALL, "--samples", "3", "--batch", "1,512") == 4
    assert f"got     {CPU}/{FOLDER.replace('-b1-', '-b512-')}: 3 memory" in command_line.err


def test_a_batch_that_is_too_large_for_the_reference_network_ends_with_4_and_the_others_are_measured(
    command_line: CommandLine, place: FakeEnvironment
) -> None:
    place.reference_failures = {512: Failure(reason="memory", message="it does not fit")}
    assert command_line(*SMALL, "--samples", "3", "--batch", "1,512") == 4
    assert command_line.out.startswith("6 measured with onnxruntime")
    assert "batch 512 is given up: the reference network timm:deit_tiny_patch16_224 must run" in command_line.err
    assert "error: every batch must be measured\n  got     batch 512: the reference network" in command_line.err
    assert "memory: it does not fit" in command_line.err
    (row,) = load_profile(Path("profiles") / CPU / FOLDER.replace("-b1-", "-b512-")).failures
    assert (row.subject.network_id, row.failure) == ("timm:deit_tiny_patch16_224", place.reference_failures[512])
    assert command_line(*SMALL, "--samples", "3", "--batch", "512") == 1
    assert "must run on onnxruntime with batch 512\n  got     memory: it does not fit" in command_line.err


def test_strict_ends_with_4_after_the_summary(command_line: CommandLine) -> None:
    assert command_line(*SMALL, "--samples", "3", "--strict") == 4
    assert "networks                 3" in command_line.out
    problem = f"{CPU}/{FOLDER}: 3 networks were measured twice, a noise floor needs 12"
    assert f"error: the measurements must be stable\n  got     {problem}\n" in command_line.err


def test_strict_lets_a_steady_campaign_pass(command_line: CommandLine) -> None:
    assert command_line(*SMALL, "--samples", "12", "--strict") == 0


def test_a_device_that_is_not_here_ends_with_3(command_line: CommandLine) -> None:
    assert command_line("profile", "--device", "a100") == 3
    assert command_line.out == ""
    assert "error: device 'a100' is not in this machine" in command_line.err
    assert f"{CPU}\n" in command_line.err
    assert "hwnas profile --plan plan.jsonl" in command_line.err


def test_a_plan_is_written_here_and_measured_there(command_line: CommandLine) -> None:
    assert command_line(*SMALL, "--samples", "3", "--plan-only", "--out", "plan.jsonl") == 0
    assert command_line.out.splitlines() == [
        "plan.jsonl: 6 measurements of 3 networks",
        f"on the machine with {CPU}: hwnas profile --plan plan.jsonl",
        f"then copy its folder profiles/{CPU} back",
    ]
    assert not Path("profiles").exists()
    assert command_line("profile", "--plan", "plan.jsonl", "--json") == 0
    assert json.loads(command_line.out)["num_measured"] == 6


def test_a_plan_for_another_device_needs_nothing_of_it(command_line: CommandLine) -> None:
    assert command_line("profile", "--device", "a100", "--samples", "3", "--plan-only", "--out", "p", "--json") == 0
    assert json.loads(command_line.out) == {"path": "p", "device": "a100", "num_tasks": 12, "num_networks": 6}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan", "p", "--samples", "3"], "--plan already contains what is measured"),
        (["--plan-only"], "--plan-only needs a file to write to"),
        (["--plan-only", "--out", "p", "--plan", "q"], "--plan-only needs a file to write to"),
        (["--batch", "1,x"], "is not a whole number in the range"),
        (["--samples", "3", "--minutes", "1"], "--samples and --minutes exclude each other"),
        (["--pairs", "2"], "in the range 8<=x"),
        (["--landmarks", "--space", "autoformer-micro"], "--landmarks measures networks that are fixed"),
        (["--landmarks", "--until", "mape=3%"], "--landmarks measures networks that are fixed"),
        (["--landmarks", "--samples", "3"], "--landmarks measures networks that are fixed"),
        (["--sampels", "3"], "option '--sampels' is not known"),
    ],
)
def test_a_wrong_command_line_ends_with_2(command_line: CommandLine, arguments: list[str], message: str) -> None:
    assert command_line("profile", *arguments) == 2
    assert message in command_line.err


def interrupt_fourth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the fourth measurement be interrupted."""
    real = FakeWorker.measure
    calls: list[MeasurementTask] = []

    def measure(self: FakeWorker, task: MeasurementTask, **options: object) -> TaskResult:
        calls.append(task)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, task, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeWorker, "measure", measure)


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_fourth(monkeypatch)
    assert command_line(*SMALL, "--samples", "5", "--limit-minutes", "7.5") == 130
    message, hint = command_line.err.splitlines()[-2:]
    assert message == "interrupted: everything measured is kept"
    again = "profile --space autoformer-micro --device cpu --samples 5 --runtime onnxruntime --no-reference-networks"
    again += " --limit-minutes 7.5"
    assert hint == f"  try     hwnas {again}"
    assert command_line(*again.split()) == 0
    assert "7 measured" in command_line.out
    assert "3 measured before" in command_line.out


def test_an_interrupted_campaign_of_a_project_goes_on_with_the_command_that_was_typed(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = 'space = "autoformer-micro"\ndevice = "cpu"\nruntime = "onnxruntime"\nsamples = 4\n'
    Path("hwnas.toml").write_text(f"[profile]\n{table}reference-networks = false\n")
    interrupt_fourth(monkeypatch)
    typed = ["profile", "--samples", "5", "--new"]
    monkeypatch.setattr("sys.argv", ["hwnas", *typed])
    assert command_line(*typed) == 130
    *_, hint = command_line.err.splitlines()
    assert hint == "  try     hwnas profile --samples 5"
    assert command_line(*hint.split()[2:]) == 0
    assert "3 measured before" in command_line.out


def test_two_campaigns_at_once_are_refused(command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = FakeWorker.measure
    codes: list[int] = []

    def measure(self: FakeWorker, task: MeasurementTask, **options: object) -> TaskResult:
        if not codes:
            codes.append(-1)
            codes.append(command_line(*SMALL, "--samples", "2"))
            assert "is being written by another campaign" in command_line.err
            assert "wait until it has ended" in command_line.err
        return real(self, task, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeWorker, "measure", measure)
    assert command_line(*SMALL, "--samples", "2") == 0
    assert codes == [-1, 1]


def test_profiles_are_listed_and_shown(command_line: CommandLine) -> None:
    Path("profiles").mkdir()
    assert command_line("profiles", "--profiles", "profiles") == 0
    assert command_line.out == "There are no profiles yet; hwnas profile makes one.\n"
    command_line(*SMALL, "--samples", "3")
    assert command_line("profiles", "--profiles", "profiles") == 0
    (line,) = command_line.out.splitlines()[1:]
    assert line.split()[:4] == [f"{CPU}/{FOLDER}", "own", "3", "0"]
    assert command_line("profiles", "--profiles", "profiles", "--json") == 0
    assert json.loads(command_line.out)[0]["num_networks"] == 3
    assert command_line("profiles", "show", FOLDER, "--profiles", "profiles") == 0
    assert re.search(r"^torch +2\.15\.0$", command_line.out, re.MULTILINE)
    assert "hwnas profile --space autoformer-micro" in command_line.out.splitlines()[-1]
    assert command_line("profiles", "show", FOLDER, "--profiles", "profiles", "--json") == 0
    document = json.loads(command_line.out)
    assert document["manifest"]["environment"]["torch"] == "2.15.0"
    assert len(document["measurements"]) == 6


def test_a_profile_that_is_not_there_ends_with_1(command_line: CommandLine) -> None:
    assert command_line("profiles", "show", "nothing", "--profiles", ".") == 1
    assert "error: profile 'nothing' is not known" in command_line.err


def test_gpus_are_of_this_machine_and_no_part_of_a_plan(command_line: CommandLine) -> None:
    assert command_line("profile", "--space", "autoformer-micro", "--gpus", "MIG-5c8e-gone") == 3
    assert "error: the slice MIG-5c8e-gone is not in this machine" in command_line.err
    assert command_line(*SMALL, "--samples", "3", "--gpus", "all", "--plan-only", "--out", "plan.jsonl") == 2
    assert "--gpus is chosen where the plan is measured" in command_line.err
    assert command_line(*SMALL, "--samples", "3", "--plan-only", "--out", "plan.jsonl") == 0
    assert command_line("profile", "--plan", "plan.jsonl", "--gpus", "0,1") == 3


def test_the_peak_batch_is_found_and_printed(command_line: CommandLine, place: FakeEnvironment) -> None:
    place.reference_failures = {8: Failure(reason="memory", message="out of memory")}
    assert command_line(*SMALL, "--samples", "2", "--repeats", "0", "--batch", "1,peak") == 0
    assert "--batch 1,4 measures the same without this sweep" in command_line.err
    assert re.search(r"^images/s of deit_tiny_patch16_224 by batch: 1: [\d,]+, 4: ", command_line.out, re.MULTILINE)
    assert command_line(*SMALL, "--batch", "peaks") == 2
    assert command_line(*SMALL, "--batch", "peak", "--plan-only", "--out", "plan.jsonl") == 2
    assert "a plan needs batch sizes" in command_line.err


def test_a_check_with_trtexec_that_is_not_possible_ends_before_anything_is_measured(
    command_line: CommandLine, place: FakeEnvironment
) -> None:
    assert command_line(*SMALL, "--samples", "3", "--check-with", "trtexec") == 2
    assert "error: trtexec times engines of tensorrt" in command_line.err
    assert not place.workers
    assert command_line(*SMALL, "--check-with", "trtexec", "--plan-only", "--out", "plan.jsonl") == 2
    assert command_line(*SMALL, "--check-with", "nsys") == 2
