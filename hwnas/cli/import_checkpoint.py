"""`hwnas import`."""

from dataclasses import fields
from pathlib import Path

import click

from hwnas.cli.options import json_option
from hwnas.cli.output import print_json, print_line
from hwnas.pipeline.import_checkpoint import ImportedCheckpoint
from hwnas.pipeline.import_checkpoint import import_checkpoint as turn_into_ours


@click.command("import")
@click.argument("family")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--space", required=True, help="The space that the weights belong to.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write (.safetensors).")
@click.option("--arch", help="The network that the checkpoint is tuned to; without it, the file holds a supernet.")
@click.option("--image-size", type=click.IntRange(min=1), help="Interpolate positions to this image size.")
@click.option("--classes", type=click.IntRange(min=1), help="The number of classes, where it is not the space's.")
@click.option("--entry", help="The entry of FILE that holds the weights, where there are several.")
@click.option("--force", is_flag=True, help="Replace --out where it is there already.")
@json_option
def import_checkpoint(
    family: str,
    file: Path,
    *,
    space: str,
    out: Path,
    arch: str | None,
    image_size: int | None,
    classes: int | None,
    entry: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Turn an official checkpoint of AutoFormer, ViT-ResNAS, ViTAS, GLiT or Twins into a file of ours.

    Nothing in FILE is run: a checkpoint with code in it is refused.
    """
    imported = turn_into_ours(
        family,
        file,
        space=space,
        out=out,
        arch=arch,
        image_size=image_size,
        num_classes=classes,
        entry=entry,
        overwrite=force,
    )
    if as_json:
        values = {field.name: getattr(imported, field.name) for field in fields(imported)}
        print_json({**values, "arch": None if imported.arch is None else imported.arch.to_mapping()})
        return
    what = "a supernet" if imported.arch is None else f"the network {imported.arch_id}"
    print_line(f"{imported.path}: {what} of {imported.space}, {imported.params:,} parameters")
    print_line(f"from {file}{_entry(imported)}")


def _entry(imported: ImportedCheckpoint) -> str:
    if imported.entry is None:
        return ", which holds nothing else"
    others = f"; it also holds weights in {', '.join(imported.other_entries)} (--entry)"
    return f": its entry {imported.entry}{others if imported.other_entries else ''}"
