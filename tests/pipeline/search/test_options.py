"""Options that cannot work are refused before anything is made."""

from pathlib import Path
from typing import Any

import pytest

from hwnas.errors import HwnasError, InputError, UsageError
from hwnas.pipeline.search.run import dry_run_search, search_networks
from hwnas.search.spec import PostSearch
from tests.pipeline.campaigns import FakeEnvironment
from tests.pipeline.search.workbench import free, options


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"objectives": ("thruput",)}, InputError, "objective 'thruput' is not known"),
        ({"constraints": ("latency_ms<=8parsec",)}, InputError, "unit of latency_ms: 'parsec' is not known"),
        ({"constraints": ("macs<=1M", "macs>=2M")}, InputError, "must not exclude each other"),
        ({"constraints": ("macs<=1",)}, InputError, "constraints cannot be met: the smallest network has macs"),
        ({"objectives": ("energy_j",)}, HwnasError, "energy_j|predictor"),
        ({"strategy": "annealing"}, InputError, "strategy 'annealing' is not known"),
        ({"confidence": 1.5}, InputError, "confidence must be greater than 0 and at most"),
        ({"confidence": 0.99}, InputError, "support no interval at this confidence"),
        ({"space": "glit-micro"}, InputError, "must hold a supernet of glit-micro"),
        ({"space": "glit-mikro"}, InputError, "space 'glit-mikro' is not known"),
        ({"minutes": -1.0}, InputError, "minutes must be greater than 0"),
        ({"minutes": float("nan")}, InputError, "minutes must be a finite number"),
        ({"budget": 0}, InputError, "budget must be between 1"),
        ({"budget": 10**20}, InputError, "budget must be between 1"),
        ({"seed": -1}, InputError, "seed must be between 0"),
        ({"seed": 10**20}, InputError, "seed must be between 0"),
        ({"num_seeds": 10**6}, InputError, "num_seeds must be between 1"),
        ({"constraints": ("macs<=1e400",)}, InputError, "a bound of macs must be a number up to 1e"),
        ({"constraints": ("macs<=nan",)}, InputError, "a bound of macs must be a number"),
        ({"constraints": ("macs<=inf",)}, InputError, "a bound of macs must be a number"),
        ({"constraints": ("macs<=-5",)}, InputError, "no network has macs of -5 or less"),
        ({"constraints": ("macs>=-5",)}, InputError, "every network has macs above -5"),
        ({"constraints": ("x" * 10_000,)}, InputError, "a constraint must be"),
        ({"accuracy": False}, UsageError, "--supernet has no effect: without accuracy"),
        ({"accuracy": False, "supernet": None}, UsageError, "--data has no effect: without accuracy"),
        ({"objectives": ()}, UsageError, "--predictors has no effect: no objective"),
        ({"objectives": (), "device": "cpu"}, UsageError, "--device has no effect: no objective"),
        ({"strategy": "glit"}, InputError, "glit searches groups first, which autoformer-micro does not have"),
        (
            {"accuracy": False, "post_search": PostSearch(retrain=1)},
            UsageError,
            "a search without accuracy has no supernet",
        ),
        ({"data": None}, InputError, "does not say which images"),
        ({"supernet": Path("nowhere")}, InputError, "there is no run and no file nowhere"),
    ],
)
def test_bad_input_is_told(
    bench: dict[str, Any], tmp_path: Path, changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        search_networks(
            options({**bench, **changes}), out=tmp_path / "run", campaign_environment=FakeEnvironment().make()
        )
    assert not (tmp_path / "run").exists()


def test_a_long_name_is_cut_in_the_message(bench: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="is not known") as caught:
        dry_run_search(options(bench, objectives=("x" * 10_000,)))
    assert len(str(caught.value)) < 1000


def test_rounds_need_accuracy(bench: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="rounds need accuracy"):
        dry_run_search(free(bench, strategy="rounds"))


def test_a_mistyped_objective_is_answered_with_the_whole_command(bench: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        dry_run_search(options(bench, objectives=("thruput",)))
    assert str(caught.value).splitlines() == [
        "objective 'thruput' is not known",
        "  got     thruput",
        "  known   accuracy, divergence, energy_j, knn_accuracy, latency_ms, mAP, mIoU, macs, memory_mb, params, "
        "throughput",
        "  try     hwnas search --objective throughput",
    ]
