"""Pictures of Pillow to bytes of (C, H, W), and back."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image


def as_bytes(image: "Image", *, channels: int) -> NDArray[np.uint8]:
    """The pixels of a picture; one channel is its lightness."""
    pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    return pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]


def as_image(pixels: NDArray[np.uint8]) -> "Image":
    """The picture of some pixels, in colour."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
