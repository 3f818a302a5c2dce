"""A model of device, and how detection may look at the system."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hwnas.metrics import Precision

FileReader = Callable[[str], str | None]
"""The text of a system file, or None where this system does not show it."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A model of GPU or CPU; a rate or a size that is not surely known is None.

    Rates are those of the fastest dense units (tensor cores where there are any) at the datasheet's clock:
    no structured sparsity, half-precision products summed in fp32. A multiply-add is two operations.
    """

    name: str
    kind: Literal["gpu", "cpu"]
    vendor: str
    architecture: str
    aliases: tuple[str, ...] = ()
    reported: tuple[str, ...] = ()
    """What drivers call it."""
    fp32_flop_per_s: float | None = None
    """Of the plain fp32 units; see tf32 for tensor cores."""
    tf32_flop_per_s: float | None = None
    fp16_flop_per_s: float | None = None
    bf16_flop_per_s: float | None = None
    fp8_flop_per_s: float | None = None
    int8_op_per_s: float | None = None
    memory_byte_per_s: float | None = None
    memory_bytes: int | None = None
    num_sms: int | None = None
    l2_bytes: int | None = None
    source: str = ""
    """The datasheet that the figures are from."""

    def peak_op_per_s(self, precision: Precision) -> float | None:
        """Peak operations per second in one precision."""
        rates = {
            "fp32": self.fp32_flop_per_s,
            "tf32": self.tf32_flop_per_s,
            "fp16": self.fp16_flop_per_s,
            "bf16": self.bf16_flop_per_s,
            "fp8": self.fp8_flop_per_s,
            "int8": self.int8_op_per_s,
        }
        return rates[precision]


def read_system_file(path: str) -> str | None:
    """The text of a file under /proc or /sys; None where this system lacks it or hides it."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
