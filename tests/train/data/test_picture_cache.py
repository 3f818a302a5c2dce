import errno
import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hwnas.errors import InputError
from hwnas.train.data import picture_cache
from hwnas.train.data.augment import AugmentConfig
from hwnas.train.data.images import BadImageError
from hwnas.train.data.loader import TrainLoader
from hwnas.train.data.picture_cache import CachedImages, cached_images

SIZES = ((600, 300), (20, 30), (37, 37), (64, 640), (48, 48))


class Pictures:
    """Images of several sizes, of which the last one cannot be read."""

    def __init__(self, *, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.images = [Image.fromarray(rng.integers(256, size=(h, w, 3), dtype=np.uint8)) for w, h in SIZES]
        self.labels = np.arange(len(SIZES) + 1) % 2
        self.keys = [str(index) for index in range(len(SIZES) + 1)]
        self.reads = 0

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, index: int) -> Image.Image:
        self.reads += 1
        if index == len(SIZES):
            raise BadImageError("5", "it is broken")
        return self.images[index]


def cached(folder: Path, pictures: Pictures | None = None, **options: Any) -> CachedImages:
    return cached_images(pictures or Pictures(), folder, **{"image_size": 32, "identity": "x", **options})


def test_large_images_are_shrunk_and_others_stay_as_they_are(tmp_path: Path) -> None:
    pictures = Pictures()
    found = cached(tmp_path, pictures)
    sizes = [found.read(index).size for index in range(len(SIZES))]
    assert sizes == [(74, 37), (20, 30), (37, 37), (37, 370), (37, 37)]
    assert found.read(1).tobytes() == pictures.images[1].tobytes()
    assert found.read(0).tobytes() == pictures.images[0].resize((74, 37), Image.Resampling.BICUBIC).tobytes()
    with pytest.raises(BadImageError, match="5 is not an image"):
        found.read(5)


def test_the_file_is_written_once_for_the_same_images(tmp_path: Path) -> None:
    first = cached(tmp_path)
    pictures, messages = Pictures(), list[str]()
    again = cached(tmp_path, pictures, on_message=messages.append)
    assert (again.path, messages, pictures.reads) == (first.path, [], len(pictures))  # only to recognise them
    assert cached(tmp_path, Pictures(seed=1)).path != first.path
    assert cached(tmp_path, image_size=64).path != first.path
    assert cached(tmp_path, identity="y").path != first.path


def test_of_two_writers_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill, began, go_on, calls = picture_cache._fill, threading.Event(), threading.Event(), list[int]()

    def slow(*arguments: Any, **options: Any) -> None:
        calls.append(1)
        began.set()
        assert go_on.wait(60)
        fill(*arguments, **options)

    monkeypatch.setattr(picture_cache, "_fill", slow)
    monkeypatch.setattr(picture_cache, "_WAIT_S", 0.01)
    threads = [threading.Thread(target=cached, args=(tmp_path,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert began.wait(60)
    go_on.set()
    for thread in threads:
        thread.join()
    assert calls == [1]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(dataset: object, file: io.BufferedWriter, *, side: int) -> None:
        file.write(b"some")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(picture_cache, "_fill", full)
        with pytest.raises(InputError, match="must have room") as caught:
            cached(tmp_path)
    assert "--cache" in str(caught.value.hint)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert cached(tmp_path).read(1).size == (20, 30)


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    path = cached(tmp_path).path
    path.rename(tmp_path / f".{path.name}.123456.tmp")
    (tmp_path / ".other.pictures.7.tmp").touch()
    cached(tmp_path)
    assert [item.name for item in tmp_path.glob(".*.tmp")] == [".other.pictures.7.tmp"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = cached(tmp_path).path
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="is damaged"):
        cached(tmp_path).read(4)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is damaged"):
        cached(tmp_path).read(4)


def test_workers_read_the_same_images(tmp_path: Path) -> None:
    options: dict[str, Any] = {"augment": AugmentConfig(), "image_shape": (3, 32, 32), "batch_size": 3, "seed": 0}
    one, other = (
        [batch.images for batch in TrainLoader(cached(tmp_path), workers=workers, **options).epoch(0)]
        for workers in (0, 1)
    )
    assert len(one) == 2
    assert all(bool((here == there).all()) for here, there in zip(one, other, strict=True))
