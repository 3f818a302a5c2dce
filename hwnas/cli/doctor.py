"""`hwnas doctor`: print what this machine can measure."""

import click

from hwnas.cli.options import json_option
from hwnas.cli.output import print_json, print_line, print_table
from hwnas.devices import Gpu
from hwnas.pipeline.doctor import DoctorReport
from hwnas.pipeline.doctor import doctor as check_machine


@click.command()
@json_option
def doctor(*, as_json: bool) -> None:
    """Check the devices, runtimes and packages of this machine.

    What is missing is listed with what it costs you and how to install it.
    """
    report = check_machine()
    if as_json:
        print_json(report)
    else:
        _print(report)


def _print(report: DoctorReport) -> None:
    print_table(["", ""], _machine_rows(report), title="Machine")
    print_line()
    rows = [(item.name, item.installed, item.required or "any", item.accepted) for item in report.packages]
    print_table(["package", "installed", "needed", "good"], rows, title="Packages")
    print_line()
    if not report.findings:
        print_line("Nothing is missing.")
    for finding in report.findings:
        print_line(f"{finding.subject}: {finding.problem}")
        print_line(f"  costs   {finding.cost}")
        print_line(f"  try     {finding.remedy}")


def _machine_rows(report: DoctorReport) -> list[tuple[str, str]]:
    env, machine = report.environment, report.machine
    commit = f" at {env.commit[:12]}{' + changes' if env.modified else ''}" if env.commit else ""
    cpu = machine.cpu
    sets = " ".join(cpu.instruction_sets) or "instruction sets not known"
    return [
        ("hwnas", f"{env.hwnas}{commit}"),
        ("Python", env.python),
        ("system", f"{env.system} {env.release} {env.machine}"),
        ("CPU", f"{cpu.model}, {cpu.num_cores} core{'' if cpu.num_cores == 1 else 's'}, {sets}"),
        *((f"GPU {gpu.index}", _gpu_text(gpu)) for gpu in machine.gpus),
        *((item.plugin, f"{item.reported} ({item.device.name}), by OpenVINO") for item in machine.accelerators),
        ("device", f"{report.default_device} (--device auto)"),
    ]


def _gpu_text(gpu: Gpu) -> str:
    memory = "shared memory" if gpu.memory_bytes is None else f"{gpu.memory_bytes / 2**30:.1f} GiB"
    return f"{gpu.reported} ({gpu.device.name}), {memory}, driver {gpu.driver}"
