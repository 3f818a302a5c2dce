"""Devices: their names, what their datasheets promise, and which of them are in this machine.

A GPU has a short name (`h200`); one that no datasheet here covers gets a name made of what its driver
reports. A CPU is named after its model, the cores that this process may use and the widest instruction
set (`amd-epyc-9b45-2c-avx512bf16`): what decides how fast networks run on it. `cpu` and `auto` stand for
devices of this machine.
"""

from hwnas.devices.cpu import Cpu
from hwnas.devices.datasheets import DEVICES, match
from hwnas.devices.device import Device
from hwnas.devices.gpu import Gpu
from hwnas.devices.machine import Machine, detect, require, resolve

__all__ = [
    "DEVICES",
    "Cpu",
    "Device",
    "Gpu",
    "Machine",
    "detect",
    "match",
    "require",
    "resolve",
]
