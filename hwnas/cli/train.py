"""`hwnas train`."""

from pathlib import Path
from typing import Any

import click

from hwnas.cli.ending import duration, print_ending
from hwnas.cli.options import json_option, with_options
from hwnas.cli.output import print_json, print_line, print_table
from hwnas.cli.progress import console_reporter
from hwnas.config import dump_toml
from hwnas.errors import UsageError
from hwnas.pipeline.train import TrainingEstimate, TrainingResult, estimate_training, train_model
from hwnas.train.options import TeacherOptions, TrainOptions
from hwnas.train.trainer import TrainerConfig

_WHAT = (
    click.option("--space", help="The space whose supernet is trained."),
    click.option(
        "--arch", help="Train one network of the space: a name, min, max, random:SEED, JSON, or an id of --supernet."
    ),
    click.option("--supernet", type=click.Path(path_type=Path), help="Start from the weights of a run or a file."),
    click.option("--scratch", is_flag=True, help="Say that the network of --arch starts from fresh weights."),
    click.option("--model", help="Train a reference model, timm:NAME."),
    click.option("--image-size", type=click.IntRange(min=1), help="Of the images, where it is not the space's."),
)
_DATA = (
    click.option("--data", help="digits, digits-clutter, a folder, Parquet, torch/NAME or wds/DIR."),
    click.option("--heldout", type=float, help="Images held out of training: a share or a number."),
    click.option("--data-seed", type=click.IntRange(min=0), help="Of the split into training and held-out images."),
    click.option("--max-bad", type=click.IntRange(min=0), help="Unreadable images that are skipped (50)."),
    click.option("--max-images", type=click.IntRange(min=1), help="Train on at most this many images."),
    click.option("--root", type=click.Path(path_type=Path), help="Where a torch/ set lies."),
    click.option("--download", is_flag=True, help="Let a torch/ set be downloaded."),
    click.option("--workers", type=click.IntRange(min=0), default=0, help="Processes that load images."),
)
_HOW = (
    click.option("--recipe", help="autoformer, resnas, vitas, glit, micro, …; default: the space's own."),
    click.option("--config", "config_file", type=click.Path(path_type=Path), help="A TOML file of recipe values."),
    click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="One recipe value: optimizer.lr=1e-3."),
    click.option("--epochs", type=click.IntRange(min=1), help="Warm-up and widening keep their shares."),
    click.option("--batch", "batch_size", type=click.IntRange(min=1), help="Images a step, over all processes."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    click.option("--teacher", help="timm:NAME, a file or a run of one network, whose answers join the labels."),
    click.option("--teacher-weights", type=click.Path(path_type=Path), help="A checkpoint for a timm: teacher."),
    click.option("--threads", type=click.IntRange(min=0), default=0, help="CPU threads; 0: what suits the steps."),
)
_RUN = (
    click.option("--out", type=click.Path(path_type=Path), help="The run folder; default: a new one under runs/."),
    click.option("--resume", is_flag=True, help="Go on with the training in --out, to the same end."),
    click.option("--dry-run", is_flag=True, help="Say what would be done, and time a few steps."),
    json_option,
)


@click.command()
@with_options(_WHAT, _DATA, _HOW, _RUN)
def train(*, dry_run: bool, out: Path | None, resume: bool, workers: int, threads: int, **given: Any) -> None:
    """Train the weight-sharing supernet of a space, or with --arch one of its networks.

    The run folder holds the command, the recipe, the list of held-out images, metrics.jsonl, checkpoints and at the
    end the weights. A training that was stopped goes on with --resume, to the same weights.
    """
    as_json, options = given.pop("as_json"), _options(**given)
    config = TrainerConfig(threads=threads)
    if dry_run:
        estimate = estimate_training(options, workers=workers, trainer_config=config)
        print_json(estimate) if as_json else _print_estimate(estimate)
        return
    with console_reporter() as reporter:
        trained = train_model(
            options, out=out, resume=resume, workers=workers, trainer_config=config, reporter=reporter
        )
    if not trained.is_main_process:  # of several processes one prints
        return
    print_json(trained) if as_json else _print_trained(trained)


def _options(
    *,
    changes: tuple[str, ...],
    scratch: bool,
    teacher: str | None,
    teacher_weights: Path | None,
    **given: Any,
) -> TrainOptions:
    if scratch and given["supernet"] is not None:
        raise UsageError("--scratch and --supernet exclude each other")
    pairs = [change.partition("=") for change in changes]
    for key, equals, _ in pairs:
        if not equals:
            raise UsageError("--set must be KEY=VALUE", hint=f"--set {key}=…")
    return TrainOptions(
        changes={key: value for key, _, value in pairs},
        teacher=None if teacher is None else _teacher(teacher, teacher_weights),
        **given,
    )


def _teacher(name: str, weights: Path | None) -> TeacherOptions:
    pretrained = name.startswith("timm:") and weights is None
    return TeacherOptions(name=name, pretrained=pretrained, checkpoint=weights)


def _print_estimate(estimate: TrainingEstimate) -> None:
    config = estimate.config
    epochs = config.recipe.epochs
    rows = [
        ("trains", config.model or config.arch or f"the supernet of {config.space}"),
        ("images", f"{config.channels} x {config.image_size} x {config.image_size}, {config.num_classes} classes"),
        ("train images", estimate.train_images),
        ("held-out images", estimate.heldout_images),
        ("test images", estimate.test_images),
        ("parameters", estimate.params),
        ("memory", f"{estimate.memory_mb:,.0f} MB"),
        ("steps an epoch", estimate.steps_per_epoch),
        ("seconds a step", f"{estimate.seconds_per_step:.3g}"),
        ("an epoch", duration(estimate.seconds_per_epoch)),
        (f"{epochs} epochs", duration(epochs * estimate.seconds_per_epoch)),
    ]
    print_table(["", ""], rows)
    for note in estimate.notes:
        print_line(f"note: {note}")
    print_line()
    print_line(dump_toml(config.recipe).rstrip())


def _print_trained(trained: TrainingResult) -> None:
    loss = "" if trained.loss is None else f", last loss {trained.loss:.4f}"
    print_line(f"{trained.weights}: {trained.steps:,} steps{loss}, {trained.images_per_s:,.0f} images/s")
    for name, accuracy in trained.accuracies.items():
        print_line(f"{name} network: {accuracy:.2%} of the held-out images")
    if trained.bad_images:
        print_line(f"could not be read: {', '.join(trained.bad_images)}")
    for note in trained.notes:
        print_line(f"note: {note}")
    print_ending(("hwnas", "evaluate", trained.run))
