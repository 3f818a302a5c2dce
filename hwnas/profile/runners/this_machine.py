"""The device of a setting in this machine, and what follows from both. No torch."""

import functools

from hwnas.devices import Cpu, Device, detect, require
from hwnas.metrics import QUANTISED
from hwnas.records import Setting


@functools.cache
def _device(name: str) -> Device:
    return require(name)


def device_of(setting: Setting) -> Device:
    """Return the device of a setting.

    Raises:
        MissingError: It is not in this machine.
    """
    return _device(setting.device)


@functools.cache
def this_cpu() -> Cpu:
    """Return the CPU of this machine."""
    return detect().cpu


def emulation_note(setting: Setting, cpu: Cpu) -> str:
    """Return a note if the CPU of a setting has no instructions for bf16; else an empty text."""
    if device_of(setting).kind != "cpu" or setting.precision != "bf16" or cpu.has_bf16:
        return ""
    return f"{setting.device} has no bf16 instructions: {setting.runtime} emulates bf16, which is slow"


def quantisation_facts(setting: Setting) -> dict[str, str]:
    """Return how a quantised graph got the scales of its activations; nothing in other precisions."""
    if setting.precision not in QUANTISED:
        return {}
    is_static = setting.precision != "int8-dynamic"
    return {"activation_scales": "from random images, for timing alone" if is_static else "computed in each run"}
