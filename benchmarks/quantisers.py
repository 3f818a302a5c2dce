"""Graphs in int8 by several quantisers: how fast and exact they are, and whether speed depends on their scales.

    python -m benchmarks.quantisers [--networks AutoFormer-T,GLiT-T] [--rounds 25] [--nncf FOLDER] [--save]

Published networks with fresh weights at batch 1, on one thread of this CPU. Graphs of a network run in one process, in
a new random order each round, and their CPU time counts. A cell is the time as a share of onnxruntime's in fp32 in the
same round (median and quartiles), for onnxruntime and for OpenVINO, whose rest is in bf16 where the CPU has it; then
the seconds that quantising takes, calibration on 8 random images included, and the difference of the logits, as a share
of the largest.

Below, the scales: times of our graph with other scales, as shares of those with the scales of random images, which
profiles use. 'again' is the same graph in another session, twice: the noise of the comparison.

NNCF is not installed with hwnas: with `--nncf` the graphs that it made are read from a folder, NETWORK.onnx each.
"""

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import Tensor

from benchmarks.runtimes import DEVICE, setting_of, subject_of
from benchmarks.support.rounds import Spread, time_rounds
from benchmarks.support.saving import asked, markdown, save
from hwnas.export.onnx_graph import build_onnx
from hwnas.export.quantise import ActivationRange, calibrate, quantise, quantise_dynamically
from hwnas.profile.networks import build_subject, seeded_images
from hwnas.profile.parity import compare_outputs
from hwnas.profile.runners.onnxruntime import CpuSession
from hwnas.profile.runners.openvino import OpenVinoRunner, OpenVinoSession
from hwnas.profile.runners.runner import RuntimeSession

NETWORKS = ("AutoFormer-T", "ViTAS-C", "ViT-ResNAS-T", "GLiT-T")
NUM_IMAGES = 8
REFUSED = "onnxruntime, its defaults"
"""Graphs with int32 biases of convolutions, which OpenVINO 2026.4 cannot compile in bf16: it may crash the process."""
SCALES = ("again", "and again", "scales / 10", "scales x 10", "mse", "other images")


def batches(seed: int = 0, *, scale: float = 1.0) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return [scale * rng.standard_normal((1, 3, 224, 224), dtype=np.float32) for _ in range(NUM_IMAGES)]


class Reader:
    """Calibration images in the form that onnxruntime's quantiser reads."""

    def __init__(self) -> None:
        self._images: Iterator[Any] = iter(batches())

    def get_next(self) -> dict[str, Any] | None:
        images = next(self._images, None)
        return None if images is None else {"images": images}


def by_onnxruntime(model: ModelProto, *, only_linear: bool) -> ModelProto:
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (str(Path(folder) / name) for name in ("fp32", "prepared", "int8"))
        onnx.save(model, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        options: dict[str, Any] = {"per_channel": True}
        if only_linear:
            options["op_types_to_quantize"] = ["MatMul", "Gemm"]
            options["extra_options"] = {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
        quantize_static(prepared, target, Reader(), **options)
        return onnx.load(target)


def graphs(model: ModelProto, name: str, folder: Path | None) -> Iterator[tuple[str, ModelProto, float]]:
    """The graphs of a network and the seconds that each took."""
    makers: dict[str, Callable[[], ModelProto]] = {
        "float": lambda: model,
        "ours": lambda: quantise(model, calibrate(model, batches(), method="minmax")),
        "ours, dynamic": lambda: quantise_dynamically(model),
        "onnxruntime, linear layers": lambda: by_onnxruntime(model, only_linear=True),
        "onnxruntime, its defaults": lambda: by_onnxruntime(model, only_linear=False),
    }
    for label, make in makers.items():
        start = time.process_time()
        made = make()
        yield label, made, time.process_time() - start
    path = None if folder is None else folder / f"{name}.onnx"
    if path is not None and path.is_file():
        yield "NNCF", onnx.load(path), float("nan")


def open_sessions(
    model: ModelProto, images: Tensor, name: str, *, runtimes: Sequence[str]
) -> dict[str, RuntimeSession]:
    """A session of a graph in each runtime."""
    content, subject = model.SerializeToString(), subject_of(name)
    found: dict[str, RuntimeSession] = {}
    if "onnxruntime" in runtimes:
        found["onnxruntime"] = CpuSession(content, images, setting_of("onnxruntime", "fp32", batch=1, subject=subject))
    if "openvino" in runtimes:
        runner, setting = OpenVinoRunner(), setting_of("openvino", "int8", batch=1, subject=subject)
        core, plugin = runner._core_and_plugin(setting)
        options = runner._options(setting)
        found["openvino"] = OpenVinoSession(content, images, options=options, core=core, plugin=plugin)
    return found


def scaled(model: ModelProto) -> dict[str, ModelProto]:
    """Our graph with the scales of profiles, and with others."""

    def with_bounds(change: Callable[[float], float]) -> ModelProto:
        return quantise(model, {key: replace(found, bound=change(found.bound)) for key, found in ranges.items()})

    ranges: dict[str, ActivationRange] = calibrate(model, batches()[:1], method="minmax")
    return {
        "profile": with_bounds(lambda bound: bound),
        "again": with_bounds(lambda bound: bound),
        "and again": with_bounds(lambda bound: bound),
        "scales / 10": with_bounds(lambda bound: bound / 10),
        "scales x 10": with_bounds(lambda bound: bound * 10),
        "mse": quantise(model, calibrate(model, batches(), method="mse")),
        "other images": quantise(model, calibrate(model, batches(1, scale=0.2), method="minmax")),
    }


def measure(name: str, options: argparse.Namespace) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    subject = subject_of(name)
    module, images = build_subject(subject, seed=0), seeded_images(subject, batch=1, seed=0)
    model = build_onnx(module, input_shape=(3, 224, 224)).model
    sessions: dict[str, RuntimeSession] = {}
    facts: dict[str, tuple[str, str]] = {}
    expected = None
    for label, graph, seconds in graphs(model, name, options.nncf):
        runtimes = ("onnxruntime",) if label == REFUSED else ("onnxruntime", "openvino")
        for runtime, session in open_sessions(graph, images, name, runtimes=runtimes).items():
            sessions[f"{label} {runtime}"] = session
        outputs = sessions[f"{label} onnxruntime"].outputs()
        expected = outputs if expected is None else expected
        facts[label] = (f"{seconds:.2f}", f"{compare_outputs(outputs, expected).max_relative:.3f}")
    times = time_rounds(sessions, rounds=options.rounds, rng=np.random.default_rng(0))
    base = times["float onnxruntime"]
    rows = []
    for label, (seconds_, difference) in facts.items():
        cells = [
            Spread.of(times[key] / base).text(2) if key in times else "refused"
            for key in (f"{label} onnxruntime", f"{label} openvino")
        ]
        rows.append((name, label, *cells, seconds_, difference))
    return rows, scale_rows(model, name, images, rounds=options.rounds)


def scale_rows(model: ModelProto, name: str, images: Tensor, *, rounds: int) -> list[tuple[str, ...]]:
    sessions = {}
    made = list(scaled(model).items())
    # Where a session's memory lies can matter by a few percent, and it depends on what was opened before.
    for index in np.random.default_rng(2).permutation(len(made)):
        label, graph = made[index]
        for runtime, session in open_sessions(graph, images, name, runtimes=("onnxruntime", "openvino")).items():
            sessions[f"{label} {runtime}"] = session
    times = time_rounds(sessions, rounds=rounds, rng=np.random.default_rng(1))
    return [
        (
            name,
            runtime,
            *(Spread.of(times[f"{label} {runtime}"] / times[f"profile {runtime}"]).text(3) for label in SCALES),
        )
        for runtime in ("onnxruntime", "openvino")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="names, separated by commas")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--nncf", type=Path, help="a folder of graphs that NNCF made")
    parser.add_argument("--save", action="store_true", help="write the tables to benchmarks/results/")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    rows, scales = [], []
    for name in options.networks.split(","):
        own, other = measure(name, options)
        rows += own
        scales += other
        print(*own, *other, sep="\n", file=sys.stderr, flush=True)
    header = ("network", "graph", "onnxruntime", "openvino", "quantising, CPU s", "difference")
    text = f"{markdown(header, rows)}\n\n{markdown(('network', 'runtime', *SCALES), scales)}"
    print(text)
    if options.save:
        notes = (
            f"One thread, CPU time, {options.rounds} rounds; times over onnxruntime's in fp32: median and quartiles."
        )
        title, command = "Quantisers, and the scales of int8", f"python -m benchmarks.quantisers {asked()}"
        print(f"saved {save(text, name='quantisers', device=DEVICE, title=title, command=command, notes=notes)}")


if __name__ == "__main__":
    main()
