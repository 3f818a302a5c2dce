"""Golden networks: what the official code answers, with weights made by a rule from their names."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parents[1] / "data" / "golden"


def golden(name: str) -> dict[str, Any]:
    """One golden network: config, shapes of the official state dict, input, outputs."""
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def weights(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """The official state dict that the golden outputs were made with."""
    return {key: torch.from_numpy(_tensor(key, shape)) for key, shape in shapes.items()}


def images(record: dict[str, Any]) -> Tensor:
    """The input of a golden network."""
    random = np.random.RandomState(record["input"]["seed"])
    return torch.from_numpy(random.standard_normal(record["input"]["shape"]).astype(np.float32))


def assert_golden(output: Tensor, record: dict[str, Any], *, name: str = "logits") -> None:
    """The output is the official one, within 1e-5 (small networks) or 1e-4 (published ones) of its largest value."""
    expected = np.array(record["outputs"][name]["rows"]).reshape(record["outputs"][name]["shape"])
    bound = 1e-4 if record["input"]["shape"][-1] == 224 and len(record["shapes"]) > 60 else 1e-5
    np.testing.assert_allclose(output.detach().numpy(), expected, rtol=0, atol=bound * np.abs(expected).max())


def _tensor(key: str, shape: list[int]) -> Any:
    v = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    if key.endswith("running_var"):
        v = 0.5 + 0.5 * np.abs(v)
    elif key.endswith("running_mean"):
        v = 0.1 * v
    elif len(shape) == 1:
        v = 1 + 0.2 * v if key.endswith("weight") else 0.2 * v
    elif shape[0] == 1:
        v = 0.3 * v
    else:
        v = v * min(0.3, 1 / np.sqrt(np.prod(shape[1:])))
    return v.astype(np.float32)
