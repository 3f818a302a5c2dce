"""The space that is proposed for images and a machine."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwnas.devices import Machine, detect
from hwnas.pipeline.proposal import propose_space
from hwnas.pipeline.train import estimate_training
from hwnas.train.data.images import ArrayDataset
from hwnas.train.data.sources import DataSplits
from hwnas.train.options import TrainOptions
from hwnas.train.trainer import TrainerConfig

CPU = replace(detect(), gpus=())
GPU = replace(CPU, gpus=(object(),))  # type: ignore[arg-type]


class ManyImages(ArrayDataset):
    """As many images as are said, all of one size."""

    def __init__(self, side: int, count: int) -> None:
        super().__init__(np.zeros((1, side, side, 3), np.uint8), np.zeros(1, np.int64), ["image"])
        self.count = count

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> Any:
        return super().read(0)


def splits(side: int, count: int = 9000) -> DataSplits:
    images = ManyImages(side, count)
    return DataSplits("images", ("a", "b"), images, images, None, "")


@pytest.mark.parametrize(
    ("side", "count", "machine", "space"),
    [
        (28, 9000, CPU, "vitas-twins-micro"),
        (48, 9000, CPU, "vitas-twins-mini-64"),
        (64, 9000, GPU, "vitas-twins-mini-64"),
        (112, 9000, CPU, "vitas-twins-mini-96"),
        (500, 60_000, CPU, "vitas-twins-mini-128"),
        (500, 60_000, GPU, "autoformer-tiny"),
        (500, 9000, GPU, "vitas-twins-mini-128"),
    ],
)
def test_the_space_suits_images_and_machine(side: int, count: int, machine: Machine, space: str) -> None:
    proposal = propose_space(splits(side, count), machine)
    assert (proposal.space, proposal.image_side) == (space, side)
    assert f"--space {space}" in proposal.describe()


def test_a_dry_run_without_a_space_proposes_one() -> None:
    options = TrainOptions(data="digits", max_images=64, batch_size=8)
    estimate = estimate_training(options, trainer_config=TrainerConfig(threads=1))
    assert estimate.config.space in ("vitas-twins-micro", "vitas-twins-mini-64")
    assert "proposed for images of about 32 pixels" in estimate.notes[0]
    sized = estimate_training(
        replace(options, space="autoformer-micro", image_size=40), trainer_config=TrainerConfig(threads=1)
    )
    assert any("40-pixel images cost" in note for note in sized.notes)
