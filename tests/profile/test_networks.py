"""Subjects and the modules that are made of them."""

from dataclasses import replace

import pytest
import torch

from hwnas.errors import InputError, UnknownNameError
from hwnas.profile.networks import build_subject, seeded_images
from hwnas.profile.reference import REFERENCE, timm_subject
from hwnas.profile.subjects import space_subject
from hwnas.space import SPACES

SPACE = SPACES.get("autoformer-micro")
SUBJECT = space_subject(SPACE, SPACE.candidate(SPACE.largest()))


def test_a_network_of_a_space_has_the_parameters_of_its_costs() -> None:
    module = build_subject(SUBJECT, seed=0)
    assert sum(tensor.numel() for tensor in module.parameters()) == SPACE.costs(SPACE.encode([SPACE.largest()])).params
    assert not module.training
    assert SUBJECT.arch_id == SPACE.arch_id(SPACE.largest())


def test_a_subject_may_have_other_images_and_classes() -> None:
    space = SPACE.adapted(image_size=40, num_classes=3)
    adapted = space_subject(space, space.candidate(space.smallest()))
    module = build_subject(adapted, seed=0)
    assert module(seeded_images(adapted, batch=2, seed=0)).shape == (2, 3)


def test_weights_are_a_function_of_the_seed_and_leave_torchs_state_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (build_subject(SUBJECT, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("name", ["autoformer-micro", "resnas-micro", "glit-micro"])
def test_no_two_scales_or_shifts_are_equal(name: str) -> None:
    space = SPACES.get(name)
    module = build_subject(space_subject(space, space.candidate(space.smallest())), seed=0)
    vectors = [tensor for tensor in module.parameters() if tensor.ndim == 1 and tensor.numel() > 1]
    assert all(not torch.equal(a, b) for index, a in enumerate(vectors) for b in vectors[:index])
    assert all((buffer > 0).all() for key, buffer in module.named_buffers() if key.endswith("running_var"))


def test_images_are_a_function_of_the_seed() -> None:
    first, again = (seeded_images(SUBJECT, batch=3, seed=4) for _ in range(2))
    assert first.shape == (3, 3, SUBJECT.image_size, SUBJECT.image_size)
    assert torch.equal(first, again)


def test_an_arch_must_be_the_network_that_it_names() -> None:
    with pytest.raises(InputError, match="must have the network_id that is stated with it"):
        build_subject(replace(SUBJECT, network_id="0123"), seed=0)
    with pytest.raises(InputError, match="must have an arch"):
        build_subject(replace(SUBJECT, arch=None), seed=0)
    with pytest.raises(UnknownNameError, match="space 'autoformer-mikro' is not known"):
        build_subject(replace(SUBJECT, name="autoformer-mikro"), seed=0)


def test_the_reference_network_is_deit_tiny() -> None:
    module = build_subject(REFERENCE, seed=0)
    assert sum(tensor.numel() for tensor in module.parameters()) == 5_717_416  # of DeiT-Ti
    assert (REFERENCE.name, REFERENCE.network_id) == ("deit_tiny_patch16_224", "timm:deit_tiny_patch16_224")
    assert (REFERENCE.image_size, REFERENCE.channels, REFERENCE.num_classes) == (224, 3, 1000)


def test_a_model_of_timm_at_another_size() -> None:
    subject = timm_subject("test_vit", image_size=96, num_classes=4, own_size=False)
    assert subject.network_id == "timm:test_vit@96"
    module = build_subject(subject, seed=0)
    assert module(seeded_images(subject, batch=1, seed=0)).shape == (1, 4)


def test_a_model_of_timm_that_takes_any_size() -> None:
    subject = timm_subject("test_resnet", image_size=64, num_classes=4, own_size=False)
    assert build_subject(subject, seed=0)(seeded_images(subject, batch=1, seed=0)).shape == (1, 4)


def test_a_model_that_timm_does_not_know() -> None:
    with pytest.raises(InputError, match="timm model 'deit_tinny' is not known"):
        build_subject(timm_subject("deit_tinny", image_size=224), seed=0)
