"""The CPU time of a training step of networks inside a model, against plain networks and one run of the teacher."""

import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import timm
import torch
from torch import nn

from hwnas.space.elastic import ElasticArch
from hwnas.supernet.matmul import fast_matmul
from hwnas.train.data.loader import Batch
from hwnas.train.distributed import World
from hwnas.train.presets import ELASTIC
from hwnas.train.pretrained import supernet_of
from hwnas.train.step import Stepper

ROUNDS, WARM_UP = 9, 2
AIM = 1.15


def step_costs(name: str, *, image_size: int, batch_size: int) -> dict[str, float]:
    """Median CPU seconds of a step of four networks, of their plain passes, and of one forward pass of the teacher.

    A step has all that a training does in it: losses, optimizer and average of the weights. A plain pass is the forward
    and backward pass of the extracted network with the loss on labels. Rounds draw other networks, the same for both.
    """
    model = timm.create_model(name.removeprefix("timm:"), img_size=image_size, num_classes=10)
    supernet = supernet_of(model, name=name.removeprefix("timm:"))
    stepper = Stepper(supernet.train(), ELASTIC, seed=0, steps_per_epoch=1, teacher=None, world=World())
    teacher = supernet.subnet(supernet.space.largest()).eval()
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, image_size, image_size, generator=rng)
    batch = Batch(images, torch.randint(10, (batch_size,), generator=rng), torch.arange(batch_size))
    rows: list[tuple[float, float, float]] = []
    with fast_matmul():
        for number in range(ROUNDS + WARM_UP):
            networks = stepper.strategy.draw(np.random.default_rng(number), epoch=ELASTIC.epochs)
            archs = [arch for arch in networks.archs if isinstance(arch, ElasticArch)]
            plain = [supernet.subnet(arch).train() for arch in archs]
            rows.append(
                (
                    _seconds(lambda: stepper.run(number, [batch], networks)),  # noqa: B023
                    _seconds(lambda: _passes(plain, batch)),  # noqa: B023
                    _seconds(lambda: _forward(teacher, batch)),
                )
            )
    step, passes, forward = (median(column) for column in zip(*rows[WARM_UP:], strict=True))
    ratio = median(row[0] / (row[1] + row[2]) for row in rows[WARM_UP:])
    return {"step": step, "passes": passes, "teacher": forward, "ratio": ratio}


def _passes(networks: Sequence[nn.Module], batch: Batch) -> None:
    for network in networks:
        nn.functional.cross_entropy(network(batch.images), batch.labels).backward()  # type: ignore[no-untyped-call]


@torch.no_grad()
def _forward(network: nn.Module, batch: Batch) -> None:
    network(batch.images)


def _seconds(make: Callable[[], object]) -> float:
    began = time.process_time()
    make()
    return time.process_time() - began
