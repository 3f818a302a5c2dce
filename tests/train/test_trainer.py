import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hwnas.errors import InputError, Interrupted
from hwnas.progress import MessageRecorder, NullReporter, ProgressEvent, TrainingProgress
from hwnas.supernet import matmul
from hwnas.supernet.matmul import VARIABLE
from hwnas.train.checkpoint import FOLDER, list_checkpoints, read_checkpoint
from hwnas.train.data.loader import Batch
from hwnas.train.machine import compiled_blocks, plain_attention
from hwnas.train.metrics_file import METRICS, read_metrics
from hwnas.train.models import build_network
from hwnas.train.presets import single_network_recipe
from hwnas.train.recipe import EmaConfig, OptimizerConfig, Recipe
from hwnas.train.trainer import Trainer
from tests.train.killed import RECIPE
from tests.train.test_strategies import SEVERAL
from tests.train.toys import (
    AUTOFORMER,
    EVERY_STEP,
    RESNAS,
    ToyLoader,
    assert_same,
    toy_loader,
    toy_recipe,
    toy_trainer,
    weights,
)


class Ending(ToyLoader):
    """Batches that do something in place of the one of a step."""

    at = 8

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        for step, batch in enumerate(super().epoch(epoch, first=first), first + epoch * len(self)):
            if step == self.at:
                self.end()
            yield batch

    def end(self) -> None:
        raise OSError("the disk is gone")


class Signalled(Ending):
    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


class SignalledLater(Signalled):
    at = 20


def batches_of(kind: type[ToyLoader], recipe: Recipe, space: Any = AUTOFORMER) -> ToyLoader:
    plain = toy_loader(space, recipe)
    return kind(plain.images, plain.labels, plain.batch_size)


def finished(run: Path, recipe: Recipe, space: Any = AUTOFORMER, **options: Any) -> Trainer:
    trainer = toy_trainer(run, space, recipe, **options)
    trainer.run(resume=True)
    return trainer


def losses(run: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(run)]


@pytest.mark.parametrize(("space", "recipe"), [(AUTOFORMER, RECIPE), (RESNAS, replace(SEVERAL, epochs=3))])
def test_resuming_in_mid_epoch_is_exact(space: Any, recipe: Recipe, tmp_path: Path) -> None:
    whole = finished(tmp_path / "whole", recipe, space)
    with pytest.raises(OSError, match="disk is gone"):
        finished(tmp_path / "cut", recipe, space, batches=batches_of(Ending, recipe, space), config=EVERY_STEP)
    assert [path.name for path in list_checkpoints(tmp_path / "cut")] == [
        "step-000000007.safetensors",
        "step-000000008.safetensors",
    ]
    resumed = finished(tmp_path / "cut", recipe, space)
    assert_same(weights(resumed.model), weights(whole.model))
    assert_same(weights(resumed._stepper.state.ema), weights(whole._stepper.state.ema))  # type: ignore[arg-type]
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = finished(tmp_path / "whole", RECIPE)
    assert killed(tmp_path / "cut", 4) == -signal.SIGKILL
    resumed = finished(tmp_path / "cut", RECIPE)
    assert_same(weights(resumed.model), weights(whole.model))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_a_training_killed_three_times_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = finished(tmp_path / "whole", RECIPE)
    assert [killed(tmp_path / "cut", step) for step in (1, 6, 14)] == [-signal.SIGKILL] * 3
    resumed = finished(tmp_path / "cut", RECIPE)
    assert_same(weights(resumed.model), weights(whole.model))


def killed(run: Path, step: int) -> int:
    command = [sys.executable, "-m", "tests.train.killed", str(run), str(step)]
    return subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, timeout=120).returncode


def test_a_signal_stops_after_a_step_and_saves(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"stopped after step 9 of 18; the state is saved in .*run"):
        finished(tmp_path / "run", RECIPE, batches=batches_of(Signalled, RECIPE))
    assert read_checkpoint(list_checkpoints(tmp_path / "run")[-1]).header.step == 9
    assert signal.getsignal(signal.SIGTERM) is before
    recorder = MessageRecorder()
    whole, resumed = finished(tmp_path / "whole", RECIPE), finished(tmp_path / "run", RECIPE, reporter=recorder)
    assert_same(weights(resumed.model), weights(whole.model))
    assert recorder.messages == ["resuming at epoch 2 of 3, step 10 of 18"]


def cut(run: Path, recipe: Recipe = RECIPE) -> None:
    """Stop a training after step 9 of 18."""
    with pytest.raises(Interrupted):
        finished(run, recipe, batches=batches_of(Signalled, recipe), config=EVERY_STEP)


def test_a_training_goes_on_with_another_number_of_epochs(tmp_path: Path) -> None:
    for name in ("once", "twice"):
        cut(tmp_path / name)
    longer = replace(RECIPE, epochs=5)
    with pytest.raises(InputError, match="must have the settings") as caught:
        finished(tmp_path / "once", longer)
    assert "recipe.epochs was 3, is 5" in str(caught.value.got)
    once = finished(tmp_path / "once", longer, earlier_epochs=(3,))
    rows = read_metrics(tmp_path / "once")
    assert [row["step"] for row in rows] == list(range(1, 31))
    # The rates are those of the schedules of three epochs and then of five.
    for recipe, steps in ((RECIPE, range(9)), (longer, range(9, 30))):
        finished(tmp_path / f"of {recipe.epochs}", recipe)
        expected = read_metrics(tmp_path / f"of {recipe.epochs}")
        assert [rows[step]["lr"] for step in steps] == [expected[step]["lr"] for step in steps]
    later = batches_of(SignalledLater, longer)
    with pytest.raises(Interrupted, match="after step 21 of 30"):
        finished(tmp_path / "twice", longer, batches=later, earlier_epochs=(3,))
    twice = finished(tmp_path / "twice", longer, earlier_epochs=(3,))
    assert_same(weights(twice.model), weights(once.model))


def test_a_training_ends_before_all_epochs_are_done(tmp_path: Path) -> None:
    cut(tmp_path / "run")
    ended = toy_trainer(tmp_path / "run", AUTOFORMER, RECIPE, end_step=9)
    outcome = ended.run(resume=True)
    assert (outcome.steps, outcome.planned_steps, outcome.loss) == (9, 18, None)
    list_checkpoints(tmp_path / "run")[-1].unlink()
    again = finished(tmp_path / "run", RECIPE, end_step=9)
    assert_same(weights(again.model), weights(ended.model))
    assert [path.name for path in list_checkpoints(tmp_path / "run")][-1] == "step-000000009.safetensors"
    # It can still go on, to the weights of a training that never stopped.
    whole, on = finished(tmp_path / "whole", RECIPE), finished(tmp_path / "run", RECIPE)
    assert_same(weights(on.model), weights(whole.model))


def test_an_average_that_is_mostly_initial_weights_is_not_used(tmp_path: Path) -> None:
    recipe = toy_recipe(ema=EmaConfig(decay=0.8))
    cut(tmp_path / "run", recipe)
    ended = finished(tmp_path / "run", recipe, end_step=9)
    before = weights(ended.model)
    assert not ended.use_ema_weights()
    assert_same(weights(ended.model), before)
    assert finished(tmp_path / "run", recipe).use_ema_weights()


def test_resuming_a_finished_training_does_nothing(tmp_path: Path) -> None:
    first = finished(tmp_path / "run", toy_recipe())
    text = (tmp_path / "run" / METRICS).read_text()
    recorder = MessageRecorder()
    again = toy_trainer(tmp_path / "run", AUTOFORMER, toy_recipe(), reporter=recorder)
    outcome = again.run(resume=True)
    assert (outcome.steps, outcome.loss, recorder.messages) == (18, None, [])
    assert_same(weights(again.model), weights(first.model))
    assert (tmp_path / "run" / METRICS).read_text() == text


def test_the_two_last_checkpoints_are_kept_and_leftovers_removed(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / ".step-000000001.safetensors.0123456789ab.tmp").write_text("half")
    finished(tmp_path, toy_recipe())
    names = sorted(path.name for path in (tmp_path / FOLDER).iterdir())
    assert names == ["step-000000012.safetensors", "step-000000018.safetensors"]


def test_metrics_have_a_row_for_each_step(tmp_path: Path) -> None:
    finished(tmp_path, RECIPE)
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 19))
    assert [row["epoch"] for row in rows] == [step // 6 for step in range(18)]
    assert rows[0].keys() == {"step", "epoch", "loss", "lr", "images_per_s", "macs", "grad_norm"}
    stepper = toy_trainer(tmp_path, AUTOFORMER, RECIPE)._stepper
    networks = [stepper.draw_networks(step).archs[0] for step in range(18)]
    assert [row["macs"] for row in rows] == [[AUTOFORMER.workload(arch).macs] for arch in networks]


def test_half_a_row_of_metrics_is_dropped(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk"):
        finished(tmp_path, RECIPE, batches=batches_of(Ending, RECIPE))
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 9, "lo')
    finished(tmp_path, RECIPE)
    assert [row["step"] for row in read_metrics(tmp_path)] == list(range(1, 19))


def all_finite(run: Path) -> bool:
    tensors = [tensor for path in list_checkpoints(run) for tensor in read_checkpoint(path).tensors.values()]
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    recipe = toy_recipe()
    batches = toy_loader(AUTOFORMER, recipe)
    finished(tmp_path / "good", replace(recipe, epochs=1), batches=batches)
    batches.images[int(next(batches.epoch(1)).indices[0])] = float("nan")
    trainer = toy_trainer(tmp_path / "run", AUTOFORMER, recipe, batches=batches, config=EVERY_STEP)
    with pytest.raises(InputError, match=r"the loss must be finite, but that of step \d+ is nan") as caught:
        trainer.run()
    step = int(str(caught.value).split("that of step ")[1].split()[0])
    arch = trainer._stepper.draw_networks(step - 1).archs[0]
    assert str(caught.value.got) == f"arch {AUTOFORMER.arch_id(arch)}"
    assert all_finite(tmp_path / "run")


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    recipe = toy_recipe(optimizer=OptimizerConfig(name="momentum", lr=1.0, weight_decay=0.0, momentum=0.0))
    object.__setattr__(recipe.optimizer, "lr", 1e38)  # no recipe can have such a rate
    with pytest.raises(InputError, match="must be finite"):
        finished(tmp_path, recipe, config=EVERY_STEP)
    assert all_finite(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, r"seed was 5, is 6"),
        ({"data": "other"}, r'data was "toy", is "other"'),
        ({"recipe": toy_recipe(optimizer=OptimizerConfig(lr=1.0))}, r"recipe.optimizer.lr was 0.005, is 1.0"),
        ({"space": RESNAS}, r'model.space was "tiny-autoformer", is "tiny-resnas"'),
    ],
)
def test_resuming_something_else_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    finished(tmp_path, toy_recipe())
    settings: dict[str, Any] = {"space": AUTOFORMER, "recipe": toy_recipe(), **change}
    with pytest.raises(InputError, match=message):
        toy_trainer(tmp_path, settings.pop("space"), settings.pop("recipe"), **settings).run(resume=True)


def test_a_new_training_needs_a_folder_without_checkpoints(tmp_path: Path) -> None:
    finished(tmp_path, toy_recipe())
    with pytest.raises(InputError, match="must not have checkpoints"):
        toy_trainer(tmp_path, AUTOFORMER, toy_recipe()).run()


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    finished(tmp_path, toy_recipe())
    newest = list_checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.raises(InputError, match=r"step-000000018.safetensors cannot be read as a checkpoint"):
        finished(tmp_path, toy_recipe())


def test_threads_and_matmul_backend_of_the_checkpoint_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path, toy_recipe())
    header = read_checkpoint(list_checkpoints(tmp_path)[-1]).header
    assert header.threads == 1
    seen: list[tuple[int, str]] = []
    trainer = toy_trainer(tmp_path, AUTOFORMER, toy_recipe(), config=replace(EVERY_STEP, threads=2))
    monkeypatch.setattr(trainer, "_train", lambda _: seen.append((torch.get_num_threads(), os.environ[VARIABLE])))
    trainer.run(resume=True)
    assert seen == [(1, header.matmul_backend)]


def rewrite(path: Path, *, tensors: dict[str, Any] | None = None, **changes: Any) -> None:
    """Change the header of a checkpoint, `None` for a missing value, and some of its tensors likewise."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["hwnas"])
    header = {name: value for name, value in {**header, **changes}.items() if value is not None}
    values = {name: value for name, value in {**load_file(path), **(tensors or {})}.items() if value is not None}
    save_file(values, path, {"hwnas": json.dumps(header)})


BAD_VALUES: dict[str, list[Any]] = {
    "groups": [None, {}, [], [{}], "x", [{"lr": -1.0}, {"lr": 1.0}], [3, 4]],
    "scaler": [None, [], {"scale": 1.0}, {"scale": "x"}],
    "step": [None, "x", -1, 1.5, 19, 10**30, True],
    "threads": [None, 0, -1, "2", 1.5, 10**30, True, [1]],
    "matmul_backend": [None, "fast"],
    "model": [None, 3],
    "recipe": [None, []],
    "epoch": [None, -1],
    "data": [3],
    "seed": ["5"],
}
BAD_HEADERS = [(name, value) for name, values in BAD_VALUES.items() for value in values]


def test_headers_of_checkpoints_are_checked(tmp_path: Path) -> None:
    finished(tmp_path, toy_recipe())
    newest = list_checkpoints(tmp_path)[-1]
    content = newest.read_bytes()
    for name, value in BAD_HEADERS:
        newest.write_bytes(content)
        rewrite(newest, **{name: value})
        with pytest.raises(InputError) as caught:
            finished(tmp_path, toy_recipe())
        assert name in str(caught.value), (name, value)
        assert newest.name in str(caught.value) or name == "seed", (name, value)


@pytest.mark.parametrize("value", [-1e-3, float("nan"), float("inf"), "0.1", None, 1e300])
def test_a_learning_rate_that_no_schedule_sets_is_refused(value: Any, tmp_path: Path) -> None:
    finished(tmp_path, toy_recipe())
    newest = list_checkpoints(tmp_path)[-1]
    groups = [{**group, "lr": value} for group in read_checkpoint(newest).header.groups]
    rewrite(newest, groups=groups)
    with pytest.raises(InputError, match=r"groups\[0\]\.lr|is not JSON"):
        finished(tmp_path, toy_recipe())


def test_tensors_of_checkpoints_are_checked(tmp_path: Path) -> None:
    finished(tmp_path, toy_recipe())
    newest = list_checkpoints(tmp_path)[-1]
    content, tensors = newest.read_bytes(), read_checkpoint(newest).tensors
    weight, moment = "model/shared.head.classifier.weight", "optimizer/shared.head.classifier.weight/exp_avg"
    for changes in (
        {weight: None},
        {weight: torch.zeros(3)},
        {weight: torch.full_like(tensors[weight], float("nan"))},
        {moment: None},
        {moment: torch.zeros(2, 2, 2)},
        {"optimizer/nothing/exp_avg": torch.zeros(1)},
        {"model/nothing": torch.zeros(1)},
    ):
        newest.write_bytes(content)
        rewrite(newest, tensors=changes)
        with pytest.raises(InputError, match=newest.name):
            finished(tmp_path, toy_recipe())


def test_a_folder_of_checkpoints_elsewhere_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for step in range(4):
        (tmp_path / "elsewhere" / f"step-{step:09d}.safetensors").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    for resume in (True, False):
        with pytest.raises(InputError, match="must not be a symbolic link"):
            toy_trainer(tmp_path / "run", AUTOFORMER, toy_recipe()).run(resume=resume)
    assert len(list((tmp_path / "elsewhere").iterdir())) == 4


def test_metrics_that_cannot_be_read_do_not_stop_a_training(tmp_path: Path) -> None:
    finished(tmp_path, toy_recipe(epochs=1))
    list_checkpoints(tmp_path)[-1].unlink()
    before = (tmp_path / METRICS).read_text().splitlines()
    strange = ["not JSON", "3", "[" * 5000, '{"step": "x"}', '{"step": 1.5}', ""]
    (tmp_path / METRICS).write_text("\n".join([*strange, *before, '{"step": 1']))
    finished(tmp_path, toy_recipe(epochs=1))
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_global_state_is_left_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    expected = torch.get_rng_state(), np.random.get_state()[2], random.getstate()  # type: ignore[index]  # noqa: NPY002
    threads, environment = torch.get_num_threads(), dict(os.environ)
    finished(tmp_path, RECIPE)
    assert torch.equal(torch.get_rng_state(), expected[0])
    assert (np.random.get_state()[2], random.getstate()) == expected[1:]  # type: ignore[index]  # noqa: NPY002
    assert (torch.get_num_threads(), dict(os.environ)) == (threads, environment)


def test_a_dry_run_takes_time_and_writes_nothing(tmp_path: Path) -> None:
    assert 0 < toy_trainer(tmp_path, AUTOFORMER, toy_recipe()).time_steps() < 10
    assert not list(tmp_path.iterdir())


def test_a_dry_run_computes_a_few_microbatches_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = toy_recipe(grad_accum_steps=8, batch_size=32)
    trainer = toy_trainer(tmp_path, AUTOFORMER, recipe, batches=toy_loader(AUTOFORMER, recipe, num_images=64))
    sizes: list[int] = []
    run = trainer._stepper.run

    def counted(step: int, microbatches: Any, *arguments: Any) -> Any:
        sizes.append(len(microbatches))
        return run(step, microbatches, *arguments)

    monkeypatch.setattr(trainer._stepper, "run", counted)
    trainer.time_steps()
    assert sizes == [2, 2, 2, 2]


def test_too_few_images_for_a_step(tmp_path: Path) -> None:
    recipe = toy_recipe(grad_accum_steps=4, batch_size=64)
    with pytest.raises(InputError, match="must fill at least one step"):
        toy_trainer(tmp_path, AUTOFORMER, recipe, batches=toy_loader(AUTOFORMER, recipe, num_images=32))


def test_half_precision_needs_a_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="fp16 needs a CUDA device"):
        toy_trainer(tmp_path, AUTOFORMER, toy_recipe(precision="fp16"))


class Recorder(NullReporter):
    def __init__(self) -> None:
        self.events: list[TrainingProgress] = []

    def update(self, event: ProgressEvent) -> None:
        assert isinstance(event, TrainingProgress)
        self.events.append(event)


def test_every_step_is_reported_and_nothing_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder()
    finished(tmp_path, toy_recipe(), reporter=recorder)
    assert capsys.readouterr() == ("", "")
    rows = read_metrics(tmp_path)
    assert [(event.step, event.epoch, event.loss) for event in recorder.events] == [
        (row["step"], row["epoch"], row["loss"]) for row in rows
    ]
    last = recorder.events[-1]
    assert (last.step, last.first_step, last.total_epochs) == (last.total_steps, 0, 3)


def test_a_step_with_a_number_that_is_none_leaves_the_weights_alone(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, AUTOFORMER, toy_recipe())
    before = weights(trainer.model)
    weight = trainer.model.get_parameter("shared.head.classifier.weight")
    weight.register_hook(lambda gradient: gradient * float("inf"))  # type: ignore[no-untyped-call]
    with pytest.raises(InputError, match=r"the norm of those of step 1 is (nan|inf)"):
        trainer.run()
    assert_same(weights(trainer.model), before)


def test_an_average_that_has_not_forgotten_the_first_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)at most 5% of .* 83% after 18 steps with ema.decay=0.99") as caught:
        toy_trainer(tmp_path, AUTOFORMER, toy_recipe(ema=EmaConfig(decay=0.99)))
    assert caught.value.hint == "ema.warmup=true, or a smaller ema.decay"
    toy_trainer(tmp_path, AUTOFORMER, toy_recipe(ema=EmaConfig(decay=0.99, warmup=True)))


def test_blocks_may_be_compiled_once_each() -> None:
    import torch._dynamo.config as limits

    network = build_network(AUTOFORMER, AUTOFORMER.largest(), single_network_recipe(toy_recipe()), seed=0)
    with limits.patch(recompile_limit=1):  # monkeypatch would delete it in the end: later tests would not compile
        with compiled_blocks(network, mode="blocks", device=torch.device("cpu")):
            assert limits.recompile_limit == len(network.segments()) > 1
        assert limits.recompile_limit == 1


def test_models_of_timm_do_without_the_fused_kernel_where_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = timm.create_model("test_vit", img_size=32).eval()
    cpu, images = torch.device("cpu"), torch.randn(2, 3, 32, 32)

    def fused() -> set[bool]:
        return {block.attn.fused_attn for block in model.blocks}

    with torch.inference_mode(), plain_attention(model, None, precision="fp32", device=cpu):
        expected = model(images)
        assert fused() == {True}
    with plain_attention(model, precision="bf16", device=cpu):
        assert fused() == {False}
    with monkeypatch.context() as patch:
        patch.setattr(matmul, "onednn_enabled", lambda: True)
        with torch.inference_mode(), plain_attention(model, None, precision="fp32", device=cpu):
            assert fused() == {False}
            assert torch.allclose(model(images), expected, atol=1e-5)
    with plain_attention(model, precision="bf16", device=torch.device("meta")):
        assert fused() == {True}
    assert fused() == {True}
