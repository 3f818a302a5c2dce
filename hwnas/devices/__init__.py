"""Devices: their names, their datasheets, and the ones in this machine.

A GPU has a short name (`h200`); one without a datasheet is named after what its driver reports. A CPU is named after
its model, the number of cores that this process may use and its widest instruction set
(`amd-epyc-9b45-2c-avx512bf16`), which are what affects the speed of networks. An Intel GPU or NPU is named after what
OpenVINO reports (`intel-gpu-arc-a770`, `intel-npu-3720`). `cpu` and `auto` denote devices of this machine.
"""

from hwnas.devices.cpu import Cpu
from hwnas.devices.datasheets import DEVICES, match
from hwnas.devices.device import Device
from hwnas.devices.gpu import Gpu
from hwnas.devices.intel import Accelerator
from hwnas.devices.machine import Machine, detect, load_note, misspelled, require, resolve, select_gpus

__all__ = [
    "DEVICES",
    "Accelerator",
    "Cpu",
    "Device",
    "Gpu",
    "Machine",
    "detect",
    "load_note",
    "match",
    "misspelled",
    "require",
    "resolve",
    "select_gpus",
]
