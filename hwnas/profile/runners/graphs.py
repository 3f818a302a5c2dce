"""How a runtime that reads ONNX gets the graph of a network."""

from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.records import Setting

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
