"""One training step of a supernet beside the naive formulation of the same networks: CPU seconds and peak memory.

    python -m benchmarks.supernet_step [--spaces autoformer-tiny,resnas-tiny] [--repeats 5] [--rounds 2] [--save]
    python -m benchmarks.supernet_step --device cuda --compile --save

A step is forward, backward and fused AdamW, batch 16 at 224 pixels, one thread. The naive side has the same weights,
networks and loss:

- AutoFormer (the published network): relative position as the paper writes it, one vector for every pair of tokens.
- ViT-ResNAS (two random networks a step): the whole super-network computed and masked.
- ViTAS (a random network a step): the largest network of the space, which is less than what masking costs.
- GLiT (likewise): attention and the locality module on all channels of each block. Its largest network has attention
  alone, and masks would leave both to be computed.

On a CPU our side multiplies on the backend that `hwnas.supernet.matmul` chooses, the naive side on torch's default.
Each side runs in a process of its own, in turn, `--rounds` times; the median of all its steps is shown with the
fastest and the slowest. Memory is the highest resident size of the process (on a GPU, of its allocations).
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.support.saving import asked, save
from hwnas import workload
from hwnas.devices import detect
from hwnas.space import SPACES
from hwnas.space.glit import Glit, GlitConfig
from hwnas.space.resnas import ResNas
from hwnas.space.space import AnySpace
from hwnas.supernet.families import SUPERNETS, make_network, make_supernet
from hwnas.supernet.glit import Locality
from hwnas.supernet.layers import TransformerBlock
from hwnas.supernet.matmul import fast_matmul, matmul_backend

SPACE_NAMES = ("autoformer-tiny", "autoformer-small", "resnas-tiny", "vitas-deit-small-shifted", "glit-tiny")
SIDES = (("naive", "fp32"), ("ours", "fp32"), ("naive", "bf16"), ("ours", "bf16"))
DROP_PATH = 0.1
Forward = Callable[[Tensor, list[Any]], Any]


def draws(space: AnySpace, *, fixed: bool) -> Iterator[list[Any]]:
    """The networks of each step, the same on both sides: for AutoFormer or if `fixed` the published one."""
    rng = np.random.default_rng(0)
    count = 2 if space.family == "resnas" else 1
    while True:
        published = list(space.published.values())[:1]
        yield published if fixed or space.family == "autoformer" else list(space.decode(space.sample(rng, count)))


def ours(space: AnySpace) -> tuple[nn.Module, Forward]:
    settings: dict[str, Any] = {"drop_path": DROP_PATH}
    if space.family == "resnas":
        settings["patch_logits"] = "training"
    supernet = make_supernet(space, SUPERNETS.get(space.family).config_type(**settings))
    return supernet, lambda images, archs: supernet(images, archs)


class BothModules(nn.Module):
    """Parts that masks would choose from in a block of GLiT: attention, and the locality module on all channels."""

    def __init__(self, attention: nn.Module, config: GlitConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.attention = attention
        self.locality = Locality(
            channels=width, inner_dim=width * max(config.expansions), kernel_size=max(config.kernel_sizes)
        )

    def forward(self, x_BND: Tensor) -> Tensor:
        out: Tensor = self.attention(x_BND) + self.locality(x_BND)
        return out


def naive(space: AnySpace) -> tuple[nn.Module, Forward]:
    if isinstance(space, ResNas):
        from benchmarks.support.masked_resnas import MaskedResNas

        masked = MaskedResNas(space, drop_path=DROP_PATH)
        return masked, masked
    if space.family == "autoformer":
        workload._DIRECT_TOKENS = 10**9
        return ours(space)
    config = SUPERNETS.get(space.family).config_type(drop_path=DROP_PATH)
    network = make_network(space, space.largest(), config)
    if isinstance(space, Glit):
        for block in network.modules():
            if isinstance(block, TransformerBlock):
                block.attention = BothModules(block.attention, space.config)
    return network, lambda images, archs: network(images)


def loss(output: Any, labels: Tensor) -> Tensor:
    logits, patch_logits = output if isinstance(output, tuple) else (output, None)
    total = nn.functional.cross_entropy(logits.float(), labels)
    if patch_logits is not None:
        total = total + nn.functional.cross_entropy(
            patch_logits.float().transpose(1, 2), labels[:, None].expand(-1, patch_logits.shape[1])
        )
    return total


def run_side(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each step, megabytes, mean MACs of an image's network."""
    torch.set_num_threads(1)
    with fast_matmul() if options.side == "ours" and options.device == "cpu" else nullcontext():
        return run_steps(options)


def run_steps(options: argparse.Namespace) -> dict[str, Any]:
    """As `run_side`, on the libraries that torch is set to."""
    torch.manual_seed(0)
    space, device = SPACES.get(options.spaces), torch.device(options.device)
    module, forward = (ours if options.side == "ours" else naive)(space)
    module.to(device).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
    images = torch.randn(options.batch, 3, space.config.image_size, space.config.image_size, device=device)
    labels = torch.randint(space.config.num_classes, (options.batch,), device=device)
    seconds, macs = [], []
    networks = draws(space, fixed=options.compile)
    if options.compile and options.side == "ours":
        bound = torch.compile(module.bind(next(networks)[0]))  # type: ignore[operator]
        forward = lambda images, archs: bound(images)  # noqa: E731
    for archs, _ in zip(networks, range(options.repeats + 2), strict=False):
        macs.append(mean(space.costs(space.encode(archs)).macs.tolist()))
        start = _clock(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            output = forward(images, archs)
        loss(output, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(_clock(device) - start)
    return {"seconds": seconds[2:], "megabytes": _megabytes(device), "macs": mean(macs[2:])}


def _clock(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _megabytes(device: torch.device) -> float:
    if device.type == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return torch.cuda.max_memory_allocated() / 1e6


def in_process(name: str, side: str, precision: str, options: argparse.Namespace) -> dict[str, Any]:
    arguments = ["--spaces", name, "--side", side, "--precision", precision, "--device", options.device]
    arguments += ["--repeats", str(options.repeats), "--batch", str(options.batch)]
    arguments += ["--compile"] if options.compile else []
    command = [sys.executable, "-m", "benchmarks.supernet_step", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(name: str, options: argparse.Namespace) -> list[str]:
    """The rows of one space; the ratios are to the naive side in float32."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for _ in range(options.rounds):
        for side in SIDES:
            found.setdefault(side, []).append(in_process(name, *side, options))
            print(f"{name} {side}: {found[side][-1]}", file=sys.stderr)
    base = median(_all_seconds(found[SIDES[0]]))
    return [_row(name, side, runs, base) for side, runs in found.items()]


def _all_seconds(runs: list[dict[str, Any]]) -> list[float]:
    return [seconds for run in runs for seconds in run["seconds"]]


def _row(name: str, side: tuple[str, str], runs: list[dict[str, Any]], base: float) -> str:
    seconds = _all_seconds(runs)
    spread = f"{median(seconds):.3g} ({min(seconds):.3g} – {max(seconds):.3g})"
    memory, macs = max(run["megabytes"] for run in runs), runs[0]["macs"] / 1e9
    return f"| {name} | {side[0]} | {side[1]} | {spread} | {base / median(seconds):.2f}x | {memory:,.0f} | {macs:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", default=",".join(SPACE_NAMES), help="names, separated by commas")
    parser.add_argument("--repeats", type=int, default=5, help="steps that count, a process")
    parser.add_argument("--rounds", type=int, default=2, help="processes a side, in turn")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--compile", action="store_true", help="compile our side; the published network in every step")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    parser.add_argument("--side", choices=("ours", "naive"), help="run one side in this process (used internally)")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="with --side")
    options = parser.parse_args()
    if options.side:
        print(json.dumps(run_side(options)))
        return
    header = "| space | side | precision | seconds a step | against naive fp32 | MB | GMACs of the networks drawn |"
    rows = [header, "|" + " --- |" * 7]
    print("\n".join(rows))
    for name in options.spaces.split(","):  # each space is printed as soon as it is measured, should the time run out
        rows += (measured := measure(name, options))
        print("\n".join(measured), flush=True)
    text = "\n".join(rows)
    if options.save:
        print(f"saved {report(text, options)}")


def report(text: str, options: argparse.Namespace) -> Path:
    """Keep the table."""
    machine = detect()
    clock = "CPU seconds of one thread" if options.device == "cpu" else "Seconds, synchronised"
    return save(
        text,
        name="supernet_step",
        device=machine.cpu.slug if options.device == "cpu" else machine.devices[0].name,
        title=f"A training step of a supernet, batch {options.batch}",
        command=f"python -m benchmarks.supernet_step {asked()}",
        notes=f"{clock}, median, fastest and slowest; our matrix products run on: {matmul_backend()}.",
    )


if __name__ == "__main__":
    main()
