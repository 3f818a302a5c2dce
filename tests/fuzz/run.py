"""Run many cases of the fuzzer in forked processes, and collect those that end other than documented."""

import atexit
import gc
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from random import Random

from tests.fuzz.sandbox import Attack, Grammar, Result, Running, abandon, finish, start

_LIBRARIES = (
    *(
        "torch",
        "timm",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "xgboost",
        "pyarrow.parquet",
        "moocore",
        "plotly",
        "PIL.Image",
    ),
    *(
        "sklearn.linear_model",
        "sklearn.ensemble",
        "sklearn.gaussian_process",
        "scipy.optimize",
        "scipy.stats",
        "rich.progress",
    ),
    *("matplotlib.figure", "torchvision", "safetensors.torch", "jinja2", "tomli_w", "pytest", "pymoo.core.problem"),
)


@dataclass(kw_only=True)
class Summary:
    """Results of a run of the fuzzer."""

    tried: Counter[str] = field(default_factory=Counter)
    """Cases by grammar."""
    failed: list[Result] = field(default_factory=list)
    codes: Counter[int] = field(default_factory=Counter)
    cpu_s: Counter[str] = field(default_factory=Counter)
    """CPU seconds by grammar."""
    wall_s: float = 0.0

    def distinct(self) -> dict[tuple[str, str], list[Result]]:
        """Return the failures by problem and place."""
        found: dict[tuple[str, str], list[Result]] = {}
        for result in self.failed:
            found.setdefault((str(result.problem), result.place), []).append(result)
        return found

    def costs(self) -> str:
        """Return the CPU time of a case of each grammar."""
        rows = sorted((self.cpu_s[name] / count, name, count) for name, count in self.tried.items())
        return "\n".join(f"{name:20}{count:6} cases{mean:8.2f} CPU s each" for mean, name, count in rows)

    def __str__(self) -> str:
        kinds = Counter(str(result.problem) for result in self.failed)
        failures = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "none"
        codes = ", ".join(f"{count} with {code}" for code, count in sorted(self.codes.items()))
        return (
            f"{self.tried.total():,} cases in {self.wall_s:.1f} s, ended: {codes}\n"
            f"failed: {len(self.failed)} at {len(self.distinct())} places ({failures})"
        )


def import_everything() -> None:
    """Import hwnas and its libraries once, before the first fork, without running any of them."""
    from hwnas.cli.app import COMMANDS

    for row in COMMANDS:
        import_module(row.target.partition(":")[0])
    for name in _LIBRARIES:
        with suppress(ImportError):
            import_module(name)
    for path in sorted((Path(__file__).resolve().parents[2] / "hwnas").rglob("*.py")):
        if "tensorrt" not in path.parts and not path.stem.startswith("__"):
            with suppress(ImportError):
                import_module(".".join(path.relative_to(Path(__file__).resolve().parents[2]).with_suffix("").parts))
    import_module("tests.fuzz.grammars")
    for name in ("tests.pipeline.campaigns", "tests.pipeline.measured_profiles", "tests.train.data.image_files"):
        import_module(name)
    import torch

    gc.collect()
    atexit.register(gc.unfreeze)  # nanobind would call what is frozen leaked
    gc.freeze()  # else the collector writes to every object, and each child gets its own copy of all pages
    assert not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]


def schedule(grammars: Sequence[Grammar], *, seed: str, count: int) -> Iterator[tuple[Grammar, str]]:
    """Yield grammars in turn, each as often as its weight, with the ids of the cases."""
    row = [grammar for turn in range(max(g.weight for g in grammars)) for grammar in grammars if turn < grammar.weight]
    for index in range(count):
        grammar = row[index % len(row)]
        yield grammar, f"{grammar.name}:{seed}:{index}"


def valid_grammars(grammars: Sequence[Grammar]) -> list[Grammar]:
    """Return grammars of one command each that change nothing, so that each must end with 0."""
    found: dict[tuple[str, ...], Grammar] = {}
    for grammar in grammars:
        for number, command in enumerate(grammar.commands):

            def make(case: Path, rng: Random, command: tuple[str, ...] = command) -> Attack:
                return Attack(arguments=command, what="unchanged", must_pass=True)

            found.setdefault((*grammar.parts, *command), replace(grammar, name=f"{grammar.name}-{number}", make=make))
    return list(found.values())


def run_cases(
    cases: Sequence[tuple[Grammar, str]],
    *,
    seeds: Path,
    folder: Path,
    jobs: int = 2,
    report: Callable[[Result], None] | None = None,
    keep: bool = False,
) -> Summary:
    """Run cases, a few at a time.

    Args:
        cases: Grammars and ids.
        seeds: Folder of valid files.
        folder: Folder for the cases; each is removed when it has ended.
        jobs: Cases at a time.
        report: Called with each result.
        keep: Keep the folders of cases that failed.
    """
    summary, waiting, running = Summary(), list(reversed(cases)), dict[int, tuple[Running, Grammar]]()
    begun = time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                grammar, case = waiting.pop()
                made = start(grammar, case, seeds=seeds, folder=folder / case.replace(":", "-"))
                running[made.pid] = (made, grammar)
            ended = [(made, grammar, finish(made)) for made, grammar in running.values()]
            for made, grammar, result in ended:
                if result is not None:
                    del running[made.pid]
                    _count(summary, grammar, result)
                    if report is not None:
                        report(result)
                    if result.problem is None or not keep:
                        shutil.rmtree(made.base.parent, ignore_errors=True)
            if not any(result for *_, result in ended):
                time.sleep(0.002)
    finally:
        for made, _ in running.values():
            abandon(made)
    summary.wall_s = time.monotonic() - begun
    return summary


def _count(summary: Summary, grammar: Grammar, result: Result) -> None:
    summary.tried[grammar.name] += 1
    summary.codes[result.code] += 1
    summary.cpu_s[grammar.name] += result.cpu_s  # type: ignore[assignment]
    if result.problem is not None:
        summary.failed.append(result)


def print_result(result: Result) -> None:
    """Print a result: one line where it is as documented and nothing was written to stderr."""
    line = f"{result.code:>4} {result.wall_s:6.2f} s {result.memory_mb:6.0f} MB  {result.case}  {result.what[:90]!r}"
    print(result if result.problem else line, flush=True)


def print_failures(found: Mapping[tuple[str, str], Sequence[Result]]) -> None:
    """Print one failure of each place."""
    for results in found.values():
        more = f" ({len(results)} cases)" if len(results) > 1 else ""
        print(f"{results[0]}{more}\n", file=sys.stderr)
