"""A bench, and one search on it that several test files look at."""

from typing import Any

import pytest
import timm
import torch

from hwnas.pipeline.search.run import SearchRun, search_networks
from hwnas.pipeline.train import train_model
from hwnas.train.options import PretrainedModel, TrainOptions
from hwnas.train.trainer import TrainerConfig
from tests.pipeline.campaigns import FakeEnvironment
from tests.pipeline.search.workbench import DATA, ELASTIC, FIRST, options, write_bench, write_predictor


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_bench(tmp_path_factory.mktemp("bench"), FIRST)


@pytest.fixture(scope="session")
def elastic_bench(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The networks inside a model of random weights, prepared without training, and their predictor."""
    folder = tmp_path_factory.mktemp("elastic")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", num_classes=10, img_size=64).state_dict(), folder / "weights.pth")
    elastic = PretrainedModel(name="timm:test_vit", checkpoint=folder / "weights.pth")
    given = TrainOptions(elastic=elastic, data=DATA, image_size=64, max_images=64, epochs=0, batch_size=32)
    train_model(given, out=folder / "run", trainer_config=TrainerConfig(threads=1))
    write_predictor(folder / "predictors", ELASTIC, "throughput")
    return {"supernet": folder / "run", "predictors": folder / "predictors", "runs": folder / "runs"}


@pytest.fixture(scope="session")
def searched(bench: dict[str, Any]) -> SearchRun:
    """One search with rounds, verified by workers that measure at once."""
    return search_networks(options(bench), out=bench["runs"] / "whole", campaign_environment=FakeEnvironment().make())
