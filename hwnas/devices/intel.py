"""Detect Intel's GPUs and NPUs through OpenVINO, which is the runtime that can use them.

OpenVINO is imported only where the system lists such a device: loading its plugins takes a third of a second.
"""

import functools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Protocol, cast

from hwnas.devices.device import Device, FileReader

VENDOR_FILES = (
    *(f"/sys/class/drm/renderD{128 + index}/device/vendor" for index in range(16)),
    *(f"/sys/class/accel/accel{index}/device/vendor" for index in range(8)),
)
"""Files with the vendors of the GPUs and NPUs that Linux has drivers for."""

_INTEL = "0x8086"


class Core(Protocol):
    """The part of `openvino.Core` that is used."""

    available_devices: list[str]
    """Such as CPU, GPU.0, GPU.1 and NPU."""

    def get_property(self, device: str, name: str) -> Any:
        """Return a property of a device."""


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """An Intel GPU or NPU in this machine."""

    plugin: str
    """OpenVINO's name of it, such as GPU.0."""
    reported: str
    driver: str
    """Empty if OpenVINO does not know it."""
    device: Device


def detect_accelerators(
    *, read: FileReader, make_core: Callable[[], Core | None] | None = None
) -> tuple[tuple[Accelerator, ...], tuple[str, ...]]:
    """Detect Intel's GPUs and NPUs.

    Args:
        read: Reads a system file.
        make_core: Creates OpenVINO's core, or returns None if OpenVINO is not installed; None: `openvino_core`.

    Returns:
        The devices, and a note if the system lists one that OpenVINO cannot use.
    """
    if not any((read(path) or "").strip() == _INTEL for path in VENDOR_FILES):
        return (), ()
    core = (make_core or openvino_core)()
    if core is None:
        return (), ("an Intel GPU or NPU cannot be used: openvino is not installed (pip install 'hwnas[openvino]')",)
    found = accelerators(core)
    return found, () if found else ("OpenVINO does not see this machine's Intel GPU or NPU: a driver is missing",)


def openvino_core() -> Core | None:
    """Return OpenVINO's core, one for this process; None if OpenVINO is not installed."""
    return None if find_spec("openvino") is None else _core()


@functools.cache
def _core() -> Core:
    core: Core = import_openvino().Core()
    return core


def import_openvino() -> Any:
    """Import OpenVINO without its usage statistics, which it sends by a process that it forks when it is imported."""
    sys.modules.setdefault("openvino_telemetry", cast("ModuleType", None))  # as if that package were not installed
    return import_module("openvino")


def accelerators(core: Core) -> tuple[Accelerator, ...]:
    """Return the GPUs and NPUs that OpenVINO sees."""
    plugins = [name for name in core.available_devices if name.partition(".")[0] in ("GPU", "NPU")]
    return tuple(_accelerator(core, plugin) for plugin in plugins)


def _accelerator(core: Core, plugin: str) -> Accelerator:
    reported = str(core.get_property(plugin, "FULL_DEVICE_NAME"))
    architecture = str(core.get_property(plugin, "DEVICE_ARCHITECTURE"))
    is_npu = plugin.startswith("NPU")
    # Discrete GPUs have numbers, but "Intel(R) Arc(TM) Graphics" or "Intel(R) AI Boost" stand for several chips.
    words = [] if is_npu else _model_words(reported)
    if not any(character.isdigit() for word in words for character in word):
        words += re.findall(r"[a-z0-9]+", architecture.casefold().rpartition("arch=")[2])
    device = Device(
        name="-".join(["intel", "npu" if is_npu else "gpu", *words]),
        kind="npu" if is_npu else "gpu",
        vendor="intel",
        architecture=architecture,
        reported=(reported,),
    )
    return Accelerator(plugin=plugin, reported=reported, driver=_driver(core, plugin), device=device)


def _driver(core: Core, plugin: str) -> str:
    try:
        return str(core.get_property(plugin, f"{plugin.partition('.')[0]}_DRIVER_VERSION"))
    except RuntimeError:  # a plugin without that property
        return ""


def _model_words(reported: str) -> list[str]:
    """The words of a name such as `Intel(R) Arc(TM) A770 Graphics (dGPU)` that identify the model."""
    text = re.sub(r"\([^)]*\)|\bintel\b|\bgraphics\b", " ", reported.casefold())
    return re.findall(r"[a-z0-9]+", text)
