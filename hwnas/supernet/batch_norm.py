"""Batch-norm statistics of single networks.

The running statistics of a supernet average over all networks that were trained in it, and fit none of them. Before a
network is evaluated or extracted, they are estimated anew from some training batches.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hwnas.errors import InputError
from hwnas.space.arch import Arch
from hwnas.supernet.network import Network
from hwnas.supernet.supernet import AnySupernet


def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> bool:
    """Estimate the statistics of all batch norms as the mean over batches, all other layers in evaluation mode.

    Args:
        network: The network; its modes and momenta are restored at the end.
        batches: Images. They are not read if the network has no batch norms.

    Returns:
        True if the network has batch norms.

    Raises:
        InputError: There are no batches.
    """
    norms = [part for part in network.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if not norms:
        return False
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise InputError("there must be at least one batch of images to estimate batch norm from", got="none")
    with torch.no_grad(), _cumulative_averages(network, norms):
        for batch in itertools.chain([first], iterator):
            network(batch)
    return True


def recalibrated(supernet: AnySupernet, arch: Arch, batches: Iterable[Tensor]) -> Network:
    """Extract a network of a supernet and recalibrate it."""
    network = supernet.subnet(arch)
    recalibrate(network, batches)
    return network


@contextmanager
def _cumulative_averages(network: nn.Module, norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Reset the norms and put only them in training mode, then restore all modes and momenta."""
    modes = [(part, part.training) for part in network.modules()]
    momenta = [(norm, norm.momentum) for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # torch then averages all batches with equal weights
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        for norm, momentum in momenta:
            norm.momentum = momentum
