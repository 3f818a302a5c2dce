"""`hwnas doctor`: print what this machine can measure."""

import click

from hwnas.cli.options import json_option
from hwnas.cli.output import print_json, print_line, print_table
from hwnas.devices import Gpu
from hwnas.pipeline.doctor import DoctorReport
from hwnas.pipeline.doctor import doctor as check_machine
from hwnas.pipeline.gpu_check import GpuReport, GpuSoftware


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
    if report.gpus.runtimes:
        runtimes = [(item.device, item.runtime, item.available, item.reason) for item in report.gpus.runtimes]
        print_table(["device", "runtime", "works", "why not"], runtimes, title="Runtimes on GPUs")
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
        *((f"GPU {gpu.index}", _gpu_text(gpu, report.gpus)) for gpu in machine.gpus),
        *_cuda_rows(report.gpus.software),
        *((item.plugin, f"{item.reported} ({item.device.name}), by OpenVINO") for item in machine.accelerators),
        ("device", f"{report.default_device or 'none'} (--device auto)"),
    ]


def _gpu_text(gpu: Gpu, report: GpuReport) -> str:
    memory = "shared memory" if gpu.memory_bytes is None else f"{gpu.memory_bytes / 2**30:.1f} GiB"
    text = f"{gpu.reported} ({gpu.device.name}), {memory}, driver {gpu.driver}"
    state = next((item for item in report.states if item.uuid == gpu.uuid), None)
    if state is None:
        return text
    capability = f", compute capability {state.compute_capability}" if state.compute_capability else ""
    if state.clock_mhz is None or state.max_clock_mhz is None:
        return f"{text}{capability}"
    # NVML can lock clocks but does not report that it did.
    return f"{text}{capability}, {state.clock_mhz} of {state.max_clock_mhz} MHz (no driver reports if they are locked)"


def _cuda_rows(software: GpuSoftware) -> list[tuple[str, str]]:
    versions = [
        ("driver", software.driver_cuda),
        ("torch", software.torch_cuda),
        ("onnxruntime", software.onnxruntime_cuda),
    ]
    named = [f"{name} {version[0]}.{version[1]}" for name, version in versions if version is not None]
    named += [f"{name} {major}" for name, major in (software.tensorrt_cuda or {}).items()]
    return [("CUDA", ", ".join(named))] if software.driver_cuda is not None else []
