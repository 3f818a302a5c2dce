"""`hwnas import`: convert an official checkpoint to a file of hwnas."""

from dataclasses import fields
from pathlib import Path

import click

from hwnas.cli.options import CLASSES, IMAGE_SIZE, PATH, json_option
from hwnas.cli.output import print_json, print_line
from hwnas.pipeline.import_checkpoint import ImportedCheckpoint
from hwnas.pipeline.import_checkpoint import import_checkpoint as convert_checkpoint


@click.command("import")
@click.argument("family")
@click.argument("file", type=PATH)
@click.option("--space", required=True, help="Space of the weights.")
@click.option("--out", required=True, type=PATH, help="File to write (.safetensors).")
@click.option("--arch", help="Network that the checkpoint holds; leave out for a supernet.")
@click.option("--image-size", type=IMAGE_SIZE, help="Image size to interpolate position embeddings to.")
@click.option("--classes", type=CLASSES, help="Number of classes, if not that of the space.")
@click.option("--entry", help="Entry of FILE with the weights, if it has several.")
@click.option("--force", is_flag=True, help="Overwrite --out.")
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
    """Convert an official checkpoint.

    FAMILY is autoformer, resnas, vitas, vitas-twins or glit. No code from FILE is executed: a checkpoint that contains
    code is refused.
    """
    imported = convert_checkpoint(
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
    print_line(f"from {file}{_entry_text(imported)}")


def _entry_text(imported: ImportedCheckpoint) -> str:
    if imported.entry is None:
        return ""
    others = f" (weights are also in {', '.join(imported.other_entries)}: --entry)" if imported.other_entries else ""
    return f", entry {imported.entry}{others}"
