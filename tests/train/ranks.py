"""One of several processes that train together, as torchrun starts them: `python -m tests.train.ranks RUN NAME`."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hwnas.train.distributed import distributed_world
from hwnas.train.recipe import (
    EmaConfig,
    MixConfig,
    OptimizerConfig,
    Recipe,
    RegularizationConfig,
    StrategyConfig,
    TeacherConfig,
)
from hwnas.train.sampling import SamplingConfig
from tests.train.toys import ELASTIC, RESNAS, VITAS, toy_recipe, toy_trainer, weights

CASES: dict[str, tuple[Any, Recipe]] = {
    # The same network on all ranks, some weights used by none.
    "single": (VITAS, toy_recipe(epochs=1, optimizer=OptimizerConfig(name="momentum", lr=0.02))),
    # The teacher is the model that all ranks begin with.
    "elastic": (
        ELASTIC,
        toy_recipe(
            epochs=1,
            optimizer=OptimizerConfig(name="momentum", lr=0.02, layer_decay=0.75),
            sampling=SamplingConfig(spread="macs"),
            strategy=StrategyConfig(name="elastic"),
            teacher=TeacherConfig(weight=0.8),
        ),
    ),
    # Networks of their own on each rank, drop path, statistics of batch norms, an average.
    "several": (
        RESNAS,
        replace(
            toy_recipe(epochs=1),
            strategy=StrategyConfig(name="several", num_networks=2),
            regularization=RegularizationConfig(drop_path=0.2, clip_grad=1.0),
            mix=MixConfig(mixup=0.8),
            ema=EmaConfig(decay=0.5),
        ),
    ),
}


def main(run: Path) -> None:
    with distributed_world() as world:
        for name, (space, recipe) in CASES.items():
            folder = run / f"{name}-{world.size}"
            folder.mkdir(exist_ok=True)
            trainer = toy_trainer(folder, space, recipe, world=world)
            trainer.run()
            world.barrier()
            save_file(weights(trainer.model), str(folder / f"rank{world.rank}.safetensors"))
        shared = {"value": torch.tensor([1.0, world.rank])}
        world.broadcast(shared.values())
        save_file(shared, str(run / f"shared{world.rank}.safetensors"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
