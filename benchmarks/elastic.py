"""Networks inside a pretrained model against a supernet from scratch, lower resolutions, larger patches and pruning.

    python -m benchmarks.elastic --data FOLDER [--budget 70] [--seeds 2] [--state DIR] [--save]

The folder holds images of 10 classes with test images, for example CIFAR-10. The model is a small vision transformer:
it is trained first, as `hwnas train --model` does, then its networks as `hwnas train --elastic` does. Compared, with
accuracies on the test images, which nothing was chosen by:

- a supernet of AutoFormer of the same range, trained from scratch for the CPU time of both trainings together: the
  best network by held-out images at five latencies, measured side by side with one thread;
- the model itself at lower resolutions and with larger patches, fine-tuned for as many epochs with the same loss;
- the model cut to half of its MACs by Taylor scores, all blocks alike, fine-tuned likewise;
- inherited accuracy of eight networks against that after further training on their own;
- cuts of the model without any training, by order of its heads and hidden units;
- a training step of four networks against their plain passes and one run of the teacher, in CPU time.

Each finished part is written to `--state`; a stopped training resumes in the next call. `--budget` is the time after
which no part is begun.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.support.elastic_fronts import LEVELS, compared, searched
from benchmarks.support.elastic_models import DEPTH, HEADS, LARGER_PATCH, MODEL, PATCH, WIDTH, register_scratch_space
from benchmarks.support.elastic_step import AIM, step_costs
from benchmarks.support.elastic_trainings import CUTS, HALF, SHARES_OF_MACS, Trainings
from benchmarks.support.saving import asked, save
from hwnas.devices import detect
from hwnas.supernet.matmul import matmul_backend

KINDS = ("elastic", "scratch")
STEP_MODELS = {MODEL: (24, 128), "timm:vit_tiny_patch16_224": (224, 8)}
"""Models whose training steps are timed, with image size and batch size."""


def parts(trainings: Trainings, seed: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The parts of one seed in the order in which they are done."""
    if seed == 0:
        for name, (image_size, batch_size) in STEP_MODELS.items():
            yield f"step of {name}", partial(step_costs, name, image_size=image_size, batch_size=batch_size)
    yield f"original {seed}", partial(trainings.original, seed)
    yield f"elastic {seed}", partial(trainings.elastic, seed)
    yield f"orders {seed}", partial(trainings.orders, seed)
    yield f"front elastic {seed}", partial(searched, trainings, "elastic", seed)
    for name, size, patch in trainings.resizings():
        yield f"{name} {seed}", partial(trainings.resized, seed, image_size=size, patch=patch)
    yield f"pruned {seed}", partial(trainings.pruned, seed)
    yield f"compared elastic {seed}", partial(compared, trainings, seed, KINDS[:1])
    yield f"scratch {seed}", partial(trainings.scratch, seed)
    yield f"front scratch {seed}", partial(searched, trainings, "scratch", seed)
    yield f"compared {seed}", partial(compared, trainings, seed, KINDS)
    for index in range(len(SHARES_OF_MACS)):
        yield f"retrained {index} {seed}", partial(trainings.retrained, seed, index)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder or Parquet files of 10 classes with test images")
    parser.add_argument("--budget", type=float, default=70, help="minutes after which no part is begun")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--image-size", type=int, default=24)
    parser.add_argument("--images", type=int, default=15_000, help="training images")
    parser.add_argument("--heldout", type=int, default=2_000, help="images that networks are chosen by")
    parser.add_argument("--original-epochs", type=int, default=20)
    parser.add_argument("--elastic-epochs", type=int, default=6)
    parser.add_argument("--retrain-epochs", type=int, default=4)
    parser.add_argument("--evaluations", type=int, default=150, help="networks that each search evaluates")
    parser.add_argument("--state", default="runs/elastic-benchmark", help="folder in which finished parts are kept")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    until = time.monotonic() + 60 * options.budget
    register_scratch_space(options)
    trainings = Trainings(options)
    left = [
        key
        for seed in range(options.seeds)
        for key, make in parts(trainings, seed)
        if not trainings.part(key, make, until=until)
    ]
    text = table(trainings)
    if left:
        text += f"\n\nNot finished, for another call: {', '.join(left)}."
    print(text)
    if options.save:
        print(f"saved {report(text, trainings)}")


def table(trainings: Trainings) -> str:
    """All tables of what is finished, each with its aim."""
    seeds = [seed for seed in range(trainings.options.seeds) if f"elastic {seed}" in trainings.done]
    sections = [section for seed in seeds for section in _sections(trainings, seed)]
    return "\n\n".join([*_steps(trainings), *sections])


def _steps(trainings: Trainings) -> Iterator[str]:
    found = {name: trainings.done.get(f"step of {name}") for name in STEP_MODELS}
    if not all(found.values()):
        return
    lines = [_line(["a step", "batch", "four networks, s", "their plain passes, s", "teacher, s", "ratio"]), _rule(6)]
    for name, costs in found.items():
        assert costs is not None
        seconds = (f"{costs[part]:.3f}" for part in ("step", "passes", "teacher"))
        lines.append(_line([name, str(STEP_MODELS[name][1]), *seconds, f"{costs['ratio']:.2f}"]))
    met = all(costs is not None and costs["ratio"] <= AIM for costs in found.values())
    yield "\n".join(lines) + f"\n\nAim: at most {AIM} times the plain passes and the teacher. {_verdict(met)}"


def _sections(trainings: Trainings, seed: int) -> Iterator[str]:
    done = trainings.done
    original = done[f"original {seed}"]["test"]
    costs = ", ".join(
        f"{kind} {trainings.spent(f'{kind} {seed}'):.0f}" for kind in ("original", "elastic", "scratch", "pruned")
    )
    epochs = {"original": trainings.options.original_epochs, "elastic": trainings.options.elastic_epochs}
    if f"scratch {seed}" in done:
        epochs["scratch"] = done[f"scratch {seed}"]["epochs"]
    each = ", ".join(f"{kind} {trainings.spent(f'{kind} {seed}') / count:.1f}" for kind, count in epochs.items())
    yield (
        f"## Seed {seed}\n\nThe model: top-1 {original:.2%}. CPU seconds of the trainings: {costs}. "
        f"Of an epoch: {each}."
    )
    if f"orders {seed}" in done:
        yield _orders(trainings, seed, original)
    comparison = done.get(f"compared {seed}") or done.get(f"compared elastic {seed}")
    if comparison is not None:
        yield from _fronts(comparison, trainings, seed)
    retrained = [done[key] for index in range(len(SHARES_OF_MACS)) if (key := f"retrained {index} {seed}") in done]
    if len(retrained) > 2:
        yield _inherited(retrained)


def _orders(trainings: Trainings, seed: int, original: float) -> str:
    found = trainings.done[f"orders {seed}"]
    kept = trainings.done[f"elastic {seed}"]["score"]
    lines = [_line(["order, no training", *(f"MACs -{1 - macs:.0%}: points lost" for macs in found["macs"])]), _rule(4)]
    for score in ("activation", "taylor", "l1", "random"):
        lost = [f"{100 * (original - value):.1f}" for value in found[score]]
        lines.append(_line([f"{score}{', kept as the order' if score == kept else ''}", *lost]))
    met = all(ours >= l1 for ours, l1 in zip(found[kept], found["l1"], strict=True))
    return "\n".join(lines) + f"\n\nAim: the order that is kept is never worse than L1. {_verdict(met)}"


def _fronts(found: dict[str, Any], trainings: Trainings, seed: int) -> Iterator[str]:
    levels = found["levels"]
    lines = [_line(["latency of the model's", "ms", "elastic, top-1 %", "from scratch, top-1 %"]), _rule(4)]
    shared = [(level, levels[level]) for level in (f"{share:.1%}" for share in LEVELS)]
    for level, values in shared:
        lines.append(_line([level, f"{values['ms']:.2f}", *(_tested(values, kind) for kind in KINDS)]))
    pairs = [(values["elastic"]["test"], values["scratch"]["test"]) for _, values in shared if len(values) == 3]
    met = len(pairs) == len(shared) and all(elastic > scratch for elastic, scratch in pairs)
    verdict = _verdict(met) if f"compared {seed}" in trainings.done else "Not finished."
    yield "\n".join(lines) + f"\n\nAim: above the front from scratch at every latency. {verdict}"
    lines = [_line(["of the model itself", "ms", "top-1 %", "untrained, %", "elastic within its latency, %", "CPU s"])]
    lines.append(_rule(6))
    gaps = {}
    for name in (name for name in levels if not name.endswith("%")):
        key = f"pruned {seed}" if name.startswith("one size") else f"{name} {seed}"
        own, values = trainings.done[key], levels[name]
        gaps[name] = values["elastic"]["test"] - own["test"] if "elastic" in values else -1.0
        cells = [name, f"{values['ms']:.2f}", f"{100 * own['test']:.2f}", f"{100 * own['before']:.2f}"]
        lines.append(_line([*cells, _tested(values, "elastic"), f"{trainings.spent(key):.0f}"]))
    met = all(gap >= 0 for name, gap in gaps.items() if not name.startswith("one size"))
    pruned = all(gap >= 0 for name, gap in gaps.items() if name.startswith("one size"))
    yield "\n".join(lines) + (
        f"\n\nAim: not below lower resolution or larger patch anywhere. {_verdict(met)}"
        f" Not below pruning to one size. {_verdict(pruned)}"
    )


def _inherited(found: Sequence[dict[str, Any]]) -> str:
    from scipy.stats import kendalltau  # type: ignore[import-untyped]

    lines = [_line(["MACs", "inherited, top-1 %", "trained on its own, %", "gap, points"]), _rule(4)]
    for row in found:
        gap = 100 * (row["retrained"] - row["inherited"])
        accuracies = (f"{100 * row[name]:.2f}" for name in ("inherited", "retrained"))
        lines.append(_line([f"{row['macs']:.0%}", *accuracies, f"{gap:.2f}"]))
    inherited, retrained = ([row[name] for row in found] for name in ("inherited", "retrained"))
    tau = float(kendalltau(inherited, retrained).statistic)
    gaps = [100 * (row["retrained"] - row["inherited"]) for row in found]
    half = mean(gap for gap, row in zip(gaps, found, strict=True) if abs(row["macs"] - HALF) < 0.03)
    return "\n".join(lines) + (
        f"\n\nMean gap {mean(gaps):.2f} points. Aim: within 1.5 points at -50 % MACs: {half:.2f}. "
        f"{_verdict(half <= 1.5)} Aim: Kendall at least 0.7: {tau:.2f}. {_verdict(tau >= 0.7)}"
    )


def _tested(values: dict[str, Any], kind: str) -> str:
    return f"{100 * values[kind]['test']:.2f}" if kind in values else "none"


def _verdict(met: bool) -> str:
    return "**Met.**" if met else "**Missed.**"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return "|" + " --- |" * columns


def report(text: str, trainings: Trainings) -> Path:
    """Keep the table."""
    options = trainings.options
    minutes = sum(trainings.state["spent"].values()) / 60
    sizes = f"{WIDTH} wide, {DEPTH} deep, {HEADS} heads, patch {PATCH} (larger: {LARGER_PATCH})"
    return save(
        text,
        name="elastic",
        device=detect().cpu.slug,
        title="Networks inside a pretrained model",
        command=f"python -m benchmarks.elastic {asked()}",
        notes=f"Images of {options.image_size} px, {len(trainings.data.train):,} for training and "
        f"{options.heldout:,} held out; "
        f"the model is {sizes}, trained for {options.original_epochs} epochs from scratch, its networks for "
        f"{options.elastic_epochs}; networks on their own {options.retrain_epochs} more. "
        f"Cuts of the MACs: {', '.join(f'{cut:.0%}' for cut in CUTS)}. "
        f"{minutes:.0f} CPU minutes of one thread in all; matrix products run on: {matmul_backend()}.",
    )


if __name__ == "__main__":
    main()
