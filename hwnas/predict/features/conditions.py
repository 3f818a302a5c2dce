"""Under which conditions networks run: what turns counts into times, before anything is fitted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwnas.devices.device import Device
from hwnas.errors import InputError
from hwnas.metrics import Precision
from hwnas.workload import element_bytes

Batch = int | NDArray[np.int64]

_NOMINAL: Mapping[str, tuple[float, float]] = {"cpu": (1e11, 2e10), "gpu": (5e13, 1e12)}
"""Operations and bytes a second where no datasheet tells them: only ratios matter, the fit finds the scale."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Batch, width of an element and rates of a device; the batch may differ from network to network."""

    kind: Literal["gpu", "cpu"]
    op_per_s: float
    byte_per_s: float
    bytes_per_element: int
    num_sms: int | None = None
    batch: Batch = 1
    torch_layouts: bool = False
    """True if tensors keep the layouts of torch's operations, which other runtimes rearrange."""
    autocast: bool = False
    """True if torch's autocast chooses the precision of each operation."""

    def __post_init__(self) -> None:
        if np.min(self.batch) < 1:
            raise InputError("a batch must have at least one image", got=int(np.min(self.batch)))

    def batch_of(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """The batch of each of these networks, by their numbers."""
        batches = np.asarray(self.batch, dtype=np.float64)
        return batches[rows] if batches.ndim else np.full(rows.shape, float(batches))

    def plain(self) -> dict[str, object]:
        """The values that a predictor stores; batch sizes that differ are not stored."""
        return {
            "kind": self.kind,
            "op_per_s": self.op_per_s,
            "byte_per_s": self.byte_per_s,
            "bytes_per_element": self.bytes_per_element,
            "num_sms": self.num_sms,
            "torch_layouts": self.torch_layouts,
            "autocast": self.autocast,
        }


def conditions_of(
    device: Device, *, precision: str = "fp32", batch: Batch = 1, runtime: str = "", autocast: bool = False
) -> Conditions:
    """The conditions on a device; a rate that no datasheet tells is a nominal one of its kind."""
    nominal_op_per_s, nominal_byte_per_s = _NOMINAL[device.kind]
    width = element_bytes(
        "fp32" if precision == "tf32" else precision
    )  # tf32 is how what is stored in float32 is multiplied
    peak: Precision = precision  # type: ignore[assignment]
    return Conditions(
        kind=device.kind,
        op_per_s=device.peak_op_per_s(peak) or device.fp32_flop_per_s or nominal_op_per_s,
        byte_per_s=device.memory_byte_per_s or nominal_byte_per_s,
        bytes_per_element=width,
        num_sms=device.num_sms,
        batch=batch,
        torch_layouts=runtime.startswith("torch"),
        autocast=autocast,
    )
