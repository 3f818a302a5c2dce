"""Properties of a device model, and access to system files for its detection."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hwnas.metrics import Precision

FileReader = Callable[[str], str | None]
"""Returns the text of a system file, or None if it cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A model of GPU, CPU or NPU. Rates and sizes that are not reliably known are None.

    Rates are those of the fastest dense units (tensor cores if there are any) at the clock of the datasheet, without
    structured sparsity, with half-precision products accumulated in fp32. A multiply-add counts as two operations.
    """

    name: str
    kind: Literal["gpu", "cpu", "npu"]
    vendor: str
    architecture: str
    aliases: tuple[str, ...] = ()
    reported: tuple[str, ...] = ()
    """Names that drivers report."""
    fp32_flop_per_s: float | None = None
    """Rate of the fp32 units; tf32 is that of tensor cores."""
    tf32_flop_per_s: float | None = None
    fp16_flop_per_s: float | None = None
    bf16_flop_per_s: float | None = None
    fp8_flop_per_s: float | None = None
    int8_op_per_s: float | None = None
    memory_byte_per_s: float | None = None
    memory_bytes: int | None = None
    power_w: float | None = None
    """Power limit in watts that the datasheet states, with default settings."""
    num_sms: int | None = None
    l2_bytes: int | None = None
    compute_capability: str | None = None
    """NVIDIA's number of the instruction set of a GPU, such as '8.9'; None for other devices."""
    source: str = ""
    """The datasheet of the rates and sizes."""

    @property
    def has_cuda(self) -> bool:
        """True for NVIDIA's GPUs, which torch, TensorRT and ONNX Runtime use."""
        return self.kind == "gpu" and self.vendor == "nvidia"

    def peak_op_per_s(self, precision: Precision) -> float | None:
        """Return the peak operations per second in a precision."""
        rates = {
            "fp32": self.fp32_flop_per_s,
            "tf32": self.tf32_flop_per_s,
            "fp16": self.fp16_flop_per_s,
            "bf16": self.bf16_flop_per_s,
            "fp8": self.fp8_flop_per_s,
            "int8": self.int8_op_per_s,
            "int8-dynamic": self.int8_op_per_s,
        }
        return rates[precision]


def read_system_file(path: str) -> str | None:
    """Return the text of a file under /proc or /sys; None if it does not exist or cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
