"""Error of predictions for unmeasured devices: each GPU of a folder of timm's tables is left out in turn.

    python -m benchmarks.unmeasured --tables DIR [--save]

DIR holds tables of timm's inference benchmark as they are published; they are imported into a temporary folder as by
`hwnas profiles import-timm`. Each GPU is predicted by a model of the others, of each device the newest version of
torch. Compared are scalings: the rates of compute and memory that a device is taken to sustain, by its datasheet. The
scaling `hwnas` is the one that `hwnas predict` uses.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.support.measured_tables import newest_tables
from benchmarks.support.public_data import OTHER_VITS, PLAIN
from benchmarks.support.saving import save
from hwnas.data_paths import PROFILES, data_search_path
from hwnas.devices import Device, detect
from hwnas.metrics import Metric
from hwnas.pipeline.predictors.import_timm import ImportOptions, import_timm
from hwnas.pipeline.predictors.measured_networks import known_device, match_models
from hwnas.pipeline.predictors.workloads import WORKLOADS, known_workloads
from hwnas.predict.features.counting import workload_features
from hwnas.predict.metrics import scores
from hwnas.predict.pooled import MeasuredDevice, pooled_predictor, sustained_conditions
from hwnas.profile.lookup import TableEntry, table_entries
from hwnas.records.table import read_table

HEADER = ("runtime", "scaling", "device left out", "MAPE % plain", "all", "Spearman plain", "all", "coverage % of 90 %")
Line = tuple[str, ...]
Rates = Callable[[Device], tuple[float, float]]
MATCH = f"{PLAIN.pattern}|{OTHER_VITS.pattern}".replace("naflexvit|", "")


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


def imported(tables: Path, folder: Path) -> tuple[TableEntry, ...]:
    """Import the tables of GPUs; traces that ship are not made again."""
    for path, _ in data_search_path(PROFILES):
        if (path / WORKLOADS).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / WORKLOADS).write_bytes((path / WORKLOADS).read_bytes())
    files = [path for path in sorted(tables.glob("benchmark-infer-amp*.csv")) if "-cpu-" not in path.name]
    import_timm(files, ImportOptions(match=MATCH, out=folder))
    return table_entries(((folder, "own"),))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True, help="a folder of tables of timm's benchmark")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    options = parser.parse_args()
    rows: list[Line] = []
    with TemporaryDirectory() as folder:
        for line in lines_of(imported(options.tables, Path(folder))):
            rows.append(line)
            print(f"| {' | '.join(line)} |", flush=True)
    if options.save:
        table = "\n".join(f"| {' | '.join(line)} |" for line in [HEADER, tuple("---" for _ in HEADER), *rows])
        notes = (
            "Mean error over the networks of a device left out, and Spearman's rank correlation: plain vision\n"
            "transformers, and all families. Coverage: of all devices left out, with intervals calibrated without them."
        )
        path = save(
            table,
            name="unmeasured",
            device=detect().cpu.slug,
            title="Unmeasured devices",
            command="python -m benchmarks.unmeasured --tables DIR --save",
            notes=notes,
        )
        print(f"saved {path}")


if __name__ == "__main__":
    main()
