"""TensorRT engines: build them from ONNX graphs, save and load them, run them as CUDA graphs.

TensorRT 10 and 11 are supported. Networks are strongly typed: the ONNX graph decides the precision of each layer. On
TensorRT 10, `typing="flags"` is the alternative. The `tensorrt` package is imported only when an engine is built,
loaded or run.
"""

from hwnas.export.tensorrt.build import build_engine, require_buildable
from hwnas.export.tensorrt.files import BuiltEngine, EngineCard, EngineFiles, load_engine, read_engine, save_engine
from hwnas.export.tensorrt.library import GpuFacts, LibraryName, TensorRtError, gpu_facts, load_tensorrt
from hwnas.export.tensorrt.settings import EngineSettings
from hwnas.export.tensorrt.timing_cache import TIMING_CACHE_USES, TimingCache, TimingCacheHashes

__all__ = [
    "TIMING_CACHE_USES",
    "BuiltEngine",
    "EngineCard",
    "EngineFiles",
    "EngineSettings",
    "GpuFacts",
    "LibraryName",
    "TensorRtError",
    "TimingCache",
    "TimingCacheHashes",
    "build_engine",
    "gpu_facts",
    "load_engine",
    "load_tensorrt",
    "read_engine",
    "require_buildable",
    "save_engine",
]
