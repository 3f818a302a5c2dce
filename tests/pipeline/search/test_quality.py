"""Searches of networks inside a pretrained model that need no classifier for the images."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import timm
import torch
from PIL import Image

from hwnas.cli.front import print_search_result
from hwnas.errors import InputError, UsageError
from hwnas.pipeline.report import write_report
from hwnas.pipeline.search.options import SearchOptions, parse_criteria
from hwnas.pipeline.search.query import query
from hwnas.pipeline.search.run import search_networks
from hwnas.pipeline.search.winners import WinnerExporter
from hwnas.pipeline.train import train_model
from hwnas.report.gather import gather
from hwnas.report.verdict import sentence
from hwnas.search.spec import PostSearch
from hwnas.search.study import Study
from hwnas.train.data.sources import DataConfig, UnlabelledError, open_data
from hwnas.train.options import PretrainedModel, TrainOptions
from hwnas.train.trainer import TrainerConfig
from tests.pipeline.campaigns import FakeEnvironment
from tests.pipeline.search.workbench import ELASTIC, SPEED, options, write_predictor


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images without classes."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def search(bench: dict[str, Any], run: Path, **changes: Any) -> Any:
    wanted = options(bench, strategy="random", budget=4, **changes)
    return search_networks(wanted, out=run, campaign_environment=FakeEnvironment().make())


def test_divergence_needs_no_classes(
    elastic_bench: dict[str, Any], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    found = search(elastic_bench, run, objectives=("divergence", "throughput"), data=str(photos)).record
    assert found.spec.objectives == ("divergence", "macs", SPEED)
    assert found.supernet_health is None
    assert found.bounds is not None
    assert found.bounds.reference[0] == pytest.approx(np.log(10))  # that of the same answer to all images
    with Study.read(run) as study:
        assert study.source_of("divergence") == ("supernet",)
    networks = {item.name: item for item in found.reference_networks}
    assert networks["original"].metrics["divergence"] == pytest.approx(0, abs=1e-5)
    assert networks["original"].accuracy is None
    assert networks["original"].predicted == ()
    assert networks["original at 32 px"].metrics["divergence"] > 0.001
    text = sentence(gather(run))
    assert "a divergence of " in text
    assert " nats" in text
    write_report(run)
    with click.Context(click.Command("search")):
        print_search_result(run, found)
    assert "divergence" in capsys.readouterr().out
    again = query(run, constraints=["divergence<=1000"])
    assert again.objectives == ("divergence", "macs", SPEED)
    assert {network.arch_id for network in again.networks} == set(found.front)
    again_resumed = search_networks(resume=run, campaign_environment=FakeEnvironment().make()).record
    assert again_resumed.front == found.front


def test_the_accuracy_of_nearest_images_needs_no_classifier(elastic_bench: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    found = search(elastic_bench, run, objectives=("knn_accuracy", "throughput")).record
    assert found.spec.objectives == ("knn_accuracy", "macs", SPEED)
    assert found.supernet_health is not None
    original = found.reference_networks[0]
    assert original.metrics["knn_accuracy"] == found.supernet_health.largest
    assert found.supernet_health.largest > 0.1  # of ten classes of digits, even with random weights
    assert "% accuracy of nearest images" in sentence(gather(run))


def test_accuracy_needs_classes_and_the_error_names_what_does_not(
    elastic_bench: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    for objectives in (("throughput",), ("knn_accuracy", "throughput")):
        with pytest.raises(InputError, match="needs images with classes") as caught:
            search(elastic_bench, tmp_path / "run", objectives=objectives, data=str(photos))
        assert caught.value.got == "40 images without classes"
        assert "--objective divergence" in str(caught.value.hint)
        assert not (tmp_path / "run").exists()


def test_networks_are_not_retrained_without_classes(
    elastic_bench: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    wanted: dict[str, Any] = {"objectives": ("divergence", "throughput"), "post_search": PostSearch(retrain=1)}
    with pytest.raises(InputError, match="retrained on images of the classes that they answer") as caught:
        search(elastic_bench, tmp_path / "run", data=str(photos), **wanted)
    assert "leave out --retrain" in str(caught.value.hint)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_supernet_of_images_without_classes_is_searched_by_divergence(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(timm.create_model("test_vit", num_classes=4).state_dict(), tmp_path / "weights.pth")
    model = PretrainedModel(name="timm:test_vit", checkpoint=tmp_path / "weights.pth")
    wanted = TrainOptions(elastic=model, data=str(photos), image_size=32, epochs=0)
    train_model(wanted, out=tmp_path / "elastic", trainer_config=TrainerConfig(threads=1))
    monkeypatch.setattr(WinnerExporter, "_onnx_formats", lambda self, batches: ())
    post_search = PostSearch(verify=False, repair=True)
    asked = SearchOptions(supernet=tmp_path / "elastic", budget=4, strategy="random", post_search=post_search)
    record = search_networks(asked, out=tmp_path / "run").record
    assert record.spec.objectives == ("divergence", "macs")
    assert any("divergence in place of accuracy" in note for note in record.spec.notes)
    (winner,) = record.winners
    assert winner.failure is None
    assert winner.repair is None or winner.repair.accuracy is None
    for named in (replace(asked, objectives=("accuracy",)), replace(asked, constraints=("accuracy>=50%",))):
        with pytest.raises(InputError, match="accuracy needs images with classes") as caught:
            search_networks(named, out=tmp_path / "other")
        assert f"hwnas search --supernet {tmp_path / 'elastic'} --objective divergence" in str(caught.value.hint)
    assert not (tmp_path / "other").exists()
    labelled = search_networks(replace(asked, objectives=("knn_accuracy",), data="digits"), out=tmp_path / "knn").record
    assert labelled.spec.objectives == ("knn_accuracy", "macs")


def test_a_single_folder_of_images_says_nothing_about_their_classes(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "one" / "photos")
    config = DataConfig(name=str(tmp_path / "one"))
    with pytest.raises(InputError, match="must have at least two classes"):
        open_data(config, image_shape=(3, 32, 32))
    found = open_data(config, image_shape=(3, 32, 32), labelled=False)
    assert (found.classes, len(found.train) + len(found.heldout)) == ((), 36)
    (tmp_path / "split").mkdir()
    for part in ("train", "test"):
        shutil.copytree(photos, tmp_path / "split" / part)
    test = open_data(DataConfig(name=str(tmp_path / "split")), image_shape=(3, 32, 32), labelled=False).test
    assert test is not None
    assert sorted(test.keys) == sorted(f"test/{number}.png" for number in range(40))


def test_images_of_other_classes_are_refused_where_the_classifier_is_judged(
    elastic_bench: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "few"
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / label / f"{number}.png")
    with pytest.raises(InputError, match="has 2 classes, and so must the network"):
        search(elastic_bench, tmp_path / "run", data=str(folder))
    assert not (tmp_path / "run").exists()
    found = search(elastic_bench, tmp_path / "run", objectives=("knn_accuracy", "throughput"), data=str(folder)).record
    assert found.supernet_health is not None


def test_other_supernets_have_no_model_to_diverge_from(bench: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="divergence is a metric of the networks inside a pretrained model"):
        search(bench, tmp_path / "run", objectives=("divergence", "throughput"))
    assert not (tmp_path / "run").exists()


def test_a_search_has_one_measure_of_quality(elastic_bench: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one measure of their quality"):
        parse_criteria(SearchOptions(objectives=("divergence", "accuracy")))
    with pytest.raises(InputError, match="one measure of their quality"):
        parse_criteria(SearchOptions(constraints=("divergence<=1",)))
    with pytest.raises(InputError, match="one measure of their quality"):
        parse_criteria(SearchOptions(objectives=("knn_accuracy",), constraints=("accuracy>=50%",)))
    alone = parse_criteria(SearchOptions(accuracy=False, constraints=("divergence<=1",)))
    assert alone.quality == "divergence"
    with pytest.raises(UsageError, match="without accuracy no network is evaluated"):
        parse_criteria(SearchOptions(accuracy=False, data="digits"))


def test_rounded_networks_have_an_accuracy_alone(elastic_bench: dict[str, Any], tmp_path: Path) -> None:

    write_predictor(tmp_path, ELASTIC, "throughput", deployment="onnxruntime/int8")
    wanted = {**elastic_bench, "predictors": tmp_path}
    with pytest.raises(InputError, match="divergence in int8 cannot be evaluated"):
        search(wanted, tmp_path / "run", objectives=("divergence", "throughput"), precisions=("int8",))
    assert not (tmp_path / "run").exists()


def test_a_folder_without_classes_is_opened_where_they_do_not_matter(photos: Path) -> None:
    config = DataConfig(name=str(photos))
    with pytest.raises(UnlabelledError, match="must have a folder of images for each class"):
        open_data(config, image_shape=(3, 32, 32))
    found = open_data(config, image_shape=(3, 32, 32), labelled=False)
    assert found.classes == ()
    assert found.test is not None
    assert len(found.train) + len(found.heldout) + len(found.test) == 40
    assert set(found.train.labels.tolist()) == {0}
    assert open_data(DataConfig(name="digits"), image_shape=(3, 32, 32), labelled=False).classes
