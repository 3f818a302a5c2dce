"""`hwnas demo`: the whole pipeline at toy size on this CPU, from images of digits to a measured front and a network.

    OUT/supernet      the trained supernet
    OUT/profiles      measurements on this CPU
    OUT/predictors    predictors fitted to them
    OUT/search        the search: front, networks, report.html

Finished steps are not repeated, so an interrupted demo resumes where it stopped.
"""

import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwnas.config import require_valid, shown, to_mapping
from hwnas.errors import InputError, Interrupted, signal_number, unknown
from hwnas.metrics import Deployment
from hwnas.progress import Reporter, StageStarted
from hwnas.runs import MANIFEST, SUPERNET, Run
from hwnas.space import SPACES

if TYPE_CHECKING:
    from hwnas.report.front import FrontRow
    from hwnas.search.record import SearchRecord

DEVICE = "cpu"
PRECISIONS = ("fp32", "bf16", "int8")
"""The precisions that the search chooses among, without those that this CPU does not compute in."""
DATA = "digits-clutter"
OBJECTIVE = "throughput"


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Size of a demo."""

    space: str = "autoformer-micro"
    seed: int = 0
    epochs: int | None = None
    """Of the supernet's training; None: the recipe's."""
    max_images: int | None = None
    """Train on at most this many images; None: on all."""
    samples: int = 24
    """Networks that are measured, in each precision."""
    batch: int = 1
    budget: int = 80
    """Networks to evaluate."""
    pairs: int = 16
    """Timed runs of each network and of the reference network."""

    def __post_init__(self) -> None:
        require_valid(self)


@dataclass(frozen=True, kw_only=True)
class Inference:
    """Classification of one image by an exported network."""

    image: str
    """Description of the image."""
    predicted: int
    """Class with the largest logit."""
    label: int
    """True class."""
    probability: float
    """Softmax probability of the predicted class."""
    milliseconds: float
    """Wall time of the single run, which is no measurement of latency."""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The results of a demo."""

    out: Path
    space: str
    record: "SearchRecord"
    front: "tuple[FrontRow, ...]"
    """Most accurate first."""
    report: Path
    model: Path
    """The exported network, as ONNX."""
    inference: Inference
    """The prediction of the exported network for one image."""
    seconds: Mapping[str, float]
    """Duration of each step in this session."""


def run_demo(options: DemoOptions, *, out: Path, reporter: Reporter) -> DemoResult:
    """Train, measure, fit, search, report and run, or resume where a demo was interrupted.

    Raises:
        InputError: The folder holds another demo, or no network could be exported.
        MissingError: onnxruntime, with which networks are timed and run, is not installed.
    """
    from hwnas.export.onnxruntime_library import load_onnxruntime

    load_onnxruntime()  # a step that comes last needs it
    settled = _prepare_folder(options, out)
    steps = _Steps(settled, out, reporter)
    steps.train()
    steps.measure()
    steps.fit()
    searched = steps.search()
    page = steps.report()
    model, inference = steps.run(searched)
    from hwnas.report.front import front_rows

    return DemoResult(
        out=out,
        space=settled.space,
        record=searched,
        front=front_rows(out / "search"),
        report=page,
        model=model,
        inference=inference,
        seconds=steps.seconds,
    )


def choose_deployments(batch: int) -> tuple[str, tuple[str, ...]]:
    """Return the preferred runtime of this CPU, and those of the precisions that it runs without emulating them."""
    from hwnas.devices import require
    from hwnas.profile.runners.runner import default_runtime, load_runner
    from hwnas.records import Setting

    device = require(DEVICE)
    runtime = default_runtime(device)
    supported = []
    for precision in PRECISIONS:
        deployment = Deployment(device=device.name, runtime=runtime, precision=precision, batch=batch, threads=1)
        if load_runner(runtime).supports(Setting(deployment=deployment)).available:
            supported.append(precision)
    return runtime, tuple(supported)


def classify_heldout_image(model: Path, *, run: Path) -> Inference:
    """Run an ONNX network on the first held-out image of a training, on the CPU.

    Args:
        model: ONNX file of the network.
        run: Run of the training that held the image out.
    """
    from hwnas.export.onnxruntime_library import load_onnxruntime

    onnxruntime = load_onnxruntime()
    image, label, name = _first_heldout_image(run)
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (graph_input,) = session.get_inputs()
    if isinstance(batch := graph_input.shape[0], int):  # a network of a fixed batch size
        image = np.repeat(image, batch, axis=0)
    began = time.perf_counter()
    (logits,) = session.run(None, {graph_input.name: image})
    milliseconds = 1e3 * (time.perf_counter() - began)
    exponentials = np.exp(logits[0] - logits[0].max())
    predicted = int(exponentials.argmax())
    probability = float(exponentials[predicted] / exponentials.sum())
    return Inference(image=name, predicted=predicted, label=label, probability=probability, milliseconds=milliseconds)


def _prepare_folder(options: DemoOptions, out: Path) -> DemoOptions:
    """Create the folder, or check that it holds a demo with the same options."""
    settled = replace(options, space=_micro_space(options.space))
    if not (out / MANIFEST).is_file():
        Run.create(out, command=("hwnas", "demo"), config=settled, seeds={"seed": settled.seed})
        return settled
    there, here = Run.open(out).manifest.config, to_mapping(settled)
    different = [name for name in here if here[name] != there.get(name)]
    if different:
        got = "; ".join(f"{name} {shown(here[name])} instead of {shown(there.get(name))}" for name in different)
        raise InputError(f"{out} holds another demo", got=got, hint="the same options, or another --out")
    return settled


def _micro_space(name: str) -> str:
    """Resolve the name of a micro space."""
    micro = [known for known in SPACES if known.endswith("-micro")]
    if name not in SPACES:
        raise unknown("space", name, micro, hint="hwnas demo --space {}")
    found = SPACES.resolve(name)
    if found not in micro:
        message = "a demo needs a space that trains on a CPU in about a minute"
        raise InputError(message, got=found, known=micro, hint=f"hwnas demo --space {micro[0]}")
    return found


class _Steps:
    """The steps of a demo, each with its own folder."""

    TOTAL = 6

    def __init__(self, options: DemoOptions, out: Path, reporter: Reporter) -> None:
        self.options, self.out, self.reporter = options, out, reporter
        self.runtime, self.precisions = choose_deployments(options.batch)
        self.seconds: dict[str, float] = {}

    def train(self) -> None:
        """Train the supernet."""
        from hwnas.pipeline.train import train_model
        from hwnas.train.options import TrainOptions

        options, run = self.options, self.out / "supernet"
        with self._step("train", f"training the supernet of {options.space} on {DATA}"):
            if (run / SUPERNET).is_file():
                return
            if (run / MANIFEST).is_file():
                train_model(TrainOptions(), out=run, resume=True, reporter=self.reporter)
                return
            asked = TrainOptions(
                space=options.space, data=DATA, epochs=options.epochs, seed=options.seed, max_images=options.max_images
            )
            train_model(asked, out=run, reporter=self.reporter)

    def measure(self) -> None:
        """Time networks of the space on this CPU in each precision."""
        from hwnas.pipeline.measure import measure
        from hwnas.profile.options import CampaignOptions

        options = self.options
        request = CampaignOptions(
            space=options.space,
            device=DEVICE,
            runtime=self.runtime,
            samples=options.samples,
            batches=(options.batch,),
            pairs=options.pairs,
            seed=options.seed,
            reference_networks=False,
            out=self.out / "profiles",
        )
        names = f"{options.samples} networks on this CPU with {self.runtime} in {', '.join(self.precisions)}"
        with self._step("profile", f"timing {names}"):
            # Networks that are measured twice cost time, and one precision shows how far two measurements differ.
            for precision in self.precisions:
                repeats = None if precision == self.precisions[0] else 0
                measure(replace(request, precision=precision, repeats=repeats), reporter=self.reporter)

    def fit(self) -> None:
        """Fit a predictor of throughput for each precision."""
        from hwnas.pipeline.predictors.fit import FitOptions, fit_predictors
        from hwnas.predict.lookup import predictor_entries

        with self._step("fit", "fitting predictors of throughput to what was timed"):
            if len(predictor_entries(((self.out / "predictors", "own"),))) == len(self.precisions):
                return
            fit_predictors(
                FitOptions(
                    deployment=Deployment(device=DEVICE),
                    space=self.options.space,
                    metrics=(OBJECTIVE,),
                    profiles=self.out / "profiles",
                    out=self.out / "predictors",
                ),
                reporter=self.reporter,
            )

    def search(self) -> "SearchRecord":
        """Search networks and precisions, measure the front and export the best network."""
        from hwnas.pipeline.search.options import SearchOptions
        from hwnas.pipeline.search.run import search_networks
        from hwnas.search.spec import PostSearch

        options, run = self.options, self.out / "search"
        asked = SearchOptions(
            space=options.space,
            supernet=self.out / "supernet",
            device=DEVICE,
            runtimes=(self.runtime,),
            precisions=self.precisions,
            objectives=(OBJECTIVE,),
            budget=options.budget,
            seed=options.seed,
            predictors=self.out / "predictors",
            runs=self.out,
            post_search=PostSearch(export_top=1, pairs=options.pairs),
        )
        with self._step("search", f"searching, {options.budget} evaluations, then measuring the front"):
            if (run / MANIFEST).is_file():
                return search_networks(resume=run, reporter=self.reporter).record
            return search_networks(asked, out=run, reporter=self.reporter).record

    def report(self) -> Path:
        """Write the report."""
        from hwnas.pipeline.report import write_report

        with self._step("report", "writing the report"):
            return write_report(self.out / "search").page

    def run(self, record: "SearchRecord") -> "tuple[Path, Inference]":
        """Run the exported network once, without hwnas or torch."""
        from hwnas.pipeline.demo import classify_heldout_image

        with self._step("run", "running the exported network once"):
            model = self._model(record)
            return model, classify_heldout_image(model, run=self.out / "supernet")

    def _model(self, record: "SearchRecord") -> Path:
        for item in record.winners:
            for file in item.files:
                if file.endswith(".onnx"):
                    return self.out / "search" / item.folder / file
        reasons = dict.fromkeys(item.failure for item in record.winners if item.failure is not None)
        got = "; ".join(reasons) or "no network is on the measured front"
        raise InputError("no network of the front could be exported", got=got)

    @contextmanager
    def _step(self, name: str, title: str) -> Iterator[None]:
        self.reporter.update(StageStarted(number=len(self.seconds) + 1, total=self.TOTAL, title=title))
        began = time.perf_counter()
        try:
            yield
        except KeyboardInterrupt as stopped:
            again = f"hwnas demo --out {shlex.quote(str(self.out))}"
            again += "" if self.options == DemoOptions() else " with the same options"
            message = f"all that is done is kept\n  try     {again}"
            raise Interrupted(message, number=signal_number(stopped)) from stopped
        self.seconds[name] = time.perf_counter() - began


def _first_heldout_image(run: Path) -> tuple[NDArray[np.float32], int, str]:
    """Return the image as the network takes it, its class and its description."""
    from hwnas.runs import Run
    from hwnas.train.data.loader import EvalLoader
    from hwnas.train.options import read_train_config
    from hwnas.train.run_data import open_run_data

    config = read_train_config(Run.open(run))
    data = open_run_data(run, config, data=None, shape=config.image_shape, num_classes=config.num_classes)
    batch = next(iter(EvalLoader(data.heldout, image_shape=config.image_shape, batch_size=1)))
    return batch.images.numpy(), int(batch.labels[0]), "the first held-out image"
