"""Training images, decoded and resized once, in one file that all processes map into memory.

Images keep their proportions: their shorter side is at most 256 pixels for an input of 224, and smaller images stay as
they are. A training crops them as it would crop the files, so its images are less sharp than theirs where a small part
of a large image is chosen.

The file begins with `MAGIC` and the number of images, then has for each one the offset, height and width of its pixels
(0 for one that cannot be read), and the pixels themselves, (H, W, 3), uint8.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import InputError
from hwnas.files import cannot, file_errors, storage_failed
from hwnas.train.data.augment import EVAL_CROP_SHARE
from hwnas.train.data.images import BadImageError, ImageDataset, Labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

MAGIC = b"hwnas.pictures/1"

_ENTRY = np.dtype([("offset", "<i8"), ("height", "<i4"), ("width", "<i4")])
_PROBES = 256
"""Images whose pixels are part of the name of the file: a changed folder gets another one."""

_WAIT_S = 0.5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedImages:
    """A dataset whose images are read from the file."""

    dataset: ImageDataset
    path: Path
    _maps: dict[int, NDArray[np.uint8]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def labels(self) -> Labels:
        """Class index of each image."""
        return self.dataset.labels

    @property
    def keys(self) -> "Sequence[str]":
        """Name of each image."""
        return self.dataset.keys

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> "Image":
        """Return one image in RGB; one that could not be read is tried again where it comes from."""
        from PIL import Image

        data = self._map()
        begin = len(MAGIC) + 8 + index * _ENTRY.itemsize
        try:
            offset, height, width = data[begin : begin + _ENTRY.itemsize].view(_ENTRY)[0].tolist()
            pixels = data[offset : offset + 3 * height * width].reshape(height, width, 3)
        except (IndexError, ValueError) as error:
            raise self._damaged(error) from error
        return Image.fromarray(pixels) if height else self.dataset.read(index)

    def _map(self) -> NDArray[np.uint8]:
        """The bytes of the file, mapped once in each process."""
        pid = os.getpid()
        if pid not in self._maps:
            with file_errors(self.path):
                try:
                    self._maps[pid] = np.memmap(self.path, dtype=np.uint8, mode="r")
                except ValueError as error:  # an empty file cannot be mapped
                    raise self._damaged(error) from error
        return self._maps[pid]

    def _damaged(self, error: Exception) -> InputError:
        return InputError(f"{self.path} is damaged", got=error, hint="remove it; it is written again")

    def __reduce__(self) -> Any:
        return CachedImages, (self.dataset, self.path)


def cached_images(
    dataset: ImageDataset,
    folder: Path,
    *,
    image_size: int,
    identity: str,
    on_message: Callable[[str], None] = lambda text: None,
) -> CachedImages:
    """Return a dataset that reads its images from a file in a folder, which is written unless it is there.

    Of several processes one writes it, and the others wait. A file that was not completed does not stay.

    Args:
        dataset: Training images.
        folder: Where the file is.
        image_size: Side of the network's input.
        identity: Digest of the dataset and its split.
        on_message: Called before the file is written.

    Raises:
        InputError: The folder cannot be written, or has no room.
    """
    side = round(image_size / EVAL_CROP_SHARE)
    path = folder / f"{_digest(dataset, side, identity)}.pictures"
    with file_errors(folder, "made a folder"):
        folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with _only_writer(path):
            if not path.exists():
                _remove_parts(path)
                on_message(f"{len(dataset):,} images are decoded and resized into {path}")
                _write(dataset, path, side=side)
    _log.info("training images come from %s", path)
    return CachedImages(dataset, path)


def _digest(dataset: ImageDataset, side: int, identity: str) -> str:
    digest = hashlib.sha256(f"{identity} {len(dataset)} {side}".encode())
    for index in range(0, len(dataset), -(-len(dataset) // _PROBES)):
        with suppress(BadImageError):
            digest.update(dataset.read(index).tobytes())
    return digest.hexdigest()[:16]


def _remove_parts(path: Path) -> None:
    """Remove what writers left behind that were killed; the lock must be held."""
    for part in path.parent.glob(f".{path.name}.*.tmp"):
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _write(dataset: ImageDataset, path: Path, *, side: int) -> None:
    """Write the file under another name, and give it its own once it is complete."""
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with part.open("wb") as file:
            _fill(dataset, file, side=side)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if storage_failed(error):
            message = f"{path.parent} must have room for decoded images"
            hint = "free some space, another --cache DIR, or no --cache"
            raise InputError(message, got=error.strerror or error, hint=hint) from error
        raise cannot("write", path, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _fill(dataset: ImageDataset, file: BinaryIO, *, side: int) -> None:
    entries = np.zeros(len(dataset), dtype=_ENTRY)
    file.write(MAGIC + np.int64(len(dataset)).astype("<i8").tobytes() + entries.tobytes())
    for index in range(len(dataset)):
        with suppress(BadImageError):
            pixels = np.asarray(_shrunk(dataset.read(index), side))
            entries[index] = (file.tell(), *pixels.shape[:2])
            file.write(pixels.tobytes())
    file.seek(len(MAGIC) + 8)
    file.write(entries.tobytes())


def _shrunk(image: "Image", side: int) -> "Image":
    """An image whose shorter side is at most `side`."""
    if min(image.size) <= side:
        return image
    from PIL import Image

    share = side / min(image.size)
    width, height = (max(1, round(share * length)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


@contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    """Hold the lock of a file; the system releases it when a process ends."""
    with file_errors(path, "locked"), path.with_name(f".{path.name}.lock").open("ab") as lock:
        while True:
            try:
                flock(lock, LOCK_EX | LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_WAIT_S)
        yield
