"""Measure, export and trace any torch module, with an example input in place of a space."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.arguments import checked_arguments
from hwnas.config import Between
from hwnas.devices import Machine, detect, require, resolve
from hwnas.errors import InputError, unknown
from hwnas.frames import Frame, to_frame
from hwnas.metrics import Deployment
from hwnas.profile.options import MAX_PAIRS
from hwnas.profile.reference import REFERENCE
from hwnas.profile.statistics import (
    MIN_RUNS,
    latency_interval,
    latency_ms,
    reference_latency_ms,
    stability_verdict,
    throughput,
)
from hwnas.profile.timing import PAIRS
from hwnas.records import OutputParity, Samples, Setting
from hwnas.workload import Workload

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hwnas.export.export import ExportedModule

SUFFIXES = {".onnx": "onnx", ".pt2": "pt2", ".safetensors": "safetensors"}
"""The format of a file, by its ending."""

_SAME_OUTPUTS = 1e-3
"""Largest difference of two runs with the same images, as a share of the largest output; noise is far smaller."""


@dataclass(frozen=True, kw_only=True)
class ModuleMeasurement:
    """Latency of a module on a device of this machine."""

    deployment: Deployment
    latency_ms: float
    """Latency of one batch without other load: the ratio to the reference network, times its latency."""
    lower_ms: float
    upper_ms: float
    """The ends of the 95 % interval of the runs."""
    throughput: float
    """Images per second."""
    memory_mb: float | None
    """Memory while it runs, weights included; None where the runtime does not report it."""
    energy_j: float | None
    """Energy of one run; None where the device does not measure it."""
    is_stable: bool
    problem: str
    """Why the measurement is unstable; empty if it is stable."""
    parity: OutputParity
    """Comparison of the outputs with those of torch in float32."""
    samples: Samples
    reference: Samples
    """The runs of the module, and those of the reference network in between."""

    def to_frame(self) -> Frame:
        """Return the runs as a data frame, in milliseconds of wall, CPU and device time.

        A pair has as many rows as the faster network has samples in it; the values of the other one are NaN in all but
        the first.
        """
        num_rows, num_pairs = (pick(len(self.samples.wall_ns), len(self.reference.wall_ns)) for pick in (max, min))
        columns: dict[str, list[object]] = {"pair": [row * num_pairs // num_rows for row in range(num_rows)]}
        for prefix, runs in (("", self.samples), ("reference_", self.reference)):
            for clock in ("wall", "cpu", "device"):
                values = getattr(runs, f"{clock}_ns")
                if values:
                    column: list[object] = [math.nan] * num_rows
                    column[:: num_rows // len(values)] = [value / 1e6 for value in values]
                    columns[f"{prefix}{clock}_ms"] = column
        return to_frame(columns)

    def __str__(self) -> str:
        unstable = "" if self.is_stable else f", unstable: {self.problem}"
        return f"{self.latency_ms:.4g} ms ({self.lower_ms:.4g} to {self.upper_ms:.4g}){unstable}"


@checked_arguments
def measure_module(
    module: "nn.Module",
    example_input: "Tensor",
    *,
    device: str = "auto",
    runtime: str | None = None,
    precision: str = "fp32",
    threads: int = 1,
    pairs: int = PAIRS,
    machine: Machine | None = None,
) -> ModuleMeasurement:
    """Measure the latency of a module on a device of this machine.

    A copy of the module runs strictly in turn with DeiT-Ti in this process, after its outputs were compared with those
    of torch. The module itself is left as it is.

    Args:
        module: A module with one tensor as input and one as output; it is measured in evaluation mode.
        example_input: A batch of images of shape (batch, channels, height, width); its size is the batch size.
        device: A device of this machine: its name, `"cpu"` or `"auto"`.
        runtime: The runtime; by default the preferred one that is available.
        precision: `"fp32"`, `"fp16"`, `"bf16"` or `"tf32"`, as far as the runtime supports it.
        threads: Threads on a CPU.
        pairs: Turns of each of the two networks; the faster one has up to four samples in each.
        machine: The machine; None: this one.

    Returns:
        Latency with its interval, throughput, memory, and all runs.

    Raises:
        InputError: The module cannot be copied, run or exported, does not return one tensor that depends on the images
            alone, or the runtime's outputs differ from those of torch.
        MissingError: The device or the runtime is not available.
    """
    from hwnas.profile.network_timer import NetworkTimer
    from hwnas.profile.runners.runner import default_runtime
    from hwnas.profile.worker_messages import MeasurementTask

    network, images = _copy_and_images(module, example_input)
    name = resolve(device, machine=machine or detect())
    chosen = default_runtime(require(name)) if runtime is None else runtime
    Between(MIN_RUNS, MAX_PAIRS).check(pairs, where="pairs")
    setting = Setting(
        deployment=Deployment(device=name, runtime=chosen, precision=precision, batch=len(images), threads=threads),
        exporter="module" if chosen.startswith("torch") else "dynamo",
    )
    task = MeasurementTask(subject=REFERENCE, setting=setting, seed=0, pairs=pairs)
    timer = NetworkTimer()
    try:
        result = timer.measure(task, network=(network, images))
    finally:
        timer.close()
    if result.failure is not None:
        message = f"the module must run on {chosen} and give the outputs of torch"
        raise InputError(message, got=f"{result.failure.reason}: {result.failure.message}", hint='runtime="torch"')
    assert result.samples is not None
    assert result.reference is not None
    assert result.parity is not None
    reference_ms = reference_latency_ms([result.reference])
    interval = latency_interval(result.samples, result.reference, reference_ms=reference_ms, seed=0)
    states = (result.before, result.during, result.after)
    verdict = stability_verdict(result.samples, result.reference, states=states, limited=result.limited)
    value = latency_ms(result.samples, result.reference, reference_ms=reference_ms)
    return ModuleMeasurement(
        deployment=setting.deployment,
        latency_ms=value,
        lower_ms=interval.low_ms,
        upper_ms=interval.high_ms,
        throughput=throughput(value, batch=len(images)),
        memory_mb=result.memory_mb,
        energy_j=result.energy_j,
        is_stable=verdict.stable,
        problem=verdict.reason,
        parity=result.parity,
        samples=result.samples,
        reference=result.reference,
    )


@checked_arguments
def export_module(
    module: "nn.Module",
    example_input: "Tensor",
    path: Path,
    *,
    precision: str = "fp32",
    dynamic_batch: bool = False,
) -> "ExportedModule":
    """Export a module to a file, after comparing its outputs with those of torch.

    Args:
        module: A module with one tensor as input and one as output; it is exported in evaluation mode and left as it
            is.
        example_input: A batch of images of shape (batch, channels, height, width); its size is the batch size.
        path: The file: `.onnx`, `.pt2` (a program of torch.export) or `.safetensors` (the weights alone).
        precision: The precision inside the file: `"fp32"`, `"fp16"` or `"bf16"`. Inputs and outputs stay float32.
        dynamic_batch: Accept any batch size.

    Returns:
        The files that were written, and the comparison with torch.

    Raises:
        InputError: The format is unknown, the module cannot be copied, run or exported, or it does not return one
            tensor that depends on the images alone.
        CheckFailedError: The outputs of the file differ from those of torch.
    """
    from hwnas.export.export import export_module as export

    if path.suffix not in SUFFIXES:
        raise unknown("file format", path.suffix or path.name, SUFFIXES)
    network, images = _copy_and_images(module, example_input)
    return export(
        network,
        format=SUFFIXES[path.suffix],
        path=path,
        input_shape=tuple(images.shape[1:]),
        precision=precision,
        batch=None if dynamic_batch else len(images),
    )


@checked_arguments
def trace_workload(module: "nn.Module", example_input: "Tensor") -> Workload:
    """Return the operations of a module for one image, as predictors read them.

    Args:
        module: A module with one tensor as input and one as output.
        example_input: A batch of images of shape (batch, channels, height, width); only the image size matters.

    Returns:
        The operations with their sizes, and from them MACs, parameters and bytes moved.

    Raises:
        InputError: An operation of the module is not supported.
    """
    from hwnas.export.tracer import trace_module

    _require_module(module)
    return trace_module(module, input_shape=(1, *_images(example_input).shape[1:]))


def _images(example_input: "Tensor") -> "Tensor":
    import torch

    message = "the example input must be a batch of images, float32 of (batch, channels, height, width)"
    if not isinstance(example_input, torch.Tensor):
        raise InputError(message, got=type(example_input).__name__, hint="torch.randn(1, 3, 224, 224)")
    if example_input.ndim != 4 or not example_input.numel() or not example_input.is_floating_point():
        raise InputError(message, got=f"{example_input.dtype} of {tuple(example_input.shape)}")
    return example_input.detach().float().cpu().contiguous()


def _require_module(module: "nn.Module") -> None:
    from torch import nn

    if not isinstance(module, nn.Module):
        raise InputError("the module must be a torch.nn.Module", got=type(module).__name__, hint="wrap it in one")


def _copy_and_images(module: "nn.Module", example_input: "Tensor") -> tuple["nn.Module", "Tensor"]:
    """Return a float32 copy of a module in evaluation mode, and the images, after two runs that must agree."""
    import torch

    from hwnas.export.precision import copy_in_precision

    _require_module(module)
    images = _images(example_input)
    module = getattr(module, "_orig_mod", module)  # inside torch.compile's wrapper
    try:
        network = copy_in_precision(module, "fp32")
    except Exception as error:  # of any type: it is the caller's own code, here and below
        hint = "run lazy modules once before, and leave out what cannot be copied (locks, open files, results)"
        raise InputError("the module must be one that can be copied", got=_first_line(error), hint=hint) from error
    try:
        with torch.inference_mode():
            first, second = (network(images.clone()) for _ in range(2))
    except Exception as error:
        message = f"the module must accept images of shape {tuple(images.shape)} on the CPU"
        hint = "an example input of the size and with the channels that the module was built for"
        raise InputError(message, got=_first_line(error), hint=hint) from error
    if not isinstance(first, torch.Tensor) or not first.is_floating_point() or first.shape[:1] != images.shape[:1]:
        got = f"{first.dtype} of {tuple(first.shape)}" if isinstance(first, torch.Tensor) else type(first).__name__
        hint = "wrap it in a module that returns its logits alone"
        raise InputError("the module must return one tensor of numbers, with a row per image", got=got, hint=hint)
    if not first.numel() or not first.isfinite().all():
        raise InputError("the outputs of the module must be finite numbers", got="NaN, infinity or none at all")
    if first.shape != second.shape or (first - second).abs().max() > _SAME_OUTPUTS * first.abs().max():
        hint = "leave out randomness and counters in forward()"
        raise InputError("the module must give the same outputs for the same images", got="other ones", hint=hint)
    return network, images


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
