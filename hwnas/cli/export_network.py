"""`hwnas export`: write a network to a file that runs without hwnas."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hwnas.cli.following import finetuning_of_export
from hwnas.cli.options import (
    CLASSES,
    IMAGE_SIZE,
    PATH,
    SEED,
    BatchOrDynamic,
    Number,
    Whole,
    given_options,
    json_option,
)
from hwnas.cli.output import print_footer, print_json, print_line, print_table
from hwnas.cli.progress import console_reporter
from hwnas.cli.project import project_run
from hwnas.errors import UsageError
from hwnas.export.calibration import CALIBRATION_METHODS
from hwnas.export.tensorrt import TIMING_CACHE_USES
from hwnas.pipeline.export_network import FORMATS, PARTS, EngineOptions, ExportedNetwork
from hwnas.pipeline.export_network import export_network as write_network
from hwnas.pipeline.named_network import names_run
from hwnas.pipeline.network_names import require_name
from hwnas.pipeline.quantisation import QuantisationOptions
from hwnas.runs import MODEL
from hwnas.search.choice import Pick
from hwnas.space import SPACES

if TYPE_CHECKING:
    from hwnas.search.record import Repair

_PLAN_PARAMETERS = (
    "space",
    "format_",
    "out",
    "workspace_mb",
    "optimization_level",
    "devices",
    "timing_cache",
    "timing_cache_use",
    "data",
    "calibration_images",
    "calibration_method",
    "max_drop",
    "as_json",
)
"""Parameters that can be given with a plan, which contains the others."""

_OUT = Path("exported")
"""The folder that is written to by default."""

_SHOWN_CLASSES = 5
"""Names of classes that are printed."""

_SHOWN_LAYERS = 3
"""Layers whose noise in a quantised file is printed."""


@click.command("export")
@click.argument("space", metavar="[SPACE|RUN|PLAN]", required=False)
@click.argument("arch", required=False)
@click.option("--arch", "named", metavar="ARCH", help="The network, instead of the argument ARCH.")
@click.option(
    "--pick",
    metavar="RULE",
    help="RUN of a search: balanced, accuracy, fast, or the best within limits as in 'throughput>=9000'.",
)
@click.option(
    "--format", "format_", type=click.Choice(FORMATS), default="onnx", show_default=True, help="Format of the file."
)
@click.option("--out", type=PATH, show_default="exported; a RUN alone lists its networks", help="Folder to write to.")
@click.option(
    "--part",
    type=click.Choice(PARTS),
    default="network",
    show_default=True,
    help="The network, or its backbone alone: feature maps, for a head of your own.",
)
@click.option(
    "--precision",
    show_default="fp32, or that of a network that a search found in a precision",
    help="fp32, fp16 or bf16; for ONNX also int8, int8-dynamic and fp8, for TensorRT tf32, int8 and fp8.",
)
@click.option(
    "--batch",
    type=BatchOrDynamic(),
    default="1",
    show_default="two files: one for the batch of the search, or 1, and one for any",
    help="Batch size that the file accepts, or dynamic for any.",
)
@click.option("--weights", type=PATH, help="Supernet or network file (.safetensors).")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of random weights, if no file is given.")
@click.option("--image-size", type=IMAGE_SIZE, help="Image size with random weights, if not the space's.")
@click.option("--classes", type=CLASSES, help="Classes with random weights, if not those of the space.")
@click.option(
    "--repair",
    is_flag=True,
    help="Fit a network cut from a pretrained model anew to what the model computes, by least squares, if that helps.",
)
@click.option(
    "--data",
    help="Images, as for hwnas train: with classes for int8 and fp8, with or without for --repair.",
    show_default="those of RUN",
)
@click.option(
    "--calibration-images",
    type=Whole(1, 1_000_000),
    help="int8, fp8, --repair: training images to calibrate with.",
    show_default=str(QuantisationOptions.num_images),
)
@click.option(
    "--calibration-method",
    type=click.Choice(CALIBRATION_METHODS),
    help="int8, fp8: how scales follow from the values.",
    show_default=QuantisationOptions.method,
)
@click.option("--max-drop", type=Number(0, 100), help="int8, fp8: points of top-1 that may be lost.", show_default="1")
@click.option(
    "--workspace-mb", type=Whole(1, 10_000_000), help="TensorRT: scratch memory per layer.", show_default="all"
)
@click.option("--optimization-level", type=Whole(0, 5), help="TensorRT: search effort, 0 to 5.", show_default="3")
@click.option(
    "--for",
    "devices",
    metavar="GPU[,GPU]",
    help="TensorRT for RTX: build for these GPUs, on any machine.",
    show_default="the GPU of this machine",
)
@click.option("--timing-cache", type=PATH, help="TensorRT: file of kernel timings.")
@click.option(
    "--timing-cache-use",
    type=click.Choice(TIMING_CACHE_USES),
    show_default="extend",
    help="TensorRT: how the timing cache is used.",
)
@click.option("--replace", is_flag=True, help="Replace files of the same network that hold other weights.")
@json_option
@click.pass_context
def export_network(
    context: click.Context,
    space: str | None,
    arch: str | None,
    *,
    named: str | None,
    pick: str | None,
    format_: str,
    out: Path | None,
    part: str,
    precision: str | None,
    batch: int | None,
    weights: Path | None,
    seed: int,
    image_size: int | None,
    classes: int | None,
    repair: bool,
    data: str | None,
    calibration_images: int | None,
    calibration_method: str | None,
    max_drop: float | None,
    workspace_mb: int | None,
    optimization_level: int | None,
    timing_cache: Path | None,
    timing_cache_use: str | None,
    devices: str | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Export a network and check it against torch.

    ARCH is the name of a published network, min, max, random:SEED, a JSON file or inline JSON. With a RUN of hwnas
    search or hwnas train it may be the id of a network of the run, or its first digits (at least four), which is
    exported with its weights and a file that describes it, for hwnas train --arch. Leave ARCH out if --weights is a
    file of a single network. Without arguments, RUN is the search of hwnas.toml.

    With a PLAN of hwnas profile --plan-only, each network of the plan is exported in the plan's precision and batches,
    and engines of TensorRT for RTX are built for its device, which may be elsewhere. In 8 bits, --data has the images
    for the scales.

    With --precision int8 the scales of activations are found on training images of --data, and the file is written if
    its top-1 accuracy on held-out images is within --max-drop points of that in fp32. The scales of int8-dynamic are
    computed in each run, of ONNX Runtime alone. fp8 is for GPUs from Ada and Hopper on, by TensorRT: its linear layers
    compute in 8 bits (E4M3), the rest in float16, and its accuracy is checked like that of int8. In an engine in int8
    the rest is in float16 as well.

    With --repair the last layers of attention and MLP of a network of an elastic space are fitted to the tokens of the
    model that it was cut from, on training images of --data without their labels, before it is written in any format or
    precision. The network is written without the repair if that was worse on held-out images.

    With --part backbone the file has no head, and its outputs features_0, features_1, ... are feature maps: those that
    the head of a detector or segmenter reads, or all of a classifier. Their channels and strides are in the entry
    `feature_info` of its metadata.

    Each file says how images are prepared (size, crop, interpolation, mean and standard deviation) and the names of
    the classes, under the names of timm's pretrained_cfg: in the entry `preprocess` of its metadata.

    --format timm writes a folder in the layout of the Hugging Face Hub, with a model card, which timm loads without
    hwnas; README.md in it says how. A network that timm has no class for comes with its own PyTorch code in one file.
    hwnas push uploads such a folder.
    """
    space = str(project_run("a space, run or plan")) if space is None else space
    if out is None:
        if names_run(space) and (arch, named, pick, weights) == (None,) * 4:
            require_name(Path(space), None)
        out = _OUT
    engine = EngineOptions(
        workspace_mb=workspace_mb,
        optimization_level=optimization_level,
        timing_cache=timing_cache,
        timing_cache_use=timing_cache_use,
        devices=tuple(name.strip() for name in (devices or "").split(",") if name.strip()),
    )
    options = {
        "data": data,
        "num_images": calibration_images,
        "method": calibration_method,
        "max_drop": None if max_drop is None else max_drop / 100,
    }
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    quantisation = None if given == {} else QuantisationOptions(**given)
    if space not in SPACES and Path(space).is_file():
        _export_plan(
            context,
            Path(space),
            out=out,
            format_=format_,
            engine=engine,
            # Weights are random, so that a drop of their accuracy says nothing.
            quantisation=None if given == {} else QuantisationOptions(**{"max_drop": 1.0, **given}),
            as_json=as_json,
        )
        return
    if space not in SPACES and (Path(space) / MODEL).is_file():
        _export_model(
            context,
            Path(space),
            out=out,
            format_=format_,
            precision=precision,
            batch=batch,
            replace=replace,
            as_json=as_json,
        )
        return
    if [arch, named, pick].count(None) < 2:
        raise click.UsageError("the network must be named once, as ARCH, with --arch or by --pick")
    if pick is not None:
        named = picked_network(space, pick)
    is_given = "--batch" in given_options(context, except_for=())
    if format_ == "timm" and is_given:
        raise UsageError("a model of timm takes batches of any size", got="--batch", hint="leave out --batch")
    name = named if arch is None else arch
    if weights is None and names_run(space):
        require_name(Path(space), name)  # before torch, which takes seconds to import
    if precision is None and format_ == "timm":
        precision = "fp32"
    elif precision is None:
        from hwnas.pipeline.run_network import searched_precision  # it loads torch, which --help must not

        precision = searched_precision(space, name)
    if not is_given and format_ != "timm":
        from hwnas.pipeline.run_network import searched_batch

        batch = searched_batch(space)
    exported = write_network(
        space,
        name,
        format=format_,
        out=out,
        precision=precision,
        batch=batch,
        any_batch=not is_given,
        weights=weights,
        seed=seed,
        image_size=image_size,
        num_classes=classes,
        quantisation=quantisation,
        engine=engine,
        repair=repair,
        part=part,
        replace_files=replace,
    )
    if as_json:
        print_json(exported.to_mapping())
        return
    _print(exported, repair=repair)
    tuning = () if exported.arch_file is None else finetuning_of_export(Path(space), exported)
    if tuning:
        print_line("note: its weights are those that all networks of the supernet share, and fine-tuning improves them")
        print_footer(tuning)


def _export_model(
    context: click.Context,
    run: Path,
    *,
    out: Path,
    format_: str,
    precision: str | None,
    batch: int | None,
    replace: bool,
    as_json: bool,
) -> None:
    from hwnas.pipeline.export_model import export_model

    others = given_options(context, except_for=("space", "out", "format_", "precision", "batch", "replace", "as_json"))
    if others:
        message = "a trained model of timm is exported with --format, --precision, --batch and --replace alone"
        raise UsageError(
            message, got=" ".join(others), hint=shlex.join(["hwnas", "export", str(run), "--out", str(out)])
        )
    exported = export_model(
        run, out=out, format=format_, precision=precision or "fp32", batch=batch, replace_files=replace
    )
    if as_json:
        print_json(exported)
        return
    parity = exported.parity
    rows = [("network", exported.model), ("weights", exported.weights), ("precision", exported.precision)]
    rows.append(("largest difference", f"{parity.max_relative:.1e} of the largest logit"))
    print_table(["", ""], [*rows, *_image_rows(exported.preprocess)])
    print_line()
    for file in exported.files:
        print_line(str(file))


def picked_network(run: str, rule: str) -> str:
    """Return the id of the network that a rule chooses from the front of a search."""
    from hwnas.search.result import load_search

    Pick.parse(rule)  # a rule that is misspelled is named before a run that is
    if run in SPACES and not Path(run).is_dir():
        raise UsageError("--pick chooses from the front of a search", got=run, hint="hwnas export RUN --pick balanced")
    return load_search(Path(run)).pick(rule).id


def _export_plan(
    context: click.Context,
    plan: Path,
    *,
    out: Path,
    format_: str,
    engine: EngineOptions,
    quantisation: QuantisationOptions | None,
    as_json: bool,
) -> None:
    from hwnas.pipeline.export_plan import export_plan

    given = given_options(context, except_for=_PLAN_PARAMETERS)
    if given:
        hint = f"hwnas export {plan} --out {out}"
        raise UsageError("a plan already says which networks, and how", got=" ".join(given), hint=hint)
    with console_reporter() as reporter:
        exported = export_plan(
            plan, out=out, format=format_, engine=engine, quantisation=quantisation, reporter=reporter
        )
    if as_json:
        print_json(exported.to_mapping())
        return
    for network in exported.networks:
        print_line(str(network.files[0]))
    if exported.left_out:
        print_line(f"left out, as they are not of the space: {', '.join(exported.left_out)}")


def _print(exported: ExportedNetwork, *, repair: bool) -> None:
    shown_id = exported.network_id if exported.arch_file is None else exported.arch_id
    rows: list[tuple[str, object]] = [
        ("network", f"{exported.space} {shown_id}"),
        *([] if shown_id == exported.network_id else [("network_id", f"{exported.network_id}, which names its files")]),
        ("weights", exported.weights),
        ("precision", exported.precision),
        ("batch", "any" if exported.batch is None else exported.batch),
        ("exporter", exported.exporter),
        ("time", f"{exported.seconds:.1f} s"),
    ]
    if repair or exported.repair is not None:
        rows += _repair_rows(exported.repair, is_earlier=exported.is_repaired_winner)
    parity = exported.parity
    sizes = " and ".join(map(str, parity.batches))
    rows.append(("checked with", f"{parity.runtime}, {parity.images} images in batches of {sizes}"))
    limit = "" if parity.tolerance is None else f", tolerance in {parity.precision} {parity.tolerance:.1e}"
    is_whole = exported.part == "network"
    largest = "of the largest logit" if is_whole else "of the largest value"
    rows.append(("largest difference", f"{parity.max_relative:.1e} {largest}{limit}"))
    if parity.exact_relative is not None:
        rows.append(("without rounding", f"{parity.exact_relative:.1e}, tolerance {parity.exact_tolerance:g}"))
    if parity.top1_agreement is not None:
        rows.append(("top-1 agreement", f"{100 * parity.top1_agreement:.4g}%"))
    maps = [f"{row['num_chs']} channels, stride {row['reduction']}" for row in exported.feature_info]
    rows += [(f"features_{number}", text) for number, text in enumerate(maps)]
    if (boxes := exported.boxes) is not None:
        rows.append(("boxes", f"{boxes.boxes} compared, corners within {boxes.max_pixels:.1g} pixels of torch's"))
    rows += _image_rows(exported.preprocess)[: None if is_whole else 1]
    if (accuracy := parity.accuracy) is not None:
        limit = f"{100 * accuracy.drop:.2f} points lost, {100 * accuracy.max_drop:g} allowed"
        rows.append(("top-1 accuracy", f"{accuracy.top1:.2%}, fp32 {accuracy.float_top1:.2%} ({limit})"))
        rows.append(("compared on", f"{accuracy.images:,} held-out images of {accuracy.data}"))
        if accuracy.calibration is not None:
            rows.append(("calibration", accuracy.calibration))
        rows += [
            ("noisy layer", f"{layer.layer}: signal to noise {layer.signal_to_noise_db:.0f} dB")
            for layer in accuracy.noisiest_layers[:_SHOWN_LAYERS]
        ]
    print_table(["", ""], rows)
    print_line()
    for file in (*exported.files, *filter(None, [exported.arch_file])):
        print_line(str(file))


def _image_rows(preprocess: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Say how images are prepared, and which classes the logits are of."""
    channels, size, _ = preprocess["input_size"]
    names = preprocess.get("label_names", ())
    listed = "" if not names else f": {', '.join(names[:_SHOWN_CLASSES])}{', …' * (len(names) > _SHOWN_CLASSES)}"
    crop, how = preprocess["crop_pct"], preprocess["interpolation"]
    return [
        ("images", f"{channels} x {size} x {size}, {how}, crop {crop:g}; mean and std in the metadata"),
        ("classes", f"{preprocess['num_classes']}{listed}"),
    ]


def _repair_rows(found: "Repair | None", *, is_earlier: bool) -> list[tuple[str, object]]:
    if found is None:
        return [("repair", "nothing to repair: the network has all heads and hidden units")]
    kept = "" if found.kept else "; worse than before, and not kept"
    kept = "; by the search, and not again" if is_earlier else kept
    rows: list[tuple[str, object]] = [
        ("repair", f"least squares on {found.images:,} training images of {found.data}{kept}")
    ]
    if found.accuracy is not None:
        change = f"{found.accuracy_before:.2%} before, {found.accuracy:.2%} after"
        rows.append(("accuracy", f"{change}; the model {found.model_accuracy:.2%}"))
    return [
        *rows,
        ("agreement", f"with the model's first class {found.agreement_before:.2%} before, {found.agreement:.2%} after"),
        ("divergence", f"from the model {found.divergence_before:.3g} before, {found.divergence:.3g} after"),
        ("measured on", f"{found.heldout_images:,} held-out images"),
    ]
