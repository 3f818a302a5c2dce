import pytest

from hwnas.devices import DEVICES, Device, datasheets, match
from hwnas.errors import UnknownNameError
from hwnas.metrics import Precision
from hwnas.registry import Registry


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"),
        ("A100-PCIE-40GB", "a100-pcie-40gb"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-16GB", "v100-16gb"),
        ("Tesla V100-PCIE-32GB", "v100-pcie"),
        ("Tesla P100-PCIE-16GB", "p100"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA A30", "a30"),
        ("NVIDIA L40", "l40"),
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA B300 SXM6 AC", "b300"),
        ("NVIDIA RTX A6000", "rtx-a6000"),
        ("NVIDIA GeForce RTX 5090", "rtx5090"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "rtx-pro-6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "rtx-pro-6000-maxq"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000-server"),
        ("NVIDIA Thor", "jetson-thor"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("GeForce RTX 3090", "rtx3090"),
        ("Orin (nvgpu)", "jetson-orin"),
    ],
)
def test_a_reported_name_leads_to_its_device(reported: str, name: str) -> None:
    assert match(reported) is DEVICES.get(name)


@pytest.mark.parametrize(
    "reported",
    [
        "",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 5090 D",
        "NVIDIA GH200 144G HBM3e",
        "NVIDIA A40",
    ],
)
def test_another_variant_is_no_match(reported: str) -> None:
    assert match(reported) is None


@pytest.mark.parametrize(
    ("alias", "name"), [("A100-80GB", "a100"), ("rtx-4090", "rtx4090"), ("agx-orin", "jetson-orin")]
)
def test_an_alias_leads_to_its_device(alias: str, name: str) -> None:
    assert DEVICES.get(alias).name == name


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        DEVICES.get("rtx409")
    assert caught.value.hint == "rtx4090"


# Recorded in the NeuSight data set (Lee et al. 2024), from the vendor's datasheets: fp32 GFLOP/s, GB/s, L2 MiB.
# Its clock is the driver's maximum, so the rates differ by a few per cent.
NEUSIGHT = {
    "NVIDIA A100-PCIE-40GB": (19492, 1555, 40),
    "NVIDIA A100-SXM4-40GB": (19492, 1555, 40),
    "NVIDIA A100 80GB PCIe": (19492, 1935, 40),
    "NVIDIA H100 80GB HBM3": (66908, 3430, 50),
    "NVIDIA L4": (31334, 300, 48),
    "Tesla P100-PCIE-16GB": (9519, 732, 4),
    "Tesla P4": (5699, 192, 2),
    "Tesla T4": (8141, 320, 4),
    "Tesla V100-PCIE-32GB": (14029, 900, 6),
}


@pytest.mark.parametrize("reported", NEUSIGHT)
def test_figures_agree_with_those_of_others(reported: str) -> None:
    gflop_per_s, gb_per_s, l2_mib = NEUSIGHT[reported]
    device = match(reported)
    assert device is not None
    assert device.fp32_flop_per_s == pytest.approx(gflop_per_s * 1e9, rel=0.04)
    assert device.memory_byte_per_s == pytest.approx(gb_per_s * 1e9, rel=0.03)
    assert device.l2_bytes == l2_mib * 2**20


def test_a_row_is_read_in_its_units() -> None:
    a100 = DEVICES.get("a100")
    rates: dict[Precision, float | None] = {
        "fp32": 19.5e12,
        "tf32": 156e12,
        "fp16": 312e12,
        "bf16": 312e12,
        "fp8": None,
        "int8": 624e12,
    }
    assert {precision: a100.peak_op_per_s(precision) for precision in rates} == rates
    assert (a100.memory_byte_per_s, a100.memory_bytes, a100.num_sms) == (2039e9, 80 * 2**30, 108)
    assert (a100.l2_bytes, a100.kind, a100.architecture) == (40 * 2**20, "gpu", "ampere")


@pytest.mark.parametrize("device", DEVICES.values(), ids=lambda device: device.name)
def test_every_device_is_plausible_and_says_its_source(device: Device) -> None:
    assert device.source
    assert (device.compute_capability is not None) == (device.kind == "gpu")
    assert device.power_w is None or 40 <= device.power_w <= 1000
    assert (
        device.memory_byte_per_s is None or (1e11 if device.kind == "gpu" else 5e10) < device.memory_byte_per_s < 1e13
    )
    assert all(match(reported) is device for reported in device.reported)
    narrower: tuple[Precision, ...] = ("fp32", "fp16", "fp8", "int8")
    if device.name == "b300":  # has few int8 units
        narrower = narrower[:-1]
    rates = [rate for rate in map(device.peak_op_per_s, narrower) if rate is not None]
    assert rates == sorted(rates)
    assert device.bf16_flop_per_s in (None, device.fp16_flop_per_s)


def test_a_device_that_is_added_is_found_by_what_its_driver_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[Device] = Registry("device")
    monkeypatch.setattr(datasheets, "DEVICES", registry)
    assert match("NVIDIA ACME X900") is None
    board = Device(name="x900", kind="gpu", vendor="nvidia", architecture="ampere", reported=("NVIDIA ACME X900",))
    registry.add(board.name, board)
    assert match("ACME X900") is board
