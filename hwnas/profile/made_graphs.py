"""Graphs of networks, made here with torch and measured where there is none."""

import hashlib
import io
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hwnas.errors import InputError
from hwnas.metrics import QUANTISED
from hwnas.profile.parity import Logits, expected_logits, parity_tolerance
from hwnas.profile.runners.runner import GraphRunner, load_runner
from hwnas.profile.worker_messages import GraphFiles
from hwnas.records import Setting, Subject

_MAKING = threading.Lock()
"""Several hosts wait for graphs in threads of their own, and torch's random state is one for all of them."""


@dataclass(frozen=True, kw_only=True)
class MadeGraph:
    """A network as an agent needs it."""

    files: GraphFiles
    """The payloads by their SHA-256, in place of paths."""
    payloads: Mapping[str, bytes]
    duration_s: float
    """Time that building and exporting took."""

    @property
    def graph_name(self) -> str:
        """Name of the payload that no other network has."""
        return self.files.graph


def make_graph(subject: Subject, setting: Setting, *, seed: int) -> MadeGraph:
    """Build a network with seeded weights, and export it to the graph that a runtime takes.

    Args:
        subject: The network.
        setting: Runtime, precision and batch.
        seed: Seed of weights and images.
    """
    from hwnas.profile.networks import build_subject, seeded_images

    runner = load_runner(setting.runtime)
    if not isinstance(runner, GraphRunner):
        message = f"{setting.runtime} must take ONNX graphs to run on another machine"
        raise InputError(message, hint="hwnas profile --plan there")
    with _MAKING:
        begin = time.perf_counter()
        module, images = build_subject(subject, seed=seed), seeded_images(subject, batch=setting.batch, seed=seed)
        expected, tolerance = expected_logits(module, images), None
        if setting.precision not in QUANTISED:
            tolerance = parity_tolerance(module, images, precision=setting.precision, runtime=setting.runtime)
        graph = runner.graph(module, images, setting)
        duration_s = time.perf_counter() - begin
    contents = {"graph": graph, "images": _saved(images), "expected": _saved(expected)}
    names = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    return MadeGraph(
        files=GraphFiles(**names, tolerance=tolerance),
        payloads={names[name]: data for name, data in contents.items()},
        duration_s=duration_s,
    )


def _saved(values: Logits) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(np.asarray(values), np.float32), allow_pickle=False)
    return buffer.getvalue()
