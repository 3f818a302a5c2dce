import dataclasses

import pytest

from hwnas.devices import DEVICES, Gpu
from hwnas.devices.gpu import BOARD_FILE, DRIVER_FILE, GPU_QUERY, SLICE_QUERY, detect_gpus, parse_gpus, visible_gpus
from hwnas.runs import CommandOutcome

TWO = (
    "NVIDIA H200, 143771 MiB, 570.86.15, GPU-aaaa1111-2222\n"
    "NVIDIA GeForce RTX 4090, 24564 MiB, 570.86.15, GPU-bbbb1111-2222\n"
)


def detected(
    outcome: CommandOutcome, *, files: dict[str, str] | None = None, visible: str | None = None, slices: str = ""
) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    def run(arguments: object) -> CommandOutcome:
        assert arguments in (GPU_QUERY, SLICE_QUERY)
        return outcome if arguments == GPU_QUERY else CommandOutcome(output=slices)

    return detect_gpus(run=run, read=(files or {}).get, visible=visible)


def test_each_line_is_a_gpu() -> None:
    (h200, rtx), notes = parse_gpus(TWO)
    assert notes == ()
    assert h200.device is DEVICES.get("h200")
    assert (h200.index, h200.reported, h200.driver) == (0, "NVIDIA H200", "570.86.15")
    assert (h200.memory_bytes, h200.uuid) == (143771 * 2**20, "GPU-aaaa1111-2222")
    assert (rtx.index, rtx.device.name) == (1, "rtx4090")


def test_a_gpu_without_a_datasheet_gets_a_name_of_its_own() -> None:
    (gpu,), _ = parse_gpus("NVIDIA RTX 6000 Ada Generation, 49140 MiB, 550.1, GPU-1\n")
    assert gpu.device.name == "nvidia-rtx-6000-ada-generation"
    assert gpu.device.fp32_flop_per_s is None


def test_a_board_without_memory_of_its_own_has_no_size() -> None:
    (gpu,), _ = parse_gpus("Orin (nvgpu), [N/A], 540.3.0, GPU-1\n")
    assert (gpu.device.name, gpu.memory_bytes) == ("jetson-orin", None)


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_no_answer_is_no_gpu(text: str) -> None:
    assert parse_gpus(text) == ((), ())


def test_a_line_that_is_no_gpu_is_noted() -> None:
    gpus, notes = parse_gpus("No devices were found\n" + TWO)
    assert len(gpus) == 2
    assert notes == ("nvidia-smi answered 'No devices were found'",)


def test_a_failure_is_noted() -> None:
    assert detected(CommandOutcome(failure="nvidia-smi did not answer within 10 s")) == (
        (),
        ("nvidia-smi did not answer within 10 s",),
    )


def test_a_driver_without_its_tool_is_noted() -> None:
    failure = CommandOutcome(failure="nvidia-smi is not installed")
    assert detected(failure, files={DRIVER_FILE: "NVRM version: ..."}) == (
        (),
        ("nvidia-smi is not installed, though NVIDIA's driver is loaded",),
    )


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("NVIDIA Jetson AGX Orin Developer Kit\0", "jetson-orin"),
        ("NVIDIA Jetson Orin Nano Developer Kit\0", "jetson-orin-nano"),
        ("NVIDIA Jetson Orin NX Developer Kit\0", "nvidia-jetson-orin-nx-developer-kit"),
    ],
)
def test_boards_of_one_chip_are_told_apart(model: str, name: str) -> None:
    answer = CommandOutcome(output="Orin (nvgpu), [N/A], 540.3.0, GPU-1\n")
    (gpu,), _ = detected(answer, files={BOARD_FILE: model})
    assert gpu.device.name == name


def test_without_a_limit_all_are_visible() -> None:
    gpus, notes = detected(CommandOutcome(output=TWO))
    assert ([gpu.index for gpu in gpus], notes) == ([0, 1], ())


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        ("1,0", [1, 0]),
        ("1", [1]),
        ("GPU-bbbb", [1]),
        ("", []),
        ("-1", []),
        ("1,7,0", [1]),
        ("GPU-", []),
    ],
)
def test_cuda_visible_devices_is_obeyed(visible: str, indices: list[int]) -> None:
    gpus, _ = parse_gpus(TWO)
    kept, notes = visible_gpus(gpus, visible=visible)
    assert [gpu.index for gpu in kept] == indices
    hidden = 2 - len(indices)
    assert notes == ((f"CUDA_VISIBLE_DEVICES={visible!r} hides {hidden} of 2 GPUs",) if hidden else ())


TWO_A100 = (
    "NVIDIA A100-SXM4-80GB, 81920 MiB, 570.86.15, GPU-aaaa1111-2222\n"
    "NVIDIA A100-SXM4-80GB, 81920 MiB, 570.86.15, GPU-bbbb1111-2222\n"
)
SLICES = """GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-aaaa1111-2222)
  MIG 3g.40gb     Device  0: (UUID: MIG-11111111-0000)
  MIG 1g.10gb+me  Device  1: (UUID: MIG-22222222-0000)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-bbbb1111-2222)
"""


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["a100-mig-3g.40gb", "a100-mig-1g.10gb-me", "a100"]),
        ("0", ["a100-mig-3g.40gb"]),
        ("1", ["a100"]),
        ("MIG-22222222-0000", ["a100-mig-1g.10gb-me"]),
        ("MIG-22222222-0000,1", ["a100-mig-1g.10gb-me", "a100"]),
        ("MIG-gone", []),
    ],
)
def test_a_slice_is_a_device_of_its_own(visible: str | None, names: list[str]) -> None:
    gpus, _ = detected(CommandOutcome(output=TWO_A100), slices=SLICES, visible=visible)
    assert [gpu.device.name for gpu in gpus] == names


def test_a_slice_has_no_rates_of_the_whole_gpu() -> None:
    gpus, notes = detected(CommandOutcome(output=TWO_A100), slices=SLICES, visible="MIG-11111111-0000")
    assert gpus[0].reported == "NVIDIA A100-SXM4-80GB MIG 3g.40gb"  # as torch reports it
    assert (gpus[0].device.fp16_flop_per_s, gpus[0].memory_bytes) == (None, None)
    assert (gpus[0].device.compute_capability, gpus[0].uuid) == ("8.0", "MIG-11111111-0000")
    assert notes == ("CUDA_VISIBLE_DEVICES='MIG-11111111-0000' hides 1 of 2 GPUs",)


def test_a_slice_that_is_gone_is_noted() -> None:
    _, notes = detected(CommandOutcome(output=TWO_A100), slices=SLICES, visible="MIG-gone")
    assert notes == (
        "CUDA_VISIBLE_DEVICES='MIG-gone' hides 2 of 2 GPUs",
        "the slice MIG-gone does not exist, and those that do are: "
        "MIG-11111111-0000 (a100-mig-3g.40gb), MIG-22222222-0000 (a100-mig-1g.10gb-me)",
    )


def test_a_gpu_is_frozen() -> None:
    (gpu, _), _ = parse_gpus(TWO)
    with pytest.raises(dataclasses.FrozenInstanceError):
        gpu.index = 3  # type: ignore[misc]
