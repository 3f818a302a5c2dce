import os
from collections.abc import Sequence

import pytest

from hwnas.devices import Machine, detect, require, resolve
from hwnas.devices.cpu import CPUINFO
from hwnas.errors import MissingError, UnknownNameError
from hwnas.runs import CommandOutcome

CPU_NAME = "amd-epyc-9b45-2c-avx512bf16"
FILES = {CPUINFO: "model name : AMD EPYC 9B45\nvendor_id : AuthenticAMD\nflags : avx2 avx512_bf16\n"}
GPUS = (
    "NVIDIA H200, 143771 MiB, 570.1, GPU-1\nNVIDIA H200, 143771 MiB, 570.1, GPU-2\nNVIDIA A10G, 2 MiB, 570.1, GPU-3\n"
)
ABSENT = CommandOutcome(failure="nvidia-smi is not installed")


def machine(outcome: CommandOutcome = ABSENT, *, environ: dict[str, str] | None = None) -> Machine:
    return detect(run=lambda _: outcome, read=FILES.get, environ=environ or {}, num_cores=2, architecture="x86_64")


WITH_GPUS = machine(CommandOutcome(output=GPUS))
WITHOUT = machine()


def test_every_model_is_listed_once_gpus_first() -> None:
    assert [device.name for device in WITH_GPUS.devices] == ["h200", "nvidia-a10g", CPU_NAME]
    assert [gpu.index for gpu in WITH_GPUS.gpus] == [0, 1, 2]


def test_what_was_not_seen_is_noted() -> None:
    assert WITHOUT.notes == ("nvidia-smi is not installed",)
    hidden = machine(CommandOutcome(output=GPUS), environ={"CUDA_VISIBLE_DEVICES": "2"})
    assert [device.name for device in hidden.devices] == ["nvidia-a10g", CPU_NAME]


def test_this_machine_can_be_looked_at() -> None:
    here = detect()
    assert here.cpu.num_cores == (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    assert f"-{here.cpu.num_cores}c" in here.cpu.slug
    assert here.cpu.slug == detect().cpu.slug


@pytest.mark.parametrize(
    ("name", "there", "here"),
    [
        ("auto", "h200", CPU_NAME),
        ("cpu", CPU_NAME, CPU_NAME),
        ("CPU", CPU_NAME, CPU_NAME),
        ("A100-80GB", "a100", "a100"),
        (CPU_NAME, CPU_NAME, CPU_NAME),
        ("intel-xeon-4c-amx", "intel-xeon-4c-amx", "intel-xeon-4c-amx"),
    ],
)
def test_a_name_is_resolved(name: str, there: str, here: str) -> None:
    assert resolve(name, machine=WITH_GPUS) == there
    assert resolve(name, machine=WITHOUT) == here


def test_a_gpu_without_a_datasheet_is_known_where_it_is() -> None:
    assert resolve("nvidia-a10g", machine=WITH_GPUS) == "nvidia-a10g"
    with pytest.raises(UnknownNameError):
        resolve("nvidia-a10g", machine=WITHOUT)


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="device 'h20' is not known") as caught:
        resolve("h20", machine=WITHOUT)
    assert caught.value.hint == "--device h200"
    assert caught.value.known[:4] == ("auto", "cpu", CPU_NAME, "b200")


@pytest.mark.parametrize(("name", "found"), [("auto", "h200"), ("h200-sxm", "h200"), ("cpu", CPU_NAME)])
def test_a_device_that_is_here_is_given(name: str, found: str) -> None:
    assert require(name, machine=WITH_GPUS).name == found


def test_a_device_that_is_not_here_is_missing() -> None:
    with pytest.raises(MissingError) as caught:
        require("a100-80gb", machine=WITH_GPUS)
    assert caught.value.exit_code == 3
    assert caught.value.message == "device 'a100-80gb' (a100) is not in this machine"
    assert caught.value.known == ("h200", "nvidia-a10g", CPU_NAME)
    assert caught.value.hint == "--device h200, or the same command on a machine with that device"


def test_the_error_says_why_no_gpu_was_seen() -> None:
    with pytest.raises(MissingError, match=r"'a100' is not in this machine \(nvidia-smi is not installed\)"):
        require("a100", machine=WITHOUT)


def test_the_search_for_gpus_and_cpu_uses_what_it_is_given() -> None:
    commands: list[Sequence[str]] = []

    def run(arguments: Sequence[str]) -> CommandOutcome:
        commands.append(arguments)
        return ABSENT

    found = detect(run=run, read=lambda _: None, environ={}, num_cores=3, architecture="riscv64")
    assert [command[0] for command in commands] == ["nvidia-smi", "sysctl"]
    assert found.cpu.architecture == "riscv64"
    assert len(found.notes) == 2
