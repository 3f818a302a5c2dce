"""Accuracy of networks that are cut from a model, before and after their repair by least squares.

    python -m benchmarks.repair --data FOLDER [--state DIR] [--save]

The folder holds images of 10 classes with test images, for example CIFAR-10. The model is the small vision transformer
of `benchmarks.elastic`, trained first as `hwnas train --model` does. Its networks are taken from the model as it is
(`hwnas train --elastic --epochs 0`), and from its supernet after a training, and repaired on different numbers of
training images. Accuracies are those of the test images. Finished trainings are kept in `--state`.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.support.elastic_models import DEPTH, HEADS, PATCH, WIDTH
from benchmarks.support.elastic_trainings import CUTS, Trainings
from benchmarks.support.saving import asked, save
from hwnas.devices import detect
from hwnas.space.elastic import ElasticArch, ElasticBlock, uniform_cut
from hwnas.supernet.elastic import ElasticSupernet
from hwnas.supernet.matmul import fast_matmul, matmul_backend
from hwnas.supernet.store import load_supernet
from hwnas.train.evaluation import unaugmented_loader
from hwnas.train.repair import repair_network
from hwnas.train.session import ORIGINAL

BATCHES = (4, 16)
"""Batches of 64 images that networks are repaired on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder or Parquet files of 10 classes with test images")
    parser.add_argument("--image-size", type=int, default=24)
    parser.add_argument("--images", type=int, default=15_000, help="training images")
    parser.add_argument("--heldout", type=int, default=2_000)
    parser.add_argument("--original-epochs", type=int, default=14)
    parser.add_argument("--elastic-epochs", type=int, default=3)
    parser.add_argument("--state", default="runs/repair-benchmark", help="folder in which trainings are kept")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    options = parser.parse_args()
    options.retrain_epochs = options.evaluations = 0
    torch.set_num_threads(1)
    trainings = Trainings(options)
    for kind, train in (("original", trainings.original), ("elastic", trainings.elastic)):
        trainings.part(f"{kind} 0", partial(train, 0), until=float("inf"))
    run = trainings.run_of("elastic", 0)
    model: Any = load_supernet(run / ORIGINAL).eval()
    trained: Any = trainings.supernet("elastic", 0)
    text = "\n".join(lines(trainings, model, trained))
    print(text)
    if options.save:
        print(f"saved {report(text, options)}")


def lines(trainings: Trainings, model: ElasticSupernet, trained: ElasticSupernet) -> list[str]:
    """The table: one row for each network."""
    original = trainings.done["original 0"]["test"]
    space, largest = model.space, model.subnet(model.space.largest())
    repaired = (f"repaired on {64 * number} images" for number in BATCHES)
    columns = ["weights", "cut", "MACs", "before, top-1 %", *repaired, "seconds"]
    rows = [f"The model: top-1 {original:.2%}.", "", f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for name, supernet in (("as it is", model), (f"trained for {trainings.options.elastic_epochs} epochs", trained)):
        for cut, arch in cuts(supernet):
            macs = space.costs(space.encode([space.largest(), arch])).macs
            cells = [name, cut, f"{macs[1] / macs[0] - 1:.0%}", f"{100 * trainings.tested(supernet.subnet(arch)):.2f}"]
            for number in BATCHES:
                network = supernet.subnet(arch)
                loader = unaugmented_loader(trainings.data, trainings.shape)
                images = [batch.images for batch in islice(loader.epoch(0), number)]
                began = time.process_time()
                with fast_matmul():
                    repair_network(network, largest, images)
                seconds = time.process_time() - began
                cells.append(f"{100 * trainings.tested(network):.2f}")
            rows.append(f"| {' | '.join([*cells, f'{seconds:.1f}'])} |")
    return rows


def cuts(supernet: ElasticSupernet) -> Iterator[tuple[str, ElasticArch]]:
    """The networks: with one width in all blocks, and without every third block."""
    for cut in CUTS:
        yield "all blocks alike", uniform_cut(supernet.space, cut)
    largest, skipped = supernet.space.largest(), ElasticBlock(num_heads=0, hidden_dim=0)
    blocks = (skipped if slot % 3 == 1 else block for slot, block in enumerate(largest.blocks))
    yield "every third block skipped", replace(largest, blocks=tuple(blocks))


def report(text: str, options: argparse.Namespace) -> Path:
    """Keep the table."""
    return save(
        text,
        name="repair",
        device=detect().cpu.slug,
        title="Repair of cut networks by least squares",
        command=f"python -m benchmarks.repair {asked()}",
        notes=f"Images of {options.image_size} px, {options.images:,} for training; the model is {WIDTH} wide, {DEPTH} "
        f"deep, {HEADS} heads, patch {PATCH}, trained for {options.original_epochs} epochs from scratch. Units are "
        "in the order of `hwnas train --elastic`; accuracies are of test images, with "
        f"every repair, whether it helps or not. Seconds are CPU time of the repair on {64 * BATCHES[-1]:,} "
        f"images by one thread; matrix products run on: {matmul_backend()}.",
    )


if __name__ == "__main__":
    main()
