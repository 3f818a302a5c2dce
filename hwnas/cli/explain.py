"""`hwnas explain`: print where the time of a network goes."""

import click

from hwnas.cli.options import BATCH, THREADS, json_option
from hwnas.cli.output import Column, print_json, print_line, print_table
from hwnas.pipeline.explain import Explanation
from hwnas.pipeline.explain import explain as explain_network
from hwnas.profile.runtime_profile import TimedNodes

_MAX_ROWS = 16
"""Rows of a table of a runtime's profile; the others are summed up."""


@click.command()
@click.argument("space", metavar="SPACE|RUN")
@click.argument("arch")
@click.option(
    "--device", default="auto", show_default=True, help="Device of this machine, or any with a known datasheet."
)
@click.option("--batch", type=BATCH, default=1, show_default=True, help="Batch size.")
@click.option(
    "--precision", default="fp32", show_default=True, help="fp32, tf32, fp16, bf16, int8, int8-dynamic or fp8."
)
@click.option("--threads", type=THREADS, default=1, show_default=True, help="CPU threads.")
@click.option("--operations", is_flag=True, help="List all operations instead of groups.")
@json_option
def explain(
    space: str, arch: str, *, device: str, batch: int, precision: str, threads: int, operations: bool, as_json: bool
) -> None:
    """Explain where the time of a network goes.

    On a device of this machine, the time of each operation is shown, as the runtime reports it. If the peak rates of
    the device are known, the roofline time of each operation is shown as well. Hints say what limits the network, and
    on a CPU what int8, bf16 or fp16 does not speed up in ONNX Runtime and OpenVINO: products in another precision,
    Q/DQ pairs that did not fuse, and conversions. ARCH is the name of a published network, min, max, random:SEED, a
    JSON file or inline JSON, or the id of a network of a RUN.
    """
    found = explain_network(space, arch, device=device, batch=batch, precision=precision, threads=threads)
    if as_json:
        print_json(found.to_mapping())
        return
    print_line(f"{found.space} {found.network_id} on {found.deployment.device}, {precision}, batch {batch}")
    print_line()
    _print_measured(found)
    if operations:
        _print_operations(found)
    else:
        _print_groups(found)
    print_line()
    for hint in found.hints:
        print_line(f"- {hint}")


def _print_measured(found: Explanation) -> None:
    profile = found.measured
    if profile is None:
        return
    print_line(f"Measured by the profiler of {profile.runtime}, including its own overhead: {profile.total_ms:.3f} ms")
    _print_nodes("kind of node", profile.by_kind)
    _print_nodes("segment", profile.by_segment)


def _print_nodes(what: str, nodes: tuple[TimedNodes, ...]) -> None:
    if not nodes:
        return
    columns = (what, Column("nodes", numeric=True), Column("ms", numeric=True), Column("share", numeric=True))
    shown = nodes[:_MAX_ROWS]
    rows: list[tuple[object, ...]] = [
        (node.name, node.num_nodes, f"{node.time_ms:.3f}", f"{node.share:.1%}") for node in shown
    ]
    rest = nodes[_MAX_ROWS:]
    if rest:
        time, share = sum(node.time_ms for node in rest), sum(node.share for node in rest)
        rows.append((f"{len(rest)} more", sum(node.num_nodes for node in rest), f"{time:.3f}", f"{share:.1%}"))
    print_table(columns, rows)
    print_line()


def _print_groups(found: Explanation) -> None:
    columns: list[Column | str] = [
        "operation",
        "kind",
        Column("number", numeric=True),
        *_columns(found),
        "bound by",
    ]
    rows = [
        (
            group.name,
            group.kind,
            group.num_operations,
            group.macs,
            f"{group.intensity:.1f}",
            *(() if group.time_ms is None else (f"{group.time_ms * 1e3:.1f}",)),
            f"{group.share:.1%}",
            group.bound,
        )
        for group in found.groups
    ]
    print_line(_title(found))
    print_table(columns, rows)


def _print_operations(found: Explanation) -> None:
    columns: list[Column | str] = ["operation", "kind", *_columns(found), "bound by"]
    total = found.roofline_ms or sum(cost.macs for cost in found.operations) or 1
    rows = [
        (
            cost.name,
            cost.kind,
            cost.macs,
            f"{cost.intensity:.1f}",
            *(() if cost.time_ms is None else (f"{cost.time_ms * 1e3:.1f}",)),
            f"{(cost.macs if cost.time_ms is None else cost.time_ms) / total:.1%}",
            None if cost.memory_bound is None else "memory" if cost.memory_bound else "compute",
        )
        for cost in found.operations
    ]
    print_line(_title(found))
    print_table(columns, rows)


def _title(found: Explanation) -> str:
    if found.roofline_ms is None:
        return "Operations (the peak rates of this device are not known: shares are shares of MACs)"
    return f"Roofline: {found.roofline_ms:.3f} ms, without fusion and without launch overhead"


def _columns(found: Explanation) -> tuple[Column, ...]:
    time = () if found.roofline_ms is None else ("us",)
    return tuple(Column(name, numeric=True) for name in ("macs", "flop/byte", *time, "share"))
