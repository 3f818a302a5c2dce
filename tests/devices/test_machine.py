import os
from collections.abc import Sequence

import pytest

from hwnas.devices import Machine, detect, load_note, require, resolve, select_gpus
from hwnas.devices.cpu import CPUINFO
from hwnas.errors import InputError, MissingError, UnknownNameError
from hwnas.runs import CommandOutcome

CPU_NAME = "amd-epyc-9b45-2c-avx512bf16"
FILES = {CPUINFO: "model name : AMD EPYC 9B45\nvendor_id : AuthenticAMD\nflags : avx2 avx512_bf16\n"}
GPUS = "NVIDIA H200, 143771 MiB, 570.1, GPU-1\nNVIDIA H200, 143771 MiB, 570.1, GPU-2\nNVIDIA A2, 2 MiB, 570.1, GPU-3\n"
ABSENT = CommandOutcome(failure="nvidia-smi is not installed")


def machine(outcome: CommandOutcome = ABSENT, *, environ: dict[str, str] | None = None) -> Machine:
    return detect(run=lambda _: outcome, read=FILES.get, environ=environ or {}, num_cores=2, architecture="x86_64")


WITH_GPUS = machine(CommandOutcome(output=GPUS))
WITHOUT = machine()


def test_every_model_is_listed_once_gpus_first() -> None:
    assert [device.name for device in WITH_GPUS.devices] == ["h200", "nvidia-a2", CPU_NAME]
    assert [gpu.index for gpu in WITH_GPUS.gpus] == [0, 1, 2]


def test_what_was_not_seen_is_noted() -> None:
    assert WITHOUT.notes == ("nvidia-smi is not installed",)
    hidden = machine(CommandOutcome(output=GPUS), environ={"CUDA_VISIBLE_DEVICES": "2"})
    assert [device.name for device in hidden.devices] == ["nvidia-a2", CPU_NAME]


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
    assert resolve("nvidia-a2", machine=WITH_GPUS) == "nvidia-a2"
    with pytest.raises(UnknownNameError):
        resolve("nvidia-a2", machine=WITHOUT)


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="device 'h20' is not known") as caught:
        resolve("h20", machine=WITHOUT)
    assert caught.value.hint == "--device h200"
    assert caught.value.known[:4] == ("auto", "cpu", CPU_NAME, "b300")


@pytest.mark.parametrize(("name", "found"), [("auto", "h200"), ("h200-sxm", "h200"), ("cpu", CPU_NAME)])
def test_a_device_that_is_here_is_given(name: str, found: str) -> None:
    assert require(name, machine=WITH_GPUS).name == found


def test_a_device_that_is_not_here_is_missing() -> None:
    with pytest.raises(MissingError) as caught:
        require("a100-80gb", machine=WITH_GPUS)
    assert caught.value.exit_code == 3
    assert caught.value.message == "device 'a100-80gb' (a100) is not in this machine"
    assert caught.value.known == ("h200", "nvidia-a2", CPU_NAME)
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


@pytest.mark.parametrize(("entry", "kind"), [("MIG-5c8e-gone", "slice"), ("GPU-9", "GPU"), ("7", "GPU")])
def test_auto_is_not_the_cpu_when_the_gpu_that_was_named_is_gone(entry: str, kind: str) -> None:
    gone = machine(CommandOutcome(output=GPUS), environ={"CUDA_VISIBLE_DEVICES": entry})
    with pytest.raises(
        MissingError, match=f"the {kind} that CUDA_VISIBLE_DEVICES names must be in this machine"
    ) as caught:
        require("auto", machine=gone)
    assert caught.value.got == entry
    for use in (lambda: resolve("auto", machine=gone), lambda: gone.default_device):
        with pytest.raises(MissingError, match="that CUDA_VISIBLE_DEVICES names"):
            use()
    assert resolve("h200", machine=gone) == "h200"
    with pytest.raises(MissingError, match="device 'h200' is not in this machine"):
        require("h200", machine=gone)
    assert require("cpu", machine=gone).kind == "cpu"
    for visible in ("", "-1"):  # the usual ways to hide all GPUs
        hidden = machine(CommandOutcome(output=GPUS), environ={"CUDA_VISIBLE_DEVICES": visible})
        assert require("auto", machine=hidden).kind == "cpu"
    partly = machine(CommandOutcome(output=GPUS), environ={"CUDA_VISIBLE_DEVICES": f"GPU-2,{entry}"})
    assert require("auto", machine=partly).name == "h200"


TWO = machine(CommandOutcome(output=GPUS.replace("NVIDIA A2, 2 MiB", "NVIDIA H200, 143771 MiB")))


@pytest.mark.parametrize(
    ("names", "uuids"),
    [
        (("all",), ["GPU-1", "GPU-2", "GPU-3"]),
        (("2", "0"), ["GPU-3", "GPU-1"]),
        (("GPU-2",), ["GPU-2"]),
    ],
)
def test_equal_gpus_are_selected_by_number_or_uuid(names: tuple[str, ...], uuids: list[str]) -> None:
    assert [gpu.uuid for gpu in select_gpus(names, machine=TWO)] == uuids
    assert [gpu.uuid for gpu in select_gpus(names, device="h200", machine=TWO)] == uuids


def test_all_gpus_of_a_device_are_those_of_its_name() -> None:
    assert [gpu.uuid for gpu in select_gpus(("all",), device="h200", machine=WITH_GPUS)] == ["GPU-1", "GPU-2"]
    with pytest.raises(InputError, match="the GPUs must be the device h200"):
        select_gpus(("2",), device="h200", machine=WITH_GPUS)


def test_unequal_gpus_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="the GPUs of one campaign must be equal") as caught:
        select_gpus(("all",), machine=WITH_GPUS)
    assert "GPU 1: h200 (NVIDIA H200 with 140 GiB, driver 570.1)" in str(caught.value.got)
    assert "GPU 2: nvidia-a2 (NVIDIA A2 with 0 GiB, driver 570.1)" in str(caught.value.got)
    assert caught.value.hint == "--gpus 0,1"
    smaller = machine(CommandOutcome(output=GPUS.replace("143771", "71771", 1)))
    with pytest.raises(InputError, match="must be equal"):
        select_gpus(("0", "1"), machine=smaller)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("3",), "GPU 3 is not in this machine"),
        (("GPU-9",), "GPU GPU-9 is not in this machine"),
        (("MIG-5c8e-gone",), "the slice MIG-5c8e-gone is not in this machine"),
        (("h200",), "GPU h200 is not in this machine"),
    ],
)
def test_a_gpu_that_is_gone_is_named(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(MissingError, match=message) as caught:
        select_gpus(names, machine=WITH_GPUS)
    assert caught.value.known[0] == "0 (GPU-1, h200)"
    with pytest.raises(MissingError, match=r"nvidia-smi is not installed"):
        select_gpus(("all",), machine=WITHOUT)


@pytest.mark.parametrize("names", [("0", "0"), ("1", "GPU-2"), ()])
def test_each_gpu_is_named_once(names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="--gpus must name different GPUs"):
        select_gpus(names, machine=WITH_GPUS)
    with pytest.raises(InputError, match="must stand for one GPU or slice"):
        select_gpus(("GPU-",), machine=WITH_GPUS)


def test_a_slice_of_a_resumed_campaign_that_is_gone_is_named() -> None:
    assert resolve("h200-mig-1g.18gb", machine=WITHOUT) == "h200-mig-1g.18gb"
    with pytest.raises(MissingError, match=r"the slice h200-mig-1g\.18gb-me of a GPU does not exist") as caught:
        require("h200-mig-1g.18gb-me", machine=WITH_GPUS)
    assert caught.value.hint is not None
    assert "nvidia-smi mig -cgi 1g.18gb+me -C" in caught.value.hint


A100S = "NVIDIA A100-SXM4-80GB, 81920 MiB, 570.1, GPU-1\nNVIDIA A100-SXM4-80GB, 81920 MiB, 570.1, GPU-2\n"
LISTED = """GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-1)
  MIG 3g.40gb     Device  0: (UUID: MIG-1111)
  MIG 1g.10gb     Device  1: (UUID: MIG-2222)
  MIG 1g.10gb     Device  2: (UUID: MIG-3333)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-2)
"""


def test_every_slice_can_be_chosen() -> None:
    def run(arguments: Sequence[str]) -> CommandOutcome:
        return CommandOutcome(output=LISTED if "-L" in arguments else A100S)

    sliced = detect(run=run, read=FILES.get, environ={}, num_cores=2, architecture="x86_64")
    assert [gpu.uuid for gpu in select_gpus(("MIG-3333",), machine=sliced)] == ["MIG-3333"]
    assert [gpu.uuid for gpu in select_gpus(("0",), machine=sliced)] == ["MIG-1111"]  # as in CUDA
    assert require("a100-mig-1g.10gb", machine=sliced).name == "a100-mig-1g.10gb"
    every = select_gpus(("all",), device="a100-mig-1g.10gb", machine=sliced)
    assert [gpu.uuid for gpu in every] == ["MIG-2222", "MIG-3333"]
    with pytest.raises(InputError, match="must be equal") as caught:
        select_gpus(("MIG-2222", "MIG-3333", "1"), machine=sliced)
    assert caught.value.hint == "--gpus MIG-2222,MIG-3333"


def test_a_compute_instance_of_a_slice_has_a_name() -> None:
    assert resolve("a100-mig-1c.3g.20gb", machine=WITHOUT) == "a100-mig-1c.3g.20gb"


@pytest.mark.parametrize(("load", "is_busy"), [(0.9, False), (3.04, True)])
def test_a_busy_machine_is_noted(load: float, is_busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    note = load_note()
    assert (note is not None) == is_busy
    assert note is None or note.startswith(
        "the machine is busy (a load of 3.0 in the last minute, on 2 cores): estimates"
    )


def test_a_system_without_a_load_is_not_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> tuple[float, float, float]:
        raise OSError("no load average")

    monkeypatch.setattr("os.getloadavg", refuse)
    assert load_note() is None
