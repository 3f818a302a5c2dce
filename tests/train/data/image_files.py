"""Small sets of images for the tests, in memory and on a disk."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

from hwnas.train.data.images import ArrayDataset


def pixels(count: int, *, size: int = 8, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Random bytes of the shape (images, height, width, channels)."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, size=(count, size, size, channels), dtype=np.uint8)


def array_images(count: int, *, size: int = 8, channels: int = 3, classes: int = 2) -> ArrayDataset:
    """Random images in memory, classes in turn."""
    labels = np.arange(count, dtype=np.int64) % classes
    array = pixels(count, size=size, channels=channels)
    return ArrayDataset(array, labels, [f"image {index}" for index in range(count)])


def png(array: NDArray[np.uint8]) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(buffer, format="PNG")
    return buffer.getvalue()


def write_folder(root: Path, counts: dict[str, int], *, size: int = 8) -> None:
    """A folder a class, images that tell from which they are."""
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for index, image in enumerate(pixels(count, size=size, seed=number)):
            (root / name / f"{index}.png").write_bytes(png(image))


def write_parquet(path: Path, rows: list[tuple[bytes | None, int]], *, names: list[str] | None = None) -> None:
    """A Parquet file in Hugging Face's layout."""
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    images = pyarrow.array([{"bytes": data, "path": None} for data, _ in rows], type=kind)
    table = pyarrow.table({"image": images, "label": pyarrow.array([label for _, label in rows], type=pyarrow.int64())})
    if names is not None:
        features: dict[str, Any] = {"label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path, row_group_size=7)


class CountedImages:
    """Images that are no array, and count how often they are read; some of them can be unreadable."""

    def __init__(self, images: ArrayDataset, *, broken: tuple[int, ...] = ()) -> None:
        self.images = images
        self.broken = broken
        self.labels = images.labels
        self.keys = images.keys
        self.reads = 0

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Image.Image:
        """One image."""
        from hwnas.train.data.images import BadImageError

        self.reads += 1
        if index in self.broken:
            raise BadImageError(self.keys[index], "made so")
        return self.images.read(index)
