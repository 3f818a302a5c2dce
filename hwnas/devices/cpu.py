"""Detect the CPU of this machine: model, cores, instruction sets and caches, and a device name made of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hwnas.devices.device import Device, FileReader
from hwnas.runs import CommandRunner

CPUINFO = "/proc/cpuinfo"
CACHE = "/sys/devices/system/cpu/cpu0/cache"
SYSCTL = ("sysctl", "machdep.cpu", "hw.optional")

INSTRUCTION_SETS = {
    "amx_bf16": "amxbf16",
    "amx_int8": "amxint8",
    "amx_tile": "amx",
    "avx512_fp16": "avx512fp16",
    "avx512_bf16": "avx512bf16",
    "avx512_vnni": "avx512vnni",
    "avx512f": "avx512",
    "avx_vnni": "avxvnni",
    "avx2": "avx2",
    "sve2": "sve2",
    "sve": "sve",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "asimd": "neon",
    "neon": "neon",
}
"""Instruction sets that affect the speed of networks, widest first, with their short names in device names."""

BF16_INSTRUCTIONS = frozenset({"amx_bf16", "avx512_bf16", "bf16"})
"""Instruction sets with products of bfloat16, of Intel, of Intel and AMD, and of ARM."""

_VENDORS = {
    "AuthenticAMD": "amd",
    "GenuineIntel": "intel",
    "HygonGenuine": "hygon",
    "0x41": "arm",
    "0x4e": "nvidia",
    "0x61": "apple",
    "0xc0": "ampere",
}
_ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd42": "Cortex-A78AE",
    "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2",
}


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """Properties of a CPU that affect speed."""

    slug: str
    """Device name."""
    model: str
    vendor: str
    architecture: str
    num_cores: int
    """Logical cores that this process may use."""
    instruction_sets: tuple[str, ...] = ()
    l2_bytes: int | None = None
    l3_bytes: int | None = None

    @property
    def has_bf16(self) -> bool:
        """True if the CPU multiplies bfloat16; without these instructions, it is emulated and slower than fp32."""
        return not BF16_INSTRUCTIONS.isdisjoint(self.instruction_sets)

    @property
    def device(self) -> Device:
        """The CPU as a device, without rates of a datasheet."""
        return Device(
            name=self.slug,
            kind="cpu",
            vendor=self.vendor,
            architecture=self.architecture,
            aliases=("cpu",),
            reported=(self.model,),
            l2_bytes=self.l2_bytes,
        )


@dataclass(frozen=True, kw_only=True)
class CpuFacts:
    """Facts about a CPU that the system reports."""

    model: str
    vendor: str
    flags: frozenset[str]
    stepping: str = ""
    """Family and model number, which distinguish CPUs whose model name a cloud provider hides."""


def detect_cpu(
    *, read: FileReader, run: CommandRunner, num_cores: int, architecture: str, fallback: str
) -> tuple[Cpu, tuple[str, ...]]:
    """Detect the CPU.

    Args:
        read: Reads a system file.
        run: Runs a command.
        num_cores: Logical cores that this process may use.
        architecture: Architecture of the machine, such as x86_64.
        fallback: Model name for systems that report none.

    Returns:
        The CPU, and notes on what could not be detected.
    """
    facts, notes = _facts(read=read, run=run)
    if facts is None:
        facts = CpuFacts(model=fallback or architecture, vendor="unknown", flags=frozenset())
    instruction_sets = tuple(name for name in INSTRUCTION_SETS if name in facts.flags)
    cpu = Cpu(
        slug=slug(facts, num_cores=num_cores),
        model=facts.model,
        vendor=facts.vendor,
        architecture=architecture,
        num_cores=num_cores,
        instruction_sets=instruction_sets,
        l2_bytes=cache_bytes(2, read=read),
        l3_bytes=cache_bytes(3, read=read),
    )
    return cpu, notes


def parse_cpuinfo(text: str) -> CpuFacts:
    """Parse /proc/cpuinfo of Linux, on x86 and ARM."""
    pairs = _pairs(text)
    vendor = pairs.get("vendor_id") or pairs.get("CPU implementer", "")
    part = pairs.get("CPU part", "")
    model = pairs.get("model name") or _ARM_PARTS.get(part) or f"{vendor or 'unknown'} {part}".strip()
    flags = pairs.get("flags") or pairs.get("Features", "")
    numbers = (pairs.get("cpu family"), pairs.get("model"))
    return CpuFacts(
        model=model,
        vendor=_VENDORS.get(vendor, "unknown"),
        flags=frozenset(flags.split()),
        stepping="f{}m{}".format(*numbers) if all(numbers) else "",
    )


def parse_sysctl(text: str) -> CpuFacts | None:
    """Parse the output of sysctl on macOS; None if it does not name the CPU."""
    pairs = _pairs(text)
    model = pairs.get("machdep.cpu.brand_string")
    if model is None:
        return None
    words = f"{pairs.get('machdep.cpu.features', '')} {pairs.get('machdep.cpu.leaf7_features', '')}"
    on = {name.removeprefix("hw.optional.").casefold() for name, value in pairs.items() if value == "1"}
    neon = {"asimd"} if {"neon", "advsimd"} & on or model.startswith("Apple") else set()
    arm = {flag for flag in ("bf16", "i8mm") if f"arm.feat_{flag}" in on}
    return CpuFacts(
        model=model,
        vendor="apple" if model.startswith("Apple") else "intel",
        flags=frozenset({*words.casefold().split(), *(on & INSTRUCTION_SETS.keys()), *neon, *arm} - {"neon"}),
    )


def slug(facts: CpuFacts, *, num_cores: int) -> str:
    """Return the device name of a CPU: model, cores, widest instruction set."""
    # The words of a name such as `Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz` that identify the model.
    text = re.sub(r"\((r|tm|c)\)|@.*|\bwith\b.*|\b\d+-core\b|\b(cpu|processor)\b", " ", facts.model.casefold())
    words = re.findall(r"[a-z0-9]+", text)
    if not any(character.isdigit() for word in words for character in word) and facts.stepping:
        words.append(facts.stepping)
    if facts.vendor not in ("unknown", *words):
        words.insert(0, facts.vendor)
    widest = [short for name, short in INSTRUCTION_SETS.items() if name in facts.flags][:1]
    return "-".join([*words, f"{num_cores}c", *widest])


def cache_bytes(level: int, *, read: FileReader) -> int | None:
    """Return the size of core 0's data cache of a level; None if it is not known."""
    for index in range(8):
        folder = f"{CACHE}/index{index}"
        kind, size = read(f"{folder}/type"), read(f"{folder}/size")
        if kind is None or size is None:
            continue
        if (read(f"{folder}/level") or "").strip() == str(level) and kind.strip() != "Instruction":
            text = size.strip()
            units = {"K": 2**10, "M": 2**20, "G": 2**30}
            number, unit = text.rstrip("KMG"), text[-1:]
            return int(number) * units.get(unit, 1) if number.isdecimal() else None
    return None


def _facts(*, read: FileReader, run: CommandRunner) -> tuple[CpuFacts | None, tuple[str, ...]]:
    text = read(CPUINFO)
    if text:
        return parse_cpuinfo(text), ()
    outcome = run(SYSCTL)
    if outcome.failure is not None:
        return None, (f"the instruction sets are not known: no {CPUINFO}, and {outcome.failure}",)
    facts = parse_sysctl(outcome.output)
    return facts, () if facts else ("the instruction sets are not known: sysctl does not name the CPU",)


def _pairs(text: str) -> Mapping[str, str]:
    """The `name : value` lines; the first of each name, as names repeat for every core."""
    pairs: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        pairs.setdefault(name.strip(), value.strip())
    return pairs
