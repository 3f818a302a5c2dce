"""`hwnas export`: write a network to a file that runs without hwnas."""

from pathlib import Path

import click

from hwnas.cli.options import CLASSES, IMAGE_SIZE, PATH, SEED, BatchOrDynamic, Whole, json_option
from hwnas.cli.output import print_json, print_line, print_table
from hwnas.export.tensorrt import TIMING_CACHE_USES
from hwnas.pipeline.export_network import FORMATS, EngineOptions, ExportedNetwork
from hwnas.pipeline.export_network import export_network as write_network


@click.command("export")
@click.argument("space", metavar="SPACE|RUN")
@click.argument("arch", required=False)
@click.option("--arch", "named", metavar="ARCH", help="The network, instead of the argument ARCH.")
@click.option(
    "--format", "format_", type=click.Choice(FORMATS), default="onnx", show_default=True, help="Format of the file."
)
@click.option("--out", type=PATH, required=True, help="Folder to write to.")
@click.option("--precision", default="fp32", show_default=True, help="fp32, fp16 or bf16; for TensorRT also tf32.")
@click.option(
    "--batch",
    type=BatchOrDynamic(),
    default="1",
    show_default=True,
    help="Batch size that the file accepts, or dynamic for any.",
)
@click.option("--weights", type=PATH, help="Supernet or network file (.safetensors).")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of random weights, if no file is given.")
@click.option("--image-size", type=IMAGE_SIZE, help="Image size with random weights, if not the space's.")
@click.option("--classes", type=CLASSES, help="Classes with random weights, if not those of the space.")
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
@json_option
def export_network(
    space: str,
    arch: str | None,
    *,
    named: str | None,
    format_: str,
    out: Path,
    precision: str,
    batch: int | None,
    weights: Path | None,
    seed: int,
    image_size: int | None,
    classes: int | None,
    workspace_mb: int | None,
    optimization_level: int | None,
    timing_cache: Path | None,
    timing_cache_use: str | None,
    devices: str | None,
    as_json: bool,
) -> None:
    """Export a network and check it against torch.

    ARCH is the name of a published network, min, max, random:SEED, a JSON file or inline JSON. With a RUN of hwnas
    search or hwnas train it may be the id of a network of the run, which is exported with its weights. Leave ARCH out
    if --weights is a file of a single network.
    """
    if arch is not None and named is not None:
        raise click.UsageError("the network must be named once, as ARCH or with --arch")
    exported = write_network(
        space,
        named if arch is None else arch,
        format=format_,
        out=out,
        precision=precision,
        batch=batch,
        weights=weights,
        seed=seed,
        image_size=image_size,
        num_classes=classes,
        engine=EngineOptions(
            workspace_mb=workspace_mb,
            optimization_level=optimization_level,
            timing_cache=timing_cache,
            timing_cache_use=timing_cache_use,
            devices=tuple(name.strip() for name in (devices or "").split(",") if name.strip()),
        ),
    )
    if as_json:
        print_json(exported.to_mapping())
    else:
        _print(exported)


def _print(exported: ExportedNetwork) -> None:
    rows: list[tuple[str, object]] = [
        ("network", f"{exported.space} {exported.network_id}"),
        ("weights", exported.weights),
        ("precision", exported.precision),
        ("batch", "any" if exported.batch is None else exported.batch),
        ("exporter", exported.exporter),
        ("time", f"{exported.seconds:.1f} s"),
    ]
    parity = exported.parity
    sizes = " and ".join(map(str, parity.batches))
    rows.append(("checked with", f"{parity.runtime}, {parity.images} images in batches of {sizes}"))
    limit = f"tolerance in {parity.precision} {parity.tolerance:.1e}"
    rows.append(("largest difference", f"{parity.max_relative:.1e} of the largest logit, {limit}"))
    if parity.exact_relative is not None:
        rows.append(("without rounding", f"{parity.exact_relative:.1e}, tolerance {parity.exact_tolerance:g}"))
    rows.append(("top-1 agreement", f"{parity.top1_agreement:.0%}"))
    print_table(["", ""], rows)
    print_line()
    for file in exported.files:
        print_line(str(file))
