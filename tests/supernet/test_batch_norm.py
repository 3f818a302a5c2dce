"""Batch norm statistics of one network against those computed from its activations."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.space.autoformer import MICRO as AUTOFORMER
from hwnas.space.glit import MICRO, GlitArch
from hwnas.supernet.autoformer import AutoFormerSupernet
from hwnas.supernet.batch_norm import recalibrate, recalibrated
from hwnas.supernet.glit import GlitSupernet, GlitSupernetConfig


def batches(count: int, *, size: int = 4) -> list[Tensor]:
    """Batches of random images."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, 32, 32, generator=generator) for _ in range(count)]


def mixed_arch() -> GlitArch:
    """A network with three locality modules."""
    archs = MICRO.decode(MICRO.sample(np.random.default_rng(0), 200))
    return next(arch for arch in archs if [block.groups for block in arch.blocks] == [1, 0, 3, 2])


def norms_of(network: nn.Module) -> list[nn.BatchNorm2d]:
    """Its batch norms."""
    return [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]


def test_statistics_are_those_of_the_activations() -> None:
    network = GlitSupernet(MICRO, GlitSupernetConfig(drop_path=0.5)).subnet(mixed_arch())
    norms = norms_of(network)
    seen: list[list[Tensor]] = [[] for _ in norms]

    def keep(where: list[Tensor]) -> Any:
        return lambda module, inputs: where.append(inputs[0].detach())

    hooks = [norm.register_forward_pre_hook(keep(where)) for norm, where in zip(norms, seen, strict=True)]
    assert recalibrate(network, iter(batches(5)))
    for norm, activations, hook in zip(norms, seen, hooks, strict=True):
        hook.remove()
        assert len(activations) == 5
        flat = [activation.transpose(0, 1).flatten(1) for activation in activations]
        mean = torch.stack([values.mean(dim=1) for values in flat]).mean(dim=0)
        variance = torch.stack([values.var(dim=1) for values in flat]).mean(dim=0)
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm.running_var, variance, rtol=1e-5, atol=1e-6)


def test_stochastic_depth_is_off() -> None:
    """Stochastic depth is off: two estimates from the same images are equal."""
    network = GlitSupernet(MICRO, GlitSupernetConfig(drop_path=0.5)).subnet(mixed_arch()).train()
    estimates = []
    for _ in range(2):
        recalibrate(network, batches(2))
        estimates.append([tensor.clone() for tensor in network.buffers()])
    for first, second in zip(*estimates, strict=True):
        assert torch.equal(first, second)


def test_outputs_change_and_modes_do_not() -> None:
    supernet = GlitSupernet(MICRO)
    network = supernet.subnet(mixed_arch()).eval()
    network.get_submodule("blocks.1").train()
    norms = norms_of(network)
    modes = [part.training for part in network.modules()]
    weights = {name: parameter.clone() for name, parameter in network.named_parameters()}
    (images,) = batches(1)
    before = network(images)
    recalibrate(network, batches(3))
    assert (network(images) - before).abs().max() > 1e-4
    assert [part.training for part in network.modules()] == modes
    assert {norm.momentum for norm in norms} == {0.1}
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, weights[name])
        assert parameter.grad is None


def test_the_supernet_keeps_its_statistics() -> None:
    supernet = GlitSupernet(MICRO).train()
    before = {name: tensor.clone() for name, tensor in supernet.named_buffers()}
    network = recalibrated(supernet, mixed_arch(), batches(2))
    for name, tensor in supernet.named_buffers():
        assert torch.equal(tensor, before[name])
    expected = supernet.subnet(mixed_arch())
    assert recalibrate(expected, batches(2))
    for own, other in zip(network.buffers(), expected.buffers(), strict=True):
        assert torch.equal(own, other)


def test_a_network_without_batch_norm_costs_nothing() -> None:
    network = AutoFormerSupernet(AUTOFORMER).subnet(AUTOFORMER.smallest())

    def unread() -> Iterator[Tensor]:
        raise AssertionError("a batch was read")
        yield torch.empty(0)

    assert not recalibrate(network, unread())
    assert network.training


def test_no_images_are_refused_before_anything_is_lost() -> None:
    network = GlitSupernet(MICRO).subnet(mixed_arch())
    for norm in norms_of(network):
        assert norm.running_mean is not None
        norm.running_mean.fill_(3)
    with pytest.raises(InputError, match="at least one batch"):
        recalibrate(network, [])
    assert all(norm.running_mean is not None and (norm.running_mean == 3).all() for norm in norms_of(network))


def test_modes_come_back_after_an_error() -> None:
    network = GlitSupernet(MICRO).subnet(mixed_arch()).train()
    with pytest.raises(InputError):
        recalibrate(network, [torch.zeros(1, 5, 32, 32)])
    assert all(part.training for part in network.modules())
    assert {norm.momentum for norm in norms_of(network)} == {0.1}
