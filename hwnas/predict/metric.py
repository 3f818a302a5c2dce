"""What a predictor predicts: a figure of a device under a runtime, a precision and a batch."""

from dataclasses import dataclass
from typing import Literal

from hwnas.errors import InputError
from hwnas.predict.features.table import Numbers

MetricName = Literal["latency_ms", "throughput", "memory_mb", "energy_j"]

UNITS = {"latency_ms": "ms", "throughput": "images/s", "memory_mb": "MB", "energy_j": "J"}
"""The unit of each metric."""

_MS_PER_S = 1e3


@dataclass(frozen=True, kw_only=True)
class DeviceMetric:
    """A metric and its setting, written `throughput@h200/torch-graph/bf16/b64`."""

    name: MetricName = "latency_ms"
    device: str
    runtime: str
    precision: str = "fp32"
    batch: int | None = 1
    """None: it was measured at batches that differ from network to network."""

    def __str__(self) -> str:
        batch = "b*" if self.batch is None else f"b{self.batch}"
        return f"{self.name}@{self.device}/{self.runtime}/{self.precision}/{batch}"

    @property
    def more_is_better(self) -> bool:
        """Whether a greater figure is the better one."""
        return self.name == "throughput"

    def to_target(self, figures: Numbers, *, batch: Numbers) -> Numbers:
        """Figures as models fit them: those of one run of a batch, less being better."""
        return _MS_PER_S * batch / figures if self.name == "throughput" else figures

    def from_target(self, target: Numbers, *, batch: Numbers) -> Numbers:
        """Figures from what models predict."""
        return _MS_PER_S * batch / target if self.name == "throughput" else target

    def require_batch(self, batch: int | None) -> int:
        """The batch to predict at: the measured one, or the one asked for where several were measured."""
        if self.batch is None:
            if batch is None:
                raise InputError(f"{self} needs a batch: its rows have different ones", hint="--batch 256")
            return batch
        if batch is not None and batch != self.batch:
            raise InputError(f"{self} was measured at another batch", got=batch, known=[self.batch])
        return self.batch
