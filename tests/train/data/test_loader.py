"""Batches: every draw is a function of (seed, epoch, position)."""

import itertools
import logging
import multiprocessing
import os
import random
import signal
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hwnas.errors import InputError
from hwnas.train.data.augment import IMAGENET, AugmentConfig
from hwnas.train.data.images import BadImageLog, ImageDataset
from hwnas.train.data.loader import Batch, EvalLoader, TrainLoader, default_workers, usable_workers
from tests.train.data.image_files import CountedImages, array_images

PLAIN = AugmentConfig(crop="none", flip=0.0)
MOVED = AugmentConfig(crop="pad", flip=0.5)
STRONG = AugmentConfig(rand_augment="rand-m9-mstd0.5-inc1", erase=0.5)
JITTERED = AugmentConfig(crop="pad", color_jitter=0.4, erase=0.25)
SHAPE = (3, 8, 8)


def batches(images: ImageDataset, augment: AugmentConfig, **options: Any) -> TrainLoader:
    return TrainLoader(images, **{"augment": augment, "image_shape": SHAPE, "batch_size": 4, "seed": 3, **options})


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.indices, other.indices)


def normalised(images: Any) -> Tensor:
    """Bytes (B, H, W, C) as a network sees them."""
    mean, std = torch.tensor(IMAGENET.mean), torch.tensor(IMAGENET.std)
    return ((torch.from_numpy(images).double() / 255 - mean) / std).permute(0, 3, 1, 2).float()


def test_workers_outlive_a_signal_to_all_processes() -> None:
    images = array_images(20)
    epoch = batches(images, PLAIN, workers=1, batch_size=1).epoch(0)
    found = [next(epoch)]
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    found.extend(epoch)
    assert_same(found, list(batches(images, PLAIN, batch_size=1).epoch(0)))


def test_an_epoch_is_a_permutation_without_its_last_partial_batch() -> None:
    images = array_images(22)
    loader = batches(images, PLAIN)
    assert len(loader) == 5
    found = list(loader.epoch(0))
    seen = torch.cat([batch.indices for batch in found]).tolist()
    assert len(seen) == len(set(seen)) == 20
    assert seen != sorted(seen)
    for batch in found:
        assert batch.labels.tolist() == images.labels[batch.indices].tolist()
        torch.testing.assert_close(batch.images, normalised(images.array[batch.indices]), rtol=1e-5, atol=1e-5)
    assert [batch.indices.tolist() for batch in loader.epoch(1)] != [batch.indices.tolist() for batch in found]
    assert_same(found, list(batches(images, PLAIN).epoch(0)))
    assert batches(images, PLAIN, seed=4).epoch(0).__next__().indices.tolist() != found[0].indices.tolist()


def test_a_small_set_is_one_batch() -> None:
    loader = batches(array_images(3), PLAIN)
    assert len(loader) == 1
    assert [len(batch) for batch in loader.epoch(0)] == [3]


@pytest.mark.parametrize("augment", [MOVED, STRONG, JITTERED], ids=["moved", "strong", "jittered"])
def test_an_epoch_goes_on_where_it_stopped(augment: AugmentConfig) -> None:
    loader = batches(array_images(24), augment)
    assert_same(list(loader.epoch(2))[3:], list(loader.epoch(2, first=3)))
    assert list(loader.epoch(2, first=6)) == []
    with pytest.raises(InputError, match="batches 0 to 5"):
        next(loader.epoch(2, first=7))


@pytest.mark.parametrize("augment", [MOVED, STRONG], ids=["moved", "strong"])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(augment: AugmentConfig, workers: int) -> None:
    images = array_images(12)
    alone = list(batches(images, augment).epoch(1))
    loaded = list(batches(images, augment, workers=workers).epoch(1))
    assert_same(alone, loaded)
    assert all(batch.images.is_contiguous() for batch in alone + loaded)  # or other kernels would compute on them


@pytest.mark.parametrize("augment", [MOVED, STRONG, JITTERED], ids=["moved", "strong", "jittered"])
def test_ranks_share_the_batches_of_one(augment: AugmentConfig) -> None:
    """Rank r of w takes every w-th place: two half batches are the whole one."""
    images = array_images(24)
    whole = list(batches(images, augment, batch_size=8).epoch(1))
    halves = [list(batches(images, augment, batch_size=4, rank=rank, world_size=2).epoch(1)) for rank in range(2)]
    for one, first, second in zip(whole, *halves, strict=True):
        assert torch.equal(one.images[0::2], first.images)
        assert torch.equal(one.images[1::2], second.images)
        assert torch.equal(one.indices[1::2], second.indices)


@pytest.mark.parametrize("augment", [MOVED, STRONG, JITTERED], ids=["moved", "strong", "jittered"])
@pytest.mark.parametrize("workers", [0, 1])
def test_global_generators_are_left_alone(augment: AugmentConfig, workers: int) -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index] # noqa: NPY002
    for _ in batches(array_images(12), augment, workers=workers).epoch(0):
        assert random.getstate() == states[0]
        assert torch.equal(torch.get_rng_state(), states[2])
    assert (np.random.get_state()[1] == states[1]).all()  # type: ignore[index] # noqa: NPY002


def test_the_way_of_single_images_gives_what_the_fast_way_gives() -> None:
    """Images of another size cannot be kept, so one of them is enough to go the slow way."""
    images = array_images(24)
    fast = list(batches(images, MOVED).epoch(5))
    from hwnas.train.data.fetching import EpochPlan

    plan = EpochPlan(images, augment=MOVED, image_shape=SHAPE, seed=3, epoch=5, max_bad=0)
    for step, batch in enumerate(fast):
        fetched = plan.fetch(np.arange(4 * step, 4 * step + 4))
        torch.testing.assert_close(batch.images, normalised(fetched.pixels.transpose(0, 2, 3, 1)), atol=1e-5, rtol=0)
        assert batch.indices.tolist() == fetched.indices.tolist()


def test_images_that_fit_are_read_once() -> None:
    images = CountedImages(array_images(24))
    loader = batches(images, MOVED)
    found = list(loader.epoch(0))
    reads = images.reads
    assert_same(found, list(batches(array_images(24), MOVED).epoch(0)))
    list(loader.epoch(1))
    assert images.reads == reads <= 24 + 16


def test_a_shift_moves_pixels_over_black() -> None:
    images = array_images(64)
    black = ((0 - torch.tensor(IMAGENET.mean)) / torch.tensor(IMAGENET.std))[:, None, None]
    offsets = set()
    for batch in batches(images, AugmentConfig(crop="pad", flip=0.0), batch_size=64).epoch(0):
        load_originals = normalised(images.array[batch.indices])
        for image, original in zip(batch.images, load_originals, strict=True):
            padded = torch.nn.functional.pad(original - black, (1, 1, 1, 1)) + black
            places = [
                (row, column)
                for row, column in itertools.product(range(3), repeat=2)
                if torch.allclose(padded[:, row : row + 8, column : column + 8], image, atol=1e-5)
            ]
            assert len(places) == 1
            offsets.add(places[0])
    assert len(offsets) == 9


def test_half_of_the_images_are_flipped() -> None:
    images = array_images(400)
    (batch,) = batches(images, AugmentConfig(crop="none", flip=0.5), batch_size=400).epoch(0)
    load_originals = normalised(images.array[batch.indices])
    same = (batch.images - load_originals).abs().amax(dim=(1, 2, 3)) < 1e-5
    flipped = (batch.images - load_originals.flip(-1)).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert (same ^ flipped).all()
    assert 160 < int(flipped.sum()) < 240


def test_repeats_are_different_variants_of_fewer_images() -> None:
    loader = batches(array_images(24), AugmentConfig(repeats=3), batch_size=6)
    assert len(loader) == 4
    for batch in loader.epoch(0):
        assert batch.indices.tolist()[::3] == batch.indices.tolist()[2::3]
        assert not torch.equal(batch.images[0], batch.images[1])
    seen = torch.cat([batch.indices for batch in loader.epoch(0)])
    assert len(set(seen.tolist())) == 8


def test_repeats_of_ranks_are_variants_of_the_same_images() -> None:
    config = AugmentConfig(repeats=2)
    ranks = [list(batches(array_images(16), config, rank=rank, world_size=2).epoch(0)) for rank in range(2)]
    for first, second in zip(*ranks, strict=True):
        assert torch.equal(first.indices, second.indices)
        assert not torch.equal(first.images, second.images)


@pytest.mark.parametrize(("cores", "processes", "workers"), [(8, 1, 7), (64, 1, 16), (64, 8, 7), (1, 1, 1)])
def test_workers_are_chosen_by_the_cores_of_a_gpu(
    cores: int, processes: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwnas.train.data.loader.usable_cores", lambda: cores)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert default_workers(torch.device("cuda"), processes=processes) == workers
    assert default_workers(torch.device("cpu")) == 0


def test_an_image_is_decoded_once_for_its_variants() -> None:
    images = CountedImages(array_images(12))
    config = AugmentConfig(repeats=3)
    assert len(list(batches(images, config, batch_size=6).epoch(0))) == 2
    assert images.reads == 4


def test_erasing_touches_a_share_of_the_images() -> None:
    images = array_images(200)
    (batch,) = batches(images, AugmentConfig(crop="none", flip=0.0, erase=0.3), batch_size=200).epoch(0)
    changed = (batch.images - normalised(images.array[batch.indices])).abs().amax(dim=(1, 2, 3)) > 1e-4
    assert 40 < int(changed.sum()) < 80


def test_one_channel_is_lightness() -> None:
    images = array_images(8)
    for augment in (PLAIN, STRONG):
        (batch,) = batches(images, augment, image_shape=(1, 8, 8), batch_size=8).epoch(0)
        assert batch.images.shape == (8, 1, 8, 8)
    (seen,) = EvalLoader(images, image_shape=(1, 8, 8), batch_size=8)
    grey = images.array @ np.array([0.299, 0.587, 0.114])
    expected = (grey / 255 - np.mean(IMAGENET.mean)) / np.mean(IMAGENET.std)
    np.testing.assert_allclose(seen.images[:, 0].numpy(), expected, atol=0.02)


@pytest.mark.parametrize("augment", [MOVED, STRONG], ids=["kept", "read"])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_replaced_by_the_next(
    augment: AugmentConfig, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    images = CountedImages(array_images(12), broken=(4, 5, 11))
    bad = BadImageLog(limit=3)
    loader = batches(images, augment, bad=bad, workers=workers)
    with caplog.at_level(logging.WARNING):
        seen = torch.cat([batch.indices for epoch in range(2) for batch in loader.epoch(epoch)]).tolist()
    assert sorted(seen) == sorted(2 * [0, 1, 2, 3, 6, 6, 6, 7, 8, 9, 10, 0])
    assert set(bad.reasons) == {"image 4", "image 5", "image 11"}
    assert sum("skipped image" in record.message for record in caplog.records) == 3


@pytest.mark.parametrize("augment", [MOVED, STRONG], ids=["kept", "read"])
@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_unreadable_images_are_an_error(augment: AugmentConfig, workers: int) -> None:
    images = CountedImages(array_images(12), broken=tuple(range(6)))
    with pytest.raises(InputError, match="more than 2 images") as caught:
        list(batches(images, augment, bad=BadImageLog(limit=2), workers=workers).epoch(0))
    assert "made so" in str(caught.value.got)


def test_nothing_readable_is_an_error_under_any_limit() -> None:
    images = CountedImages(array_images(4), broken=(0, 1, 2, 3))
    for augment in (MOVED, STRONG):
        with pytest.raises(InputError, match="at least one image must be readable"):
            list(batches(images, augment, bad=BadImageLog(limit=9)).epoch(0))


def test_evaluated_images_come_once_and_in_order() -> None:
    images = array_images(10)
    loader = EvalLoader(images, image_shape=SHAPE, batch_size=4)
    assert len(loader) == 3
    for _ in range(2):
        found = list(loader)
        assert [batch.indices.tolist() for batch in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    together = torch.cat([batch.images for batch in found])
    torch.testing.assert_close(together, normalised(images.array), rtol=1e-5, atol=1e-5)
    assert_same(found, list(EvalLoader(CountedImages(images), image_shape=SHAPE, batch_size=4, workers=2)))


def test_unreadable_images_are_not_evaluated() -> None:
    bad = BadImageLog(limit=5)
    images = CountedImages(array_images(10), broken=(1, 4, 5, 6, 7))
    found = list(EvalLoader(images, image_shape=SHAPE, batch_size=4, bad=bad))
    assert [batch.indices.tolist() for batch in found] == [[0, 2, 3], [8, 9]]
    assert len(bad) == 5


def test_larger_images_are_evaluated_by_their_middle() -> None:
    from torchvision.transforms.functional import center_crop, resize

    images = array_images(3, size=16)
    (batch,) = EvalLoader(images, image_shape=SHAPE, batch_size=3)
    expected = [np.asarray(center_crop(resize(images.read(index), 9, 3), 8)) for index in range(3)]
    torch.testing.assert_close(batch.images, normalised(np.stack(expected)), rtol=1e-5, atol=1e-5)
    (whole,) = EvalLoader(images, image_shape=SHAPE, batch_size=3, crop_share=1.0)
    expected = [np.asarray(resize(images.read(index), 8, 3)) for index in range(3)]
    torch.testing.assert_close(whole.images, normalised(np.stack(expected)), rtol=1e-5, atol=1e-5)


def test_smaller_images_are_enlarged_whole() -> None:
    (batch,) = EvalLoader(array_images(2, size=4), image_shape=SHAPE, batch_size=2)
    assert batch.images.shape == (2, *SHAPE)


class Deadly(CountedImages):
    def read(self, index: int) -> Any:
        os._exit(9)


def test_a_worker_that_is_killed_is_no_bug() -> None:
    loader = EvalLoader(Deadly(array_images(8)), image_shape=(3, 8, 8), batch_size=4, workers=1)
    with pytest.raises(InputError, match="must not be killed") as caught:
        list(loader)
    assert "fewer --workers" in str(caught.value.hint)


def test_fewer_workers_than_asked_for_are_announced(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    assert usable_workers(3) == 3
    assert not caplog.records
    assert usable_workers(8) == 3
    assert "3 workers load images, not 8" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"workers": -1}, "workers must not be negative"),
        ({"image_shape": (4, 8, 8)}, "1 or 3 channels"),
        ({"image_shape": (3, 8, 4)}, "square"),
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"world_size": 13}, "an image for each rank"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        batches(array_images(12), PLAIN, **options)
