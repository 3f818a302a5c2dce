"""How fast a supernet is trained, and what its host does beside the arithmetic: steps, look-ups, dispatches, loading.

    python -m benchmarks.training_rate [--spaces autoformer-tiny,glit-tiny] [--repeats 5] [--save]
    python -m benchmarks.training_rate --device cuda --batch 128 --save

Our side is a whole training step (`hwnas.train.step.Stepper`) with the recipe of the space: mixing, passes forward and
backward in bfloat16, clipping, optimizer, average of the weights. The naive side is forward, backward and AdamW of the
seeds' formulation of the same networks (`benchmarks.supernet_step`). Share of the peak: six operations for each
multiply-accumulate of the networks drawn, over those of a bfloat16 product of 2048 x 2048 matrices measured here.

The host's parts are timed on their own, in CPU milliseconds: drawing the networks of a step, and looking up one of
them, caches warm: its checks, its modules and all slices that are views. Copies are the other slices, of rows that are
picked or concatenated: arithmetic, which a GPU does while its host goes on. Dispatches are calls of operators, reads
the values that the host waits for. Loading is DeiT's augmentation of images of 500 x 375 pixels from JPEG files, in one
process, with normalization and erasing apart.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.supernet_step import _clock as clock
from benchmarks.supernet_step import draws, loss, naive
from benchmarks.support.saving import Line, asked, markdown, printed, save
from hwnas.devices import detect
from hwnas.space import SPACES
from hwnas.space.space import AnySpace
from hwnas.supernet.matmul import fast_matmul, matmul_backend
from hwnas.supernet.segments import prepared
from hwnas.supernet.sharing import Pick, Source, take
from hwnas.train.data.augment import AugmentConfig
from hwnas.train.data.images import ImageDataset
from hwnas.train.data.loader import Batch, TrainLoader
from hwnas.train.data.picture_cache import cached_images
from hwnas.train.data.sources import DataConfig, open_data
from hwnas.train.distributed import World
from hwnas.train.models import build_supernet
from hwnas.train.presets import resolve_recipe
from hwnas.train.step import Stepper
from hwnas.train.strategies import StepNetworks

SPACE_NAMES = ("autoformer-tiny", "resnas-tiny", "vitas-deit-small-shifted", "vitas-twins-small", "glit-tiny")
READS = ("tolist", "item", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "nonzero")
HEADER: Line = (
    "space",
    "side",
    "images/s",
    "share of the peak",
    "dispatches",
    "reads",
    "draw, ms",
    "look-up, ms",
    "copies, ms",
)
DEIT = AugmentConfig(rand_augment="rand-m9-mstd0.5-inc1", erase=0.25)
WARM_UP = 300
"""Networks that are looked up before one is timed."""


class Dispatches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts calls of operators, those of backward passes included."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class Reads(TorchFunctionMode):
    """Counts the values that the host waits for."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(func, "__name__", "") in READS
        return func(*args, **(kwargs or {}))


def peak_macs(device: torch.device) -> float:
    """Multiply-accumulates a second of a bfloat16 product."""
    size = 2048 if device.type == "cpu" else 8192
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(12):
        start = clock(device)
        left @ right
        seconds.append(clock(device) - start)
    return size**3 / min(seconds[2:])


def make_steps(space: AnySpace, options: argparse.Namespace) -> tuple[Callable[[int, list[Any]], None], Any]:
    """A function that runs a step on networks, and the stepper of our side."""
    device, config = torch.device(options.device), space.config
    images = torch.randn(options.batch, *config.input_shape, device=device)
    labels = torch.randint(config.num_classes, (options.batch,), device=device)
    if options.side == "naive":
        module, forward = naive(space)
        module.to(device).train()
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)

        def run_naive(step: int, archs: list[Any]) -> None:
            with torch.autocast(device.type, torch.bfloat16):
                output = forward(images, archs)
            loss(output, labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return run_naive, None
    recipe = resolve_recipe(space=space, one_network=False, batch_size=options.batch, overrides={"precision": "bf16"})
    model = build_supernet(space, recipe, seed=0).train()
    stepper = Stepper(model, recipe, seed=0, steps_per_epoch=100, teacher=None, world=World(device=device))
    batch = Batch(images, labels, torch.arange(options.batch))

    def run_ours(step: int, archs: list[Any]) -> None:
        stepper.run(step, [batch], StepNetworks(tuple(archs), (0,) * len(archs)))

    return run_ours, stepper


def run_side(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each step, mean MACs of a network, peak, dispatches and reads of a step, and the host's parts."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    space, device = SPACES.get(options.spaces), torch.device(options.device)
    with fast_matmul() if device.type == "cpu" else nullcontext():
        run, stepper = make_steps(space, options)
        networks, seconds, macs = draws(space, fixed=False), [], []
        for step, archs in enumerate(islice(networks, options.repeats + 2)):
            macs.append(mean(space.costs(space.encode(archs)).macs.tolist()))
            start = clock(device)
            run(step, archs)
            seconds.append(clock(device) - start)
        with Reads() as reads, Dispatches() as dispatches:  # type: ignore[no-untyped-call]
            run(len(seconds), next(networks))
        found = {"seconds": seconds[2:], "macs": mean(macs[2:]), "peak": peak_macs(device)}
        found |= {"dispatches": dispatches.count, "reads": reads.count}
        return found if stepper is None else found | host_parts(space, stepper)


def host_parts(space: AnySpace, stepper: Stepper) -> dict[str, float]:
    """CPU milliseconds of drawing the networks of a step, of looking one up, and of the copies that its slices need."""
    supernet: Any = stepper.model
    rng = np.random.default_rng(1)
    for arch in space.decode(space.sample(rng, WARM_UP)):
        supernet.path(arch)
    parts: dict[str, list[float]] = {"draw": [], "look_up": [], "copies": []}
    for step, arch in enumerate(space.decode(space.sample(rng, 30))):
        start = time.process_time()
        stepper.draw_networks(step)
        drawn = time.process_time()
        segments = prepared(supernet._checked(arch).values(), training=True)
        tensors = supernet._tensors()
        found = time.process_time()
        sources = [source for segment in segments for source in segment.sources.values()]
        views, copies = ([source for source in sources if is_view(source) is view] for view in (True, False))
        begin = time.process_time()
        sliced = [take(source, tensors) for source in views]
        viewed = time.process_time()
        sliced += [take(source, tensors) for source in copies]
        parts["copies"].append(time.process_time() - viewed)
        parts["look_up"].append(found - drawn + viewed - begin)
        parts["draw"].append(drawn - start)
        del sliced
    return {name: 1e3 * median(seconds) for name, seconds in parts.items()}


def is_view(source: Source) -> bool:
    """True if a tensor of a sub-network is a view of the shared one: one part, in which nothing is picked."""
    return len(source) == 1 and not any(isinstance(index, Pick) for index in source[0].axes)


def loading(num_images: int = 96) -> list[Line]:
    """CPU milliseconds an image, read and augmented, from files and from `--cache`, and of each part on its own."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        write_images(Path(folder), num_images)
        data = open_data(DataConfig(name=folder), image_shape=(3, 224, 224))
        cached = cached_images(data.train, Path(cache), image_size=224, identity=data.fingerprint)
        decode_ms, map_ms = read_all(data.train), read_all(cached)
        read_ms, finish_ms = load_epoch(data.train, DEIT)
        cached_ms, _ = load_epoch(cached, DEIT)
        cropped_ms, _ = load_epoch(cached, AugmentConfig())
    return [
        ("from a file", f"{decode_ms:.2f}"),
        ("from a file, crop, RandAugment", f"{read_ms:.2f}"),
        ("from the cache", f"{map_ms:.2f}"),
        ("from the cache, crop", f"{cropped_ms:.2f}"),
        ("from the cache, crop, RandAugment", f"{cached_ms:.2f}"),
        ("normalize, erase", f"{finish_ms:.2f}"),
    ]


def read_all(dataset: ImageDataset) -> float:
    """CPU milliseconds an image, read alone."""
    start = time.process_time()
    for index in range(len(dataset)):
        dataset.read(index)
    return 1e3 * (time.process_time() - start) / len(dataset)


def load_epoch(dataset: ImageDataset, augment: AugmentConfig) -> tuple[float, float]:
    """CPU milliseconds an image, read and augmented, and normalized and erased."""
    loader = TrainLoader(dataset, augment=augment, image_shape=(3, 224, 224), batch_size=16, seed=0)
    next(loader.epoch(9))  # which imports what is imported on first use
    start = time.process_time()
    batches = list(loader.epoch(0))
    read = time.process_time()
    count = sum(len(batch.images) for batch in batches)
    finished = time.process_time()
    return 1e3 * (read - start) / count, 1e3 * (finished - read) / count


def write_images(folder: Path, count: int) -> None:
    """Write JPEG files of 500 x 375 pixels in two classes: smooth colours with a little noise."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / str(number % 2)
        path.mkdir(exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
        pixels = (smooth + rng.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path / f"{number}.jpg", quality=90)


def in_process(name: str, side: str, options: argparse.Namespace) -> dict[str, Any]:
    arguments = ["--spaces", name, "--side", side, "--device", options.device]
    arguments += ["--repeats", str(options.repeats), "--batch", str(options.batch)]
    command = [sys.executable, "-m", "benchmarks.training_rate", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(name: str, side: str, options: argparse.Namespace) -> Line:
    """The line of one side of a space."""
    found = in_process(name, side, options)
    seconds = median(found["seconds"])
    share = 3 * found["macs"] * options.batch / seconds / found["peak"]
    parts = [f"{found[part]:.1f}" if part in found else "" for part in ("draw", "look_up", "copies")]
    rate = f"{options.batch / seconds:.3g}"
    return (name, side, rate, f"{share:.0%}", str(found["dispatches"]), str(found["reads"]), *parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", default=",".join(SPACE_NAMES), help="names, separated by commas")
    parser.add_argument("--repeats", type=int, default=5, help="steps that count")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--save", action="store_true", help="write the tables to benchmarks/results/")
    parser.add_argument("--side", choices=("ours", "naive"), help="run one side in this process (used internally)")
    options = parser.parse_args()
    if options.side:
        print(json.dumps(run_side(options)))
        return
    print("\n".join(markdown(HEADER, ()).splitlines()))
    lines = printed(row(name, side, options) for name in options.spaces.split(",") for side in ("naive", "ours"))
    loaded = printed(loading())
    if options.save:
        table = markdown(HEADER, lines) + "\n\n" + markdown(("loading of an image", "CPU ms"), loaded)
        print(f"saved {report(table, options)}")


def report(table: str, options: argparse.Namespace) -> Path:
    """Keep the tables."""
    machine = detect()
    clocked = "CPU seconds of one thread" if options.device == "cpu" else "Seconds, synchronised"
    return save(
        table,
        name="training_rate",
        device=machine.cpu.slug if options.device == "cpu" else machine.devices[0].name,
        title=f"Training a supernet, batch {options.batch}, bfloat16",
        command=f"python -m benchmarks.training_rate {asked()}",
        notes=f"{clocked}, median of {options.repeats} steps; float32 products run on: {matmul_backend()}.",
    )


if __name__ == "__main__":
    main()
