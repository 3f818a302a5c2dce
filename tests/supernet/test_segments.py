"""Segments without weights: modules that are shared by sizes and rates, run on slices of shared tensors."""

import copy

import pytest
import torch
from torch import nn

from hwnas.supernet.layers import DropPath
from hwnas.supernet.resnas import ResNasBlockConfig
from hwnas.supernet.segments import prepared, sliced_segment, tensor_places
from hwnas.supernet.sharing import mlp_axes, prefix

WIDEST = ResNasBlockConfig(embed_dim=8, num_heads=2, head_dim=4, hidden_dim=16)


def narrow(hidden_dim: int, *, drop_path: float = 0.0) -> ResNasBlockConfig:
    return ResNasBlockConfig(embed_dim=8, num_heads=2, head_dim=4, hidden_dim=hidden_dim, drop_path=drop_path)


def shared_block() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    block = WIDEST.build()
    return block, {f"block.{name}": tensor for name, tensor in block.named_parameters()}


def extracted(block: nn.Module, hidden_dim: int) -> nn.Module:
    """The same network on its own: a module of the narrower config with copies of the first hidden units."""
    network = narrow(hidden_dim).build()
    for name, tensor in network.named_parameters():
        shared = block.get_parameter(name)
        tensor.data.copy_(shared[tuple(slice(size) for size in tensor.shape)])
    return network


@pytest.mark.parametrize("hidden_dim", [4, 12, 16])
def test_a_segment_runs_as_the_network_of_its_slices(hidden_dim: int) -> None:
    block, shared = shared_block()
    axes = mlp_axes(prefix(8), hidden=prefix(hidden_dim))
    (segment,) = prepared([sliced_segment("block", narrow(hidden_dim), axes)], training=False)
    x = torch.randn(2, 5, 8)
    assert torch.equal(segment.run(x, shared), extracted(block, hidden_dim).eval()(x))


def test_configs_that_differ_in_sizes_of_weights_have_one_module() -> None:
    path = [sliced_segment("block", narrow(hidden), {}) for hidden in (4, 12)]
    first, second = prepared(path, training=True)
    assert first.template is second.template
    (evaluated,) = prepared(path[:1], training=False)
    assert first.template.module.training
    assert not evaluated.template.module.training


def test_stochastic_depth_alone_differs_between_rates() -> None:
    segments = prepared([sliced_segment("block", narrow(4, drop_path=rate), {}) for rate in (0.1, 0.3)], training=True)
    first, second = (segment.template.module for segment in segments)
    assert first.get_submodule("mlp") is second.get_submodule("mlp")
    rates = [module.get_submodule("drop_path") for module in (first, second)]
    assert [rate.drop_prob for rate in rates if isinstance(rate, DropPath)] == [0.1, 0.3]


def test_nothing_is_left_in_a_module_after_a_run_or_an_error() -> None:
    _, shared = shared_block()
    (segment,) = prepared([sliced_segment("block", WIDEST, {})], training=False)
    segment.run(torch.randn(1, 3, 8), shared)
    with pytest.raises(RuntimeError):
        segment.run(torch.randn(1, 3, 7), shared)
    assert all(tensor.is_meta for tensor in segment.template.module.parameters())


def test_places_are_those_of_a_copy_in_a_copy() -> None:
    parts = nn.ModuleDict({"norm": nn.BatchNorm1d(2), "linear": nn.Linear(2, 3, bias=False)})
    names = [*dict(parts.named_parameters()), *dict(parts.named_buffers())]
    assert list(tensor_places(parts)) == names
    module, places = copy.deepcopy((parts, tensor_places(parts)))
    tensors, own = places["linear.weight"]
    assert tensors[own] is module.get_parameter("linear.weight")
