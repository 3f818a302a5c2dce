"""Tables of networks of a real space on several devices, whose times follow one law of their datasheets."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from hwnas.devices import DEVICES
from hwnas.metrics import ANY_BATCH, Deployment
from hwnas.pipeline.predictors.workloads import WORKLOADS
from hwnas.predict.features.counting import workload_features
from hwnas.predict.pooled import sustained_conditions
from hwnas.records.table import TableManifest, rows_digest, table_folder, write_table
from hwnas.records.workloads import TracedModels, save_workloads
from hwnas.runs import package_versions
from hwnas.space import SPACES
from hwnas.workload import Workload
from tests.predict.synthetic import Numbers, measured_times

BATCH = 256
SPACE = "autoformer-micro"


def networks(count: int) -> tuple[Workload, ...]:
    chosen = SPACES.get(SPACE)
    population = chosen.workloads(chosen.sample(np.random.default_rng(7), count))
    return tuple(population.workload(row) for row in range(count))


def device_times(device: str, workloads: tuple[Workload, ...], *, seed: int = 1) -> Numbers:
    conditions = sustained_conditions(
        DEVICES.get(device), precision="fp16", batch=BATCH, runtime="torch", autocast=True
    )
    return measured_times(workload_features(workloads, replace(conditions, num_sms=None)), seed=seed)


def write_tables(
    folder: Path, devices: Mapping[str, float] | None = None, *, count: int = 40, torch: str = "2.9.1"
) -> Path:
    """Tables of devices, each with a factor of its own, and the workloads of their networks."""
    workloads = networks(count)
    folder.mkdir(parents=True, exist_ok=True)
    traced = {(f"net_{row}", 224): workload for row, workload in enumerate(workloads)}
    version = package_versions(["timm"]).get("timm", "")
    save_workloads(TracedModels(timm=version, models=dict(traced)), folder / WORKLOADS)
    for seed, (device, factor) in enumerate((devices or {"rtx4090": 1.0, "rtx3090": 1.06}).items()):
        times = factor * device_times(device, workloads, seed=seed)
        lines = [f"net_{row},224,{BATCH},{1e3 * BATCH / ms:.6g}" for row, ms in enumerate(times)]
        text = "\n".join(["model,infer_img_size,infer_batch_size,infer_samples_per_sec", *lines]) + "\n"
        manifest = TableManifest(
            created_utc="2026-01-01T00:00:00+00:00",
            deployment=Deployment(device=device, runtime="torch", precision="fp16", batch=ANY_BATCH),
            source=f"made up for {device}",
            command=(),
            sha256=rows_digest(text),
            environment={"torch": torch, "autocast": "fp16"},
        )
        write_table(table_folder(folder, manifest), manifest, text)
    return folder
