"""Measurements that others made and published, as features and targets.

The folder holds `hat/*.csv` (HAT's latency sets) and `neusight/neusight_ops.csv.gz`; `measured_tables` reads timm's.
Features are made of operations and sizes, never of a model's name.
"""

import csv
import gzip
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwnas.devices import DEVICES
from hwnas.metrics import parse_metric
from hwnas.predict.arrays import Numbers
from hwnas.predict.features.conditions import Conditions, conditions_of
from hwnas.predict.features.counting import workload_features
from hwnas.predict.features.table import Features, features_of
from hwnas.predict.fit import Observations
from hwnas.predict.folds import Rows
from hwnas.workload import Linear, Workload

PLAIN = re.compile(r"vit_|deit|beit|eva|flexivit|cait|aimv2")
"""Plain vision transformers, by the beginning of their names."""

OTHER_VITS = re.compile(
    r"swin|xcit|pit_|twins|levit|convit|crossvit|coat|mvitv2|maxvit|maxxvit|nest|pvt|tnt|volo|visformer|edgenext"
    r"|mobilevit|efficientform|efficientvit|fastvit|gcvit|davit|tiny_vit|hiera|poolformer|caformer|convformer"
    r"|naflexvit|samvit|repvit|swiftformer|shvit|test_vit|nextvit|sequencer|vitamin|focalnet|csatv2"
)
"""The other families of vision transformers and their hybrids."""

_NEUSIGHT = {"a100-pcie-40gb": "NVIDIA A100-PCIE-40GB", "t4": "Tesla T4"}


@dataclass(frozen=True, kw_only=True)
class Data:
    """Measured networks: our features, whole-model counters for the simple baselines, and the target."""

    features: Features
    counters: Features
    target: Numbers
    families: Sequence[str] = ()
    observe: Callable[[Rows], Observations]
    """Some of the rows, as `fit_predictor` takes them."""


def hat_data(root: Path, name: str) -> Data:
    """Milliseconds of encoder and decoder together; the place in the file stands for the time of measurement."""
    rows = list(csv.DictReader((root / "hat" / f"{name}.csv").read_text().splitlines()))
    columns = [column for column in rows[0] if not column.startswith("latency")]
    raw = {column: _column(rows, column) for column in columns}
    target = _column(rows, "latency_mean_encoder") + _column(rows, "latency_mean_decoder")
    features, times = features_of(_hat_costs(raw), raw), np.arange(len(rows), dtype=np.float64)
    return Data(
        features=features,
        counters=features_of({column: np.maximum(values, 0) for column, values in raw.items()}),
        target=target,
        observe=lambda rows: _observed(features.take(rows), target[rows], times=times[rows]),
    )


def neusight_data(root: Path, device: str) -> Data:
    """Milliseconds of fp32 linears."""
    with gzip.open(root / "neusight" / "neusight_ops.csv.gz", "rt") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["OPName"] == "linear" and row["Device"] == _NEUSIGHT[device] and row["split"] == "train"
        ]
    sizes = np.stack([_column(rows, name) for name in ("B", "M", "N", "K")], axis=1).astype(int)
    workloads = [
        Workload((Linear(name="linear", tokens=int(b * m), inputs=int(k), outputs=int(n)),)) for b, m, n, k in sizes
    ]
    features = workload_features(workloads, conditions_of(DEVICES.get(device), precision="fp32"))
    b, m, n, k = sizes.T.astype(np.float64)
    target = _column(rows, "Latency")
    return Data(
        features=features,
        counters=features_of({"flops": b * m * n * k, "bytes": b * m * (n + k) + n * k, "m": b * m, "n": n, "k": k}),
        target=target,
        observe=lambda rows: _observed(features.take(rows), target[rows]),
    )


def _observed(features: Features, values: Numbers, *, times: Numbers | None = None) -> Observations:
    """Observations of features that are computed already: no prediction reads the conditions."""
    conditions = Conditions(kind="gpu", op_per_s=1e13, byte_per_s=1e12, bytes_per_element=4)
    metric = parse_metric("latency_ms@benchmark/torch/fp32/b1")
    return Observations(metric=metric, conditions=conditions, features=features, values=values, times=times)


def _hat_costs(raw: dict[str, Numbers]) -> dict[str, Numbers]:
    """Products of the sizes, as the operations of encoder and decoder have them."""
    wide, deep = raw["encoder_embed_dim"] / 1e3, raw["encoder_layer_num"]
    out, high = raw["decoder_embed_dim"] / 1e3, raw["decoder_layer_num"]
    return {
        "encoder": deep,
        "encoder.attention": deep * wide,
        "encoder.mlp": deep * wide * raw["encoder_ffn_embed_dim_avg"] / 1e3,
        "encoder.heads": deep * raw["encoder_self_attention_heads_avg"],
        "decoder": high,
        "decoder.attention": high * out,
        "decoder.mlp": high * out * raw["decoder_ffn_embed_dim_avg"] / 1e3,
        "decoder.heads": high * raw["decoder_self_attention_heads_avg"],
        "decoder.cross_heads": high * raw["decoder_ende_attention_heads_avg"],
        "decoder.cross": high * wide,
        "decoder.arbitrary": high * np.maximum(raw["decoder_arbitrary_ende_attn_avg"], 0) * wide,
        "vocabulary": out,
        "runs": np.ones(len(wide)),
    }


def _column(rows: Sequence[dict[str, str]], name: str) -> Numbers:
    return np.array([float(row[name]) for row in rows])
