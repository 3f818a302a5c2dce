"""A stand-in for OpenVINO's core on a machine with an Intel GPU and an Intel NPU, which run nothing."""

from types import SimpleNamespace
from typing import Any

import numpy as np

FULL_NAMES = {
    "CPU": "Intel(R) Core(TM) Ultra 7 155H",
    "GPU": "Intel(R) Arc(TM) Graphics (iGPU)",
    "GPU.0": "Intel(R) Iris(R) Xe Graphics (iGPU)",
    "GPU.1": "Intel(R) Arc(TM) A770 Graphics (dGPU)",
    "NPU": "Intel(R) AI Boost",
}
_ARCHITECTURES = {
    "CPU": "intel64",
    "GPU": "GPU: vendor=0x8086 arch=v12.71.4",
    "GPU.0": "GPU: vendor=0x8086 arch=v12.0.0",
    "GPU.1": "GPU: vendor=0x8086 arch=v12.55.8",
    "NPU": "3720",
}


class IntelCore:
    """`openvino.Core` with some devices; what it compiled last is in `compiled`."""

    def __init__(self, *devices: str) -> None:
        self.available_devices = list(devices)
        self.compiled: tuple[str, dict[str, object]] | None = None

    def get_property(self, device: str, name: str) -> Any:
        known = {"FULL_DEVICE_NAME": FULL_NAMES[device], "DEVICE_ARCHITECTURE": _ARCHITECTURES[device]}
        if device == "NPU":
            known["NPU_DRIVER_VERSION"] = "1738334590"
        if name not in known:
            raise RuntimeError(f"Unsupported property: {name}")
        return known[name]

    def read_model(self, graph: bytes) -> bytes:
        return graph

    def compile_model(self, model: object, device: str, options: dict[str, object]) -> Any:
        self.compiled = (device, options)
        outputs = SimpleNamespace(data=np.zeros((4, 64), np.float32))
        request = SimpleNamespace(
            set_input_tensor=lambda tensor: None,
            infer=lambda share_outputs: None,
            get_output_tensor=lambda index: outputs,
        )
        properties = {"NUM_STREAMS": 1, **options}
        return SimpleNamespace(get_property=properties.__getitem__, create_infer_request=lambda: request)
