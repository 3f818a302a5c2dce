"""Relative position in augmented form against the form of the paper."""

import pytest
import torch

from hwnas.supernet.relative import TABLES, RelativeAttention, _DirectAttention

GRIDS = [(14, 14), (15, 14), (16, 14), (24, 14), (12, 5), (12, 1)]
"""Grids and clips: all distances within the clip, one vector for two distances, and many of them."""


@pytest.mark.parametrize(("grid", "clip"), GRIDS)
def test_the_augmented_form_equals_that_of_the_paper(grid: int, clip: int) -> None:
    torch.manual_seed(0)
    attention = RelativeAttention(grid=grid, clip=clip, head_dim=16).double()
    for table in attention.parameters():
        torch.nn.init.normal_(table)
    paper = _DirectAttention(grid, clip)
    queries, keys, values = (torch.randn(2, 3, grid**2 + 1, 16, dtype=torch.float64) for _ in range(3))
    queries.requires_grad_()
    key_rows, key_columns, value_rows, value_columns = (getattr(attention, name) for name in TABLES)
    expected = paper(queries, keys, values, torch.cat([key_rows, key_columns]), torch.cat([value_rows, value_columns]))
    outputs = attention(queries, keys, values)
    torch.testing.assert_close(outputs, expected, rtol=1e-10, atol=1e-10)
    inputs = [queries, *attention.parameters()]
    gradients = torch.autograd.grad(outputs.square().sum(), inputs, retain_graph=True)
    expected_gradients = torch.autograd.grad(expected.square().sum(), inputs)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-9)
