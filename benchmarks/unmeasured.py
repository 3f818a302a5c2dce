"""Error of predictions for unmeasured devices: each GPU of a folder of timm's tables is left out in turn.

    python -m benchmarks.unmeasured --tables DIR [--save]

DIR holds tables of timm's inference benchmark as they are published; they are imported into a temporary folder as by
`hwnas profiles import-timm`. Each GPU is predicted by a model of the others, of each device the newest version of
torch. Compared are scalings: the rates of compute and memory that a device is taken to sustain, by its datasheet. The
scaling `hwnas` is the one that `hwnas predict` uses.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.support.devices_out import run
from benchmarks.support.measured_tables import newest_tables
from benchmarks.support.public_data import PLAIN
from benchmarks.support.saving import Line
from hwnas.devices import Device
from hwnas.metrics import Metric
from hwnas.pipeline.predictors.measured_networks import known_device, match_models
from hwnas.pipeline.predictors.workloads import known_workloads
from hwnas.predict.features.counting import workload_features
from hwnas.predict.metrics import scores
from hwnas.predict.pooled import MeasuredDevice, pooled_predictor, sustained_conditions
from hwnas.profile.lookup import TableEntry
from hwnas.records.table import read_table

HEADER = ("runtime", "scaling", "device left out", "MAPE % plain", "all", "Spearman plain", "all", "coverage % of 90 %")
Rates = Callable[[Device], tuple[float, float]]


def _fp32(device: Device) -> float:
    return 2 * float(device.fp32_flop_per_s or 0)


def _tensor(device: Device) -> float:
    return float(device.fp16_flop_per_s or 0)


def _mean(first: float, second: float) -> float:
    return float(np.sqrt(first * second))


def _bandwidth(device: Device) -> float:
    return float(device.memory_byte_per_s or 0)


SCALINGS: dict[str, Rates | None] = {
    "hwnas": None,
    "tensor peak, bandwidth": lambda device: (_tensor(device), _bandwidth(device)),
    "2 x fp32 peak, bandwidth": lambda device: (_fp32(device), _bandwidth(device)),
    "2 x fp32 peak, √(bandwidth x compute)": lambda device: (
        _fp32(device),
        _mean(_bandwidth(device), _fp32(device) / 164),
    ),
    "√(tensor x 2 x fp32), bandwidth": lambda device: (_mean(_tensor(device), _fp32(device)), _bandwidth(device)),
    "√(tensor x 2 x fp32), √(bandwidth x compute)": lambda device: (
        _mean(_tensor(device), _fp32(device)),
        _mean(_bandwidth(device), _mean(_tensor(device), _fp32(device)) / 164),
    ),
}


def part_of(entry: TableEntry, rates: Rates | None) -> tuple[MeasuredDevice, list[str]]:
    """The rows of a table under the rates of a scaling, and the names of its models."""
    manifest, rows = read_table(entry.path)
    traced = known_workloads(entry.path.parents[1]).models
    pairs = [(row, traced.get((row.model, row.image_size))) for row in match_models(rows, manifest.match)]
    kept = [(row, workload) for row, workload in pairs if workload is not None]
    device = known_device({}, name=str(manifest.deployment.device))
    batches = np.array([row.batch for row, _ in kept])
    conditions = sustained_conditions(
        device,
        precision="fp16",
        batch=batches,
        runtime=str(manifest.deployment.runtime),
        autocast="autocast" in manifest.environment,
    )
    if rates is not None:
        op_per_s, byte_per_s = rates(device)
        conditions = replace(conditions, op_per_s=op_per_s, byte_per_s=byte_per_s)
    part = MeasuredDevice(
        device=device,
        features=workload_features([workload for _, workload in kept], conditions),
        target=1e3 * batches / np.array([row.throughput for row, _ in kept]),
        batches=batches.astype(np.float64),
        sources=(entry.name,),
    )
    return part, [row.model for row, _ in kept]


def lines_of(entries: Sequence[TableEntry]) -> Iterator[Line]:
    for runtime in ("torch-compile", "torch"):
        same = list(newest_tables(entries, runtime=runtime).values())
        for name, rates in SCALINGS.items():
            parts, models = zip(*(part_of(entry, rates) for entry in same), strict=True)
            deployment = same[0].manifest.deployment
            made = pooled_predictor(
                parts,
                device=parts[0].device,
                metric=Metric(name="latency_ms", deployment=deployment),
                conditions=sustained_conditions(parts[0].device, precision="fp16", runtime=runtime),
                environment={},
            )
            predicted = np.array([row.predicted for row in made.card.held_out])
            measured = np.array([row.measured for row in made.card.held_out])
            ends = np.cumsum([len(part.target) for part in parts])
            for part, names, end in zip(parts, models, ends, strict=True):
                rows = np.arange(end - len(names), end)
                plain = rows[[bool(PLAIN.match(model)) for model in names]]
                of_plain, of_all = (scores(predicted[chosen], measured[chosen]) for chosen in (plain, rows))
                yield (
                    runtime,
                    name,
                    part.device.name,
                    f"{100 * of_plain.mape:.1f}",
                    f"{100 * of_all.mape:.1f}",
                    f"{of_plain.spearman:.4f}",
                    f"{of_all.spearman:.4f}",
                    f"{100 * made.card.coverage_at(0.9):.0f}" if part is parts[0] else "",
                )


def main() -> None:
    run(
        lines_of,
        header=HEADER,
        name="unmeasured",
        title="Unmeasured devices",
        about=__doc__,
        notes="Mean error over the networks of a device left out, and Spearman's rank correlation: plain vision\n"
        "transformers, and all families. Coverage: of all devices left out, with intervals calibrated without them.",
    )


if __name__ == "__main__":
    main()
