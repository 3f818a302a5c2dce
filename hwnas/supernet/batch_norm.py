"""The statistics of batch norms for one network: those in a supernet mix what all of its networks see."""

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
    """Estimate the statistics of all batch norms anew, as the mean over the batches; everything else is in eval mode.

    Returns whether there was anything to do; the batches of a network without batch norms are not even read.
    """
    norms = [part for part in network.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if norms:
        some = _at_least_one(batches)
        with torch.no_grad(), _only_norms_in_training(network, norms):
            for batch in some:
                network(batch)
    return bool(norms)


def recalibrated(supernet: AnySupernet, arch: Arch, batches: Iterable[Tensor]) -> Network:
    """A network of a supernet with its own copy of the weights, and with its own statistics."""
    network = supernet.subnet(arch)
    recalibrate(network, batches)
    return network


@contextmanager
def _only_norms_in_training(network: nn.Module, norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Let the norms start anew and average over all that they see; modes and momenta come back at the end."""
    modes = [(part, part.training) for part in network.modules()]
    momenta = [(norm, norm.momentum) for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        for norm, momentum in momenta:
            norm.momentum = momentum


def _at_least_one(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    iterator = iter(batches)
    first = next(iterator, None)
    if first is None:
        raise InputError("there must be at least one batch of images to estimate batch norm from", got="none")
    return itertools.chain([first], iterator)
