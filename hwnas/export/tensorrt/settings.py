"""Settings of an engine build."""

from dataclasses import dataclass
from typing import Literal, get_args

from hwnas.errors import InputError, unknown
from hwnas.export.tensorrt.library import LIBRARIES, LibraryName
from hwnas.export.tensorrt.timing_cache import TimingCache
from hwnas.metrics import QUANTISED

EnginePrecision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8"]
NetworkTyping = Literal["strong", "flags"]


FP8_SINCE = (8, 9)
"""The oldest compute capability with units for fp8."""


def has_fp8(capability: str) -> bool:
    """Return True if GPUs of a compute capability multiply in fp8."""
    return tuple(int(part) for part in capability.split(".")) >= FP8_SINCE


def require_fp8(capability: str) -> None:
    """Require that GPUs of a compute capability multiply in fp8."""
    if not has_fp8(capability):
        message = f"fp8 needs a GPU of compute capability {'.'.join(map(str, FP8_SINCE))} or later"
        raise InputError(message, got=capability, hint="--precision fp16")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Settings of an engine build; everything else keeps TensorRT's defaults."""

    library: LibraryName = "tensorrt"
    compute_capabilities: tuple[str, ...] = ()
    """GPUs that TensorRT for RTX builds for ahead of time, such as ('8.6', '8.9'); empty: the GPU of this machine."""
    precision: EnginePrecision = "fp32"
    """'fp32' computes products in full float32; 'tf32' allows TF32 products, which is TensorRT's own default. 'int8'
    and 'fp8' are those of linear layers, in a graph in float16."""
    typing: NetworkTyping = "strong"
    """'strong': each tensor has the type that it has in the ONNX graph. 'flags' (TensorRT 10 only): the graph is
    float32, and TensorRT may run any layer in the lower precision."""
    batch: int = 1
    """The batch size that the engine is tuned for."""
    batch_range: tuple[int, int] | None = None
    """Smallest and largest batch size that the engine accepts; None for `batch` alone."""
    workspace_mb: int | None = None
    """Scratch memory limit of a layer, in MB of 10^6 bytes; None for no limit."""
    optimization_level: int = 3
    """0 to 5: how much time the builder spends on finding fast kernels."""
    timing_cache: TimingCache | None = None
    """Kernel timings that builds share; None to time all kernels anew. TensorRT for RTX times none."""

    def __post_init__(self) -> None:
        for name, choices in (("precision", get_args(EnginePrecision)), ("typing", get_args(NetworkTyping))):
            if getattr(self, name) not in choices:
                raise unknown(name, getattr(self, name), choices)
        if self.library not in LIBRARIES:
            raise unknown("library", self.library, LIBRARIES)
        library = LIBRARIES[self.library]
        if self.precision in QUANTISED and self.typing == "flags":
            raise InputError(f"{self.precision} is in the graph itself", got="typing='flags'", hint="typing='strong'")
        for capability in self.compute_capabilities if self.precision == "fp8" else ():
            require_fp8(capability)
        if self.compute_capabilities and not library.is_portable:
            message = "only TensorRT for RTX builds engines for GPUs that are not in this machine"
            raise InputError(message, got=", ".join(self.compute_capabilities), hint="library='tensorrt-rtx'")
        if library.is_portable and self.typing == "flags":
            raise InputError(f"{library.label} has no precision flags", got="typing='flags'", hint="typing='strong'")
        if library.is_portable and self.timing_cache is not None:
            message = f"{library.label} times no kernels, so that it has no timing cache"
            raise InputError(message, got=self.timing_cache.path, hint="library='tensorrt', or no timing cache")
        if not 0 <= self.optimization_level <= 5:
            raise InputError("optimization_level must be 0 to 5", got=self.optimization_level)
        if self.workspace_mb is not None and self.workspace_mb < 1:
            raise InputError("workspace_mb must be at least 1", got=self.workspace_mb)
        first, last = self.batches
        if not 1 <= first <= self.batch <= last:
            raise InputError("1 <= first <= batch <= last must hold", got=f"first={first}, {self.batch=}, last={last}")

    @property
    def batches(self) -> tuple[int, int]:
        """The smallest and the largest batch size that the engine accepts."""
        return self.batch_range or (self.batch, self.batch)

    @property
    def weight_precision(self) -> str:
        """The precision that the weights of the ONNX graph must have."""
        if self.typing == "flags":
            return "fp32"
        return {"tf32": "fp32"}.get(self.precision, self.precision)
