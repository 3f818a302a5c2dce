from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwnas.export.tracer import trace_module
from hwnas.workload import (
    Convolution,
    Elementwise,
    Linear,
    MatMul,
    Move,
    Norm,
    Operation,
    Pool,
    TransposedConvolution,
)
from tests.export.operations import without_traits

GRID = (1, 8, 6, 6)
TOKENS = (1, 10, 16)


class Scaled(nn.Module):
    """A function of the input times a parameter, since a module without parameters cannot be traced."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function, self.scale = function, nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> object:
        return self.function(x * self.scale)


def of_module(module: nn.Module, *shape: int) -> Operation:
    (operation,) = without_traits(trace_module(nn.Sequential(module), input_shape=shape))
    return operation


def of_function(function: Callable[[Tensor], object], *shape: int) -> list[Operation]:
    """Trace a function, without the table and the product that `Scaled` puts before it."""
    return list(without_traits(trace_module(Scaled(function), input_shape=shape))[2:])


MODULES: dict[str, tuple[nn.Module, tuple[int, ...], Operation]] = {
    "linear": (nn.Linear(16, 4), TOKENS, Linear(name="0", tokens=10, inputs=16, outputs=4)),
    "no bias": (nn.Linear(16, 4, bias=False), TOKENS, Linear(name="0", tokens=10, inputs=16, outputs=4, bias=0)),
    "conv1d": (
        nn.Conv1d(10, 20, 3, groups=5),
        TOKENS,
        Convolution(
            name="0", variant="conv1d", positions_in=16, positions_out=14, inputs=10, outputs=20, kernel=3, groups=5
        ),
    ),
    "conv2d": (
        nn.Conv2d(8, 4, (3, 1), stride=2, bias=False),
        GRID,
        Convolution(name="0", positions_in=36, positions_out=6, inputs=8, outputs=4, kernel=3, bias=0),
    ),
    "same": (
        nn.Conv2d(8, 4, 3, padding="same"),
        GRID,
        Convolution(name="0", positions_in=36, positions_out=36, inputs=8, outputs=4, kernel=9),
    ),
    "conv3d": (
        nn.Conv3d(2, 4, 1),
        (1, 2, 3, 4, 5),
        Convolution(name="0", variant="conv3d", positions_in=60, positions_out=60, inputs=2, outputs=4, kernel=1),
    ),
    "without a batch": (
        nn.Conv2d(8, 4, 1),
        GRID[1:],
        Convolution(name="0", positions_in=36, positions_out=36, inputs=8, outputs=4, kernel=1),
    ),
    "transposed": (
        nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2),
        GRID,
        TransposedConvolution(name="0", positions_in=36, positions_out=144, inputs=8, outputs=4, kernel=4, groups=2),
    ),
    "layer norm": (nn.LayerNorm(16), TOKENS, Norm(name="0", tokens=10, channels=16)),
    "two dimensions": (nn.LayerNorm((10, 16), bias=False), TOKENS, Norm(name="0", tokens=1, channels=160, affine=1)),
    "rms norm": (nn.RMSNorm(16), TOKENS, Norm(name="0", variant="rms_norm", tokens=10, channels=16, affine=1)),
    "batch norm": (nn.BatchNorm2d(8), GRID, Norm(name="0", variant="batch_norm", tokens=36, channels=8)),
    "group norm": (nn.GroupNorm(2, 8), GRID, Norm(name="0", variant="group_norm", tokens=36, channels=8)),
    "instance norm": (
        nn.InstanceNorm2d(8, affine=True),
        GRID,
        Norm(name="0", variant="instance_norm", tokens=36, channels=8),
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_one_operation(name: str) -> None:
    module, shape, expected = MODULES[name]
    found = of_module(module, *shape)
    assert found == expected
    assert found.params == sum(parameter.numel() for parameter in module.parameters())


def test_a_norm_without_parameters() -> None:
    (found,) = of_function(lambda x: F.batch_norm(x, None, None, training=True), *GRID)
    assert found == Norm(name="batch_norm", variant="batch_norm", tokens=36, channels=8, affine=0)


PRODUCTS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, int, int, int]]] = {
    "matmul": (lambda x: x @ x.transpose(1, 2), (1, 10, 16, 10)),
    "broadcast": (lambda x: x.expand(3, 10, 16)[:, None] @ x[0].t(), (3, 10, 16, 10)),
    "mm": (lambda x: torch.mm(x[0], x[0].t()), (1, 10, 16, 10)),
    "bmm": (lambda x: torch.bmm(x.expand(4, 10, 16), x.expand(4, 10, 16).mT), (4, 10, 16, 10)),
    "addmm": (lambda x: torch.addmm(x[0, :, :1], x[0], x[0].t()), (1, 10, 16, 10)),
    "baddbmm": (lambda x: torch.baddbmm(x[:, :, :1], x, x.mT), (1, 10, 16, 10)),
    "vector": (lambda x: x @ x[0, 0], (1, 10, 16, 1)),
    "from the left": (lambda x: x[0, 0] @ x[0].t(), (1, 1, 16, 10)),
    "dot": (lambda x: x[0, 0].dot(x[0, 1]), (1, 1, 16, 1)),
    "einsum": (lambda x: torch.einsum("bic,bjc->bij", x, x), (1, 10, 16, 10)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_of_activations(name: str) -> None:
    function, (batch, rows, inner, columns) = PRODUCTS[name]
    found = [part for part in of_function(function, *TOKENS) if isinstance(part, MatMul)]
    label = "matmul"
    assert found == [MatMul(name=label, batch=batch, rows=rows, inner=inner, columns=columns)]
    assert found[0].macs == batch * rows * inner * columns


POINTWISE: dict[str, tuple[Callable[[Tensor], Tensor], str, int, int]] = {
    "relu": (F.relu, "relu", 160, 1),
    "in place": (lambda x: F.relu(x, inplace=True), "relu", 160, 1),
    "gelu": (lambda x: F.gelu(x, approximate="tanh"), "gelu", 160, 1),
    "silu": (F.silu, "silu", 160, 1),
    "sigmoid": (torch.sigmoid, "sigmoid", 160, 1),
    "hardswish": (F.hardswish, "hardswish", 160, 1),
    "glu": (F.glu, "glu", 80, 2),
    "softmax": (lambda x: x.softmax(dim=-1), "softmax", 160, 1),
    "sum of two": (lambda x: x + x, "add", 160, 2),
    "sum in place": (lambda x: x.add_(x), "add", 160, 2),
    "with a number": (lambda x: x + 1, "add", 160, 1),
    "with a row": (lambda x: x * x[:, :1], "mul", 160, 1),
    "difference": (lambda x: x - x, "sub", 160, 2),
    "quotient": (lambda x: x / x, "div", 160, 2),
    "where": (lambda x: torch.lerp(x, x, x), "lerp", 160, 3),
    "cumulative": (lambda x: x.cumsum(dim=1), "cumsum", 160, 1),
}


@pytest.mark.parametrize("name", POINTWISE)
def test_a_pointwise_operation(name: str) -> None:
    function, variant, elements, operands = POINTWISE[name]
    (found,) = of_function(function, *TOKENS)
    assert isinstance(found, Elementwise)
    assert (found.variant, found.elements, found.operands) == (variant, elements, operands)


def test_an_upsampling_writes_what_it_makes() -> None:
    (found,) = of_function(lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), *GRID)
    assert found == Pool(
        name="upsample_bilinear2d", variant="upsample_bilinear2d", positions_in=36, positions_out=144, channels=8
    )
    assert (found.elements_read, found.elements_written, found.macs) == (8 * 36, 8 * 144, 0)


POOLS: dict[str, tuple[Callable[[Tensor], object], str, tuple[int, int, int]]] = {
    "mean of tokens": (lambda x: x.flatten(2).mean(dim=2), "pool", (36, 1, 8)),
    "mean of a grid": (lambda x: x.mean(dim=(2, 3), keepdim=True), "pool", (36, 1, 8)),
    "average": (lambda x: F.avg_pool2d(x, 2), "pool", (36, 9, 8)),
    "adaptive": (lambda x: F.adaptive_avg_pool2d(x, 1), "pool", (36, 1, 8)),
    "max": (lambda x: F.max_pool2d(x, 3, stride=3), "max_pool", (36, 4, 8)),
    "max in one dimension": (lambda x: F.max_pool1d(x.flatten(2), 4), "max_pool", (36, 9, 8)),
    "sum": (lambda x: x.sum(dim=1), "sum", (8, 1, 36)),
    "amax": (lambda x: x.amax(dim=(2, 3)), "amax", (36, 1, 8)),
    "largest and where": (lambda x: x.max(dim=1), "max", (8, 1, 36)),
}


@pytest.mark.parametrize("name", POOLS)
def test_a_pooling_operation(name: str) -> None:
    function, variant, (positions_in, positions_out, channels) = POOLS[name]
    (found,) = of_function(function, *GRID)
    assert found == Pool(
        name=variant, variant=variant, positions_in=positions_in, positions_out=positions_out, channels=channels
    )


def test_the_larger_of_two_tensors_is_pointwise() -> None:
    (found,) = of_function(lambda x: torch.max(x, x), *GRID)
    assert found == Elementwise(name="maximum", variant="maximum", elements=288, operands=2)


MOVES: dict[str, tuple[Callable[[Tensor], Tensor], str, int]] = {
    "cat": (lambda x: torch.cat([x, x], dim=1), "cat", 320),
    "stack": (lambda x: torch.stack([x, x]), "cat", 320),
    "pad": (lambda x: F.pad(x, (0, 2)), "pad", 180),
    "roll": (lambda x: x.roll(1, dims=1), "roll", 160),
    "gather": (lambda x: x.gather(1, torch.zeros(1, 3, 16, dtype=torch.long)), "gather", 48),
    "index": (lambda x: x[:, torch.zeros(4, dtype=torch.long)], "index", 64),
    "index_select": (lambda x: x.index_select(1, torch.zeros(4, dtype=torch.long)), "index_select", 64),
    "unfold": (lambda x: F.unfold(x[None], 2), "im2col", 4 * 9 * 15),
    "shuffle": (lambda x: F.pixel_shuffle(x.reshape(1, 16, 5, 2), 2), "pixel_shuffle", 160),
}


@pytest.mark.parametrize("name", MOVES)
def test_an_operation_that_only_moves_data(name: str) -> None:
    function, variant, elements = MOVES[name]
    (found,) = of_function(function, *TOKENS)
    assert found == Move(name=variant, variant=variant, elements=elements)
    assert (found.elements_read, found.elements_written, found.macs, found.params) == (elements, elements, 0, 0)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.permute(0, 2, 1).reshape(-1),
        lambda x: x.transpose(1, 2).contiguous().view(4, 40).unsqueeze(0).squeeze_(),
        lambda x: x[:, 1:].clone().expand(3, -1, -1),
        lambda x: x.half().float(),
        lambda x: [part.flatten() for part in x.chunk(2)],
        lambda x: F.dropout(x, 0.5, training=False),
        lambda x: (torch.zeros_like(x), x.new_ones(3), torch.arange(4)),
    ],
)
def test_views_copies_casts_dropout_and_constants_are_nothing(function: Callable[[Tensor], object]) -> None:
    assert of_function(function, *TOKENS) == []
