"""Subjects to modules: the networks that are measured, with weights that a seed decides."""

from typing import Any

import torch
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.records import Subject

NOISE = 0.02
"""Of scales and shifts: equal ones would hide an export that mixes them up, and let a graph share them."""


def build_subject(subject: Subject, *, seed: int) -> nn.Module:
    """The network of a subject in eval mode on the CPU; torch's own random state is left as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _space_network(subject) if subject.source == "space" else _timm_model(subject)
        with torch.no_grad():
            _distinguish(module)
    return module.eval()


def seeded_images(subject: Subject, *, batch: int, seed: int) -> Tensor:
    """A batch of normally distributed images."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, subject.channels, subject.image_size, subject.image_size, generator=generator)


def _space_network(subject: Subject) -> nn.Module:
    from hwnas.space import SPACES
    from hwnas.supernet.families import make_network

    space = SPACES.get(subject.name).adapted(
        image_size=subject.image_size, channels=subject.channels, num_classes=subject.num_classes
    )
    if subject.arch is None:
        raise InputError(f"a subject of the space {subject.name} must have an arch", got=subject.network_id)
    arch = space.parse(dict(subject.arch))
    found = space.network_id(arch)
    if found != subject.network_id:
        message = f"the arch of a subject of {subject.name} must extract to the network that it names"
        raise InputError(message, got=f"{subject.network_id}, and its arch gives {found}")
    return make_network(space, arch)


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
        model = timm.create_model(subject.name, pretrained=False, **options)  # it takes images of any size
    return model


def _distinguish(module: nn.Module) -> None:
    """Move scales, shifts and running statistics off the values that all layers share at first."""
    for tensor in module.parameters():
        if tensor.ndim <= 1:
            tensor.add_(torch.randn_like(tensor), alpha=NOISE)
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.add_(torch.rand_like(buffer), alpha=NOISE)
