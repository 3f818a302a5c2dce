"""Export modules with torch's own exporters: to `torch.export` programs, and from these to ONNX graphs.

`export_dynamo` exports a network in one piece. This is the reference path: every other path to ONNX must give an
equivalent graph. `export_segment` exports one segment of a network, for composed graphs (`hwnas.export.compose`).
"""

import copy
import functools
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.func import functional_call

from hwnas.errors import InputError

if TYPE_CHECKING:
    import onnx

INPUT, OUTPUT = "images", "logits"
"""Names of the input and the output of an exported network."""

_OPEN_BATCH_EXAMPLE = 2
"""Batch size that a network with an open batch is traced with. Torch specialises sizes of 0 and 1, so a batch of 1
would become a constant."""

_OPERATOR = re.compile(r"OpOverload\(op='([\w.]+)'|call_function\[target=torch\.ops\.([\w.]+)\]")


def trace_program(module: nn.Module, *, input_shape: Sequence[int], batch: int | None) -> ExportedProgram:
    """Trace a network to a `torch.export` program.

    Args:
        module: A network in evaluation mode.
        input_shape: Shape of one image: channels, height, width.
        batch: Batch size that the program accepts; None for any.

    Raises:
        InputError: torch cannot trace the module.
    """
    images = torch.zeros(batch or _OPEN_BATCH_EXAMPLE, *input_shape)
    dynamic = None if batch else ({0: Dim("batch", min=1)},)
    return _export_program(module, (images,), dynamic_shapes=dynamic)


def export_dynamo(
    module: nn.Module, *, input_shape: Sequence[int], batch: int | None = 1, outputs: Sequence[str] = (OUTPUT,)
) -> "onnx.ModelProto":
    """Export a network to an ONNX graph with the input `images` and the output `logits`, or others.

    Args:
        module: A network in evaluation mode.
        input_shape: Shape of one image: channels, height, width.
        batch: Batch size that the graph accepts; None for any.
        outputs: Names of the outputs, several of a module that returns several tensors.

    Raises:
        InputError: torch cannot trace the module, or ONNX lacks one of its operators.
    """
    program = trace_program(module, input_shape=input_shape, batch=batch)
    model = _convert_to_onnx(program, inputs=(INPUT,), outputs=outputs)
    if any(parameter.dtype == torch.bfloat16 for parameter in module.parameters()):
        _round_fused_weights(model)
    if batch is None:
        # torch invents a name for the open batch (s77, say), which also is that of every size that depends on it.
        invented = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
        for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
            for dimension in value.type.tensor_type.shape.dim:
                if dimension.dim_param == invented:
                    dimension.dim_param = "batch"
    return model


def export_segment(segment: nn.Module, *, input_shape: Sequence[int], dtype: torch.dtype) -> "onnx.ModelProto":
    """Export a segment of a network to an ONNX graph whose weights are inputs.

    With its weights inside, an exporter would merge equal ones and fold others into constants, and the graph would no
    longer be the same for all segments of this structure.

    Args:
        segment: The segment; a copy in evaluation mode is exported.
        input_shape: Shape of its input, with the batch.
        dtype: Type of its weights and of its input.

    Returns:
        A graph whose inputs are the parameters and buffers by name, and last the segment's own input.
    """
    own = copy.deepcopy(segment).to("cpu", dtype).eval()
    tensors = {name: tensor.detach() for name, tensor in (*own.named_parameters(), *own.named_buffers())}
    x = torch.zeros(tuple(input_shape), dtype=dtype)
    program = _export_program(_Functional(own, tuple(tensors)), ([*tensors.values()], x))
    return _convert_to_onnx(program, inputs=(*tensors, "hwnas.input"), outputs=("hwnas.output",))


def export_joint(segment: nn.Module, *, input_shapes: Sequence[Sequence[int]], dtype: torch.dtype) -> "onnx.ModelProto":
    """Export a segment that takes a list of tensors, as `export_segment` does one that takes a tensor.

    Args:
        segment: The segment; a copy in evaluation mode is exported.
        input_shapes: Shapes of its inputs, which the graph names `hwnas.input.0` and so on.
        dtype: Type of its weights and of its inputs.
    """
    own = copy.deepcopy(segment).to("cpu", dtype).eval()
    tensors = {name: tensor.detach() for name, tensor in (*own.named_parameters(), *own.named_buffers())}
    inputs = [torch.zeros(tuple(shape), dtype=dtype) for shape in input_shapes]
    program = _export_program(_Functional(own, tuple(tensors)), ([*tensors.values()], inputs))
    names = [f"hwnas.input.{number}" for number in range(len(inputs))]
    return _convert_to_onnx(program, inputs=(*tensors, *names), outputs=("hwnas.output",))


class _Functional(nn.Module):
    """A module as a function of its tensors and its input."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self._wrapped = (module,)  # in a tuple, so that its tensors are not registered as this module's own
        self._names = names

    def forward(self, tensors: list[Tensor], x: Any) -> Tensor:
        """Run the module with these tensors in place of its own."""
        (module,) = self._wrapped
        out: Tensor = functional_call(module, dict(zip(self._names, tensors, strict=True)), (x,))
        return out


def _export_program(module: nn.Module, inputs: tuple[Any, ...], *, dynamic_shapes: Any = None) -> ExportedProgram:
    try:
        with _without_warnings(), torch.no_grad():
            return torch.export.export(module, inputs, dynamic_shapes=dynamic_shapes, strict=False)
    except Exception as error:
        raise InputError(
            f"torch.export must be able to trace {type(module).__name__}",
            got=f"{type(error).__name__}: {_first_line(error)}",
            hint="a forward of tensor operations alone, without branches that depend on their values",
        ) from error


def _convert_to_onnx(program: ExportedProgram, *, inputs: Sequence[str], outputs: Sequence[str]) -> "onnx.ModelProto":
    try:
        with _without_warnings(), _shared_registry(), torch.no_grad():
            exported = torch.onnx.export(
                program, input_names=list(inputs), output_names=list(outputs), dynamo=True, verbose=False
            )
    except torch.onnx.OnnxExporterError as error:
        raise _conversion_failure(error) from error
    assert exported is not None
    return exported.model_proto


@contextmanager
def _shared_registry() -> Iterator[None]:
    """Build torch's table of ONNX functions once per process.

    torch.onnx builds it for each export by parsing the sources of some 500 functions, which takes half of the time of a
    segment. The table is private to torch: where it is not as expected, each export builds its own.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        original = vars(ONNXRegistry)["from_torchlib"]
    except (ImportError, KeyError):
        yield
        return
    ONNXRegistry.from_torchlib = classmethod(  # type: ignore[method-assign, assignment]
        lambda cls, *args, **kwargs: _registry(original.__func__, cls, args, tuple(kwargs.items()))
    )
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = original  # type: ignore[method-assign]


@functools.cache
def _registry(build: Callable[..., object], cls: type, args: tuple[object, ...], options: tuple[Any, ...]) -> object:
    return build(cls, *args, **dict(options))


def _round_fused_weights(model: "onnx.ModelProto") -> None:
    """Bring weights into bfloat16 that became float32 when the exporter multiplied them by those of a norm.

    onnxscript fuses batch norms into convolutions in numpy, where a product of bfloat16 is float32. The convolution
    would then have inputs of two types, which ONNX does not allow and TensorRT's parser refuses.
    """
    import onnx

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm"):
            continue
        for name in node.input[1:]:
            if name in tensors and tensors[name].data_type == onnx.TensorProto.FLOAT:
                bfloat16 = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16)
                rounded = onnx.numpy_helper.to_array(tensors[name]).astype(bfloat16)
                tensors[name].CopyFrom(onnx.numpy_helper.from_array(rounded, name))


def _conversion_failure(error: BaseException) -> InputError:
    """Return an error that names the operator that ONNX lacks, which only the chain of causes does."""
    reasons: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        reasons.append(cause)
        cause = cause.__cause__
    names = [name for reason in reasons for match in _OPERATOR.finditer(str(reason)) for name in match.groups() if name]
    if names:
        message, hint = f"ONNX has no operator for {names[-1]}", "the format pt2, or other operations in its place"
    else:
        message, hint = "the network must be expressible in ONNX", "the format pt2"
    return InputError(message, got=_first_line(reasons[-1]), hint=hint)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence the advice and deprecations of torch and onnxscript, on which a user cannot act."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
