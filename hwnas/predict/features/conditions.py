"""Conditions that networks run under: batch, precision and nominal rates, which turn counts into times."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from hwnas.config import shown
from hwnas.devices.device import Device
from hwnas.errors import InputError, unknown
from hwnas.metrics import MAX_BATCH, PRECISIONS
from hwnas.predict.stored import StoredTable
from hwnas.workload import element_bytes

Batch = int | NDArray[np.int64]

_NOMINAL: Mapping[str, tuple[float, float]] = {"cpu": (1e11, 2e10), "gpu": (5e13, 1e12)}
"""Operations and bytes per second of devices without a datasheet; only ratios matter, a fit finds the scale."""

_STORED = ("kind", "op_per_s", "byte_per_s", "bytes_per_element", "num_sms", "torch_layouts", "autocast")
_MAX_RATE = 1e25


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Batch size, bytes per element and peak rates of a device; the batch size may differ between networks."""

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
        if np.min(self.batch) < 1 or np.max(self.batch) > MAX_BATCH:
            got = f"{shown(int(np.min(self.batch)))} to {shown(int(np.max(self.batch)))}"
            raise InputError(f"a batch must have 1 to {MAX_BATCH} images", got=got)
        for name, rate in (("op_per_s", self.op_per_s), ("byte_per_s", self.byte_per_s), ("num_sms", self.num_sms)):
            if rate is not None and not 1 <= rate <= _MAX_RATE:
                raise InputError(f"{name} of a device must be between 1 and {_MAX_RATE:g}", got=rate)

    def batch_of(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the batch size of each of these rows."""
        batches = np.asarray(self.batch, dtype=np.float64)
        return batches[rows] if batches.ndim else np.full(rows.shape, float(batches))

    @classmethod
    def from_json(cls, data: StoredTable) -> Self:
        """Make the conditions from what `plain` returned."""
        data.require_keys(*_STORED)
        return cls(
            kind="gpu" if data.text("kind", ("gpu", "cpu")) == "gpu" else "cpu",
            op_per_s=data.number("op_per_s", low=1, high=_MAX_RATE),
            byte_per_s=data.number("byte_per_s", low=1, high=_MAX_RATE),
            bytes_per_element=data.whole_number("bytes_per_element", low=1, high=16),
            num_sms=data.whole_number("num_sms", low=1, high=1_000_000) if "num_sms" in data else None,
            torch_layouts=data.flag("torch_layouts"),
            autocast=data.flag("autocast"),
        )

    def plain(self) -> dict[str, object]:
        """Return the values that a predictor stores; the batch size is not one of them."""
        return {name: getattr(self, name) for name in _STORED}


def conditions_of(
    device: Device, *, precision: str = "fp32", batch: Batch = 1, runtime: str = "", autocast: bool = False
) -> Conditions:
    """Return the conditions on a device, with nominal rates if its datasheet has none.

    Args:
        device: The device.
        precision: Precision, which gives the peak rate and the bytes per element.
        batch: Batch size, or one per network.
        runtime: Runtime; torch keeps strided layouts that others rearrange.
        autocast: True if torch's autocast chooses the precision of each operation.

    Raises:
        InputError: The precision is not known, or a rate of the device is out of range.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    kind: Literal["gpu", "cpu"] = "cpu" if device.kind == "cpu" else "gpu"
    nominal_op_per_s, nominal_byte_per_s = _NOMINAL[kind]
    # tf32 is a mode of multiplication: values are stored as float32.
    width = element_bytes("fp32" if precision == "tf32" else precision)
    return Conditions(
        kind=kind,
        op_per_s=device.peak_op_per_s(precision) or device.fp32_flop_per_s or nominal_op_per_s,
        byte_per_s=device.memory_byte_per_s or nominal_byte_per_s,
        bytes_per_element=width,
        num_sms=device.num_sms,
        batch=batch,
        torch_layouts=runtime.startswith("torch"),
        autocast=autocast,
    )
