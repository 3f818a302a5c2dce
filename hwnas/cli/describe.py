"""`hwnas describe`: print one network and its costs."""

import click

from hwnas.cli.options import CLASSES, IMAGE_SIZE, json_option
from hwnas.cli.output import Column, print_json, print_line, print_table
from hwnas.pipeline.describe import Description
from hwnas.pipeline.describe import describe as describe_arch
from hwnas.space.arch import canonical_json


@click.command()
@click.argument("space", metavar="SPACE|RUN")
@click.argument("arch")
@click.option("--operations", is_flag=True, help="List all operations instead of sums by kind.")
@click.option("--image-size", type=IMAGE_SIZE, help="Image size in pixels, if not that of the space.")
@click.option("--classes", type=CLASSES, help="Number of classes, if not that of the space.")
@json_option
def describe(
    space: str, arch: str, *, operations: bool, image_size: int | None, classes: int | None, as_json: bool
) -> None:
    """Describe a network of a space and its costs.

    ARCH is the name of a published network, min or max (fewest or most MACs), random:SEED, a JSON file or inline JSON.
    Of a RUN of hwnas search or hwnas train it may also be an id. The first digits of an id, at least four, are enough
    if no other id of the run begins with them.
    """
    description = describe_arch(space, arch, image_size=image_size, num_classes=classes)
    if as_json:
        print_json(description.to_mapping())
        return
    _print_facts(description)
    print_line()
    if operations:
        print_line(str(description.workload), wrap=False)
    else:
        columns = [
            Column("kind"),
            *(Column(name, numeric=True) for name in ("number", "macs executed", "params", "share")),
        ]
        total = description.workload.macs_executed
        groups = description.workload.by_kind().items()
        rows = [
            (kind, len(part.operations), part.macs_executed, part.params, f"{part.macs_executed / total:.1%}")
            for kind, part in groups
        ]
        print_table(columns, rows)


def _print_facts(description: Description) -> None:
    images = f"{description.channels} x {description.image_size} x {description.image_size}"
    rows = [
        ("space", description.space),
        ("arch_id", description.arch_id),
        ("network_id", description.network_id),
        ("input", f"{images}, {description.num_classes} classes"),
        ("params", description.params),
        ("macs", description.macs),
        ("macs_relative", description.macs_relative),
        ("official_params", description.official_params),
        ("official_macs", description.official_macs),
    ]
    print_table(["", ""], [row for row in rows if row[0] != "macs_relative" or row[1]])
    print_line()
    print_line(canonical_json(description.arch.to_mapping()))
