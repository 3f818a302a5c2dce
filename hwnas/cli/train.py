"""`hwnas train`: train a supernet or a network, and print how it went."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hwnas.cli.following import export_command
from hwnas.cli.options import (
    COUNT,
    COUNT_OR_ZERO,
    EPOCHS_OR_ZERO,
    HELDOUT,
    IMAGE_SIZE,
    PATH,
    SEED,
    THREADS_OR_AUTO,
    WORKERS,
    BatchOrAuto,
    json_option,
    with_options,
)
from hwnas.cli.output import print_footer, print_json, print_line, print_table
from hwnas.cli.progress import console_reporter
from hwnas.config import dump_toml
from hwnas.devices import load_note
from hwnas.errors import UsageError
from hwnas.pipeline.proposal import names_no_model
from hwnas.pipeline.slurm import SlurmOptions, SubmittedJob, submit_training
from hwnas.progress import format_duration
from hwnas.runs import SUPERNET
from hwnas.space.task_head import HEAD_KINDS, TASKS
from hwnas.train.options import PretrainedModel, TrainOptions, check_options, default_run_folder, validate_options
from hwnas.train.run_folder import is_started_again, require_run

if TYPE_CHECKING:
    from hwnas.pipeline.train import TrainingEstimate, TrainingResult

_MODEL_OPTIONS = (
    click.option(
        "--task",
        type=click.Choice(TASKS),
        show_default="that of the space",
        help="Give the networks of --space, or of the backbone in --supernet, a head for this task.",
    ),
    click.option(
        "--head",
        type=click.Choice(HEAD_KINDS),
        show_default="retinanet, semantic-fpn",
        help="Head for detection or segmentation.",
    ),
    click.option("--space", help="Space whose supernet is trained."),
    click.option(
        "--arch",
        help="Train this network of the space: a name, min, max, random:SEED, JSON, or an id from --supernet "
        "or a search of it.",
    ),
    click.option(
        "--supernet", type=PATH, help="Run or file of a supernet, a network or a model of timm to start from."
    ),
    click.option("--scratch", is_flag=True, help="Train the network of --arch from random weights."),
    click.option(
        "--model",
        help="Train a model of timm, from scratch or from --pretrained, --checkpoint or --supernet: timm:NAME.",
    ),
    click.option("--elastic", help="Train the networks inside a pretrained model: timm:NAME, or a run of --model."),
    click.option("--sizes", is_flag=True, help="Networks of --elastic also choose the sizes of images and patches."),
    click.option("--pretrained", is_flag=True, help="Published weights of the model of --elastic or --model."),
    click.option("--checkpoint", type=PATH, help="Weights of the model of --elastic or --model in a file."),
    click.option("--image-size", type=IMAGE_SIZE, help="Image size in pixels, if not that of the space."),
)
_DATA_OPTIONS = (
    click.option(
        "--data",
        help="Images: digits, digits-clutter, a folder, Parquet, torch/NAME or wds/DIR; digits-scene with --task.",
    ),
    click.option("--heldout", type=HELDOUT, help="Held-out images: a share or a number; 0 for one network: none."),
    click.option("--data-seed", type=SEED, help="Seed of the split into training and held-out images."),
    click.option("--max-bad", type=COUNT_OR_ZERO, show_default="50", help="Skip at most this many unreadable images."),
    click.option("--max-images", type=COUNT, help="Train on at most this many images."),
    click.option("--root", type=PATH, help="Folder of a torch/ data set."),
    click.option("--download", is_flag=True, help="Download a torch/ data set."),
    click.option(
        "--cache",
        type=PATH,
        help="Decode and resize training images once, into a file in this folder.",
    ),
    click.option("--workers", type=WORKERS, show_default="0; on a GPU its cores", help="Processes that load images."),
)
_RECIPE_OPTIONS = (
    click.option("--recipe", show_default="that of the space", help="autoformer, resnas, vitas, glit, small, micro, …"),
    click.option("--config", "config_file", type=PATH, help="TOML file of recipe values."),
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Recipe value, for example optimizer.lr=1e-3 (repeatable).",
    ),
    click.option(
        "--epochs",
        type=EPOCHS_OR_ZERO,
        help="Epochs; warm-up and widening keep their shares. 0 leaves the weights of --elastic as they are. "
        "With --resume: end after so many, now if they are done.",
    ),
    click.option(
        "--batch",
        "batch_size",
        type=BatchOrAuto(),
        help="Images per step, over all processes; auto: those of the recipe, as many at once as fit the device.",
    ),
    click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of all random choices."),
    click.option("--teacher", help="Distil from timm:NAME, a file or a run of one network."),
    click.option("--teacher-weights", type=PATH, help="Checkpoint of a timm: teacher."),
    click.option(
        "--threads",
        type=THREADS_OR_AUTO,
        default=0,
        show_default=True,
        help="CPU threads; 0: chosen by the size of the steps.",
    ),
)
_RUN_OPTIONS = (
    click.option("--out", type=PATH, show_default="new folder under runs/", help="Run folder."),
    click.option(
        "--resume", is_flag=True, help="Resume the training in --out, in a RUN given here, or in that of hwnas.toml."
    ),
    click.option(
        "--evaluate-every",
        type=EPOCHS_OR_ZERO,
        default=0,
        show_default="never",
        metavar="EPOCHS",
        help="Evaluate on held-out images every so many epochs.",
    ),
    click.option("--dry-run", is_flag=True, help="Print what would be trained, and time a few steps."),
    click.option(
        "--slurm",
        metavar="KEY=VALUE,…",
        help="Submit the training as a job of Slurm: partition=gpu,nodes=2,gpus=8.",
    ),
    json_option,
)


@click.command()
@with_options(_MODEL_OPTIONS, _DATA_OPTIONS, _RECIPE_OPTIONS, _RUN_OPTIONS)
@click.pass_context
def train(
    context: click.Context,
    /,
    *,
    slurm: str | None,
    dry_run: bool,
    out: Path | None,
    resume: bool,
    workers: int | None,
    threads: int,
    evaluate_every: int,
    **values: Any,
) -> None:
    """Train a weight-sharing supernet or a single network.

    --space trains the supernet of a space, --arch one of its networks, --model a model of timm, --elastic the networks
    inside a pretrained model, for which a folder of images without classes is enough. The run folder contains the
    command, the recipe, the list of held-out images, metrics.jsonl and metrics.csv, checkpoints and the weights, and
    where tensorboard is installed its files. --evaluate-every shows how accuracy on held-out images develops, and
    changes no weights.

    An interrupted training is resumed with --resume and ends with the same weights. With another number of --epochs,
    the learning rate goes on as in a training of so many; if so many are done, the training ends now, with the weights
    that it has.

    --task detection or segmentation trains the same networks with a head of torchvision on a pyramid of their feature
    maps, on images with boxes or classes of pixels; --supernet RUN of a classification training gives the backbone its
    weights. Such networks are compared by mAP or mIoU.
    """
    as_json, options = values.pop("as_json"), _options(**values)
    if dry_run and resume:
        raise UsageError("--dry-run and --resume exclude each other", hint="leave out --resume")
    # A job reads hwnas.toml too, and must not submit another one.
    if slurm is not None and context.get_parameter_source("slurm") is click.core.ParameterSource.COMMANDLINE:
        job = _submit(slurm, options, context, out=out, resume=resume, dry_run=dry_run)
        print_json(job) if as_json else _print_submitted(job)
        return
    _check(options, out=out, resume=resume, dry_run=dry_run)
    from hwnas.pipeline.train import estimate_training, train_model  # torch, which takes seconds
    from hwnas.train.trainer import TrainerConfig

    config, busy = TrainerConfig(threads=threads, evaluate_every=evaluate_every), load_note()
    if dry_run:
        estimate = estimate_training(options, workers=workers, trainer_config=config)
        estimate = estimate if busy is None else replace(estimate, notes=(*estimate.notes, busy))
        print_json(estimate) if as_json else _print_estimate(estimate)
        return
    with console_reporter() as reporter:
        if busy is not None and os.environ.get("RANK", "0") == "0":  # torchrun starts several processes
            reporter.message(f"note: {busy}")
        if slurm is not None:
            reporter.message("note: slurm in hwnas.toml submits no job; --slurm on the command line does")
        trained = train_model(
            options, out=out, resume=resume, workers=workers, trainer_config=config, reporter=reporter
        )
    if not trained.is_main_process:
        return
    print_json(trained) if as_json else _print_trained(trained)


def _check(options: TrainOptions, *, out: Path | None, resume: bool, dry_run: bool) -> None:
    """Raise the errors that show before torch is imported."""
    if resume and out is None:
        raise UsageError("the run to resume must be given", hint="--out RUN --resume")
    if out is not None and not dry_run and (resume or not is_started_again()):
        require_run(out, resume=resume)
    if not resume and not (dry_run and names_no_model(options)):
        check_options(options)


def _submit(
    text: str, options: TrainOptions, context: click.Context, *, out: Path | None, resume: bool, dry_run: bool
) -> SubmittedJob:
    """Submit the command line without --slurm as a job."""
    job = SlurmOptions.parse(text)
    if dry_run:
        raise UsageError("--dry-run and --slurm exclude each other", hint="leave out --slurm")
    if not resume:
        validate_options(options)
    if resume and out is None:
        raise UsageError("the run to resume must be given", hint="--out RUN --resume")
    folder = (out or default_run_folder(options)).absolute()
    words = [word for item in context.command.params for word in _words(item, context)]
    return submit_training(job, [*words, "--out", str(folder)], run=folder)


def _words(item: click.Parameter, context: click.Context) -> list[str]:
    """Return an option as it stands on the command line; none if it is not there."""
    source, name = context.get_parameter_source(item.name or ""), item.opts[0]
    if source is not click.core.ParameterSource.COMMANDLINE or item.name in ("slurm", "out", "as_json"):
        return []
    value = context.params[item.name]
    if isinstance(item, click.Option) and item.is_flag:
        return [name]
    return [word for one in (value if item.multiple else (value,)) for word in (name, str(one))]


def _print_submitted(job: SubmittedJob) -> None:
    print_line(f"job {job.job_id} trains {job.run}")
    print_line(f"its output is in {job.logs}")


def _options(
    *,
    overrides: tuple[str, ...],
    scratch: bool,
    teacher: str | None,
    teacher_weights: Path | None,
    elastic: str | None,
    sizes: bool,
    pretrained: bool,
    checkpoint: Path | None,
    **values: Any,
) -> TrainOptions:
    if elastic is None and sizes:
        raise UsageError("--sizes is for the networks of --elastic", hint="--elastic timm:NAME")
    if elastic is None and values["model"] is None and (pretrained or checkpoint is not None):
        given = "--pretrained" if pretrained else "--checkpoint"
        raise UsageError(f"{given} is for the model of --model or --elastic", hint=f"--model timm:NAME {given}")
    if pretrained and checkpoint is not None:
        raise UsageError("--pretrained and --checkpoint exclude each other", hint="leave out one of them")
    if values["model"] is not None:
        values = _with_weights(pretrained=pretrained, checkpoint=checkpoint, **values)
    _require_read(scratch=scratch, teacher=teacher, teacher_weights=teacher_weights, **values)
    pairs = [change.partition("=") for change in overrides]
    for key, equals, _ in pairs:
        if not equals:
            raise UsageError("--set must be KEY=VALUE", hint=f"--set {key}=…")
    if values["batch_size"] == "auto":
        values |= {"batch_size": None, "fit_batch": True}
    return TrainOptions(
        overrides={key: value for key, _, value in pairs},
        elastic=(
            None
            if elastic is None
            else PretrainedModel(name=elastic, pretrained=pretrained, checkpoint=checkpoint, sizes=sizes)
        ),
        teacher=None if teacher is None else _teacher(teacher, teacher_weights),
        **values,
    )


def _with_weights(*, pretrained: bool, checkpoint: Path | None, supernet: Path | None, **values: Any) -> dict[str, Any]:
    """Return the options with the weights that the model of timm begins with."""
    if supernet is not None and (pretrained or checkpoint is not None):
        given = "--pretrained" if pretrained else "--checkpoint"
        raise UsageError(f"--supernet and {given} exclude each other", hint="leave out one of them")
    weights = None
    if supernet is not None:
        from hwnas.train.weights import timm_weights

        checkpoint = timm_weights(supernet, values["model"])
    if pretrained or checkpoint is not None:
        weights = PretrainedModel(name=values["model"], pretrained=pretrained, checkpoint=checkpoint)
    return {**values, "supernet": None, "model_weights": weights}


def _require_read(*, scratch: bool, teacher: str | None, teacher_weights: Path | None, **values: Any) -> None:
    """Raise a UsageError for options that would go unread because of others."""
    if scratch and values["supernet"] is not None:
        raise UsageError("--scratch and --supernet exclude each other")
    if scratch and values["arch"] is None:
        raise UsageError("--scratch is for the network of --arch, which must be given", hint="--arch max")
    if teacher_weights is not None and not (teacher or "").startswith("timm:"):
        raise UsageError("--teacher-weights is for a teacher of timm", hint="--teacher timm:NAME")
    is_torch = (values["data"] or "").casefold().startswith("torch/")
    unread = [option for option, value in (("--root", values["root"]), ("--download", values["download"])) if value]
    if unread and values["data"] is not None and not is_torch:
        raise UsageError(f"{unread[0]} is for data of torchvision", got=values["data"], hint="--data torch/NAME")


def _teacher(name: str, weights: Path | None) -> PretrainedModel:
    pretrained = name.startswith("timm:") and weights is None
    return PretrainedModel(name=name, pretrained=pretrained, checkpoint=weights)


def _print_estimate(estimate: "TrainingEstimate") -> None:
    config = estimate.config
    epochs = config.recipe.epochs
    rows = [
        ("model", config.model or config.arch or f"supernet of {config.space}"),
        ("images", f"{config.channels} x {config.image_size} x {config.image_size}, {config.num_classes} classes"),
        ("training images", estimate.train_images),
        ("held-out images", estimate.heldout_images),
        ("test images", estimate.test_images),
        ("parameters", estimate.params),
        ("memory", f"{estimate.memory_mb:,.0f} MB"),
        ("steps per epoch", estimate.steps_per_epoch),
        ("seconds per step", f"{estimate.seconds_per_step:.3g}"),
        ("one epoch", format_duration(estimate.seconds_per_epoch)),
        (f"{epochs} epochs", format_duration(epochs * estimate.seconds_per_epoch)),
    ]
    print_table(["", ""], rows)
    for note in estimate.notes:
        print_line(f"note: {note}")
    print_line()
    print_line(dump_toml(config.recipe).rstrip(), wrap=False)


def _print_trained(trained: "TrainingResult") -> None:
    loss = "" if trained.loss is None else f", last loss {trained.loss:.4f}"
    speed = "" if trained.loss is None else f", {trained.images_per_s:,.0f} images/s"
    planned = "" if trained.steps == trained.planned_steps else f" of {trained.planned_steps:,}"
    print_line(f"{trained.weights}: {trained.steps:,}{planned} steps{loss}{speed}")
    for name, accuracy in trained.accuracies.items():
        print_line(f"{name} network: {accuracy:.2%} of the held-out images")
    for name, value in trained.task_quality.items():
        print_line(f"{name} network: {trained.metric} {value:.2%} on the held-out images")
    for name, divergence in trained.divergences.items():
        print_line(f"{name} network: divergence {divergence:.3g} nats from the model on the held-out images")
    if trained.bad_images:
        print_line(f"could not be read: {', '.join(trained.bad_images)}")
    for warning in trained.warnings:  # the notes were printed before the first step
        print_line(f"note: {warning}")
    if trained.weights.name == SUPERNET:
        print_footer(("hwnas", "profile", "--supernet", trained.run), ("hwnas", "evaluate", trained.run))
        return
    test = ("hwnas", "evaluate", trained.run, "--split", "test") if trained.test_images else ()
    print_footer(export_command(trained.run), test)
