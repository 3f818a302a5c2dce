"""Time of a network in each runtime and precision of this CPU, and its distance from the CPU's limit.

    python -m benchmarks.runtimes [--batch 1,8] [--repeats 31] [--state DIR --cells 2] [--save]

DeiT-Ti and one published network of each family, on one thread. All deployments of a network run in one process, in a
new random order each round, and their CPU time counts. A cell is the time as a share of onnxruntime's in fp32 in the
same round (median and quartiles over the rounds), then the share of the limit: the rate of multiply-adds over that of
a 1024 x 1024 x 1024 product in the same precision and the same rounds, by the fastest of the runtimes. The second table
has the largest difference of the logits from torch's in fp32, as a share of the largest logit.

With `--state`, finished rows are kept in a folder and not measured again; `--cells` ends a run after as many new ones.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.support.rounds import Spread, time_rounds
from benchmarks.support.saving import Line, asked, markdown, save
from benchmarks.support.state import State
from hwnas.devices import detect
from hwnas.export.tracer import trace_workload
from hwnas.metrics import Deployment
from hwnas.profile.networks import build_subject, seeded_images
from hwnas.profile.parity import compare_outputs, expected_logits
from hwnas.profile.reference import REFERENCE
from hwnas.profile.runners.runner import RuntimeSession, exporter_for, load_runner
from hwnas.profile.subjects import space_subject
from hwnas.records import Setting, Subject
from hwnas.runs import package_versions
from hwnas.space import SPACES

NETWORKS = {
    "DeiT-Ti": None,
    "AutoFormer-T": "autoformer-tiny",
    "ViTAS-C": "vitas-deit-small",
    "ViT-ResNAS-T": "resnas-tiny",
    "GLiT-T": "glit-tiny",
}
"""Published networks and their spaces."""

BASE = ("onnxruntime", "fp32")
DEPLOYMENTS = (
    *(BASE, ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8")),
    *(("onnxruntime", "int8"), ("onnxruntime", "int8-dynamic"), ("torch", "fp32"), ("torch", "bf16")),
)
PRODUCT_SIZE = 1024
DEVICE = detect().cpu.slug


def subject_of(name: str) -> Subject:
    space_name = NETWORKS[name]
    if space_name is None:
        return REFERENCE
    space = SPACES.get(space_name)
    return space_subject(space, space.candidate(space.published[name]))


def setting_of(runtime: str, precision: str, *, batch: int, subject: Subject) -> Setting:
    deployment = Deployment(device=DEVICE, runtime=runtime, precision=precision, batch=batch, threads=1)
    return Setting(deployment=deployment, exporter=exporter_for(runtime, subject))


def missing(runtime: str, precision: str) -> str:
    """Why a deployment cannot be measured; empty if it can."""
    runner, setting = load_runner(runtime), setting_of(runtime, precision, batch=1, subject=REFERENCE)
    return runner.available(detect().cpu.device).reason or runner.supports(setting).reason


def products(deployments: list[tuple[str, str]]) -> Iterator[tuple[str, RuntimeSession]]:
    """A large product in each deployment, whose rate is taken for the limit."""
    # The ReLU is for quantising, which measures the results of operations and not the images.
    module = nn.Sequential(nn.ReLU(), nn.Linear(PRODUCT_SIZE, PRODUCT_SIZE, bias=False)).eval().requires_grad_(False)
    tokens = torch.randn(1, PRODUCT_SIZE, PRODUCT_SIZE, generator=torch.Generator().manual_seed(0))
    for runtime, precision in deployments:
        setting = setting_of(runtime, precision, batch=1, subject=REFERENCE)
        yield f"product {runtime} {precision}", load_runner(runtime).prepare(module, tokens, setting)


def measure(
    name: str, *, batch: int, deployments: list[tuple[str, str]], rounds: int, finished: list[str]
) -> list[Line]:
    """The row of a network at a batch size in both tables; its name is added to those that are finished."""
    subject = subject_of(name)
    module, images = build_subject(subject, seed=0), seeded_images(subject, batch=batch, seed=0)
    giga = 2 * batch * float(trace_workload(module, image_size=subject.image_size).macs) / 1e9
    sessions: dict[str, RuntimeSession] = {}
    differences = []
    for runtime, precision in deployments:
        session = load_runner(runtime).prepare(
            module, images, setting_of(runtime, precision, batch=batch, subject=subject)
        )
        parity = compare_outputs(session.outputs(), expected_logits(module, images))
        differences.append(f"{parity.max_relative:.1e}")
        sessions[f"{runtime} {precision}"] = session
    sessions.update(products(deployments))
    times = time_rounds(sessions, rounds=rounds, rng=np.random.default_rng(batch))
    product_gflop = 2 * PRODUCT_SIZE**3 / 1e9
    limits: dict[str, float] = {}
    for runtime, precision in deployments:
        rate = 1e3 * product_gflop / float(np.median(times[f"product {runtime} {precision}"]))
        limits[_limit(precision)] = max(rate, limits.get(_limit(precision), 0.0))
    base = times[" ".join(BASE)]
    cells = []
    for runtime, precision in deployments:
        own = times[f"{runtime} {precision}"]
        share = 1e3 * giga / float(np.median(own)) / limits[_limit(precision)]
        ratio = Spread.of(base).text(1) + " ms" if (runtime, precision) == BASE else Spread.of(own / base).text(2)
        cells.append(f"{ratio}, {share:.0%}")
    rates = ", ".join(f"{precision} {rate:.0f}" for precision, rate in limits.items())
    finished.append(f"{name} b{batch}")
    print(finished[-1], *cells, rates, sep=" | ", file=sys.stderr, flush=True)
    return [(name, str(batch), *cells, rates), (name, str(batch), *differences)]


def _limit(precision: str) -> str:
    """The precision whose products set the limit."""
    return precision.partition("-")[0]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="names, separated by commas")
    parser.add_argument("--batch", default="1,8", help="batch sizes, separated by commas")
    parser.add_argument("--repeats", type=int, default=31, help="rounds; a third of them at batches above 1")
    parser.add_argument("--state", type=Path, help="a folder that keeps finished rows")
    parser.add_argument("--cells", type=int, help="end after measuring this many rows")
    parser.add_argument("--save", action="store_true", help="write the tables to benchmarks/results/")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)
    reasons = {pair: missing(*pair) for pair in DEPLOYMENTS}
    deployments = [pair for pair in DEPLOYMENTS if not reasons[pair]]
    skipped = [f"{' '.join(pair)} is skipped: {reason}" for pair, reason in reasons.items() if reason]
    print("\n".join(skipped), file=sys.stderr)
    versions = package_versions(("onnxruntime", "openvino", "torch"))
    state = State(folder=options.state, code=" ".join(versions.values()))
    rows: list[Line] = []
    finished: list[str] = []
    for name in options.networks.split(","):
        for batch in map(int, options.batch.split(",")):
            rounds = options.repeats if batch == 1 else max(7, options.repeats // 3)
            settings = {"deployments": json.loads(json.dumps(deployments)), "rounds": rounds, "device": DEVICE}
            make = partial(measure, name, batch=batch, deployments=deployments, rounds=rounds, finished=finished)
            rows += state.lines(f"{name} b{batch}", settings, make)
            if options.cells is not None and len(finished) >= options.cells:
                print("not all rows are measured yet: run this again", file=sys.stderr)
                return
    names = tuple(" ".join(pair) for pair in deployments)
    times = markdown(("network", "batch", *names, "limit, GFLOP/s"), rows[::2])
    text = f"{times}\n\n{markdown(('network', 'batch', *names), rows[1::2])}"
    print(text)
    if options.save:
        print(f"saved {report(text, options, skipped)}")


def report(text: str, options: argparse.Namespace, skipped: list[str]) -> Path:
    """Keep the tables."""
    notes = (
        f"One thread, CPU time, {options.repeats} rounds (a third of them at batches above 1): median and quartiles of "
        "the time over onnxruntime's in fp32, which is given in ms; then the share of the limit, the rate of a large "
        "product. Below, the largest difference of logits as a share of the largest one."
    )
    return save(
        text,
        name="runtimes",
        device=DEVICE,
        title="Runtimes and precisions of a CPU",
        command=f"python -m benchmarks.runtimes {asked()}",
        notes="\n".join([notes, *skipped]),
    )


if __name__ == "__main__":
    main()
