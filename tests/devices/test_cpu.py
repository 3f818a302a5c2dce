import pytest

from hwnas.devices.cpu import (
    CACHE,
    CPUINFO,
    SYSCTL,
    CpuFacts,
    cache_bytes,
    detect_cpu,
    parse_cpuinfo,
    parse_sysctl,
    slug,
)
from hwnas.runs import CommandOutcome

ZEN4_IN_A_CLOUD = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
flags\t\t: fpu sse2 f16c avx2 avx512f avx512_bf16 avx512_vnni fsrm

processor\t: 1
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
flags\t\t: fpu
"""
SAPPHIRE_RAPIDS = """\
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: avx2 avx512f avx512_vnni avx512_bf16 avx512_fp16 amx_bf16 amx_tile amx_int8
"""
GRACE = """\
processor\t: 0
BogoMIPS\t: 2000.00
Features\t: fp asimd evtstrm sve sve2 i8mm bf16
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd4f
"""
M2 = """\
machdep.cpu.brand_string: Apple M2 Pro
machdep.cpu.core_count: 12
hw.optional.neon: 1
hw.optional.arm.FEAT_BF16: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_SME: 0
"""
INTEL_MAC = """\
machdep.cpu.brand_string: Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz
machdep.cpu.features: FPU SSE4.2 F16C AVX1.0
machdep.cpu.leaf7_features: BMI2 AVX2 SMEP
hw.optional.avx2_0: 1
"""


def test_x86_tells_model_vendor_and_flags_of_the_first_core() -> None:
    facts = parse_cpuinfo(ZEN4_IN_A_CLOUD)
    assert (facts.model, facts.vendor, facts.stepping) == ("AMD EPYC", "amd", "f25m17")
    assert facts.flags == {"fpu", "sse2", "f16c", "avx2", "avx512f", "avx512_bf16", "avx512_vnni", "fsrm"}


def test_arm_is_named_by_its_part() -> None:
    facts = parse_cpuinfo(GRACE)
    assert (facts.model, facts.vendor, facts.stepping) == ("Neoverse-V2", "arm", "")
    assert "sve2" in facts.flags


def test_an_unlisted_arm_part_keeps_its_numbers() -> None:
    facts = parse_cpuinfo("CPU implementer\t: 0x41\nCPU part\t: 0xfff\nFeatures\t: asimd\n")
    assert slug(facts, num_cores=4) == "arm-0x41-0xfff-4c-neon"


@pytest.mark.parametrize(
    ("text", "num_cores", "name"),
    [
        (ZEN4_IN_A_CLOUD, 2, "amd-epyc-f25m17-2c-avx512bf16"),
        (SAPPHIRE_RAPIDS, 8, "intel-xeon-platinum-8481c-8c-amxbf16"),
        (GRACE, 72, "arm-neoverse-v2-72c-sve2"),
        ("model name : AMD EPYC 9B45\nvendor_id : AuthenticAMD\nflags : avx512_bf16", 2,
         "amd-epyc-9b45-2c-avx512bf16"),
        ("model name : AMD Ryzen 9 7950X 16-Core Processor\nflags : avx2", 32, "amd-ryzen-9-7950x-32c-avx2"),
        ("model name : AMD Ryzen 7 5700G with Radeon Graphics\nflags : avx2", 8, "amd-ryzen-7-5700g-8c-avx2"),
        ("model name : Intel Xeon Processor (SapphireRapids)\ncpu family : 6\nmodel : 143\nflags : amx_tile", 4,
         "intel-xeon-sapphirerapids-f6m143-4c-amx"),
    ],
)  # fmt: skip
def test_a_name_says_model_cores_and_widest_instruction_set(text: str, num_cores: int, name: str) -> None:
    assert slug(parse_cpuinfo(text), num_cores=num_cores) == name


def test_a_cpu_without_known_instruction_sets_is_named_without() -> None:
    facts = CpuFacts(model="i386", vendor="unknown", flags=frozenset({"fpu"}))
    assert slug(facts, num_cores=1) == "i386-1c"


def test_macos_tells_apple_and_intel() -> None:
    apple, intel = parse_sysctl(M2), parse_sysctl(INTEL_MAC)
    assert apple == CpuFacts(model="Apple M2 Pro", vendor="apple", flags=frozenset({"asimd", "bf16", "i8mm"}))
    assert intel is not None
    assert (intel.vendor, "avx2" in intel.flags) == ("intel", True)
    assert slug(intel, num_cores=12) == "intel-core-i7-9750h-12c-avx2"


def test_sysctl_of_another_system_tells_nothing() -> None:
    assert parse_sysctl("hw.model: something\n") is None


def test_caches_are_those_of_the_level_and_not_of_instructions() -> None:
    rows = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M"), ("3", "Unified", "32768K")]
    files = {
        f"{CACHE}/index{index}/{name}": f"{value}\n"
        for index, row in enumerate(rows)
        for name, value in zip(("level", "type", "size"), row, strict=True)
    }
    sizes = [cache_bytes(level, read=files.get) for level in (1, 2, 3, 4)]
    assert sizes == [48 * 2**10, 2 * 2**20, 32 * 2**20, None]


def test_linux_is_detected_from_its_files() -> None:
    def run(arguments: object) -> CommandOutcome:
        raise AssertionError(arguments)

    cpu, notes = detect_cpu(
        read={CPUINFO: SAPPHIRE_RAPIDS}.get, run=run, num_cores=8, architecture="x86_64", fallback="x86_64"
    )
    assert notes == ()
    assert (cpu.slug, cpu.architecture) == ("intel-xeon-platinum-8481c-8c-amxbf16", "x86_64")
    assert cpu.instruction_sets[:3] == ("amx_bf16", "amx_int8", "amx_tile")
    assert (cpu.l2_bytes, cpu.l3_bytes) == (None, None)
    assert (cpu.device.name, cpu.device.kind, cpu.device.aliases) == (cpu.slug, "cpu", ("cpu",))


def test_a_system_without_files_is_asked_by_sysctl() -> None:
    asked: list[object] = []

    def run(arguments: object) -> CommandOutcome:
        asked.append(arguments)
        return CommandOutcome(output=M2)

    cpu, notes = detect_cpu(read=lambda _: None, run=run, num_cores=12, architecture="arm64", fallback="arm")
    assert (cpu.slug, notes, asked) == ("apple-m2-pro-12c-i8mm", (), [SYSCTL])


def test_a_system_that_tells_nothing_is_noted() -> None:
    failure = CommandOutcome(failure="sysctl is not installed")
    cpu, notes = detect_cpu(
        read=lambda _: None, run=lambda _: failure, num_cores=4, architecture="AMD64", fallback="Family 6, GenuineIntel"
    )
    assert cpu.slug == "family-6-genuineintel-4c"
    assert notes == (f"the instruction sets are not known: no {CPUINFO}, and sysctl is not installed",)
