"""How a runtime that reads ONNX gets the graph of a network."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.records import Setting

if TYPE_CHECKING:
    import onnx

EXPORTERS = ("composed", "dynamo", "dynamo-dynamic")
"""The values of `Setting.exporter` that make a graph."""


def onnx_graph(module: nn.Module, images: Tensor, setting: Setting) -> bytes:
    """The ONNX graph of a module for this batch, in the precision of the setting.

    With the exporter 'composed', a module that says its segments is put together from templates; one that does not
    takes the way of 'dynamo', which gives the same graph more slowly.
    """
    if setting.exporter not in EXPORTERS:
        message = f"{setting.runtime} takes graphs, which an exporter must make"
        raise InputError(message, got=setting.exporter, known=EXPORTERS)
    data: bytes = _model(module, images, setting).SerializeToString()
    return data


def _model(module: nn.Module, images: Tensor, setting: Setting) -> "onnx.ModelProto":
    from hwnas.export.compose import Segmented, compose
    from hwnas.export.dynamo import export_dynamo
    from hwnas.export.precision import in_precision

    batch, *shape = images.shape
    precision = "fp32" if setting.precision == "tf32" else setting.precision
    if setting.exporter == "composed" and isinstance(module, Segmented):
        return compose(module, input_shape=shape, batch=batch, precision=precision).model
    fixed = None if setting.exporter == "dynamo-dynamic" else batch
    return export_dynamo(in_precision(module, precision), input_shape=shape, batch=fixed)
