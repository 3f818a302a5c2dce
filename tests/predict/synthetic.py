"""Networks of a real space with times that follow a known law, and the arrays of what is fitted to them."""

from dataclasses import fields, is_dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hwnas.devices import DEVICES
from hwnas.predict.features.conditions import Conditions, conditions_of
from hwnas.predict.features.counting import population_features
from hwnas.predict.features.table import Features
from hwnas.space import SPACES

Numbers = NDArray[np.float64]
NOISE = 0.007


def cpu_conditions(*, batch: int = 1) -> Conditions:
    return Conditions(kind="cpu", op_per_s=1e11, byte_per_s=2e10, bytes_per_element=4, batch=batch)


def gpu_conditions(*, batch: int = 64) -> Conditions:
    return conditions_of(DEVICES.get("rtx4090"), precision="fp16", batch=batch)


@cache
def networks(count: int, *, space: str = "autoformer-tiny", seed: int = 0, counts: bool = False) -> Features:
    chosen = SPACES.get(space)
    genomes = chosen.sample(np.random.default_rng(seed), count)
    return population_features(chosen.workloads(genomes), cpu_conditions(), counts=counts)


def true_times(features: Features) -> Numbers:
    """A device on which everything takes about what it should, attention grows worse with its share."""
    factors = {name: 0.5 + (index * 7 % 10) / 10 for index, name in enumerate(sorted(features.cost_names))}
    times = sum(
        (0.004 if name.startswith("calls") else 1.0) * factors[name] * features.costs[:, column]
        for column, name in enumerate(features.cost_names)
    )
    total: Numbers = np.asarray(times, dtype=np.float64)
    return total


def measured_times(features: Features, *, seed: int = 1, noise: float = NOISE) -> Numbers:
    rng = np.random.default_rng(seed)
    times: Numbers = true_times(features) * np.exp(noise * rng.standard_normal(len(features)))
    return times


def arrays_of(value: object, name: str = "") -> dict[str, NDArray[np.generic]]:
    """All arrays inside a value, by where they are."""
    if isinstance(value, np.ndarray):
        return {name: value}
    if isinstance(value, tuple):
        parts = [(f"{name}[{place}]", part) for place, part in enumerate(value)]
    elif is_dataclass(value):
        parts = [(f"{name}.{field.name}", getattr(value, field.name)) for field in fields(value)]
    else:
        parts = []
    return {place: array for path, part in parts for place, array in arrays_of(part, path).items()}
