"""GLiT's locality module as linear layers and a 2-D convolution, against the 1-D convolutions of the released code.

    python -m benchmarks.locality [--batch 1,8] [--rounds 31] [--save]

GLiT-T with fresh weights in both forms, on one thread of this CPU: exported to onnxruntime and OpenVINO, and in torch,
where a training step is a forward and a backward in training mode. Both forms run in one process, in a new random order
each round, and their CPU time counts. A cell is the time of the 1-D convolutions over that of the form in use (median
and quartiles). The last column has the largest difference of logits between both, as a share of the largest one.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.runtimes import DEVICE, missing, setting_of, subject_of
from benchmarks.support.rounds import Spread, time_rounds
from benchmarks.support.saving import asked, markdown, save
from hwnas.profile.networks import build_subject, seeded_images
from hwnas.profile.parity import compare_outputs
from hwnas.profile.runners.runner import RuntimeSession, Sample, load_runner, run_timed
from hwnas.supernet.glit import Locality

NETWORK = "GLiT-T"
DEPLOYMENTS = (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"))


def deployments() -> list[str]:
    """Those that this machine can run."""
    return [" ".join(pair) for pair in DEPLOYMENTS if not missing(*pair)]


class Convolutions(nn.Module):
    """The module as the released code has it, with the weights of another one."""

    def __init__(self, source: Locality) -> None:
        super().__init__()
        inner, taps = source.reduce.in_features, source.depthwise.kernel_size[1]
        self.expand = nn.Conv1d(source.expand.in_features, 2 * inner, 1)
        self.depthwise = nn.Conv1d(inner, inner, taps, padding=taps // 2, groups=inner)
        self.batch_norm = nn.BatchNorm1d(inner)
        self.reduce = nn.Conv1d(inner, source.reduce.out_features, 1)
        own = self.state_dict()
        self.load_state_dict({name: tensor.view_as(own[name]) for name, tensor in source.state_dict().items()})

    def forward(self, x_BND: Tensor) -> Tensor:
        """Turn tokens into as many tokens."""
        line = nn.functional.glu(self.expand(x_BND.transpose(1, 2)), dim=1)
        out: Tensor = self.reduce(nn.functional.silu(self.batch_norm(self.depthwise(line))))
        return out.transpose(1, 2)


class Eager:
    """A function as a session, timed as a runtime's."""

    def __init__(self, run: Callable[[], object]) -> None:
        self._run = run

    def run_once(self) -> Sample:
        """Run it once."""
        return run_timed(self._run, threads=1)


def released_form(module: nn.Module) -> nn.Module:
    """Return a copy of a network with 1-D convolutions."""
    copied = deepcopy(module)
    for name, part in module.named_modules():
        if isinstance(part, Locality):
            copied.set_submodule(name, Convolutions(part).train(part.training).requires_grad_(False))
    return copied


def step(module: nn.Module, images: Tensor) -> Callable[[], object]:
    trained = deepcopy(module).train().requires_grad_(True)

    def run() -> None:
        trained.zero_grad()
        trained(images).logsumexp(1).sum().backward()

    return run


def evaluation(module: nn.Module, images: Tensor) -> Callable[[], object]:
    def run() -> None:
        with torch.inference_mode():
            module(images)

    return run


def measure(batch: int, rounds: int) -> tuple[str, ...]:
    subject = subject_of(NETWORK)
    ours, images = build_subject(subject, seed=0), seeded_images(subject, batch=batch, seed=0)
    forms = {"ours": ours, "released": released_form(ours)}
    sessions: dict[str, RuntimeSession | Eager] = {}
    labels = deployments()
    for form, module in forms.items():
        for label in labels:
            runtime, precision = label.split()
            setting = setting_of(runtime, precision, batch=batch, subject=subject)
            sessions[f"{form} {label}"] = load_runner(runtime).prepare(module, images, setting)
        sessions[f"{form} torch"] = Eager(evaluation(module, images))
        sessions[f"{form} torch, training step"] = Eager(step(module, images))
    times = time_rounds(sessions, rounds=rounds, rng=np.random.default_rng(batch))  # type: ignore[arg-type]
    ratios = [
        Spread.of(times[f"released {label}"] / times[f"ours {label}"]).text(2)
        for label in (*labels, "torch", "torch, training step")
    ]
    with torch.inference_mode():
        difference = compare_outputs(ours(images), forms["released"](images))
    return (str(batch), *ratios, f"{difference.max_relative:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", default="1,8", help="batch sizes, separated by commas")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    rows = []
    for batch in map(int, options.batch.split(",")):
        rows.append(measure(batch, options.rounds))
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    text = markdown(("batch", *deployments(), "torch", "torch, training step", "difference"), rows)
    print(text)
    if options.save:
        notes = f"One thread, CPU time, {options.rounds} rounds: median and quartiles of released over ours."
        title = "GLiT's locality module in two forms"
        command = f"python -m benchmarks.locality {asked()}"
        path = save(text, name="locality", device=DEVICE, title=title, command=command, notes=notes)
        print(f"saved {path}")


if __name__ == "__main__":
    main()
