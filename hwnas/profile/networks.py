"""Build the networks to measure, with seeded weights, and seeded images for them."""

from typing import Any

import torch
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.profile.subjects import space_network
from hwnas.records import Subject

NOISE = 0.02
"""Noise added to scales, shifts and running statistics."""


def build_subject(subject: Subject, *, seed: int) -> nn.Module:
    """Build a network in eval mode on the CPU.

    Args:
        subject: A network of a space, or a timm model.
        seed: Seed of the weights. Torch's global random state is not changed.

    Raises:
        InputError: The space or model is not known, or the arch is not the network that the subject names.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _space_network(subject) if subject.source == "space" else _timm_model(subject)
        with torch.no_grad():
            _perturb(module)
    return module.eval()


def seeded_images(subject: Subject, *, batch: int, seed: int) -> Tensor:
    """Return a batch of normally distributed images."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, subject.channels, subject.image_size, subject.image_size, generator=generator)


def _space_network(subject: Subject) -> nn.Module:
    from hwnas.supernet.families import make_network

    return make_network(*space_network(subject))


def _timm_model(subject: Subject) -> nn.Module:
    import timm

    if not timm.is_model(subject.name):
        raise InputError(f"timm model {subject.name!r} is not known", got=subject.network_id)
    options: dict[str, Any] = {"num_classes": subject.num_classes, "in_chans": subject.channels}
    model: nn.Module
    try:
        model = timm.create_model(subject.name, pretrained=False, img_size=subject.image_size, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        model = timm.create_model(subject.name, pretrained=False, **options)  # a model for any image size
    return model


def _perturb(module: nn.Module) -> None:
    """Move scales, shifts and running statistics off their initial values.

    All layers start with the same ones and zeros. An export that mixes layers up would still give the right outputs,
    and a graph optimizer could share the constants.
    """
    for tensor in module.parameters():
        if tensor.ndim <= 1:
            tensor.add_(torch.randn_like(tensor), alpha=NOISE)
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.add_(torch.rand_like(buffer), alpha=NOISE)
