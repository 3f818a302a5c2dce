"""A network searched in a mini space beside timm's ViT-Ti at the size of the space's images.

    python -m benchmarks.searched_against_vit --data FOLDER [--space NAME] [--epochs 12] [--retrain 8] [--save]

The supernet is trained for `--epochs`, its networks are searched by accuracy and throughput, and the most accurate one
that was measured to be no slower than ViT-Ti is trained on for `--retrain` epochs, from inherited weights. ViT-Ti is
trained from scratch by the same recipe, once for the CPU time that supernet and network took together, and once for
the epochs that they took together if `--equal-epochs` is given. Latencies are of one campaign: one thread, batch 1.

Finished steps stay in `--folder`, and a step that was interrupted is resumed by another call.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.mini_spaces import ONE_THREAD, epochs_in
from benchmarks.support.saving import Line, asked, markdown, printed, save
from hwnas.config import from_mapping
from hwnas.devices import detect
from hwnas.metrics import Deployment
from hwnas.pipeline.evaluate import evaluate
from hwnas.pipeline.measure import measure
from hwnas.pipeline.predictors.fit import FitOptions, fit_predictors
from hwnas.pipeline.search.options import SearchOptions
from hwnas.pipeline.search.run import search_networks
from hwnas.pipeline.train import train_model
from hwnas.profile.options import CampaignOptions
from hwnas.profile.results import results_by_network
from hwnas.records import load_profile
from hwnas.report.front import FrontRow, front_rows
from hwnas.runs import MANIFEST, Run
from hwnas.search.spec import PostSearch
from hwnas.space import SPACES
from hwnas.train.options import TrainConfig, TrainOptions

VIT = "timm:vit_tiny_patch16_224"
HEADER: Line = ("network", "parameters, M", "latency, ms", "epochs", "CPU min of training", "top-1 on test images, %")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Trainings and search to compare, and the folder of their steps."""

    data: str
    space: str
    epochs: int
    retrain: int
    runtime: str
    budget: int
    folder: Path
    equal_epochs: bool
    vit_epochs: int | None

    def lines(self) -> Iterator[Line]:
        """Do all steps, and return a line for each network."""
        space = SPACES.get(self.space)
        image_size = space.image_size_of(space.smallest())
        options = TrainOptions(data=self.data, recipe="small")
        supernet_s = self._trained("supernet", replace(options, space=self.space, epochs=self.epochs))
        vit_id = f"{VIT}@{image_size}"
        vit_ms = self._measured(vit_id)
        chosen = self._searched(vit_ms)
        arch = json.dumps(chosen.arch)
        retrained = replace(options, arch=arch, supernet=self.folder / "supernet", epochs=self.retrain)
        both_s = supernet_s + self._trained("searched", retrained)
        latency_ms = next(value for name, value in chosen.metrics.items() if name.endswith("_measured"))
        epochs_of_both = f"{self.epochs} + {self.retrain}"
        yield self._line("searched", f"{self.space} {chosen.arch_id}", latency_ms, epochs_of_both, both_s)

        vit = replace(options, model=VIT, image_size=image_size)
        is_begun = (self.folder / "vit" / MANIFEST).exists()
        as_long = vit if is_begun else replace(vit, epochs=self.vit_epochs or epochs_in(vit, both_s))
        took_s = self._trained("vit", as_long)
        yield self._line("vit", vit_id, vit_ms, str(self._epochs("vit")), took_s)
        if self.equal_epochs:
            epochs = self.epochs + self.retrain
            took_s = self._trained("vit-epochs", replace(vit, epochs=epochs))
            yield self._line("vit-epochs", vit_id, vit_ms, str(epochs), took_s)

    def _trained(self, name: str, options: TrainOptions) -> float:
        """Train, or go on with a training, and return its CPU time in seconds over all calls."""
        folder, spent = self.folder / name, self.folder / f"{name}.seconds"
        before_s = float(spent.read_text()) if spent.exists() else 0.0
        if (folder / "result.json").exists():
            return before_s
        began = time.process_time()
        try:
            if (folder / MANIFEST).exists():
                train_model(TrainOptions(), out=folder, resume=True, trainer_config=ONE_THREAD)
            else:
                train_model(options, out=folder, trainer_config=ONE_THREAD)
        finally:
            before_s += time.process_time() - began
            self.folder.mkdir(parents=True, exist_ok=True)
            spent.write_text(str(before_s))
        return before_s

    def _epochs(self, name: str) -> int:
        return from_mapping(TrainConfig, Run.open(self.folder / name).manifest.config).recipe.epochs

    def _measured(self, vit_id: str) -> float:
        """Measure networks of the space and the ViT, fit a predictor and return the ViT's latency."""
        campaign = CampaignOptions(
            space=self.space,
            classes=10,
            device="cpu",
            runtime=self.runtime,
            samples=40,
            extra_models=(vit_id,),
            out=self.folder / "profiles",
        )
        profile = load_profile(measure(campaign).profiles[0].path)
        fit_predictors(
            FitOptions(
                deployment=Deployment(device="cpu"),
                space=self.space,
                metrics=("latency_ms",),
                profiles=self.folder / "profiles",
                out=self.folder / "predictors",
            )
        )
        return float(results_by_network(profile)[vit_id].latency_ms)

    def _searched(self, limit_ms: float) -> FrontRow:
        """Search, and return the most accurate network that was measured to be no slower than the limit."""
        run = self.folder / "search"
        if (run / MANIFEST).exists():
            search_networks(resume=run)
        else:
            search_networks(
                SearchOptions(
                    space=self.space,
                    supernet=self.folder / "supernet",
                    device="cpu",
                    runtimes=(self.runtime,),
                    objectives=("latency_ms",),
                    constraints=(f"latency_ms<={limit_ms:.4g}",),
                    budget=self.budget,
                    predictors=self.folder / "predictors",
                    post_search=PostSearch(export_top=0),
                ),
                out=run,
            )
        return next(row for row in front_rows(run) if row.stands)

    def _line(self, name: str, title: str, latency_ms: float | int | None, epochs: str, cpu_s: float) -> Line:
        (network,) = evaluate(self.folder / name, split="test").networks
        return (
            title,
            f"{network.params / 1e6:.2f}",
            "-" if latency_ms is None else f"{latency_ms:.2f}",
            epochs,
            f"{cpu_s / 60:.1f}",
            f"{100 * (network.top1 or 0):.1f}",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--space", default="vitas-twins-mini-96")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--retrain", type=int, default=8)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--budget", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=Path("build/searched_against_vit"))
    parser.add_argument("--equal-epochs", action="store_true")
    parser.add_argument(
        "--vit-epochs", type=int, help="of ViT-Ti, in place of those that are estimated to take as long"
    )
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    comparison = Comparison(**{name: value for name, value in vars(given).items() if name != "save"})
    lines = printed(comparison.lines())
    if given.save:
        path = save(
            markdown(HEADER, lines),
            name="searched_against_vit",
            device=detect().cpu.slug,
            title="A searched network beside ViT-Ti",
            command=f"python -m benchmarks.searched_against_vit {asked()}",
            notes="One seed, one thread. The searched network's training includes that of the supernet.",
        )
        print(path)


if __name__ == "__main__":
    main()
