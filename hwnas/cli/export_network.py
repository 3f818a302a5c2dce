"""`hwnas export`."""

from pathlib import Path

import click

from hwnas.cli.options import json_option
from hwnas.cli.output import print_json, print_line, print_table
from hwnas.export.tensorrt import TIMING_CACHE_USES
from hwnas.pipeline.export_network import FORMATS, EngineOptions, ExportedNetwork
from hwnas.pipeline.export_network import export_network as write_network


@click.command("export")
@click.argument("space", metavar="SPACE|RUN")
@click.argument("arch", required=False)
@click.option("--arch", "named", metavar="ARCH", help="The network, in place of the argument.")
@click.option("--format", "format_", type=click.Choice(FORMATS), default="onnx", show_default=True, help="The form.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write to.")
@click.option("--precision", default="fp32", show_default=True, help="fp32, fp16 or bf16; of an engine also tf32.")
@click.option("--batch", default="1", show_default=True, help="A number of images, or dynamic for any.")
@click.option("--weights", type=click.Path(path_type=Path), help="A file of a supernet or a network (.safetensors).")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides fresh weights, where no file is given.")
@click.option("--image-size", type=click.IntRange(min=1), help="Of fresh networks, where it is not the space's.")
@click.option("--classes", type=click.IntRange(min=1), help="Of fresh networks, where it is not the space's.")
@click.option("--workspace-mb", type=int, help="Of an engine: scratch memory that a layer may take (all).")
@click.option("--optimization-level", type=int, help="Of an engine: 0 to 5, how long to look for kernels (3).")
@click.option("--timing-cache", type=click.Path(path_type=Path), help="Of an engine: a file of kernel timings.")
@click.option(
    "--timing-cache-use", type=click.Choice(TIMING_CACHE_USES), help="Of an engine: how that file is used (extend)."
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
    batch: str,
    weights: Path | None,
    seed: int,
    image_size: int | None,
    classes: int | None,
    workspace_mb: int | None,
    optimization_level: int | None,
    timing_cache: Path | None,
    timing_cache_use: str | None,
    as_json: bool,
) -> None:
    """Write one network to files that run without hwnas, checked against torch.

    ARCH is a published name, min or max, random:SEED, a JSON file or inline JSON; it may be left out where --weights is
    a file of one network. Of a RUN of hwnas search or hwnas train it is also the id of one of its networks, which is
    written with the weights that it has there.
    """
    exported = write_network(
        space,
        one_of(arch, named),
        format=format_,
        out=out,
        precision=precision,
        batch=parse_batch(batch),
        weights=weights,
        seed=seed,
        image_size=image_size,
        num_classes=classes,
        engine=EngineOptions(
            workspace_mb=workspace_mb,
            optimization_level=optimization_level,
            timing_cache=timing_cache,
            timing_cache_use=timing_cache_use,
        ),
    )
    if as_json:
        print_json(exported.to_mapping())
    else:
        _print(exported)


def one_of(arch: str | None, named: str | None) -> str | None:
    """The network, named once."""
    if arch is not None and named is not None:
        raise click.UsageError("the network must be named once, as ARCH or with --arch")
    return named if arch is None else arch


def parse_batch(text: str) -> int | None:
    """A number of images, or None for any."""
    if text in ("any", "dynamic"):
        return None
    if not text.isdecimal() or int(text) < 1:
        raise click.UsageError(f"--batch must be a number above 0, or dynamic, and is {text!r}")
    return int(text)


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
    rows.append(("checked with", f"{parity.runtime}, on {parity.images} images in batches of {sizes}"))
    limit = f"{parity.tolerance:.1e} is allowed in {parity.precision}"
    rows.append(("largest difference", f"{parity.max_relative:.1e} of the largest logit of torch, {limit}"))
    if parity.exact_relative is not None:
        rows.append(("without rounding", f"{parity.exact_relative:.1e}, {parity.exact_tolerance:g} is allowed"))
    rows.append(("top-1 agreement", f"{parity.top1_agreement:.0%}"))
    print_table(["", ""], rows)
    print_line()
    for file in exported.files:
        print_line(str(file))
