"""From an arch to a runnable onnxruntime session: composed from templates, beside `torch.onnx.export(dynamo=True)`.

    python -m benchmarks.export_rate [--spaces autoformer-tiny,glit-tiny] [--networks 20] [--naive 5] [--save]

Both sides take the network out of the same supernet, make the graph and open a session on it: the naive one on the
serialised graph, the composed one on the graph as it is, which hands large weights over without a copy. Templates
are learned first, on other random networks of the space, in an empty cache; what that takes is shown as `cold`. An
export that a timed network still needs is part of its time. The naive side is run on the first `--naive` networks, and
on these the two are compared: outputs, operators of the graph that onnxruntime makes of them, and its speed (CPU time
of one thread, runs taken in turn, the 20 % quantile of each). All weights are drawn at random, those of norms too.
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from benchmarks.support.saving import asked, markdown, save
from hwnas.devices import detect
from hwnas.export.compose import compose
from hwnas.export.onnx_session import open_session
from hwnas.export.templates import TemplateStore
from hwnas.space import SPACES
from hwnas.space.space import AnySpace
from hwnas.supernet.families import make_supernet

SPACE_NAMES = ("autoformer-tiny", "resnas-tiny", "vitas-deit-small-shifted", "glit-tiny")
HEADER = (
    *(
        "space",
        "cold: networks, exports, CPU s",
        "composed, CPU s",
        "composed, wall s",
        "naive, CPU s",
        "naive, wall s",
    ),
    *("ratio CPU", "ratio wall", "exports while timed", "largest difference", "same optimised graph", "speed ratio"),
)
RUNS = 40
"""Timed runs of each session."""


@dataclass
class Side:
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def time(self, task: Callable[[], Any]) -> Any:
        cpu, wall = time.process_time(), time.perf_counter()
        found = task()
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)
        return found


def random_supernet(space: AnySpace) -> Any:
    torch.manual_seed(0)
    supernet = make_supernet(space)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return supernet.eval()


def naive_session(supernet: Any, arch: Any, images: torch.Tensor) -> tuple[onnxruntime.InferenceSession, bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(supernet.subnet(arch), (images,), dynamo=True, verbose=False)
    assert program is not None
    content = program.model_proto.SerializeToString()
    return open_session(content), content


def composed_session(
    supernet: Any, arch: Any, store: TemplateStore
) -> tuple[onnxruntime.InferenceSession, onnx.ModelProto, int]:
    composition = compose(supernet.subnet(arch), input_shape=supernet.space.config.input_shape, store=store)
    return open_session(composition.model), composition.model, len(composition.exported)


def operators(content: bytes) -> Counter[str]:
    """Kinds of operators in the graph that onnxruntime runs."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def speed_ratio(one: onnxruntime.InferenceSession, other: onnxruntime.InferenceSession, images: Any) -> float:
    """The 20 % quantile of the one's CPU time by the other's; the runs alternate, and so does which goes first."""
    times: dict[int, list[float]] = {0: [], 1: []}
    for index in range(RUNS + 5):
        for which in ((0, 1), (1, 0))[index % 2]:
            session = (one, other)[which]
            start = time.thread_time()
            session.run(None, {session.get_inputs()[0].name: images})
            times[which].append(time.thread_time() - start)
    return float(np.quantile(times[0][5:], 0.2) / np.quantile(times[1][5:], 0.2))


def measure(name: str, options: argparse.Namespace, folder: Path) -> tuple[str, ...]:
    space = SPACES.get(name)
    supernet, shape = random_supernet(space), space.config.input_shape
    images = torch.randn(1, *shape)
    store, cold, exports = TemplateStore(folder / name), Side(), []
    composed_session(supernet, space.largest(), TemplateStore(None))  # imports, and first calls
    for arch in space.decode(space.sample(np.random.default_rng(1), options.warmup)):
        exports.append(cold.time(partial(composed_session, supernet, arch, store))[2])
    composed, naive, late = Side(), Side(), 0
    differences, ratios, same = [], [], 0
    for index, arch in enumerate(space.decode(space.sample(np.random.default_rng(0), options.networks))):
        session, model, count = composed.time(partial(composed_session, supernet, arch, store))
        late += count
        if index < options.naive:
            other, original = naive.time(partial(naive_session, supernet, arch, images))
            outputs = [one.run(None, {one.get_inputs()[0].name: images.numpy()})[0] for one in (session, other)]
            differences.append(float(np.abs(outputs[0] - outputs[1]).max()))
            same += operators(model.SerializeToString()) == operators(original)
            ratios.append(speed_ratio(session, other, images.numpy()))
        print(f"{name} {index}: {composed.cpu[-1]:.3f} s, {count} exports", file=sys.stderr, flush=True)
    return (
        name,
        f"{options.warmup}, {sum(exports)}, {sum(cold.cpu):.0f}",
        *(spread(seconds) for side in (composed, naive) for seconds in (side.cpu, side.wall)),
        f"{median(naive.cpu) / median(composed.cpu):.1f}x",
        f"{median(naive.wall) / median(composed.wall):.1f}x",
        str(late),
        f"{max(differences):.1e}",
        f"{same} of {len(differences)}",
        spread(ratios),
    )


def spread(values: list[float]) -> str:
    return f"{median(values):.3f} ({min(values):.3f} – {max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", default=",".join(SPACE_NAMES), help="names, separated by commas")
    parser.add_argument("--networks", type=int, default=20, help="timed networks of each space")
    parser.add_argument("--naive", type=int, default=5, help="those of them that the naive side is run on as well")
    parser.add_argument("--warmup", type=int, default=12, help="other networks that the templates are learned on")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(name, options, Path(folder)) for name in options.spaces.split(",")]
    print(text := markdown(HEADER, rows))
    if options.save:
        print(f"saved {report(text, options)}")


def report(text: str, options: argparse.Namespace) -> Path:
    """Keep the table."""
    notes = (
        f"Median, lowest and highest of {options.networks} networks, of the naive side {options.naive}; one thread. "
        "Speed ratio: time of the composed graph by that of the naive one."
    )
    return save(
        text,
        name="export_rate",
        device=detect().cpu.slug,
        title="From an arch to a runnable onnxruntime session",
        command=f"python -m benchmarks.export_rate {asked()}",
        notes=notes,
    )


if __name__ == "__main__":
    main()
