"""The reference path to ONNX and to `torch.export`: a module traced whole by torch's own exporter.

Every other path is judged against this one.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from hwnas.errors import InputError

if TYPE_CHECKING:
    import onnx

INPUT, OUTPUT = "images", "logits"
"""The names of what goes into an exported network and of what comes out."""

_SECOND_BATCH = 2
"""The batch that a network with a free batch is traced with: of 1 torch takes that it is always 1."""

_OPERATOR = re.compile(r"OpOverload\(op='([\w.]+)'|call_function\[target=torch\.ops\.([\w.]+)\]")


def trace_program(module: nn.Module, *, input_shape: Sequence[int], batch: int | None) -> ExportedProgram:
    """A network in evaluation mode as a program of torch operations, for images of this shape; batch None: any."""
    images = torch.zeros(batch or _SECOND_BATCH, *input_shape)
    dynamic = None if batch else ({0: Dim("batch", min=1)},)
    return export_program(module, (images,), dynamic_shapes=dynamic)


def export_dynamo(module: nn.Module, *, input_shape: Sequence[int], batch: int | None = 1) -> "onnx.ModelProto":
    """A network in evaluation mode as a graph with the input `images` and the output `logits`; batch None: any."""
    program = trace_program(module, input_shape=input_shape, batch=batch)
    graph = program_graph(program, inputs=(INPUT,), outputs=(OUTPUT,))
    if batch is None:
        _name_batch(graph)
    return graph


def export_program(module: nn.Module, inputs: tuple[Any, ...], *, dynamic_shapes: Any = None) -> ExportedProgram:
    """A module as a program of torch operations; what cannot be traced is an error that says why."""
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(module, inputs, dynamic_shapes=dynamic_shapes, strict=False)
    except Exception as error:
        raise InputError(
            f"torch.export must be able to trace {type(module).__name__}",
            got=f"{type(error).__name__}: {_first_line(error)}",
            hint="a forward of tensor operations alone, without decisions that depend on their values",
        ) from error


def program_graph(program: ExportedProgram, *, inputs: Sequence[str], outputs: Sequence[str]) -> "onnx.ModelProto":
    """A program as an ONNX graph; what ONNX has no operator for is an error that names it."""
    try:
        with _quiet(), torch.no_grad():
            exported = torch.onnx.export(
                program, input_names=list(inputs), output_names=list(outputs), dynamo=True, verbose=False
            )
    except torch.onnx.OnnxExporterError as error:
        raise _inexpressible(error) from error
    assert exported is not None
    return exported.model_proto


def _name_batch(model: "onnx.ModelProto") -> None:
    """Call the free batch `batch`, whatever torch called it."""
    graph = model.graph
    found = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == found:
                dimension.dim_param = "batch"


def _inexpressible(error: BaseException) -> InputError:
    reasons = list(_causes(error))
    names = [name for reason in reasons for match in _OPERATOR.finditer(str(reason)) for name in match.groups() if name]
    if names:
        message = f"ONNX has no operator for {names[-1]}"
        return InputError(
            message, got=_first_line(reasons[-1]), hint="the format pt2, or other operations in its place"
        )
    return InputError("the network must be expressible in ONNX", got=_first_line(reasons[-1]), hint="the format pt2")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice and the deprecations of the libraries that take part, which no user can act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
