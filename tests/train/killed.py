"""A training that kills itself, run as a program: `python -m tests.train.killed RUN STEP …`."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from hwnas.train.data.loader import Batch
from hwnas.train.recipe import EmaConfig, MixConfig, Recipe, RegularizationConfig
from tests.train.toys import AUTOFORMER, EVERY_STEP, ToyLoader, toy_loader, toy_recipe, toy_trainer

RECIPE: Recipe = toy_recipe(
    regularization=RegularizationConfig(drop_path=0.2, clip_grad=1.0),
    mix=MixConfig(mixup=0.8, cutmix=1.0, smoothing=0.1),
    ema=EmaConfig(decay=0.8),
)


class Deadly(ToyLoader):
    """Batches that end the process without a word, in place of the one of a step."""

    deadline = 0

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        for step, batch in enumerate(super().epoch(epoch, first=first), first + epoch * len(self)):
            if step == self.deadline:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


def main(run: Path, steps: list[int]) -> None:
    plain = toy_loader(AUTOFORMER, RECIPE)
    batches = Deadly(plain.images, plain.labels, plain.batch_size)
    batches.deadline = steps[0]
    toy_trainer(run, AUTOFORMER, RECIPE, batches=batches, config=EVERY_STEP).run(resume=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(step) for step in sys.argv[2:]])
