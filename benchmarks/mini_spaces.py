"""Supernets of the mini spaces, each trained on the same images for the same CPU time of one thread.

    python -m benchmarks.mini_spaces --data FOLDER [--spaces a,b] [--minutes 2] [--max-images 4000] [--save]
    python -m benchmarks.mini_spaces --data FOLDER --set strategy.name=sandwich

The epochs of a training are those that take `--minutes` of CPU time, by those of few images, so that spaces with larger
networks train for fewer epochs. Accuracies are on held-out images, with inherited weights. Each finished training is
written to `--state`, and another call with the same settings reads it there; one that was interrupted is resumed.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.support.saving import Line, asked, markdown, printed, save
from benchmarks.support.state import State
from hwnas.config import from_mapping
from hwnas.devices import detect
from hwnas.pipeline.train import estimate_training, train_model
from hwnas.runs import MANIFEST, Run
from hwnas.space import SPACES
from hwnas.train.options import TrainConfig, TrainOptions
from hwnas.train.trainer import TrainerConfig

ONE_THREAD = TrainerConfig(threads=1)
_FEW_IMAGES = 1000
HEADER: Line = (
    "space",
    "parameters, M",
    "MACs, M",
    "epochs",
    "CPU s per epoch",
    "smallest, top-1 %",
    "largest, top-1 %",
)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training: its options, its CPU time and the folder of its run."""

    options: TrainOptions
    minutes: float
    folder: Path

    def line(self) -> Line:
        """Train, and return the line of the table."""
        space = str(self.options.space)
        if (self.folder / MANIFEST).exists():
            spent, trained = "-", train_model(TrainOptions(), out=self.folder, resume=True, trainer_config=ONE_THREAD)
        else:
            options = replace(self.options, epochs=epochs_in(self.options, 60 * self.minutes))
            began = time.process_time()
            trained = train_model(options, out=self.folder, trainer_config=ONE_THREAD)
            spent = f"{(time.process_time() - began) / (options.epochs or 1):.0f}"
        epochs = from_mapping(TrainConfig, Run.open(self.folder).manifest.config).recipe.epochs
        accuracies = [f"{100 * trained.accuracies[name]:.1f}" for name in ("smallest", "largest")]
        return (space, *_ranges(space), str(epochs), spent, *accuracies)


def epochs_in(options: TrainOptions, cpu_s: float) -> int:
    """Return the epochs of a training that take a CPU time, by that of an epoch of few images."""
    estimate = estimate_training(replace(options, epochs=1), trainer_config=ONE_THREAD)
    with tempfile.TemporaryDirectory() as folder:
        few = replace(options, epochs=1, max_images=_FEW_IMAGES, heldout=_FEW_IMAGES // 10)
        began = time.process_time()
        trained = train_model(few, out=Path(folder) / "run", trainer_config=ONE_THREAD)
        step_s = (time.process_time() - began) / trained.steps
    return max(1, round(cpu_s / step_s / estimate.steps_per_epoch))


def _ranges(name: str) -> tuple[str, str]:
    """Return parameters and MACs from the smallest to the largest network, in millions."""
    space = SPACES.get(name)
    costs = space.costs(space.encode([space.smallest(), space.largest()]))
    return tuple(f"{low / 1e6:.2g} – {high / 1e6:.3g}" for low, high in (costs.params, costs.macs))  # type: ignore[return-value]


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--spaces", default=",".join(name for name in SPACES if "-mini-96" in name))
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--max-images", type=int, default=4000)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--state", type=Path, default=Path("build/mini_spaces"))
    parser.add_argument("--save", action="store_true")
    return parser.parse_args()


def main() -> None:
    given = _parsed()
    state = State(folder=given.state)
    changes = dict(change.split("=", 1) for change in given.overrides)

    def line(space: str) -> Line:
        name = " ".join((space, Path(given.data).name, *given.overrides))
        settings = {"minutes": given.minutes, "max_images": given.max_images}
        options = TrainOptions(space=space, data=given.data, max_images=given.max_images, overrides=changes)
        folder = given.state / f"{name} {given.minutes:g} {given.max_images}".replace(" ", "-")
        trial = Trial(options=options, minutes=given.minutes, folder=folder)
        return state.lines(name, settings, lambda: [trial.line()])[0]

    lines = printed(line(space) for space in given.spaces.split(","))
    if given.save:
        path = save(
            markdown(HEADER, lines),
            name="mini_spaces",
            device=detect().cpu.slug,
            title="Supernets of the mini spaces, trained for the same CPU time",
            command=f"python -m benchmarks.mini_spaces {asked()}",
            notes=f"Each training: {given.minutes:g} CPU minutes of one thread, {given.max_images:,} images, one seed.",
        )
        print(path)


if __name__ == "__main__":
    main()
