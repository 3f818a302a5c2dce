"""Runs a search of a study again and again, kills it at random moments, lets the last one end, and prints its front.

    python -m tests.search.killed FOLDER STRATEGY KILLS

Each run is a process of its own (forked, so that nothing is imported again) and ends by SIGKILL. The evaluator sleeps
for a moment before each value and writes down which network it was asked for.
"""

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hwnas.search.ledger import Budget
from hwnas.search.problem import Evaluators
from hwnas.search.run import SearchOutcome, run_search
from hwnas.search.strategies import STRATEGIES
from hwnas.search.strategies.rounds import RoundsSearch
from hwnas.search.study import Study
from hwnas.space import SPACES
from hwnas.space.space import Genomes
from tests.search.toys import Truth, cheap, fit, problem

SPACE = SPACES.get("autoformer-micro")
BUDGET = Budget(evaluations=80)
CONFIG = {"space": SPACE.name, "budget": 80}
FAST = {"rounds": RoundsSearch(population=24, generations=6)}


def search(strategy: str, study: Study | None, *, diary: Path | None = None) -> SearchOutcome:
    """One search, or the rest of one."""
    truth = Truth(SPACE)

    def slow(genomes: Genomes) -> Iterator[tuple[int, float]]:
        for row, value in truth(genomes):
            if diary is not None:
                time.sleep(0.003)
                with diary.open("a") as file:
                    file.write(genomes[row].tobytes().hex() + "\n")
            yield row, value

    return run_search(
        problem(SPACE, "macs<=3.5M"),
        Evaluators(cheap=cheap(SPACE), expensive=slow, fit=fit(SPACE)),
        strategy=FAST.get(strategy) or STRATEGIES.get(strategy)(),
        budget=BUDGET,
        seed=7,
        study=study,
    )


def digest(outcome: SearchOutcome) -> str:
    """Everything that a search found, bit for bit."""
    found = outcome.candidates
    arrays = [found.genomes, found.generations, found.scores.objectives, outcome.front]
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def opened(folder: Path) -> Study:
    return Study.open(folder, config=CONFIG)


def killed_run(folder: Path, strategy: str, rng: np.random.Generator) -> bool:
    """Begin or go on, and be killed in the middle of something; whether it was, and had not ended before."""
    until = entries(folder) + int(rng.integers(0, 12))
    child = os.fork()
    if child == 0:
        try:
            with opened(folder) as study:
                search(strategy, study, diary=folder / "diary.txt")
        finally:
            os._exit(0)
    while entries(folder) < until and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.001)
    time.sleep(rng.uniform(0.0, 0.03))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def entries(folder: Path) -> int:
    """Networks that evaluators were asked for so far."""
    diary = folder / "diary.txt"
    return diary.read_text().count("\n") if diary.exists() else 0


def main() -> None:
    folder, strategy, kills = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    rng = np.random.default_rng(int.from_bytes(os.urandom(4), "little"))
    killed = [killed_run(folder, strategy, rng) for _ in range(kills)]
    stored = []
    with opened(folder) as study:
        stored.append(len(study.arch_ids()))
        outcome = search(strategy, study, diary=folder / "diary.txt")
        stored.append(len(study.arch_ids()))
    asked = (folder / "diary.txt").read_text().split()
    print(
        json.dumps(
            {
                "digest": digest(outcome),
                "killed": sum(killed),
                "stored": stored,
                "asked": len(asked),
                "distinct": len(set(asked)),
            }
        )
    )


if __name__ == "__main__":
    main()
