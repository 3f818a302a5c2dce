"""Reader of images with a class for each pixel in the layout of Pascal VOC.

`ImageSets/Segmentation/train.txt` lists the names of the training images, `JPEGImages` has the images, and
`SegmentationClass` a PNG file of classes for each: indices of a palette, or colors that `labelmap.txt` names.
"""

import hashlib
import io
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from hwnas.errors import InputError
from hwnas.files import absolute_path, file_errors, path_within, printable, read_bytes, read_text
from hwnas.train.data.images import DECODER_ERRORS, BadImageError, decode_image, oriented, to_array
from hwnas.train.data.samples import IGNORED, AnnotatedSource, Sample

LISTS = Path("ImageSets") / "Segmentation"
IMAGES, CLASSES = "JPEGImages", "SegmentationClass"
LABEL_MAP = "labelmap.txt"
"""CVAT's file of classes: lines of NAME:R,G,B:: with the background first."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""Classes of Pascal VOC, whose own folders do not name them."""

_TRAIN_LISTS = ("train", "training", "trainval")
_TEST_LISTS = ("test", "val", "valid", "validation")
_VOID = (224, 224, 192)
"""Color of pixels that are not evaluated."""
_COLOR_BASES = np.asarray([65536, 256, 1])


@dataclass(frozen=True, kw_only=True)
class VocImages:
    """The images of one list."""

    root: Path
    keys: Sequence[str]
    """Names of the images, without suffix."""
    num_classes: int
    """Number of classes with the background."""
    colors: NDArray[np.int64] | None = None
    """Color of each class as one number; None: pixels have the number of their class."""

    def read(self, index: int) -> Sample:
        """Read an image and the class of each pixel; raise BadImageError if that is not possible."""
        key = self.keys[index]
        try:
            classes = read_classes(self.root, key, self.colors)
            image = decode_image(read_bytes(self._image(key)), key)
            pixels = to_array(oriented(image, (classes.shape[1], classes.shape[0]), key), channels=3)
        except BadImageError:
            raise
        except InputError as error:
            raise BadImageError(key, error.got or error.message) from error
        if classes.shape != pixels.shape[1:]:
            sizes = [f"{shape[-1]} x {shape[-2]}" for shape in (classes.shape, pixels.shape)]
            raise BadImageError(key, f"its classes have {sizes[0]} pixels, the image {sizes[1]}")
        largest = int(classes[classes != IGNORED].max(initial=0))
        if largest >= self.num_classes:
            raise BadImageError(key, f"its classes must be below {self.num_classes}, not {largest}")
        tensor = tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(pixels)))
        return tensor, tv_tensors.Mask(torch.from_numpy(classes))

    def _image(self, key: str) -> Path:
        paths = [path_within(self.root / IMAGES, f"{key}{suffix}") for suffix in SUFFIXES]
        return next((path for path in paths if path.is_file()), paths[0])


def is_voc(root: Path) -> bool:
    """Return True if a folder has this layout."""
    with file_errors(root):
        return (root / CLASSES).is_dir() and (root / LISTS).is_dir()


def open_voc(root: Path) -> AnnotatedSource:
    """Open the images of a folder.

    Raises:
        InputError: A list is missing or empty, has a name that leads elsewhere, or there are no classes.
    """
    train = _read_list(root, _TRAIN_LISTS)
    if not train:
        raise InputError(f"{root / LISTS} must have a list of training images", got="no train.txt with names")
    test = _read_list(root, _TEST_LISTS, needs_classes=True)
    both = sorted(set(train) & set(test))
    if both:
        raise InputError(f"test images of {root} must be no training images", got=printable(", ".join(both[:8])))
    names, colors = _label_map(root) if (root / LABEL_MAP).exists() else (_numbered(root, train), None)

    def part(keys: Sequence[str]) -> VocImages:
        return VocImages(root=root, keys=keys, num_classes=len(names) + 1, colors=colors)

    return AnnotatedSource(
        classes=names,
        train=part(train),
        test=part(test) if test else None,
        identity=f"voc {_identity(root, (*train, *test))}",
    )


def _identity(root: Path, keys: Sequence[str]) -> str:
    """Return a digest of the sizes of the files of classes, and of the names of their colors."""
    found = hashlib.sha256(read_bytes(root / LABEL_MAP) if (root / LABEL_MAP).exists() else b"")
    for key in keys:
        with suppress(OSError):  # a missing file is named when it is read
            found.update(f"{key} {(root / CLASSES / f'{key}.png').stat().st_size}\n".encode())
    return found.hexdigest()[:24]


def read_classes(root: Path, key: str, colors: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Read the class of each pixel of an image.

    Args:
        root: Folder of the dataset.
        key: Name of the image.
        colors: Color of each class as one number; None: pixels have the number of their class.

    Raises:
        InputError: The file cannot be read, has another kind of pixels, or a color without class.
    """
    data = read_bytes(path_within(root / CLASSES, f"{key}.png"))
    if colors is None:
        return _indices(data, key)
    packed = np.asarray(decode_image(data, key)).astype(np.int64) @ _COLOR_BASES
    found, places = np.unique(packed, return_inverse=True)
    numbers = {int(color): number for number, color in enumerate(colors)} | {_packed(_VOID): IGNORED}
    unknown = [color for color in found.tolist() if color not in numbers]
    if unknown:
        got = ", ".join(f"{color:06x}" for color in unknown[:4])
        raise BadImageError(key, f"colors that {LABEL_MAP} does not name: {got}")
    table = np.asarray([numbers[color] for color in found.tolist()], dtype=np.int64)
    classes: NDArray[np.int64] = table[places].reshape(packed.shape)
    return classes


def _indices(data: bytes, key: str) -> NDArray[np.int64]:
    """Decode an image of class numbers: indices of a palette, or shades of grey."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode not in ("P", "L", "1"):
                reason = f"its classes must be one number for each pixel (mode P or L), not {image.mode}"
                raise BadImageError(key, f"{reason}; colors need a file {LABEL_MAP}")
            numbers: NDArray[np.int64] = np.asarray(image).astype(np.int64)
            return numbers
    except (*DECODER_ERRORS, Image.DecompressionBombError) as error:
        raise BadImageError(key, error) from error


def _read_list(root: Path, lists: Sequence[str], *, needs_classes: bool = False) -> tuple[str, ...]:
    """Return the names of the first list that has any, or of which the first has a file of classes."""
    for name in lists:
        file = root / LISTS / f"{name}.txt"
        if not file.exists():
            continue
        keys = tuple(line.split()[0] for line in read_text(file).splitlines() if line.strip())
        for key in keys:
            _require_key(key, file)
        if len(set(keys)) < len(keys):
            raise InputError(f"names in {file} must be unique", got=f"{len(set(keys))} of {len(keys)} are different")
        if keys and (not needs_classes or (root / CLASSES / f"{keys[0]}.png").exists()):
            return keys
    return ()


def _require_key(key: str, file: Path) -> None:
    path = PurePosixPath(key)
    if not key.isprintable() or path.is_absolute() or ".." in path.parts or "\\" in key:
        raise InputError(f"names in {file} must be those of images, without suffix", got=printable(key))


def _numbered(root: Path, keys: Sequence[str]) -> tuple[str, ...]:
    """Return the classes of Pascal VOC if the folder is named as its own are, else the numbers of those that occur."""
    if re.fullmatch(r"VOC20\d\d", absolute_path(root).name):
        return VOC_CLASSES
    largest = 0
    for key in keys:
        with suppress(InputError):  # named when it is read
            classes = read_classes(root, key, None)
            largest = max(largest, int(classes[classes != IGNORED].max(initial=0)))
    if not largest:
        raise InputError(f"{root / CLASSES} must have classes beside the background", got="none")
    return tuple(str(number) for number in range(1, largest + 1))


def _label_map(root: Path) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Read names and colors of the classes; the background, which is black, comes first."""
    file = root / LABEL_MAP
    rows = [line.split(":") for line in read_text(file).splitlines() if line.strip() and not line.startswith("#")]
    found: dict[str, int] = {}
    for row in rows:
        match = re.fullmatch(r"(\d{1,3}),(\d{1,3}),(\d{1,3})", row[1].replace(" ", "")) if len(row) > 1 else None
        if match is None or max(map(int, match.groups())) > 255 or not row[0].isprintable():
            raise InputError(f"lines of {file} must be NAME:R,G,B::", got=printable(":".join(row)))
        found[row[0]] = _packed(tuple(map(int, match.groups())))
    classes = {name: color for name, color in found.items() if color}
    if not 0 < len(set(classes.values())) == len(classes) < IGNORED or len(found) < len(rows):
        raise InputError(f"{file} must name the background, which is black, and classes of different colors")
    return tuple(classes), np.asarray([0, *classes.values()], dtype=np.int64)


def _packed(color: Sequence[int]) -> int:
    return color[0] * 65536 + color[1] * 256 + color[2]
