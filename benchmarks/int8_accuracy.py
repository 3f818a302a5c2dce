"""Accuracy in int8 by rounding in torch, as a search evaluates it, against that of exported graphs.

    python -m benchmarks.int8_accuracy [--space autoformer-micro] [--networks 12] [--epochs 10] [--save]

A micro supernet is trained on this CPU. Random networks of it are evaluated on held-out images in float32, rounded in
torch, and as graphs that ONNX Runtime runs in int8; both forms of int8 are calibrated on the same training images.
Times are CPU seconds of the process for all networks together, calibration included.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.support.saving import asked, save
from hwnas.devices import detect
from hwnas.pipeline.export_network import export_network
from hwnas.pipeline.quantisation import QuantisationOptions, _Labeled, open_quantisation_images
from hwnas.pipeline.train import train_model
from hwnas.runs import Run
from hwnas.space.arch import Arch
from hwnas.supernet.store import load_supernet
from hwnas.train.evaluation import make_evaluator
from hwnas.train.executor import EvalPrecision
from hwnas.train.options import TrainOptions, read_train_config, supernet_file
from hwnas.train.run_data import open_run_data
from hwnas.train.run_folder import weights_digest

AIM_POINTS, AIM_COST = 0.5, 1.5


@dataclass(frozen=True, kw_only=True)
class Accuracies:
    """The accuracies of all networks in one precision, and the CPU seconds that they took."""

    top1: tuple[float, ...]
    cpu_s: float


def evaluated(run: Path, archs: list[Arch], precision: EvalPrecision) -> Accuracies:
    """Evaluate networks in torch on the images that an export is judged on, which are decoded beforehand."""
    file = supernet_file(run)
    supernet = load_supernet(file).eval()
    config = supernet.space.config
    data = open_run_data(
        run, read_train_config(Run.open(run)), data=None, shape=config.input_shape, num_classes=config.num_classes
    )
    images = open_quantisation_images(QuantisationOptions(), run=run, config=config, batch=1).accuracy.images.batches
    assert isinstance(images, _Labeled)
    data = replace(data, heldout=images.dataset)
    evaluator = make_evaluator(supernet, data, checkpoint_id=weights_digest(file), precision=precision)
    list(evaluator.batches)
    start = time.process_time()
    found = evaluator.evaluate(archs)
    return Accuracies(top1=tuple(accuracy.top1 for accuracy in found), cpu_s=time.process_time() - start)


def exported(run: Path, archs: list[Arch], space: str) -> Accuracies:
    """Export networks in int8, which measures the accuracy of each graph."""
    start, top1 = time.process_time(), []
    with tempfile.TemporaryDirectory() as folder:
        for arch in archs:
            parity = export_network(
                space,
                arch,
                out=Path(folder),
                precision="int8",
                weights=supernet_file(run),
                quantisation=QuantisationOptions(run=run, max_drop=1.0),
            ).parity
            assert parity.accuracy is not None
            top1.append(parity.accuracy.top1)
    return Accuracies(top1=tuple(top1), cpu_s=time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="autoformer-micro")
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "train"
        train_model(TrainOptions(space=options.space, data="digits-clutter", epochs=options.epochs), out=run)
        space = load_supernet(supernet_file(run)).space
        archs = list(space.decode(space.sample(np.random.default_rng(0), options.networks)))
        exact, rounded = (evaluated(run, archs, precision) for precision in ("fp32", "int8"))
        graphs = exported(run, archs, options.space)
    gaps = 100 * np.abs(np.subtract(rounded.top1, graphs.top1))
    lines = ["| network | fp32, % | int8 in torch, % | int8 in ONNX Runtime, % |", "| --- | ---: | ---: | ---: |"]
    for row, values in enumerate(zip(exact.top1, rounded.top1, graphs.top1, strict=True)):
        lines.append(f"| {row} | " + " | ".join(f"{100 * value:.2f}" for value in values) + " |")
    lines += [
        "",
        f"Rounded in torch against the graph: largest difference {gaps.max():.2f} points (aim: at most {AIM_POINTS}), "
        f"mean {gaps.mean():.2f}. CPU time of int8 in torch over fp32: {rounded.cpu_s / exact.cpu_s:.2f} "
        f"(aim: at most {AIM_COST}); {exact.cpu_s:.2f} s in fp32, {rounded.cpu_s:.2f} s in int8, "
        f"{graphs.cpu_s:.1f} s for the exports.",
    ]
    table = "\n".join(lines)
    print(table)
    if options.save:
        notes = f"{options.networks} random networks of {options.space}, {options.epochs} epochs on digits-clutter."
        command = f"python -m benchmarks.int8_accuracy {asked()}".strip()
        title = "Accuracy in int8: rounded in torch, and the exported graph"
        save(table, name="int8_accuracy", device=detect().cpu.slug, title=title, command=command, notes=notes)


if __name__ == "__main__":
    main()
