"""One segment of a network as a graph whose weights are inputs, so that the graph is that of all its equals.

With weights inside, an exporter merges those that are equal and folds others into constants, and nobody can tell
afterwards which was which.
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hwnas.export.dynamo import export_program, program_graph

if TYPE_CHECKING:
    import onnx

INPUT, OUTPUT = "hwnas.input", "hwnas.output"


def export_segment(segment: nn.Module, *, input_shape: Sequence[int], dtype: torch.dtype) -> "onnx.ModelProto":
    """The graph of a segment in evaluation mode; its inputs are parameters and buffers by name, and last the input."""
    own = copy.deepcopy(segment).to("cpu", dtype).eval()
    tensors = tensors_of(own)
    x = torch.zeros(tuple(input_shape), dtype=dtype)
    program = export_program(_Functional(own, tuple(tensors)), ([*tensors.values()], x))
    return program_graph(program, inputs=(*tensors, INPUT), outputs=(OUTPUT,))


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those that are not saved with the others too."""
    return {name: tensor.detach() for name, tensor in (*module.named_parameters(), *module.named_buffers())}


class _Functional(nn.Module):
    """A module as a function of its tensors and its input."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self._call = (module,)  # in a tuple, so that its tensors are not those of this module
        self._names = names

    def forward(self, tensors: list[Tensor], x: Tensor) -> Tensor:
        """What the module gives with these tensors."""
        out: Tensor = functional_call(self._call[0], dict(zip(self._names, tensors, strict=True)), (x,))
        return out
