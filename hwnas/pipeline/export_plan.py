"""`hwnas export PLAN`: write the networks of a measuring plan to files, for a device that is elsewhere."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hwnas.arguments import checked_arguments
from hwnas.errors import InputError
from hwnas.pipeline.export_network import EngineOptions, ExportedNetwork, export_network
from hwnas.pipeline.quantisation import QuantisationOptions
from hwnas.profile.plan import PlannedTask, load_plan
from hwnas.progress import NullReporter, Reporter


@dataclass(frozen=True, kw_only=True)
class ExportedPlan:
    """The files of a plan's networks."""

    device: str
    """The device that the plan is for."""
    networks: tuple[ExportedNetwork, ...]
    """One for each network and batch, in the order of the plan."""
    left_out: tuple[str, ...]
    """Networks of the plan that are not of its space: those of timm."""

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields as plain values, as `--json` prints them."""
        networks = [network.to_mapping() for network in self.networks]
        return {"device": self.device, "networks": networks, "left_out": list(self.left_out)}


@checked_arguments
def export_plan(
    plan: Path,
    *,
    out: Path,
    format: str = "onnx",
    engine: EngineOptions | None = None,
    quantisation: QuantisationOptions | None = None,
    reporter: Reporter | None = None,
) -> ExportedPlan:
    """Write each network of a plan to a folder, in the precision and the batches of the plan.

    Args:
        plan: A file that `hwnas profile --plan-only` wrote.
        out: The folder to write to.
        format: As for `export_network`. Engines of TensorRT for RTX are built for the device of the plan, unless the
            options name others.
        engine: Options of a TensorRT build.
        quantisation: Options of a plan in int8 or fp8, with the images for the scales.
        reporter: Receives a message for each file.

    Raises:
        CheckFailedError: The outputs of a file differ from torch's by more than rounding explains.
        InputError: The file is no plan or has no networks of a space, or the device is none that engines can be built
            for.
        MissingError: A library is not installed, or there is no GPU to build for.
        UsageError: The options contradict each other.
    """
    loaded, options, messages = load_plan(plan), engine or EngineOptions(), reporter or NullReporter()
    if format == "tensorrt-rtx" and not options.devices:
        options = replace(options, devices=(loaded.device,))
    distinct: dict[tuple[str, int], PlannedTask] = {}
    for task in loaded.tasks:
        distinct.setdefault((task.subject.network_id, task.setting.batch), task)
    of_space = [task for task in distinct.values() if task.subject.source == "space"]
    if loaded.space is None:
        hint = "hwnas profile --space SPACE --plan-only --out plan.jsonl"
        raise InputError(f"{plan} must have networks of a space to export", got="models of timm alone", hint=hint)
    networks = []
    for index, task in enumerate(of_space, start=1):
        exported = export_network(
            task.subject.name,
            dict(task.subject.arch or {}),
            out=out,
            format=format,
            precision=task.setting.precision,
            batch=task.setting.batch,
            seed=loaded.seed,
            num_classes=task.subject.num_classes,
            quantisation=quantisation,
            engine=options,
        )
        networks.append(exported)
        messages.message(f"{index} of {len(of_space)}: {exported.files[0]}")
    others = {task.subject.network_id for task in distinct.values() if task.subject.source != "space"}
    return ExportedPlan(device=loaded.device, networks=tuple(networks), left_out=tuple(sorted(others)))
