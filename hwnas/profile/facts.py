"""The facts of an environment: what decides, apart from the network, how fast it runs."""

from collections.abc import Mapping

from hwnas.devices import Device, Machine
from hwnas.records import Setting
from hwnas.runs import Environment

PACKAGES = (
    "nvidia-cublas",
    "nvidia-cublas-cu12",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxscript",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "timm",
    "torch",
    "triton",
)
"""The distributions whose versions count; the others only draw, print or search."""

_OF_GPUS = ("nvidia-", "tensorrt", "triton")
"""How the names of those begin that a CPU does not use."""


def environment_facts(
    setting: Setting, *, machine: Machine, software: Environment, runtime: Mapping[str, str]
) -> dict[str, str]:
    """The facts for one setting; `runtime` is what its runner says of itself.

    The commit of hwnas is not among them (the manifest has it for every command): most changes of the code do not
    touch a measurement, and its version is here.
    """
    versions = dict(entry.split("==", 1) for entry in software.packages)
    unused = () if setting.device != machine.cpu.slug else _OF_GPUS
    kept = {name: versions[name] for name in PACKAGES if name in versions and not name.startswith(unused)}
    return {
        "device": setting.device,
        **_hardware(setting.device, machine),
        "system": f"{software.system} {software.release} {software.machine}",
        "python": software.python,
        "hwnas": software.hwnas,
        **kept,
        **{f"{setting.runtime}.{name}": value for name, value in runtime.items()},
    }


def device_facts(device: Device) -> dict[str, object]:
    """What is known of a device, without what is not."""
    values = {name: getattr(device, name) for name in device.__dataclass_fields__}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value}


def _hardware(device: str, machine: Machine) -> dict[str, str]:
    if device == machine.cpu.slug:
        return {"model": machine.cpu.model}
    gpus = [gpu for gpu in machine.gpus if gpu.device.name == device]
    return {"model": gpus[0].reported, "driver": gpus[0].driver} if gpus else {}
