"""How an engine is built."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hwnas.errors import InputError

EnginePrecision = Literal["fp32", "tf32", "fp16", "bf16"]
Typing = Literal["strong", "flags"]
CacheUse = Literal["extend", "read", "pinned"]


@dataclass(frozen=True, kw_only=True)
class TimingCache:
    """A file of kernel timings: builds that read the same one choose the same kernels where it knows them."""

    path: Path
    use: CacheUse = "extend"
    """'extend' reads it and adds what was timed; 'read' times what is missing and keeps nothing; 'pinned' times
    nothing: whatever is missing ends the build."""
    sha256: str | None = None
    """The file must be this one; not with 'extend'."""

    def __post_init__(self) -> None:
        _choice("the use of a timing cache", self.use, get_args(CacheUse))
        if self.use == "extend" and self.sha256 is not None:
            hint = "use 'read' or 'pinned' with a hash"
            raise InputError("a timing cache that grows cannot keep its hash", got=self.sha256, hint=hint)


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Everything that hwnas decides about an engine; what is not here stays as TensorRT has it."""

    precision: EnginePrecision = "fp32"
    """'fp32' keeps products in float32 exact; 'tf32' lets them be rounded to TF32, which is TensorRT's own default."""
    typing: Typing = "strong"
    """'strong': types are those of the ONNX graph. 'flags' (TensorRT 10): the graph is float32, and TensorRT may
    lower what it likes to the precision."""
    batch: int = 1
    """The batch that the engine is tuned for."""
    batch_range: tuple[int, int] | None = None
    """The batches that it takes, first and last; None for `batch` alone."""
    workspace_mb: int | None = None
    """Scratch memory that a layer may take, in MB of 10^6 bytes; None for all there is."""
    optimization_level: int = 3
    """0 to 5: how long the builder looks for fast kernels."""
    timing_cache: TimingCache | None = None

    def __post_init__(self) -> None:
        _choice("precision", self.precision, get_args(EnginePrecision))
        _choice("typing", self.typing, get_args(Typing))
        if not 0 <= self.optimization_level <= 5:
            raise InputError("optimization_level must be 0 to 5", got=self.optimization_level)
        if self.workspace_mb is not None and self.workspace_mb < 1:
            raise InputError("workspace_mb must be at least 1", got=self.workspace_mb)
        first, last = self.batches
        if not 1 <= first <= self.batch <= last:
            raise InputError("1 <= first <= batch <= last must hold", got=f"first={first}, {self.batch=}, last={last}")

    @property
    def batches(self) -> tuple[int, int]:
        """The first and the last batch that the engine takes."""
        return self.batch_range or (self.batch, self.batch)

    @property
    def weight_precision(self) -> str:
        """The precision that the weights of the ONNX graph must have."""
        if self.typing == "flags":
            return "fp32"
        return {"tf32": "fp32"}.get(self.precision, self.precision)


def _choice(what: str, got: str, known: tuple[str, ...]) -> None:
    if got not in known:
        raise InputError(f"{what} must be one that is known", got=got, known=known)
