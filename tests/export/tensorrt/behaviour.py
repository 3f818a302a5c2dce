"""Behaviour of the TensorRT double: it builds, saves and runs engines on the CPU.

An engine of the double is the ONNX graph itself, run by ONNX Runtime when it is executed, so that outputs are real.
Calls in an order that TensorRT refuses return nothing, and the reason is logged.

The bodies of a class's calls stand in a class of its name, here and in building.py and running.py: `create_network` for
the method, `get_logger` for the property, `init` for `__init__`. `this` is the object on which the call was made.
"""

from typing import Any

from tests.export.tensorrt.fake_cuda import FakeCuda

PLAN, CACHE = b"PLAN", b"CACHE"


class Library:
    """The state behind one double; tests set the public attributes to make it fail."""

    def __init__(self, *, major: int, gpu: str = "Test GPU", compute_capability: str = "9.0") -> None:
        self.major = major
        self.gpu = gpu
        self.compute_capability = compute_capability
        self.inspects = True
        self.kernels_run: list[str] = []
        self.has_gpu = True
        self.memory = 2**33
        self.workspace_needed = 2**20
        self.unknown_operators: set[str] = set()
        self.streams: dict[int, FakeCuda] = {}
        self.timed_kernels: list[str] = []
        self.trt: Any = None
        self.classes: dict[str, Any] = {}

    def body(self, owner: str, name: str) -> Any:
        """Return the function that implements a call, or None."""
        found = BODIES.get(owner)
        return getattr(found(self), name.strip("_"), None) if found else None

    def new(self, name: str, /, **state: Any) -> Any:
        """Create an object that has no public constructor."""
        made = object.__new__(self.classes[name])
        object.__setattr__(made, "_state", state)
        return made

    def dims(self, shape: tuple[int, ...]) -> Any:
        return self.new("Dims", shape=tuple(shape))

    def log(self, logger: Any, text: str, severity: str = "ERROR") -> None:
        logger.log(getattr(self.trt.ILogger.Severity, severity), text)

    def origin(self) -> str:
        """Return the version and GPU that engines and timing caches are bound to."""
        return f"{self.trt.__version__} on {self.gpu}"

    @property
    def is_portable(self) -> bool:
        """True for TensorRT for RTX, which builds without a GPU and compiles kernels where an engine is loaded."""
        return hasattr(self.trt, "ComputeCapability")

    def start(self, this: Any, logger: Any) -> None:
        if not self.has_gpu and not self.is_portable:
            self.log(logger, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        this._state["logger"] = logger


BODIES: dict[str, type["Body"]] = {}


class Body:
    """The bodies of one class of TensorRT."""

    def __init__(self, library: Library) -> None:
        self.library = library

    def __init_subclass__(cls) -> None:
        BODIES[cls.__name__] = cls


class Dims(Body):
    def init(self, this: Any, shape: tuple[int, ...] = ()) -> None:
        this._state["shape"] = tuple(shape)

    def len(self, this: Any) -> int:
        return len(this._state["shape"])

    def getitem(self, this: Any, index: Any) -> Any:
        return this._state["shape"][index]


class ILogger(Body):
    def init(self, this: Any) -> None:
        pass


class Logger(Body):
    def init(self, this: Any, severity: Any = None) -> None:
        this._state["min_severity"] = severity or self.library.trt.ILogger.Severity.WARNING

    def log(self, this: Any, severity: Any, msg: str) -> None:
        if int(severity) <= int(this.min_severity):
            print(f"[TRT] [{severity.name}] {msg}")


class IHostMemory(Body):
    def bytes(self, this: Any) -> bytes:
        return bytes(this._state["data"])

    def get_nbytes(self, this: Any) -> int:
        return len(this._state["data"])
