"""Normalization and erasing of batches of bytes."""

import random

import numpy as np
import pytest
import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from hwnas.train.data.augment import IMAGENET
from hwnas.train.data.finishing import Erasure, Finish, draw_erasure
from hwnas.train.data.loader import Batch, Prefetcher
from hwnas.train.seeds import preserve_rng_state, seed_global_rng


def pixels(count: int = 4, size: int = 16) -> Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, 3, size, size), dtype=np.uint8))


def test_bytes_are_normalized_by_channel() -> None:
    given = pixels()
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET.mean, IMAGENET.std))
    torch.testing.assert_close(Finish()(given), (given / 255 - mean) / std)
    assert given.dtype == torch.uint8


@pytest.mark.parametrize("seed", range(6))
def test_images_are_erased_as_by_timm(seed: int) -> None:
    given, plain = pixels(1), Finish()(pixels(1))
    erasure = draw_erasure((seed, 3), probability=0.7, size=16, row=0)
    found = Finish(erasures=() if erasure is None else (erasure,))(given)
    with preserve_rng_state():
        seed_global_rng(seed, 3)
        expected = RandomErasing(0.7, mode="pixel", device="cpu")(plain[0].clone())  # type: ignore[no-untyped-call]
    assert torch.equal(found[0], expected)


def test_noise_is_a_function_of_its_seed_alone() -> None:
    first = Erasure(row=0, top=2, left=3, height=5, width=7, seed=11)
    second = Erasure(row=2, top=0, left=0, height=4, width=4, seed=12)
    torch.manual_seed(1)
    one = Finish(erasures=(first, second))(pixels())
    random.seed(2)
    other = Finish(erasures=(second, first))(pixels())
    assert torch.equal(one, other)
    assert torch.equal(one[0, :, :2], Finish()(pixels())[0, :, :2])
    assert not torch.equal(one[0, :, 2:7, 3:10], Finish()(pixels())[0, :, 2:7, 3:10])


def test_images_that_were_evaluated_can_be_trained_on() -> None:
    batch = Batch(pixels(), torch.arange(4), torch.arange(4), finish=Finish())
    with torch.inference_mode():
        batch.images.sum()
    assert not batch.images.is_inference()
    assert batch.to("cpu") is batch
    assert len(batch) == 4


def test_batches_of_a_cpu_are_not_taken_ahead() -> None:
    taken: list[int] = []
    batches = (taken.append(number) or Batch(*3 * [torch.tensor([number])]) for number in range(3))  # type: ignore[func-returns-value]
    ahead = Prefetcher(batches, torch.device("cpu"))
    next(ahead)
    ahead.prepare()
    assert taken == [0]
    assert [int(batch.labels) for batch in ahead] == [1, 2]
