import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.space import SPACES
from hwnas.train.data.images import ArrayDataset
from hwnas.train.data.preprocess import (
    PREPROCESS,
    Preprocess,
    describe_data,
    preprocess_of,
    read_preprocess,
    write_preprocess,
)
from hwnas.train.data.sources import DataSplits


def splits(side: int, classes: tuple[str, ...] = ("a", "b")) -> DataSplits:
    images = ArrayDataset(np.zeros((4, side, side, 3), np.uint8), np.array([0, 1, 0, 1]), list("wxyz"))
    return DataSplits("test", classes, images, images, None, "")


def test_images_no_larger_than_the_input_are_not_cropped() -> None:
    described = {
        side: describe_data(splits(side), num_classes=2, image_shape=(3, 32, 32)).crop_pct for side in (20, 32, 33)
    }
    assert described == {20: 1.0, 32: 1.0, 33: 0.875}


def test_names_are_those_of_the_outputs() -> None:
    assert describe_data(splits(32), num_classes=2, image_shape=(3, 32, 32)).label_names == ("a", "b")
    assert describe_data(splits(32), num_classes=5, image_shape=(3, 32, 32)).label_names == ()
    assert describe_data(splits(32, ()), num_classes=2, image_shape=(3, 32, 32)).label_names == ()


def test_a_record_is_found_beside_weights(tmp_path: Path) -> None:
    written = describe_data(splits(32), num_classes=2, image_shape=(3, 32, 32))
    assert read_preprocess(tmp_path) is None
    write_preprocess(tmp_path, written)
    assert read_preprocess(tmp_path) == written
    weights = tmp_path / "network.safetensors"
    smaller = Preprocess.of(input_size=(3, 16, 16), num_classes=2, beside=weights)
    assert smaller == replace(written, input_size=(3, 16, 16))
    other = Preprocess.of(input_size=(3, 32, 32), num_classes=3, beside=weights)
    assert (other.label_names, other.crop_pct) == ((), 0.875)


def test_images_of_detectors_are_letterboxed() -> None:
    space = SPACES.get("retinanet-vitas-twins-micro")
    found = preprocess_of(space, space.largest(), weights=None)
    assert (found.crop_mode, found.crop_pct, found.interpolation) == ("letterbox", 1.0, "bilinear")
    plain = SPACES.get("vitas-twins-micro")
    assert preprocess_of(plain, plain.largest(), weights=None).crop_mode == "center"


def test_keys_are_those_of_timm() -> None:
    timm = pytest.importorskip("timm")
    values = Preprocess.of(input_size=(3, 32, 32), num_classes=2).to_timm()
    assert "label_names" not in values
    config = timm.models.PretrainedCfg(**values)
    assert (config.mean, config.crop_pct) == (values["mean"], 0.875)


def test_one_channel_has_the_mean_of_three() -> None:
    record = Preprocess.of(input_size=(1, 32, 32), num_classes=2)
    np.testing.assert_allclose(record.mean, [0.449], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_pct": 0}, "crop_pct must be greater than 0"),
        ({"std": [0.2, 0.2, 0]}, "must be greater than 0"),
        ({"input_size": [3, 0, 32]}, "must be between 1"),
        ({"label_names": ["a"]}, "a name for each of the 2 classes"),
        ({"crop": 1}, "'crop' is not known"),
    ],
)
def test_values_of_a_record_are_checked(tmp_path: Path, change: dict[str, object], message: str) -> None:
    values = {**Preprocess.of(input_size=(3, 32, 32), num_classes=2).to_timm(), **change}
    (tmp_path / PREPROCESS).write_text(json.dumps(values))
    with pytest.raises(InputError, match=message):
        read_preprocess(tmp_path)


def test_a_broken_record_is_an_error(tmp_path: Path) -> None:
    (tmp_path / PREPROCESS).write_text("[]")
    with pytest.raises(InputError, match="must hold a table"):
        read_preprocess(tmp_path)
