"""Masks in COCO's format; wrong ones are tested with the datasets that have them."""

import sys

import numpy as np
import pytest

from hwnas.errors import MissingError
from hwnas.train.data.masks import decode_mask, load_coco


def test_random_masks_are_decoded_as_pycocotools_does() -> None:
    library = load_coco("mask")
    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.97):
        mask = (rng.random((37, 53)) < share).astype(np.uint8)
        code = library.encode(np.asfortranarray(mask))
        decoded = decode_mask({"size": code["size"], "counts": code["counts"].decode()}, (37, 53))
        assert (decoded == mask).all()


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(MissingError) as caught:
        load_coco("mask")
    assert caught.value.hint == "pip install 'hwnas[detect]'"
