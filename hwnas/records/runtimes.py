"""The names of runtimes: what `Setting.runtime` and the name of a device metric may hold, best first."""

from hwnas.registry import Registry

RUNTIMES: Registry[str] = Registry(
    "runtime",
    [
        ("tensorrt", "hwnas.profile.runners.tensorrt:TensorRtRunner"),
        ("torch-graph", "hwnas.profile.runners.torch_graph:TorchGraphRunner"),
        ("onnxruntime", "hwnas.profile.runners.onnxruntime:OnnxRuntimeRunner"),
        ("torch-compile", "hwnas.profile.runners.torch_eager:TorchCompileRunner"),
        ("torch", "hwnas.profile.runners.torch_eager:TorchRunner"),
    ],
    hint="--runtime {}",
)
"""Where the runner of each is defined; it is imported when networks are timed with it."""
