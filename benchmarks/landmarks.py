"""Choose the landmark networks that `hwnas profile --landmarks` measures.

    python -m benchmarks.landmarks

Candidates are the classifiers of timm whose workloads ship with hwnas, of a size that any device measures in seconds.
Half of them are kept: those whose time a model of other GPUs predicts best, but for a factor of the device (each
shipped table left out in turn). An error of a network's own would be taken for one of the device. A network is a point:
the predicted time, and the shares of the kinds of operations in it, on a CPU and on a GPU, by analytic models of the
shipped profiles and tables. Landmarks are chosen one by one so that all candidates and networks of hwnas' own spaces
are as near as possible to one of them (facility location), DeiT-Ti and DeiT-S first, which every campaign measures.
Prints the table for `hwnas/profile/landmarks.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.support.measured_tables import newest_tables
from benchmarks.unmeasured import part_of
from hwnas.data_paths import PROFILES, data_search_path
from hwnas.errors import InputError
from hwnas.pipeline.predictors.measured_networks import (
    MeasuredNetworks,
    known_device,
    measured_profile,
    measured_table,
)
from hwnas.pipeline.predictors.workloads import WORKLOADS, known_workloads
from hwnas.predict.arrays import Numbers
from hwnas.predict.features.counting import workload_features
from hwnas.predict.features.table import joined
from hwnas.predict.models import AnalyticLearner
from hwnas.predict.pooled import fit_pool
from hwnas.profile.lookup import TableEntry, profile_entries, table_entries
from hwnas.profile.reference import REFERENCE_NETWORKS
from hwnas.records.workloads import ModelKey
from hwnas.space import SPACES
from hwnas.workload import Workload

NUMBER = 10
MACS = (3e8, 2e10)
CLASSES = 1000
KEPT = 0.5
OF_EACH_SPACE = 50
SPACE_NAMES = ("autoformer-tiny", "glit-tiny", "resnas-tiny", "vitas-deit-small-shifted")
KINDS: Mapping[str, tuple[str, ...]] = {
    "linear": ("linear",),
    "attention": ("attention", "matmul", "relative", "softmax"),
    "convolution": ("convolution", "depthwise", "grouped", "patchify"),
    "norm": ("layer_norm", "batch_norm", "other_norm"),
    "elementwise": ("activation", "add", "mul", "elementwise", "float32"),
    "move": ("move", "pool", "table", "strided", "once"),
    "launch": ("calls", "runs"),
}


def measured() -> list[MeasuredNetworks]:
    """A CPU's profiles at batch 1 with ONNX Runtime, together, and the tables of compiled models on GPUs."""
    paths = data_search_path(PROFILES)
    of_cpu = [
        measured_profile(entry)
        for entry in profile_entries(paths)
        if entry.manifest.setting.runtime == "onnxruntime" and entry.manifest.setting.batch == 1
    ]
    tables = [entry for entry in table_entries(paths) if entry.manifest.deployment.runtime == "torch-compile"]
    return [*of_cpu, *map(measured_table, tables)]


def points(workloads: Sequence[Workload], parts: Sequence[MeasuredNetworks]) -> Numbers:
    """Standardised coordinates: by kind of device the logarithm of the predicted time, and shares of it."""
    columns = []
    for kind, batch in (("cpu", 1), ("gpu", 256)):
        same = [part for part in parts if part.device.kind == kind]
        model = AnalyticLearner().fit(
            joined([part.features for part in same]), np.concatenate([part.values["latency_ms"] for part in same])
        )
        features = workload_features(workloads, replace(same[0].conditions, batch=batch))
        costs = features.costs_by(model.cost_names) * model.coefficients
        groups = [name.partition(".")[0] for name in model.cost_names]
        total = costs.sum(axis=1)
        columns.append(np.log(total) / np.log(total).std())
        for names in KINDS.values():
            columns.append(costs[:, np.isin(groups, names)].sum(axis=1) / total / 0.1)
    return np.column_stack(columns)


def own_errors() -> dict[str, float]:
    """Mean error of a model of other GPUs by model of timm, without the median of each table."""
    errors: dict[str, list[float]] = {}
    entries = table_entries(data_search_path(PROFILES))
    for runtime in ("torch-compile", "torch"):
        same = list(newest_tables(entries, runtime=runtime).values())
        parts = [part_of(entry, None) for entry in same if known_device({}, name=_device(entry)).kind == "gpu"]
        for part, models in parts:
            model = fit_pool([other for other, _ in parts if other.device.name != part.device.name])
            logs = np.log(part.target / model.predict(part.features))
            for name, error in zip(models, np.abs(logs - np.median(logs)), strict=True):
                errors.setdefault(name.partition(".")[0], []).append(float(error))
    return {name: float(np.mean(values)) for name, values in errors.items()}


def _device(entry: TableEntry) -> str:
    return str(entry.manifest.deployment.device)


def choose(candidates: Numbers, all_points: Numbers, *, first: Sequence[int], allowed: Sequence[bool]) -> list[int]:
    """Rows of the candidates that bring all points near to one of them."""
    distance = np.sqrt(((all_points[:, None, :] - candidates[None, :, :]) ** 2).sum(axis=2))
    chosen = list(first)
    while len(chosen) < NUMBER:
        nearest = distance[:, chosen].min(axis=1)
        gain = np.maximum(nearest[:, None] - distance, 0.0).sum(axis=0)
        gain[[*chosen, *np.flatnonzero(~np.array(allowed))]] = -1.0
        chosen.append(int(np.argmax(gain.round(6))))
    return chosen


def is_classifier(key: ModelKey) -> bool:
    """Return True if timm builds the model, and it has ImageNet's classes and takes images of three channels."""
    from hwnas.profile.subjects import parse_timm_model

    try:
        subject = parse_timm_model(f"timm:{key[0]}")
    except InputError:
        return False
    return (subject.num_classes, subject.channels, subject.image_size) == (CLASSES, 3, key[1])


def landmarks() -> list[ModelKey]:
    """The names and image sizes of the landmarks, in the order in which they were chosen."""
    folder = next(path for path, _ in data_search_path(PROFILES) if (path / WORKLOADS).is_file())
    traced = known_workloads(folder)
    own = {(name, size): workload for (name, size), workload in traced.models.items() if workload is not None}
    kept = {
        key: workload
        for key, workload in own.items()
        if MACS[0] <= workload.macs <= MACS[1] and traced.own_sizes.get(key[0]) == key[1]
    }
    keys = list(kept)
    of_spaces = []
    for name in SPACE_NAMES:
        space = SPACES.get(name)
        population = space.workloads(space.sample(np.random.default_rng(0), OF_EACH_SPACE))
        of_spaces += [population.workload(row) for row in range(OF_EACH_SPACE)]
    coordinates = points([*kept.values(), *of_spaces], measured())
    first = [keys.index((subject.name, subject.image_size)) for subject in REFERENCE_NETWORKS]
    known = own_errors()
    errors = np.array([known.get(name, np.inf) for name, _ in keys])
    allowed = (errors <= np.quantile(errors[np.isfinite(errors)], KEPT)).tolist()
    while True:  # models that turn out not to be classifiers are left out, and the choice is made again
        chosen = choose(coordinates[: len(keys)], coordinates, first=first, allowed=allowed)
        others = [row for row in chosen if not is_classifier(keys[row])]
        if not others:
            return [keys[row] for row in chosen]
        for row in others:
            allowed[row] = False


def main() -> None:
    for name, size in landmarks():
        print(f'    ("{name}", {size}),')


if __name__ == "__main__":
    main()
