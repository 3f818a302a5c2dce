"""TensorRT engines: built from an ONNX graph, kept as files with a card, run as a CUDA graph.

Versions 10 and 11 are supported. TensorRT 11 knows strongly typed networks only: the precision is that of the ONNX
graph. With TensorRT 10 that is the default here too, and `typing="flags"` is the other way. The library itself is
imported when an engine is built, loaded or run.
"""

from hwnas.export.tensorrt.build import BuiltEngine, build_engine, layer_table
from hwnas.export.tensorrt.card import EngineCard
from hwnas.export.tensorrt.files import EngineFiles, load_engine, read_engine, save_engine
from hwnas.export.tensorrt.gpu import GpuFacts, gpu_facts
from hwnas.export.tensorrt.library import load_tensorrt
from hwnas.export.tensorrt.messages import TensorRtError
from hwnas.export.tensorrt.settings import EngineSettings, TimingCache
from hwnas.export.tensorrt.timing_cache import TimingCacheHashes

__all__ = [
    "BuiltEngine",
    "EngineCard",
    "EngineFiles",
    "EngineSettings",
    "GpuFacts",
    "TensorRtError",
    "TimingCache",
    "TimingCacheHashes",
    "build_engine",
    "gpu_facts",
    "layer_table",
    "load_engine",
    "load_tensorrt",
    "read_engine",
    "save_engine",
]
