"""Measurements that others made and published, as features and targets.

The folder holds `timm/*.csv` (timm's benchmark tables), `hat/*.csv` (HAT's latency sets) and
`neusight/neusight_ops.csv.gz`. Features are made of operations and sizes, never of a model's name.
"""

import csv
import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.support.timm_workloads import timm_workload
from hwnas.devices import DEVICES
from hwnas.devices.device import Device
from hwnas.predict.arrays import Numbers
from hwnas.predict.features.conditions import conditions_of
from hwnas.predict.features.counting import workload_features
from hwnas.predict.features.table import Features, features_of
from hwnas.workload import Linear, Workload

PLAIN = re.compile(r"vit_|deit|beit|eva|flexivit|cait|aimv2")
"""Plain vision transformers, by the beginning of their names."""

OTHER_VITS = re.compile(
    r"swin|xcit|pit_|twins|levit|convit|crossvit|coat|mvitv2|maxvit|maxxvit|nest|pvt|tnt|volo|visformer|edgenext"
    r"|mobilevit|efficientform|efficientvit|fastvit|gcvit|davit|tiny_vit|hiera|poolformer|caformer|convformer"
    r"|naflexvit|samvit|repvit|swiftformer|shvit|test_vit|nextvit|sequencer|vitamin|focalnet|csatv2"
)
"""The other families of vision transformers and their hybrids."""

TIMM_FILES = {
    "rtx4090-compiled": "benchmark-infer-amp-nchw-pt291-cu128-4090-dynamo.csv",
    "rtx4090-eager": "benchmark-infer-amp-nchw-pt291-cu128-4090.csv",
    "rtx3090-eager": "benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv",
    "i9-compiled": "benchmark-infer-fp32-nchw-pt240-cpu-i9_10940x-dynamo.csv",
}
_I9 = Device(name="intel-i9-10940x", kind="cpu", vendor="intel", architecture="cascade-lake")
_SETTINGS = {
    "rtx4090-compiled": (DEVICES.get("rtx4090"), "fp16", "torch-compile"),
    "rtx4090-eager": (DEVICES.get("rtx4090"), "fp16", "torch"),
    "rtx3090-eager": (DEVICES.get("rtx3090"), "fp16", "torch"),
    "i9-compiled": (_I9, "fp32", "torch-compile"),
}
_NEUSIGHT = {"a100-pcie-40gb": "NVIDIA A100-PCIE-40GB", "t4": "Tesla T4"}


@dataclass(frozen=True, kw_only=True)
class Data:
    """Measured networks: our features, whole-model counters for the simple baselines, and the target."""

    features: Features
    counters: Features
    target: Numbers
    names: Sequence[str]
    families: Sequence[str] = ()
    times: Numbers = field(default_factory=lambda: np.zeros(0))
    left_out: tuple[str, ...] = ()
    """Rows whose model this version of timm cannot build or trace."""


def timm_data(
    root: Path, key: str, *, cache: Path, all_families: bool = False, only: Sequence[str] | None = None
) -> Data:
    """Milliseconds of a batch of timm's vision transformers on one device."""
    rows, workloads, missing = [], [], []
    for row in csv.DictReader((root / "timm" / TIMM_FILES[key]).read_text().splitlines()):
        name, size = row["model"], int(row["infer_img_size"])
        if not (PLAIN.match(name) or (all_families and OTHER_VITS.match(name))) or (only and name not in only):
            continue
        workload = timm_workload(name, image_size=size, folder=cache)
        if workload is None:
            missing.append(name)
            continue
        rows.append(row)
        workloads.append(workload)
    batch = np.array([int(row["infer_batch_size"]) for row in rows])
    device, precision, runtime = _SETTINGS[key]
    autocast = precision == "fp16"
    conditions = conditions_of(device, precision=precision, batch=batch, runtime=runtime, autocast=autocast)
    return Data(
        features=workload_features(workloads, conditions),
        counters=_counters(rows, batch),
        target=1e3 * batch / _column(rows, "infer_samples_per_sec"),
        names=[row["model"] for row in rows],
        families=[_family(row["model"]) for row in rows],
        left_out=tuple(missing),
    )


def hat_data(root: Path, name: str) -> Data:
    """Milliseconds of encoder and decoder together; the place in the file stands for the time of measurement."""
    rows = list(csv.DictReader((root / "hat" / f"{name}.csv").read_text().splitlines()))
    columns = [column for column in rows[0] if not column.startswith("latency")]
    raw = {column: _column(rows, column) for column in columns}
    features = features_of(_hat_costs(raw), raw)
    return Data(
        features=features,
        counters=features_of({column: np.maximum(values, 0) for column, values in raw.items()}),
        target=_column(rows, "latency_mean_encoder") + _column(rows, "latency_mean_decoder"),
        names=[str(number) for number in range(len(rows))],
        times=np.arange(len(rows), dtype=np.float64),
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
    return Data(
        features=features,
        counters=features_of({"flops": b * m * n * k, "bytes": b * m * (n + k) + n * k, "m": b * m, "n": n, "k": k}),
        target=_column(rows, "Latency"),
        names=[f"{b}x{m}x{n}x{k}" for b, m, n, k in sizes],
    )


def _counters(rows: Sequence[dict[str, str]], batch: Numbers) -> Features:
    """What timm's table itself says of a whole model, for one run of the batch."""
    return features_of(
        {
            "gmacs": batch * np.maximum(_column(rows, "infer_gmacs"), 0.005),
            "mactivations": batch * _column(rows, "infer_macts"),
            "params": _column(rows, "param_count"),
            "image_size": _column(rows, "infer_img_size"),
        }
    )


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


def _family(name: str) -> str:
    """What is held out together: the name up to its first underscore; versions that share a code are one family."""
    if name.startswith("swinv2_cr"):
        return "swinv2_cr"
    return re.split(r"[_.]", name)[0]
