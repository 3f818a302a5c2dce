"""Datasheets of the devices that hwnas knows by name.

A name denotes one variant, because variants differ in bandwidth or clock: `a100` is the SXM board with 80 GB, and
`a100-pcie` another device.
"""

import re

from hwnas.devices.device import Device
from hwnas.registry import Registry, require_named

# Peak rates are in TFLOP/s (int8: TOP/s), dense: where a datasheet prints only the rate with sparsity, half
# of it stands here. Of the desktop boards the rates that sum in fp32 (int8: in int32) are taken; the fp16
# rate of a P100 is that of its packed vector units. SM is the compute capability, by NVIDIA's list of CUDA GPUs.
# A dash: the device lacks it, or no datasheet was read that has it. An HGX board has the figures of one of its GPUs.
# W is the power limit of a board as delivered. These, the rates of the Max-Q board and those of CPUs are second-hand:
# from lists of vendors' specifications and not read in the datasheets themselves.
_FIGURES = """
name            architecture fp32   tf32   fp16   bf16   fp8     int8    GB/s   GiB  SMs  L2_MiB  SM    W
b300            blackwell    -      -      2250   2250   4500    153.5   7700   -    -    -       10.3    -
b200            blackwell    75     1125   2250   2250   4500    4500    7700   180  148  -       10.0    1000
gh200           hopper       -      494    990    990    1979    -       4000   96   132  -       9.0     1000
h200-nvl        hopper       -      -      835.5  835.5  -       -       4800   141  -    -       9.0     600
h200            hopper       67     494.5  989.5  989.5  1979    1979    4800   141  132  -       9.0     700
h100            hopper       67     494.5  989.5  989.5  1979    1979    3350   80   132  50      9.0     700
h100-pcie       hopper       51     378    756.5  756.5  1513    1513    2000   80   114  50      9.0     350
h100-nvl        hopper       60     417.5  835.5  835.5  1670.5  1670.5  3900   94   132  50      9.0     400
l40s            ada          91.6   183    362    362    733     733     864    48   142  96      8.9     350
l40             ada          90.5   90.5   181.05 181.05 362     362     864    48   142  -       8.9     300
l4              ada          30.3   60     121    121    242.5   242.5   300    24   58   48      8.9     72
a100            ampere       19.5   156    312    312    -       624     2039   80   108  40      8.0     400
a100-40gb       ampere       19.5   156    312    312    -       624     1555   40   108  40      8.0     400
a100-pcie       ampere       19.5   156    312    312    -       624     1935   80   108  40      8.0     300
a100-pcie-40gb  ampere       19.5   156    312    312    -       624     1555   40   108  40      8.0     250
a30             ampere       10.3   -      165    -      -       330     933    24   56   -       8.0     165
a10g            ampere       35     35     70     70     -       -       600    24   -    -       8.6     -
a10             ampere       31.2   62.5   125    125    -       250     600    24   72   6       8.6     150
t4              turing       8.1    -      65     -      -       130     320    16   40   4       7.5     70
v100            volta        15.7   -      125    -      -       -       900    32   80   6       7.0     300
v100-16gb       volta        15.7   -      125    -      -       -       900    16   80   6       7.0     300
v100-pcie       volta        14     -      112    -      -       -       900    32   80   6       7.0     250
v100-pcie-16gb  volta        14     -      112    -      -       -       900    16   80   6       7.0     250
p100            pascal       9.3    -      18.7   -      -       -       732    16   56   4       6.0     250
p4              pascal       5.5    -      -      -      -       22      192    8    20   2       6.1     75
rtx-pro-6000    blackwell    125    -      503.8  503.8  -       -       1792   96   188  128     12.0    600
rtx-pro-6000-maxq blackwell  110    -      438.9  438.9  -       -       1792   96   188  128     12.0    300
rtx-pro-6000-server blackwell 120   -      -      -      -       -       1597   96   188  128     12.0    600
rtx-a6000       ampere       38.7   -      154.8  154.8  -       309.7   768    48   84   6       8.6     300
rtx5090         blackwell    104.8  104.8  209.5  209.5  419     -       1792   32   170  96      12.0    575
rtx4090         ada          82.6   82.6   165.2  165.2  330.3   660.6   1008   24   128  72      8.9     450
rtx3090         ampere       35.6   35.6   71     71     -       284     936    24   82   6       8.6     350
titan-xp        pascal       12.15  -      -      -      -       -       547.7  12   30   3       6.1     250
jetson-orin     ampere       5.3    -      -      -      -       85      204.8  64   16   4       8.7     60
jetson-orin-nano ampere      -      -      -      -      -       -       -      8    8    -       8.7     -
jetson-thor     blackwell    -      -      -      -      -       -       -      128  20   -       11.0    130
"""

# Name: what drivers report (parted by |), aliases, source. The driver calls every Orin `Orin (nvgpu)`;
# detection tells the boards apart by their device tree.
_NAMES: dict[str, tuple[str, str, str]] = {
    "b300": ("NVIDIA B300 SXM6 AC", "b300-sxm", "NVIDIA Blackwell Ultra datasheet, HGX B300, per GPU"),
    "b200": ("NVIDIA B200", "b200-sxm", "NVIDIA Blackwell datasheet, HGX B200, per GPU"),
    "gh200": ("NVIDIA GH200 480GB", "gh200-96gb", "NVIDIA GH200 Grace Hopper Superchip datasheet, 96 GB HBM3"),
    "h200-nvl": ("NVIDIA H200 NVL", "h200-nvl-141gb", "NVIDIA H200 datasheet, NVL"),
    "h200": ("NVIDIA H200", "h200-sxm h200-141gb", "NVIDIA H200 datasheet, SXM"),
    "h100": ("NVIDIA H100 80GB HBM3", "h100-sxm h100-80gb h100-sxm-80gb", "NVIDIA H100 datasheet, SXM"),
    "h100-pcie": ("NVIDIA H100 PCIe", "h100-pcie-80gb", "NVIDIA H100 datasheet, PCIe"),
    "h100-nvl": ("NVIDIA H100 NVL", "h100-nvl-94gb", "NVIDIA H100 datasheet, NVL"),
    "l40s": ("NVIDIA L40S", "", "NVIDIA L40S datasheet"),
    "l40": ("NVIDIA L40", "", "NVIDIA L40 datasheet"),
    "l4": ("NVIDIA L4", "", "NVIDIA L4 datasheet"),
    "a100": ("NVIDIA A100-SXM4-80GB", "a100-sxm a100-80gb a100-sxm-80gb", "NVIDIA A100 datasheet, SXM 80 GB"),
    "a100-40gb": ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb", "NVIDIA A100 datasheet, SXM 40 GB"),
    "a100-pcie": ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb", "NVIDIA A100 datasheet, PCIe 80 GB"),
    "a100-pcie-40gb": ("NVIDIA A100-PCIE-40GB", "", "NVIDIA A100 datasheet, PCIe 40 GB"),
    "a30": ("NVIDIA A30", "", "NVIDIA A30 datasheet"),
    "a10g": ("NVIDIA A10G", "", "NVIDIA A10G datasheet of AWS, February 2022"),
    "a10": ("NVIDIA A10", "", "NVIDIA A10 datasheet"),
    "t4": ("Tesla T4", "", "NVIDIA T4 datasheet"),
    "v100": ("Tesla V100-SXM2-32GB", "v100-sxm v100-32gb v100-sxm-32gb", "NVIDIA V100 datasheet, SXM2"),
    "v100-16gb": ("Tesla V100-SXM2-16GB", "v100-sxm-16gb", "NVIDIA V100 datasheet, SXM2"),
    "v100-pcie": ("Tesla V100-PCIE-32GB", "v100-pcie-32gb", "NVIDIA V100 datasheet, PCIe"),
    "v100-pcie-16gb": ("Tesla V100-PCIE-16GB", "", "NVIDIA V100 datasheet, PCIe"),
    "p100": ("Tesla P100-PCIE-16GB", "p100-pcie p100-pcie-16gb", "NVIDIA P100 datasheet, PCIe 16 GB"),
    "p4": ("Tesla P4", "", "NVIDIA P4 datasheet"),
    "rtx-pro-6000": (
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
        "rtx-pro-6000-workstation pro6000",
        "NVIDIA RTX PRO Blackwell architecture whitepaper",
    ),
    "rtx-pro-6000-maxq": (
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        "rtx-pro-6000-max-q pro6000maxq",
        "NVIDIA RTX PRO 6000 Blackwell Max-Q datasheet; rates second-hand (technical.city; an eighth of 3511 AI TOPS)",
    ),
    "rtx-pro-6000-server": (
        "NVIDIA RTX PRO 6000 Blackwell Server Edition",
        "pro6000server",
        "NVIDIA RTX PRO 6000 Blackwell Server Edition datasheet, December 2025",
    ),
    "rtx-a6000": ("NVIDIA RTX A6000", "rtxa6000 a6000", "NVIDIA GA102 architecture whitepaper"),
    "rtx5090": ("NVIDIA GeForce RTX 5090", "rtx-5090 5090", "NVIDIA RTX Blackwell architecture whitepaper"),
    "rtx4090": ("NVIDIA GeForce RTX 4090", "rtx-4090 4090", "NVIDIA Ada architecture whitepaper"),
    "rtx3090": ("NVIDIA GeForce RTX 3090", "rtx-3090 3090", "NVIDIA GA102 architecture whitepaper"),
    "titan-xp": ("NVIDIA TITAN Xp", "titanxp", "NVIDIA TITAN Xp specifications"),
    "jetson-orin": (
        "Orin (nvgpu)|NVIDIA Jetson AGX Orin|NVIDIA Jetson AGX Orin Developer Kit",
        "jetson-agx-orin agx-orin",
        "NVIDIA Jetson AGX Orin technical brief, 64 GB",
    ),
    "jetson-orin-nano": (
        "NVIDIA Jetson Orin Nano Developer Kit|NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "orin-nano",
        "NVIDIA Jetson Orin Nano specifications, 8 GB; its rates depend on the power mode",
    ),
    "jetson-thor": (
        "NVIDIA Thor|NVIDIA Jetson AGX Thor Developer Kit",
        "jetson-agx-thor agx-thor",
        "NVIDIA Jetson AGX Thor Developer Kit user guide, 128 GB",
    ),
}

_CPUS = (
    Device(
        name="intel-core-i9-10940x-28c-avx512vnni",
        kind="cpu",
        vendor="intel",
        architecture="x86_64",
        aliases=("i9-10940x",),
        fp32_flop_per_s=14 * 64 * 3.3e9,
        memory_byte_per_s=94e9,
        power_w=165,
        source="second-hand: 14 cores of 3.3 GHz with two AVX-512 multiply-adds a cycle, four channels of DDR4-2933",
    ),
    Device(
        name="intel-core-i7-12700h-20c-avxvnni",
        kind="cpu",
        vendor="intel",
        architecture="x86_64",
        aliases=("i7-12700h",),
        fp32_flop_per_s=6 * 32 * 2.3e9 + 8 * 16 * 1.7e9,
        memory_byte_per_s=76.8e9,
        power_w=45,
        source="second-hand: 6 cores of 2.3 GHz and 8 of 1.7 GHz with AVX2, two channels of DDR5-4800",
    ),
)
"""CPUs of published tables, named as they would be detected; their peak is that of all cores at the base clock."""


def match(reported: str) -> Device | None:
    """Return the device with a name that a driver reports, or None. Another variant does not match."""
    name = normalised(reported)
    matching = (device for device in DEVICES.values() if name in map(normalised, device.reported))
    return next(matching, None)


def normalised(reported: str) -> str:
    """Return a reported name as lower-case words joined by hyphens, without brand names."""
    words = re.findall(r"[a-z0-9.]+", reported.casefold())
    return "-".join(word for word in words if word not in ("nvidia", "tesla", "geforce"))


def _devices() -> Registry[Device]:
    registry: Registry[Device] = Registry("device", check=require_named("device", Device))
    header, *lines = (line.split() for line in _FIGURES.strip().splitlines())
    for line in lines:
        device = _device(dict(zip(header, line, strict=True)))
        registry.add(device.name, device, aliases=device.aliases)
    for cpu in _CPUS:
        registry.add(cpu.name, cpu, aliases=cpu.aliases)
    return registry


def _device(row: dict[str, str]) -> Device:
    reported, aliases, source = _NAMES[row["name"]]
    return Device(
        name=row["name"],
        kind="gpu",
        vendor="nvidia",
        architecture=row["architecture"],
        aliases=tuple(aliases.split()),
        reported=tuple(reported.split("|")),
        fp32_flop_per_s=_figure(row["fp32"], 1e12),
        tf32_flop_per_s=_figure(row["tf32"], 1e12),
        fp16_flop_per_s=_figure(row["fp16"], 1e12),
        bf16_flop_per_s=_figure(row["bf16"], 1e12),
        fp8_flop_per_s=_figure(row["fp8"], 1e12),
        int8_op_per_s=_figure(row["int8"], 1e12),
        memory_byte_per_s=_figure(row["GB/s"], 1e9),
        memory_bytes=_count(row["GiB"], 2**30),
        power_w=_figure(row["W"], 1),
        num_sms=_count(row["SMs"], 1),
        l2_bytes=_count(row["L2_MiB"], 2**20),
        compute_capability=row["SM"],
        source=source,
    )


def _figure(text: str, unit: float) -> float | None:
    return None if text == "-" else float(text) * unit


def _count(text: str, unit: int) -> int | None:
    return None if text == "-" else int(text) * unit


DEVICES = _devices()
"""Devices known by name. Gigabytes of memory in a datasheet are taken as GiB, which drivers report."""
