"""`train_model`: run folders, resuming, one network, reference models, bad input."""

import json
import os
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hwnas.errors import InputError, Interrupted, UsageError
from hwnas.files import WriterLock
from hwnas.metrics import indistinct_supernet_warning
from hwnas.pipeline.evaluate import evaluate
from hwnas.pipeline.run_network import network_of_run
from hwnas.pipeline.search.accuracy import open_supernet
from hwnas.pipeline.train import (
    _cache_note,
    _new_config,
    _overfitting_warnings,
    _supernet_warnings,
    estimate_training,
    train_model,
)
from hwnas.progress import MessageRecorder
from hwnas.runs import LOCK, Run
from hwnas.space import SPACES
from hwnas.supernet.families import make_supernet
from hwnas.supernet.store import load_network, load_supernet, save_network
from hwnas.train.checkpoint import list_checkpoints, read_checkpoint
from hwnas.train.machine import device_precision
from hwnas.train.metrics_file import read_metrics
from hwnas.train.options import (
    EpochsChange,
    PretrainedModel,
    TrainOptions,
    read_train_config,
    resolve_config,
    resolve_data_config,
)
from hwnas.train.presets import RECIPES, resolve_recipe
from hwnas.train.run_folder import weights_digest
from hwnas.train.session import make_model
from hwnas.train.trainer import TrainerConfig
from tests.supernet_extremes import SUPERNET_EXTREMES

SMALL = TrainOptions(space="autoformer-micro", data="digits", max_images=128, epochs=2, batch_size=64)
QUIET = TrainerConfig(threads=1)


def trained(options: TrainOptions, out: Path, **how: Any) -> Any:
    return train_model(options, out=out, trainer_config=QUIET, **how)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "supernet"
    trained(SMALL, folder)
    return folder


def test_a_run_explains_itself(run: Path) -> None:
    config = read_train_config(Run.open(run))
    assert config.space == "autoformer-micro"
    assert (config.recipe.epochs, config.data.max_images, config.num_classes) == (2, 128, 10)
    assert len((run / "heldout.txt").read_text().splitlines()) > 100
    assert [row["step"] for row in read_metrics(run)] == [1, 2, 3, 4]
    result = json.loads((run / "result.json").read_text())
    assert result["accuracies"].keys() == {"smallest", "largest"}
    assert load_supernet(run / "supernet.safetensors").space == SPACES.get("autoformer-micro")


def test_accuracies_while_training_change_no_weights(run: Path, tmp_path: Path) -> None:
    watching = replace(QUIET, evaluate_every=2)
    train_model(SMALL, out=tmp_path / "run", trainer_config=watching)
    found, expected = (load_file(folder / "supernet.safetensors") for folder in (tmp_path / "run", run))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows if "heldout" in row] == [4]
    result = json.loads((run / "result.json").read_text())
    assert rows[-1]["heldout"] == pytest.approx(result["accuracies"])
    table = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert table[0] == "step,epoch,loss,lr,images_per_s,grad_norm,heldout/smallest,heldout/largest"
    assert len(table) == 1 + len(rows)
    assert table[1].endswith(",,")
    unlabelled = replace(SMALL, heldout=0, arch="min")
    with pytest.raises(InputError, match="needs held-out images with classes"):
        train_model(unlabelled, out=tmp_path / "none", trainer_config=watching)
    assert not (tmp_path / "none").exists()


def test_a_config_of_another_schema_is_refused(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", command=(), config={"recipe": {}, "data": {"name": "digits"}})
    with pytest.raises(InputError, match=r"must have a config of schema hwnas\.train/2"):
        read_train_config(run)


@pytest.mark.parametrize(("smallest", "largest", "num_images", "warns"), SUPERNET_EXTREMES)
def test_a_supernet_that_hardly_separates_its_networks_is_noted(
    smallest: float, largest: float, num_images: int, warns: bool
) -> None:
    notes = list(_supernet_warnings({"smallest": smallest, "largest": largest}, num_images=num_images))
    warning = indistinct_supernet_warning(smallest, largest, num_images=num_images)
    assert notes == ([warning] if warns else [])


@pytest.mark.parametrize(
    ("accuracies", "num_images", "warns"),
    [
        ([0.8, 0.93, 0.92, 0.91], 10_000, True),
        ([0.8, 0.93, 0.92, 0.91], 500, False),  # one standard error is 1.1 points
        ([0.8, 0.93, 0.92, 0.91], 1_000, True),  # 0.8 points
        ([0.8, 0.93, 0.925], 10_000, False),
        ([0.8, 0.9, 0.93], 10_000, False),
        ([], 10_000, False),
    ],
)
def test_a_network_that_was_better_at_an_earlier_epoch_is_noted(
    tmp_path: Path, accuracies: list[float], num_images: int, warns: bool
) -> None:
    rows: list[dict[str, object]] = [{"step": 2 * epoch + 1, "epoch": epoch} for epoch in range(4)]
    rows += [
        {"step": 2 * epoch + 2, "epoch": epoch, "heldout": {"network": value}} for epoch, value in enumerate(accuracies)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    fall = "the held-out accuracy fell from 93.00% after epoch 2 to 91.00% after epoch 4"
    advice = "the network overfits, and another training with --epochs 2 may be better"
    expected = [f"{fall}: {advice}"] if warns else []
    assert list(_overfitting_warnings(tmp_path, "accuracy", num_images=num_images)) == expected


def test_a_network_that_is_evaluated_while_it_is_trained_says_if_it_got_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter((0.9, 0.1, 0.1))
    monkeypatch.setattr("hwnas.pipeline.train.evaluate_module", lambda *_, **__: SimpleNamespace(top1=next(values)))
    watching = replace(QUIET, evaluate_every=1)
    found = train_model(replace(SMALL, arch="min"), out=tmp_path / "run", trainer_config=watching)
    (warning,) = found.warnings
    assert warning.startswith("the held-out accuracy fell from 90.00% after epoch 1 to 10.00% after epoch 2: ")


def interrupted(out: Path, *, step: int, options: TrainOptions = SMALL, **more: Any) -> str:
    """Interrupt a training before it completes a step; return what it says."""
    from hwnas.train import step as steps

    original, count = steps.Stepper.run, 0

    def stopping(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == step:
            raise Interrupted("pulled")
        return original(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps.Stepper, "run", stopping)
        with pytest.raises(Interrupted) as caught:
            trained(options, out, **more)
    return str(caught.value)


def test_an_epoch_must_be_done_before_a_training_can_be_ended_with_what_it_has(tmp_path: Path) -> None:
    out = tmp_path / "cut"
    said = interrupted(out, step=2).splitlines()  # in the first epoch
    assert said[1:] == [f"  try     hwnas train --out {out} --resume"]
    with pytest.raises(InputError, match="must hold trained weights") as caught:
        evaluate(out, ["min"])
    assert caught.value.hint == said[-1].removeprefix("  try     ")


def test_an_interrupted_training_is_ended_with_what_it_has(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    resume, end = f"hwnas train --out {out} --resume", f"hwnas train --out {out} --resume --epochs 1"
    said = interrupted(out, step=3).splitlines()
    ways = [resume, "  or, to end it now with the weights that it has:", end]
    assert [line.removeprefix("  try     ") for line in said[1:]] == ways
    for use in (
        lambda: evaluate(out, ["min"]),
        lambda: network_of_run(out, "max"),
        lambda: open_supernet(out, space=None, data=None),
    ):
        with pytest.raises(InputError, match="must hold trained weights") as caught:
            use()
        assert caught.value.hint == end
        assert str(caught.value.got).endswith("; --epochs 1 ends it now, without --epochs it goes on")
    with pytest.raises(InputError, match="must hold trained weights"):
        trained(replace(SMALL, space=None, supernet=out), tmp_path / "next")
    recorder = MessageRecorder()
    ended = trained(TrainOptions(epochs=1), out, resume=True, reporter=recorder)
    assert recorder.messages == ["note: the training ends after step 2, with 1 of 2 epochs done"]
    assert (ended.steps, ended.planned_steps, ended.accuracies.keys()) == (2, 4, {"smallest", "largest"})
    checkpoint = read_checkpoint(list_checkpoints(out)[-1]).tensors
    cut = load_file(out / "supernet.safetensors")
    assert all(torch.equal(checkpoint[f"model/shared.{name}"], tensor) for name, tensor in cut.items())
    config, result = read_train_config(Run.open(out)), json.loads((out / "result.json").read_text())
    assert (config.recipe.epochs, config.epochs_changes) == (2, (EpochsChange(step=2, epochs=1, ends=True),))
    assert (result["steps"], result["planned_steps"]) == (2, 4)
    # The same command changes nothing more, and the training can still go on, as if it had not been ended.
    assert trained(TrainOptions(epochs=1), out, resume=True).steps == trained(TrainOptions(), out, resume=True).steps
    assert read_train_config(Run.open(out)) == config
    assert trained(replace(SMALL, epochs=2), out, resume=True).steps == 4
    one, other = (load_file(folder / "supernet.safetensors") for folder in (run, out))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert json.loads((out / "result.json").read_text())["steps"] == 4


def test_a_training_is_resumed_with_more_epochs(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "longer"
    shutil.copytree(run, out)
    before, recorder = (out / "supernet.safetensors").read_bytes(), MessageRecorder()
    older = "the weights in the run are those that the training ended with before"
    said = interrupted(out, step=1, options=TrainOptions(epochs=3), resume=True).splitlines()
    assert said[0] == f"{older}; pulled"
    assert said[-1] == f"  try     hwnas train --out {out} --resume --epochs 2"
    assert (out / "supernet.safetensors").read_bytes() == before
    assert trained(TrainOptions(epochs=3), out, resume=True, reporter=recorder).steps == 6
    rate = "note: from step 5 on, the learning rate is that of a training of 3 epochs"
    resumed = "resuming at epoch 3 of 3, step 5 of 6"
    assert recorder.messages == [rate, f"note: {older}, until it ends again", resumed]
    assert (out / "supernet.safetensors").read_bytes() != before
    assert read_train_config(Run.open(out)).epochs_changes == (EpochsChange(step=4, epochs=3, ends=False),)
    # Fewer than are done: there is nothing left to end.
    assert trained(TrainOptions(epochs=1), out, resume=True).steps == 6
    assert len(read_train_config(Run.open(out)).epochs_changes) == 1


def test_epochs_that_a_resumed_training_cannot_have(tmp_path: Path) -> None:
    interrupted(tmp_path / "run", step=1)
    with pytest.raises(InputError, match="with 1 epochs of warm-up and 0 of widening must have at least 2"):
        trained(TrainOptions(epochs=1), tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="no trained weights that it could end with"):
        trained(TrainOptions(epochs=0), tmp_path / "run", resume=True)
    assert read_train_config(Run.open(tmp_path / "run")).epochs_changes == ()


def test_a_resumed_training_ends_with_the_same_weights(run: Path, tmp_path: Path) -> None:
    assert "hwnas train --out " in interrupted(tmp_path / "again", step=3)
    trained(TrainOptions(), tmp_path / "again", resume=True)
    one, other = (load_file(folder / "supernet.safetensors") for folder in (run, tmp_path / "again"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_cpu_trains_a_published_recipe_in_a_precision_and_in_parts_that_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwnas.train.machine.detect", lambda: SimpleNamespace(cpu=SimpleNamespace(has_bf16=False)))
    monkeypatch.setattr("hwnas.train.memory.available_bytes", lambda: 20_000_000)
    published = replace(SMALL, recipe="autoformer", epochs=1)
    done = trained(published, tmp_path / "run")
    recipe = read_train_config(Run.open(done.run)).recipe
    assert (recipe.precision, recipe.batch_size) == ("fp32", 64)
    assert recipe.grad_accum_steps > 1
    assert done.notes[0].startswith("trained in fp32, as fp16 of the recipe does not help on this device")
    assert done.notes[1].startswith(f"64 images per step as in the recipe, {64 // recipe.grad_accum_steps} at once")
    # The same options resume it, whatever the device would decide now.
    monkeypatch.setattr("hwnas.train.machine.detect", lambda: SimpleNamespace(cpu=SimpleNamespace(has_bf16=True)))
    assert trained(published, done.run, resume=True).steps == done.steps


def test_bf16_is_for_cpus_that_multiply_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_bf16, precision in ((True, "bf16"), (False, "fp32")):
        cpu = SimpleNamespace(has_bf16=has_bf16)
        monkeypatch.setattr("hwnas.train.machine.detect", lambda cpu=cpu: SimpleNamespace(cpu=cpu))
        assert device_precision("fp16", torch.device("cpu")) == precision
        assert device_precision("bf16", torch.device("cpu")) == precision
        assert device_precision("fp32", torch.device("cpu")) == "fp32"


def test_gpus_that_multiply_bf16_need_no_scaled_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, precision in (((7, 5), "fp16"), ((8, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert device_precision("fp16", torch.device("cuda")) == precision
        assert device_precision("bf16", torch.device("cuda")) == "bf16"


def test_a_resumed_training_must_stay_the_same(run: Path) -> None:
    with pytest.raises(InputError, match="must have the options that it began with") as caught:
        trained(replace(SMALL, seed=1), run, resume=True)
    assert "seed 1 instead of 0" in str(caught.value.got)
    with pytest.raises(InputError, match="is a run already") as caught:
        trained(SMALL, run)
    assert "--resume" in str(caught.value.hint)
    with pytest.raises(UsageError):
        train_model(TrainOptions(), resume=True)


def test_weights_that_a_training_began_with_must_stay(run: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    file = given / "supernet.safetensors"
    file.write_bytes((run / "supernet.safetensors").read_bytes())
    teacher = trained(replace(SMALL, arch="min", epochs=1), tmp_path / "teacher")
    options = replace(SMALL, supernet=given, teacher=PretrainedModel(name=str(tmp_path / "teacher")), epochs=1)
    again = tmp_path / "again"
    trained(options, again)
    assert read_train_config(Run.open(again)).supernet_digest == weights_digest(file)
    assert train_model(TrainOptions(), out=again, resume=True, trainer_config=QUIET).loss is None
    teacher.weights.write_bytes(network_of_other_weights(teacher.weights))
    with pytest.raises(InputError, match="weights of --teacher must be those that the training began with"):
        train_model(TrainOptions(), out=again, resume=True, trainer_config=QUIET)
    file.unlink()
    with pytest.raises(InputError, match="there is no file"):
        train_model(TrainOptions(), out=again, resume=True, trainer_config=QUIET)


def network_of_other_weights(file: Path) -> bytes:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    return bytes(data)


def test_a_network_starts_from_a_supernet(run: Path, tmp_path: Path) -> None:
    options = replace(SMALL, space=None, arch="min", supernet=run, epochs=1)
    found = trained(options, tmp_path / "network")
    stored = load_network(found.weights)
    assert stored.arch == SPACES.get("autoformer-micro").smallest()
    evaluation = evaluate(tmp_path / "network")
    assert found.accuracies == {"trained": evaluation.networks[0].top1}
    assert found.test_images == evaluate(tmp_path / "network", split="test").networks[0].count
    recorder = MessageRecorder()
    again = trained(TrainOptions(), tmp_path / "network", resume=True, reporter=recorder)
    assert (again.accuracies, again.steps, again.weights) == (found.accuracies, found.steps, found.weights)
    longer = f"hwnas train --out {tmp_path / 'network'} --resume --epochs N goes on to more epochs"
    assert recorder.messages == [f"note: the training is complete; {longer}"]
    file = tmp_path / "network" / "result.json"
    older = json.loads(file.read_text())
    del older["planned_steps"]
    file.write_text(json.dumps(older))
    assert trained(TrainOptions(), tmp_path / "network", resume=True).planned_steps == found.steps
    assert evaluation.networks[0].params == sum(parameter.numel() for parameter in stored.network.parameters())


def test_what_weights_were_trained_on_is_not_held_out(run: Path, tmp_path: Path) -> None:
    options = TrainOptions(arch="min", supernet=run)
    known = read_train_config(Run.open(run)).data
    assert resolve_data_config(options) == known
    assert resolve_data_config(replace(options, data="digits", max_images=64)) == replace(known, max_images=64)
    assert resolve_data_config(replace(options, data="digits-clutter")).name == "digits-clutter"
    for changed in (replace(options, data_seed=1), replace(options, heldout=0.5)):
        with pytest.raises(InputError, match="must not be held out"):
            resolve_data_config(changed)


def test_paths_are_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    assert resolve_data_config(TrainOptions(data="images")).name == str(tmp_path / "images")
    assert resolve_data_config(TrainOptions(data="digits")).name == "digits"


def test_a_folder_without_a_training_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no training") as caught:
        trained(SMALL, tmp_path / "nothing", resume=True)
    assert "without --resume" in str(caught.value.hint)


def test_weights_go_to_other_images_and_classes(run: Path, tmp_path: Path) -> None:
    for label in ("even", "odd", "none"):
        write_images(tmp_path / "data" / "train" / label, 8)
    options = replace(SMALL, data=str(tmp_path / "data"), max_images=None, batch_size=8, epochs=1, image_size=48)
    found = trained(replace(options, space=None, arch="max", supernet=run), tmp_path / "tuned")
    network = load_network(found.weights).network
    assert network.input_shape == (3, 48, 48)
    assert network(torch.zeros(1, 3, 48, 48)).shape == (1, 3)
    assert found.notes[-1] == "initialized for 3 classes: head.classifier.weight, head.classifier.bias"


def write_images(folder: Path, count: int) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", (40, 30), (index, 2 * index, 3 * index)).save(folder / f"{index}.png")


def test_a_reference_model_is_trained_and_evaluated(tmp_path: Path) -> None:
    options = replace(SMALL, space="autoformer-micro", model="timm:test_vit", max_images=64, epochs=1)
    found = trained(options, tmp_path / "model")
    assert found.weights.name == "model.safetensors"
    (row,) = evaluate(tmp_path / "model").networks
    assert row.name == "timm:test_vit"
    assert row.top1 is not None
    assert 0 <= row.top1 <= 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "in memory"),
        ({"task": "detection", "space": "vitas-twins-micro", "data": "digits-scene"}, "one class each"),
    ],
)
def test_a_cache_that_is_not_used_is_named(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    (note,) = _cache_note(*_new_config(replace(SMALL, cache=tmp_path, **changes)))
    assert reason in note
    assert not list(_cache_note(*_new_config(replace(SMALL, **changes))))


def test_a_dry_run_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = estimate_training(SMALL, trainer_config=QUIET)
    assert (found.train_images, found.steps_per_epoch) == (128, 2)
    assert found.seconds_per_epoch == 2 * found.seconds_per_step > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (TrainOptions(data="digits"), "what to train must be given"),
        (TrainOptions(space="autoformer-micro"), "needs images"),
        (TrainOptions(data="digits", model="deit_tiny"), "must be timm:NAME"),
        (TrainOptions(data="digits", model="timm:test_vit", arch="min"), "cannot be combined with --arch"),
        (replace(SMALL, heldout=0), "--heldout 0 is for one network"),
    ],
)
def test_what_is_asked_for_must_make_sense(options: TrainOptions, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        train_model(options, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (replace(SMALL, space="autoformer-mikro"), "space 'autoformer-mikro' is not known"),
        (replace(SMALL, data="digitz"), "digitz"),
        (replace(SMALL, recipe="mikro"), "recipe 'mikro' is not known"),
        (replace(SMALL, overrides={"optimizer.lerning": "1"}), "lerning"),
        (replace(SMALL, batch_size=4096), "training images"),
        (replace(SMALL, overrides={"precision": "fp16"}), "fp16 needs a CUDA device"),
        (replace(SMALL, teacher=PretrainedModel(name="nowhere")), "a file of a single network"),
        (replace(SMALL, num_classes=7), "10 classes"),
        (replace(SMALL, supernet=Path("nowhere")), "nowhere"),
    ],
)
def test_bad_input_leaves_no_run(options: TrainOptions, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        train_model(options, out=tmp_path / "run", trainer_config=QUIET)
    assert not (tmp_path / "run").exists()


def test_epochs_keep_the_shares_of_warm_up_and_widening() -> None:
    space = SPACES.get("resnas-tiny")
    recipe = resolve_recipe(space=space, one_network=False, epochs=12)
    assert (recipe.epochs, recipe.sampling.widening_epochs) == (12, 3)
    assert recipe.schedule.warmup_epochs == 1  # 5 of 120
    chosen = resolve_recipe(space=space, one_network=False, epochs=12, overrides={"schedule.warmup_epochs": "0"})
    assert chosen.schedule.warmup_epochs == 0


def test_one_network_has_the_recipe_of_retraining() -> None:
    space = SPACES.get("resnas-tiny")
    recipe = resolve_recipe(space=space, one_network=True)
    assert (recipe.epochs, recipe.strategy.name) == (300, "network")
    assert recipe.ema == RECIPES.get("resnas-retrain").ema


def test_one_network_of_a_supernet_is_trained_on_its_held_out_images_too(run: Path, tmp_path: Path) -> None:
    options = TrainOptions(supernet=run, arch="min", heldout=0, epochs=1)
    assert resolve_data_config(options) == replace(read_train_config(Run.open(run)).data, heldout=0)
    trained(options, tmp_path / "one")
    assert (tmp_path / "one" / "heldout.txt").read_text() == ""
    assert evaluate(tmp_path / "one", split="test").networks[0].count > 0
    with pytest.raises(InputError, match="no images of digits were held out"):
        evaluate(tmp_path / "one")


def test_one_network_is_fine_tuned_at_another_size(run: Path, tmp_path: Path) -> None:
    trained(TrainOptions(supernet=run, arch="min", epochs=1), tmp_path / "one")
    stored = load_network(tmp_path / "one" / "network.safetensors")
    options = TrainOptions(supernet=tmp_path / "one", recipe="finetune-small", image_size=64, heldout=0)
    config = resolve_config(options, num_classes=10)
    assert config.get_arch() == stored.arch
    assert (config.image_size, config.recipe.optimizer.name, config.recipe.strategy.name) == (64, "sgd", "network")
    network = make_model(config).model
    before, after = stored.network.state_dict(), network.state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert {name.rpartition(".")[2] for name in changed} == {"position"}
    assert network(torch.zeros(2, *config.image_shape)).shape == (2, 10)
    with pytest.raises(InputError, match="must hold a network of glit-micro"):
        resolve_config(replace(options, space="glit-micro"), num_classes=10)
    with pytest.raises(UsageError, match="these are the weights of one network"):
        resolve_config(replace(options, arch="max"), num_classes=10)


def test_a_classifier_of_patches_that_the_weights_lack_is_fresh(tmp_path: Path) -> None:
    space = SPACES.get("resnas-micro")
    network = make_supernet(space).subnet(space.smallest())
    save_network(network, tmp_path / "network.safetensors", space=space, arch=space.smallest())
    options = TrainOptions(supernet=tmp_path / "network.safetensors", data="digits", recipe="resnas-highres")
    initial = make_model(resolve_config(options, num_classes=10))
    before, after = network.state_dict(), initial.model.state_dict()
    fresh = sorted(after.keys() - before.keys())
    assert fresh == ["head.patch_classifier.bias", "head.patch_classifier.weight"]
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(name in initial.notes[0] for name in fresh)


def test_a_config_is_the_same_after_it_was_written(run: Path) -> None:
    config = resolve_config(SMALL, num_classes=10)
    assert replace(read_train_config(Run.open(run)), machine=None) == config


def test_the_second_to_resume_a_run_is_told_who_is_there(run: Path) -> None:
    before = (run / "supernet.safetensors").read_bytes()
    with WriterLock(run / LOCK, activity="training"):
        with pytest.raises(InputError, match="is being written by another training") as caught:
            trained(TrainOptions(), run, resume=True)
        assert f"process {os.getpid()} on " in str(caught.value.got)
    assert trained(TrainOptions(), run, resume=True).loss is None
    assert (run / "supernet.safetensors").read_bytes() == before


def test_the_second_to_begin_a_run_is_told_who_is_there(tmp_path: Path) -> None:
    with (
        WriterLock(tmp_path / "run" / LOCK, activity="training"),
        pytest.raises(InputError, match="is being written by another training"),
    ):
        trained(SMALL, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]


@pytest.mark.slow
def test_the_manifest_records_the_settings_of_the_cpu(run: Path, tmp_path: Path) -> None:
    machine = read_train_config(Run.open(run)).machine
    assert machine is not None
    assert machine.threads == 1
    # Killed before its first checkpoint, a training keeps the settings that its run was made with.
    other = tmp_path / "other"
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("checkpoints", "*.safetensors", "result.json", LOCK))
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["config"]["machine"]["threads"] = 2
    (other / "manifest.json").write_text(json.dumps(manifest))
    trained(TrainOptions(), other, resume=True)
    assert read_checkpoint(list_checkpoints(other)[-1]).header.threads == 2


def test_leftovers_of_a_killed_process_are_swept(run: Path) -> None:
    leftovers = [
        run / ".manifest.json.0123456789ab.tmp",
        run / "checkpoints" / ".step-000000004.safetensors.0123456789ab.tmp",
    ]
    for leftover in leftovers:
        leftover.touch()
    trained(TrainOptions(), run, resume=True)
    assert not any(leftover.exists() for leftover in leftovers)


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs limits of file sizes")
@pytest.mark.parametrize("limit", [1000, 20_000])
def test_a_full_disk_ends_in_an_error_and_the_training_resumes(limit: int, run: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(InputError, match="cannot be written"):
            trained(SMALL, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list((tmp_path / "run").rglob("*.tmp"))
    is_run = (tmp_path / "run" / "manifest.json").exists()
    trained(SMALL, tmp_path / "run", resume=is_run)
    for name in ("supernet.safetensors", "heldout.txt"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()
