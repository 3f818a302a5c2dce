"""Batches of samples with boxes."""

from collections.abc import Iterable, Sequence

import pytest
import torch

from hwnas.errors import InputError
from hwnas.train.data.detection import load_detection, load_segmentation
from hwnas.train.data.detection_augment import DetectionAugmentConfig
from hwnas.train.data.detection_loader import DetectionBatch, DetectionEvalLoader, DetectionTrainLoader
from hwnas.train.data.images import BadImageError, BadImageLog
from hwnas.train.data.samples import AnnotatedDataset, Sample

DATA = load_detection("digits-scene", image_size=32, max_images=10, heldout=5)


class Broken:
    """Images of which some cannot be read."""

    def __init__(self, images: AnnotatedDataset, broken: tuple[int, ...]) -> None:
        self.images, self.broken = images, broken

    @property
    def keys(self) -> Sequence[str]:
        return self.images.keys

    def read(self, index: int) -> Sample:
        if index in self.broken:
            raise BadImageError(self.keys[index], "made so")
        return self.images.read(index)


def broken(*numbers: int) -> AnnotatedDataset:
    return AnnotatedDataset(images=Broken(DATA.train, numbers), indices=DATA.train.indices, image_size=32)


def loader(dataset: AnnotatedDataset = DATA.train, *, batch: int = 4, **options: int) -> DetectionTrainLoader:
    bad = BadImageLog(limit=2)
    return DetectionTrainLoader(dataset, augment=DetectionAugmentConfig(), batch_size=batch, seed=3, bad=bad, **options)


def same(one: Iterable[DetectionBatch], other: Iterable[DetectionBatch]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return bool(pairs) and all(
        torch.equal(a.images, b.images)
        and torch.equal(a.indices, b.indices)
        and all(torch.equal(x["boxes"], y["boxes"]) for x, y in zip(a.targets, b.targets, strict=True))
        for a, b in pairs
    )


def test_batches_are_functions_of_seed_epoch_and_position() -> None:
    batches = list(loader().epoch(1))
    assert [len(batch) for batch in batches] == [4, 4]
    assert batches[0].images.dtype == torch.uint8
    assert same(batches, loader().epoch(1))
    assert same(batches[1:], loader().epoch(1, first=1))
    assert not same(batches, loader().epoch(0))


@pytest.mark.slow
def test_worker_processes_do_not_show() -> None:
    assert same(loader().epoch(0), loader(workers=2).epoch(0))


def test_ranks_share_an_epoch() -> None:
    whole = next(iter(loader(batch=4).epoch(0))).indices.tolist()
    ranks = [next(iter(loader(batch=2, rank=rank, world_size=2).epoch(0))).indices.tolist() for rank in (0, 1)]
    assert [ranks[position % 2][position // 2] for position in range(4)] == whole


def test_the_next_readable_image_stands_in_for_a_bad_one() -> None:
    log = loader(broken(4))
    indices = [index for batch in log.epoch(0) for index in batch.indices.tolist()]
    assert len(indices) == 8
    assert 4 not in indices
    assert dict(log.bad.reasons) == {"digits-scene train 4": "made so"}
    with pytest.raises(InputError, match="more than 2 images cannot be read"):
        list(loader(broken(*range(10))).epoch(0))


def test_bad_images_are_not_evaluated() -> None:
    batches = list(DetectionEvalLoader(broken(1, 8, 9), batch_size=4))
    assert [batch.indices.tolist() for batch in batches] == [[0, 2, 3], [4, 5, 6, 7]]
    assert torch.equal(batches[0].images[1], DATA.train[2][0])


def test_classes_of_pixels_are_stacked() -> None:
    data = load_segmentation("digits-scene", image_size=32, max_images=4, heldout=3)
    batch = next(iter(DetectionEvalLoader(data.heldout, batch_size=3))).to("cpu")
    assert batch.targets.shape == (3, 32, 32)
    assert next(iter(loader(data.train).epoch(0))).targets.dtype == torch.int64


def test_arguments_are_checked() -> None:
    with pytest.raises(InputError, match="rank must be below"):
        loader(rank=1)
    with pytest.raises(InputError, match="an image for each rank"):
        loader(world_size=11)
    with pytest.raises(InputError, match="batch_size"):
        loader(batch=0)
    with pytest.raises(InputError, match="batches 0 to 1"):
        list(loader().epoch(0, first=3))
