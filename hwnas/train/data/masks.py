"""Decoding of masks of COCO files: polygons, and run-length code, whose content is checked before it is used."""

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.config import shown
from hwnas.errors import InputError, MissingError

Mask = NDArray[np.uint8]

_MAX_DIGITS = 13
"""Characters of one number in compressed code: 5 bits each, of 64."""


def load_coco(module: str) -> Any:
    """Import a module of pycocotools, which is no dependency of hwnas.

    Args:
        module: `coco`, `cocoeval` or `mask`.

    Raises:
        MissingError: It is not installed, or cannot be loaded.
    """
    try:
        return import_module(f"pycocotools.{module}")
    except ImportError as error:
        message = "pycocotools must be installed: the masks of datasets and the average precision need it"
        raise MissingError(message, got=error, hint="pip install 'hwnas[detect]'") from error


def decode_mask(segmentation: Any, size: tuple[int, int]) -> Mask:
    """Decode the mask of an object.

    Args:
        segmentation: Polygons, each a list x, y, x, y, ...; or a table with `size`, height and width, and `counts`, run
            lengths down the columns, as a list or compressed to a text.
        size: Height and width of the image.

    Raises:
        InputError: It is no such mask, or that of an image of another size.
        MissingError: pycocotools is not installed, and draws polygons.
    """
    if isinstance(segmentation, dict):
        return _decode_runs(segmentation, size)
    polygons = segmentation if isinstance(segmentation, (list, tuple)) else ()
    if not polygons or not all(_is_polygon(part) for part in polygons):
        message = "a mask must be polygons of at least 3 points or a table of counts and size"
        raise InputError(message, got=shown(segmentation) if not isinstance(segmentation, tuple) else "other polygons")
    return _draw(polygons, size)


def _is_polygon(part: Any) -> bool:
    return isinstance(part, np.ndarray) and part.size >= 6 and part.size % 2 == 0


def _draw(polygons: Any, size: tuple[int, int]) -> Mask:
    """Draw polygons as COCO does, clipped to the image: far points would take memory."""
    library = load_coco("mask")
    height, width = size
    clipped = [np.clip(part.reshape(-1, 2), 0, (width, height)).ravel().astype(float).tolist() for part in polygons]
    code = library.merge(library.frPyObjects(clipped, height, width))
    return _decode_runs({"size": list(code["size"]), "counts": code["counts"].decode("ascii")}, size)


def _decode_runs(segmentation: dict[str, Any], size: tuple[int, int]) -> Mask:
    stated, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(stated, list) or stated != list(size):
        raise InputError("a mask must have the size of its image", got=f"{shown(stated)} for {list(size)}")
    lengths = _decompress(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(
        type(value) is int and 0 <= value <= size[0] * size[1] for value in lengths
    ):
        raise InputError("the counts of a mask must be lengths of runs", got=shown(counts))
    if sum(lengths) != size[0] * size[1]:
        raise InputError("the runs of a mask must cover its image", got=f"{sum(lengths)} of {size[0] * size[1]} pixels")
    values = np.arange(len(lengths), dtype=np.int64) % 2
    mask: Mask = np.repeat(values.astype(np.uint8), lengths).reshape(size[1], size[0]).T
    return mask


def _decompress(text: str) -> list[int]:
    """Return the run lengths of COCO's compressed code: 5 bits a character, differences to the last but one length."""
    lengths: list[int] = []
    value, shift = 0, 0
    for char in text:
        code = ord(char) - 48
        if not 0 <= code < 64 or shift >= 5 * _MAX_DIGITS:
            raise InputError("the counts of a mask must be in COCO's compressed code", got=shown(text))
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                value |= -1 << shift
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value, shift = 0, 0
    if shift:
        raise InputError("the counts of a mask must be complete", got=shown(text))
    return lengths
