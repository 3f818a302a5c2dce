"""Messages between a command and the workers that evaluate networks for it: JSON both ways, and no pickles."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from hwnas.config import Between, require_valid
from hwnas.metrics import QualityMetric
from hwnas.train.executor import Measure


@dataclass(frozen=True, kw_only=True)
class EvaluationTask:
    """A supernet, images, and the settings that decide the last bits of results, which a worker opens once."""

    supernet: str
    """Absolute path of a run of `hwnas train`, or of a file of weights."""
    digest: str
    """Digest of the weights."""
    data: str | None
    """Name of a dataset in place of that of the run."""
    data_fingerprint: str
    whole_data: bool = False
    """All images of `data` are evaluated, if it does not say which are for training."""
    split: Literal["heldout", "test"] = "heldout"
    quality: QualityMetric = "accuracy"
    """The quality that is measured; not every one needs images with classes."""
    device: Literal["cpu", "cuda"]
    threads: Annotated[int, Between(1, 1024)]
    """Threads of torch on the CPU."""
    matmul_backend: Literal["default", "onednn"]
    """Backend of float32 matrix products on the CPU."""
    loaders: Annotated[int, Between(0, 1024)] = 0
    """Processes of a worker that load images."""

    def __post_init__(self) -> None:
        require_valid(self)


@dataclass(frozen=True, kw_only=True)
class NetworkBatch:
    """Networks that a worker evaluates together."""

    archs: tuple[Mapping[str, Any], ...]
    measure: Measure


@dataclass(frozen=True, kw_only=True)
class BatchRows:
    """Results of the networks of a batch."""

    rows: tuple[Mapping[str, Any], ...]
    """One for each network, in their order."""


@dataclass(frozen=True, kw_only=True)
class ComputeFacts:
    """Facts that the results of a worker depend on, beyond its task."""

    hwnas: str
    torch: str
    device: str
    """Name of its CPU, with its instruction set, or of its GPU."""
