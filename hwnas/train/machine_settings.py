"""Settings of the machine that the last bits of trained weights depend on."""

from dataclasses import dataclass
from typing import Annotated, Literal

from hwnas.config import Between


@dataclass(frozen=True, kw_only=True)
class MachineSettings:
    """Settings of the CPU that decide the order of floating-point sums, and so the last bits of the weights."""

    threads: Annotated[int, Between(1, 1024)]
    matmul_backend: Literal["default", "onednn"]
    """Backend of float32 matrix products."""
