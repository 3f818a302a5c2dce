"""`evaluate`: what is evaluated, on which images, and what is remembered."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hwnas.errors import InputError, MissingError, UsageError
from hwnas.pipeline.evaluate import evaluate
from hwnas.pipeline.train import train_model
from hwnas.progress import EvaluationProgress, NullReporter, ProgressEvent
from hwnas.space import SPACES
from hwnas.supernet.store import load_supernet
from hwnas.train.data.loader import EvalLoader
from hwnas.train.data.sources import DataConfig, DataSplits, open_data
from hwnas.train.options import TrainOptions, open_train_config
from hwnas.train.run_data import open_run_data
from hwnas.train.trainer import TrainerConfig

SPACE = SPACES.get("glit-micro")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "supernet"
    options = TrainOptions(
        space=SPACE.name,
        data="digits",
        max_images=64,
        batch_size=64,
        epochs=1,
        overrides={"schedule.warmup_epochs": "0"},
    )
    train_model(options, out=folder, trainer_config=TrainerConfig(threads=1))
    return folder


def test_networks_are_evaluated_on_the_held_out_images_of_the_run(run: Path) -> None:
    found = evaluate(run, ["min", "random:3"])
    heldout = (run / "heldout.txt").read_text().splitlines()
    assert [row.name for row in found.networks] == ["min", "random:3"]
    assert {row.count for row in found.networks} == {len(heldout)}
    assert found.networks[0].arch_id == SPACE.arch_id(SPACE.smallest())
    assert found.networks[0].macs == SPACE.workload(SPACE.smallest()).macs
    assert (run / "accuracies.jsonl").exists()
    assert evaluate(run, ["min", "random:3"]) == found
    frame = found.to_frame()
    assert list(frame["top1"]) == [row.top1 for row in found.networks]
    assert "<td>random:3</td>" in found._repr_html_()


def test_progress_counts_networks_and_images(run: Path) -> None:
    events: list[ProgressEvent] = []

    class Recorder(NullReporter):
        def update(self, event: ProgressEvent) -> None:
            events.append(event)

    (row, _) = evaluate(run, ["random:20", "random:21"], reporter=Recorder()).networks
    states = [(event.done, event.images) for event in events if isinstance(event, EvaluationProgress)]
    assert states[-2:] == [(0, row.count), (2, 0)]
    assert {(event.total, event.num_images) for event in events if isinstance(event, EvaluationProgress)} == {
        (2, row.count)
    }
    before = len(events)
    evaluate(run, ["random:20", "random:21"], reporter=Recorder())
    assert len(events) == before, "known networks are not run"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_missing_is_no_bug(run: Path) -> None:
    with pytest.raises(MissingError, match="device cuda needs a GPU"):
        evaluate(run, ["min"], device="cuda")


def test_a_network_that_was_evaluated_is_known_by_its_id(run: Path) -> None:
    (before,) = evaluate(run, ["random:11"]).networks
    assert before.arch_id is not None
    (found,) = evaluate(run, [before.arch_id[:12].upper()]).networks
    assert (found.arch, found.top1) == (before.arch, before.top1)
    assert evaluate(run, [SPACE.arch_id(SPACE.largest())]).networks[0].arch == SPACE.largest().to_mapping()
    with pytest.raises(InputError, match="no network with this id was evaluated") as caught:
        evaluate(run, ["0" * 12])
    assert str(caught.value.hint).startswith(f"hwnas evaluate {run} ")


def test_test_images_are_counted(run: Path) -> None:
    first, second = evaluate(run, ["min"], split="test"), evaluate(run, ["max"], split="test")
    assert (first.test_uses, second.test_uses) == (1, 2)
    assert any("2 times" in note for note in second.notes)
    rows = [json.loads(line) for line in (run / "test-uses.jsonl").read_text().splitlines()]
    assert rows[0]["networks"] == [SPACE.arch_id(SPACE.smallest())]
    older = [{name: value for name, value in row.items() if name != "images"} for row in rows]
    (run / "test-uses.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in older))
    assert evaluate(run, ["min"], split="test").test_uses == 3


def photos(folder: Path, *, per_class: int, seed: int) -> Path:
    """Write a folder of images for each of ten classes."""
    random = np.random.default_rng(seed)
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
        for number in range(per_class):
            pixels = random.integers(256, size=(32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / str(label) / f"{seed}-{number}.png")
    return folder


def test_all_images_of_a_folder_that_is_not_of_the_run_are_evaluated(run: Path, tmp_path: Path) -> None:
    others = photos(tmp_path / "others", per_class=3, seed=1)
    for split in ("heldout", "test"):
        found = evaluate(run, ["min"], data=str(others), split=split)
        assert found.networks[0].count == 30
        assert any(note.startswith("all 30 images of ") for note in found.notes)
        assert not any("split off" in note for note in found.notes)
    again = evaluate(run, ["max"], data=str(others), split="test")
    assert again.test_uses == 2, "those on other test images do not count"
    network = evaluate(run, ["min"], data=str(others), evaluate_on="local:1")
    assert network.networks == evaluate(run, ["min"], data=str(others)).networks


def test_classes_have_the_numbers_of_the_training(run: Path, tmp_path: Path) -> None:
    others, copy = photos(tmp_path / "others", per_class=3, seed=1), tmp_path / "a run {1}"
    expected = open_run_data(run, open_train_config(run), data=str(others), shape=(3, 32, 32), num_classes=10)
    shutil.copytree(run, copy)
    record = json.loads((run / "preprocess.json").read_text())

    def relabelled(names: list[str]) -> DataSplits:
        (copy / "preprocess.json").write_text(json.dumps({**record, "label_names": names}))
        config = open_train_config(copy)
        return open_run_data(copy, config, data=str(others), shape=(3, 32, 32), num_classes=10, whole=True)

    found = relabelled(list("9876543210"))
    assert found.classes == tuple("9876543210")
    assert found.test is not None
    for part in (found.heldout, found.test):
        assert all(str(9 - label) == key[0] for label, key in zip(part.labels, part.keys, strict=True))
    assert found.fingerprint != relabelled(list("0123456789")).fingerprint
    assert expected.classes == relabelled(list("0123456789")).classes == tuple("0123456789")
    other = relabelled(["zero", *"123456789"])
    assert other.notes[0].endswith("have other names than those of the training: 0 counts as zero")
    (copy / "heldout.txt").write_text("")  # a run that held out none
    config = open_train_config(copy)
    assert config is not None
    config = replace(config, data=replace(config.data, heldout=0))
    data = open_run_data(copy, config, data=str(others), shape=(3, 32, 32), num_classes=10, whole=True)
    assert len(data.heldout) == 30
    with pytest.raises(InputError, match="no network with this id") as caught:
        evaluate(copy, ["0" * 12])
    assert str(caught.value.hint).startswith(f"hwnas evaluate '{copy}' ")


def test_the_images_of_a_run_that_moved_are_split_as_they_were(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", per_class=10, seed=2)
    options = TrainOptions(
        space="autoformer-micro", data=str(folder), batch_size=80, epochs=1, overrides={"schedule.warmup_epochs": "0"}
    )
    train_model(options, out=tmp_path / "run", trainer_config=TrainerConfig(threads=1))
    counts = [evaluate(tmp_path / "run", ["min"], split=split).networks[0].count for split in ("heldout", "test")]
    assert counts == [10, 10]
    moved = folder.rename(tmp_path / "moved")
    for split, count in zip(("heldout", "test"), counts, strict=True):
        found = evaluate(tmp_path / "run", ["min"], data=str(moved), split=split)  # type: ignore[arg-type]
        assert found.networks[0].count == count
        assert any("10 of 100 images (10%) were split off" in note for note in found.notes)
    for number in range(20):
        Image.new("RGB", (32, 32)).save(moved / str(number % 10) / f"a-{number}.png")
    found = evaluate(tmp_path / "run", ["min"], data=str(moved))
    assert any("10 have names of held-out images of the run: if they are its" in note for note in found.notes)
    others = photos(tmp_path / "others", per_class=3, seed=3)
    found = evaluate(tmp_path / "run", ["min"], data=str(others))
    assert found.networks[0].count == 30
    assert any("the images of the run are not there" in note for note in found.notes)


def test_a_file_of_weights_needs_images(run: Path) -> None:
    file = run / "supernet.safetensors"
    with pytest.raises(UsageError, match="needs a dataset to evaluate on"):
        evaluate(file, ["min"])
    found = evaluate(file, ["min"], data="digits")
    data = open_data(DataConfig(name="digits"), image_shape=SPACE.config.input_shape)
    assert found.networks[0].count == len(data.heldout)


def test_batch_norms_are_estimated_anew(run: Path) -> None:
    supernet = load_supernet(run / "supernet.safetensors").eval()
    (arch,) = SPACE.decode(SPACE.sample(np.random.default_rng(3), 1))
    network = supernet.subnet(arch)
    assert any(isinstance(part, torch.nn.BatchNorm2d) for part in network.modules())
    data = open_data(DataConfig(name="digits", max_images=64), image_shape=SPACE.config.input_shape)
    losses = []
    with torch.inference_mode():
        for batch in EvalLoader(data.heldout, image_shape=SPACE.config.input_shape, batch_size=512):
            losses.append(torch.nn.functional.cross_entropy(network(batch.images), batch.labels))
    assert evaluate(run, ["random:3"]).networks[0].loss != pytest.approx(float(torch.stack(losses).mean()), rel=1e-3)


def test_bad_input(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run and no file"):
        evaluate(tmp_path / "nothing", ["min"], data="digits")
    with pytest.raises(InputError, match="is not a run"):
        evaluate(tmp_path, ["min"])
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(InputError, match="weight file"):
        evaluate(tmp_path / "text.safetensors", data="digits")
    with pytest.raises(InputError, match="network 'largest' is not known"):
        evaluate(run, ["largest"])
    heldout = run / "heldout.txt"
    listed = heldout.read_text()
    try:
        heldout.write_text("".join(listed.splitlines(keepends=True)[1:]))
        with pytest.raises(InputError, match="held-out images must be those"):
            evaluate(run, ["min"])
    finally:
        heldout.write_text(listed)
