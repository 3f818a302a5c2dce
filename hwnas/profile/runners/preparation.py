"""What the runners that are built on torch share: precision, device, switches."""

import copy
import functools

import torch
from torch import Tensor, nn

from hwnas.devices import Device, require
from hwnas.errors import InputError
from hwnas.export.precision import TORCH_DTYPES
from hwnas.profile.runners.runner import AVAILABLE, Availability
from hwnas.records import Setting

DTYPES = {**TORCH_DTYPES, "tf32": torch.float32}
"""How weights and images are stored in each precision: tf32 is a way to multiply what is stored in float32."""


@functools.cache
def _device(name: str) -> Device:
    return require(name)


def device_of(setting: Setting) -> Device:
    """The device, which must be in this machine."""
    return _device(setting.device)


def precision_supported(setting: Setting) -> Availability:
    """Whether torch runs networks in that precision on that kind of device."""
    known = list(DTYPES)
    if device_of(setting).kind == "cpu":
        known.remove("tf32")
    if setting.precision in known:
        return AVAILABLE
    reason = f"{setting.runtime} runs {', '.join(known)} on {setting.device}, not {setting.precision}"
    return Availability(available=False, reason=reason)


def configure_torch(setting: Setting) -> None:
    """Set the threads, and that float32 is float32 unless tf32 is asked for."""
    if device_of(setting).kind == "cpu":
        torch.set_num_threads(setting.threads)
        return
    precision = "tf32" if setting.precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = precision
    torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def copy_module(module: nn.Module, setting: Setting) -> nn.Module:
    """A copy of the module on the device and in the precision; its memory layout stays as it is."""
    kind = "cuda" if device_of(setting).kind == "gpu" else "cpu"
    return copy.deepcopy(module).to(kind, DTYPES[setting.precision]).eval().requires_grad_(requires_grad=False)


GRAPH_EXPORTERS = ("composed", "dynamo", "dynamo-dynamic")
"""The values of `Setting.exporter` that make a graph."""


def onnx_graph(module: nn.Module, images: Tensor, setting: Setting) -> bytes:
    """The ONNX graph of a module for this batch, in the precision of the setting.

    With the exporter 'composed', a module that says its segments is put together from templates; one that does not
    takes the way of 'dynamo', which gives the same graph more slowly.
    """
    if setting.exporter not in GRAPH_EXPORTERS:
        message = f"{setting.runtime} takes graphs, which an exporter must make"
        raise InputError(message, got=setting.exporter, known=GRAPH_EXPORTERS)
    from hwnas.export.onnx_graph import build_onnx

    batch, *shape = images.shape
    graph = build_onnx(
        module,
        input_shape=shape,
        batch=None if setting.exporter == "dynamo-dynamic" else batch,
        precision="fp32" if setting.precision == "tf32" else setting.precision,
        exporter="auto" if setting.exporter == "composed" else "dynamo",
    )
    data: bytes = graph.model.SerializeToString()
    return data
