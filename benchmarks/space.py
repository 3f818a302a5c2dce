"""How fast populations are sampled, brought to canonical form and costed, beside counting one network at a time.

    python -m benchmarks.space [--rows 50000] [--repeats 5] [--save]

CPU seconds of one thread. Both sides of the ratio run in this process, on genomes of one sample: `costs` on the whole
population, and `workload` on networks one by one (a list of operations each, summed). `--save` writes the table to
`benchmarks/results/`.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from benchmarks.support.saving import markdown, save
from hwnas.devices import detect
from hwnas.space import SPACES
from hwnas.space.space import AnySpace

NAMES = ("autoformer-tiny", "resnas-tiny", "vitas-deit-small-shifted", "vitas-twins-small", "glit-tiny")
HEADER = ("space", "genes", "sample/s", "canonical/s", "costs/s", "one by one/s", "costs over one by one")


def rate(task: Callable[[], object], *, items: int, repeats: int) -> tuple[float, float]:
    """Median and worst number of items done in a CPU second."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        task()
        seconds.append(time.process_time() - start)
    return items / median(seconds), items / max(seconds)


def measure(space: AnySpace, *, rows: int, repeats: int) -> tuple[str, ...]:
    rng = np.random.default_rng(0)
    genomes = space.sample(rng, rows)
    wild = rng.integers(0, 99, size=genomes.shape) % np.array([len(d.choices) for d in space.dimensions])
    wild = wild[space.contains(wild)]
    few = space.decode(genomes[: max(1, rows // 500)])
    sampled = rate(lambda: space.sample(rng, rows), items=rows, repeats=repeats)
    canonical = rate(lambda: space.canonical(wild), items=len(wild), repeats=repeats)
    costed = rate(lambda: space.costs(genomes), items=rows, repeats=repeats)
    single = rate(lambda: [space.workload(arch).macs for arch in few], items=len(few), repeats=repeats)
    rates = [f"{mid:,.0f} ({worst:,.0f})" for mid, worst in (sampled, canonical, costed, single)]
    return (space.name, str(len(space.dimensions)), *rates, f"{costed[0] / single[0]:,.0f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000, help="genomes in the population")
    parser.add_argument(
        "--repeats", type=int, default=5, help="runs of each side; the median is shown, the worst beside"
    )
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    options = parser.parse_args()
    rows = [measure(SPACES.get(name), rows=options.rows, repeats=options.repeats) for name in NAMES]
    print(text := markdown(HEADER, rows))
    if options.save:
        command = f"python -m benchmarks.space --rows {options.rows} --repeats {options.repeats} --save"
        notes = f"Median of {options.repeats} runs, the slowest in brackets."
        title = "Spaces: genomes per CPU second, one thread"
        path = save(text, name="space", device=detect().cpu.slug, title=title, command=command, notes=notes)
        print(f"saved {path}")


if __name__ == "__main__":
    main()
