"""What every test runs under: one thread a process, a Hypothesis profile, and the machine's own limits."""

import gc
import importlib.util
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Two test processes on two cores: more threads in each only take turns. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Each process times two backends of matrix products, which round otherwise: a process that a test starts could take
# another one than the test itself, and a training that was killed would end with other last bits than a whole one.
os.environ.setdefault("HWNAS_MATMUL", "default")

GRAPHS_PARSED, GRAPHS_REFUSED, ENGINES_BUILT = "graphs parsed", "graphs refused", "engines built"
"""Properties that a test notes for each graph that NVIDIA's parser took or refused, and for each engine."""

# A busy machine makes a good example slow, which is no finding: no deadline, and no complaint about speed.
_UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("local", **_UNTIMED)  # type: ignore[arg-type]
settings.register_profile("ci", derandomize=True, print_blob=True, **_UNTIMED)  # type: ignore[arg-type]
settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Templates of graphs are kept in a folder of the tests' own, one for all processes that xdist starts."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWNAS_CACHE", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "hwnas-cache"))
        yield


def pytest_collection() -> None:
    """Collect tests without collecting garbage, of which there is none."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave modules and tests, nearly a million objects, out of garbage collections: half of all time went there."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and say why."""
    for marker, available, reason in (
        ("gpu", _sees_cuda, "torch sees no CUDA device here"),
        ("tensorrt", _has_tensorrt, "the tensorrt package is not installed here"),
    ):
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and not available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what NVIDIA's own parser and builder did; with xdist, the reports come from the workers."""
    counts: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                counts.update(name for name, _ in report.user_properties)
    parsed, refused, built = (counts[name] for name in (GRAPHS_PARSED, GRAPHS_REFUSED, ENGINES_BUILT))
    if parsed or refused or built:
        total = parsed + refused
        terminalreporter.write_line(
            f"NVIDIA's parser took {parsed} of {total} graphs, and {built} engines were built (TensorRT for RTX)"
        )


def _sees_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _has_tensorrt() -> bool:
    return importlib.util.find_spec("tensorrt") is not None


@pytest.fixture
def coded_rows(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """The numbers of networks in each call of `Space.encode` and `Space.decode`."""
    from hwnas.space.space import Space

    calls: dict[str, list[int]] = {"encode": [], "decode": []}
    for name, counts in calls.items():
        original = getattr(Space, name)

        def counted(space: Any, rows: Sequence[Any], *, original: Any = original, counts: list[int] = counts) -> Any:
            counts.append(len(rows))
            return original(space, rows)

        monkeypatch.setattr(Space, name, counted)
    return calls
