import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hwnas.errors import InputError
from hwnas.train.distributed import World, distributed_world
from hwnas.train.metrics_file import read_metrics
from tests.train.ranks import CASES
from tests.train.toys import assert_same, toy_trainer, weights


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes on this machine have trained."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.train.ranks", str(folder)],
            cwd=Path(__file__).parents[2],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    complaints = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], complaints
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_end_with_the_same_weights(name: str, runs: Path) -> None:
    one, other = (load_file(runs / f"{name}-2" / f"rank{rank}.safetensors") for rank in range(2))
    assert_same(one, other)


@pytest.mark.parametrize("name", ["single", "elastic"])
def test_two_processes_train_as_one_does(name: str, runs: Path, tmp_path: Path) -> None:
    space, recipe = CASES[name]
    alone = toy_trainer(tmp_path, space, recipe)
    alone.run()
    together = load_file(runs / f"{name}-2" / "rank0.safetensors")
    for key, tensor in weights(alone.model).items():
        torch.testing.assert_close(together[key], tensor, rtol=1e-4, atol=1e-6)
    pairs = zip(read_metrics(tmp_path), read_metrics(runs / f"{name}-2"), strict=True)
    assert all(one["loss"] == pytest.approx(other["loss"], rel=1e-5) for one, other in pairs)


def test_all_processes_get_the_values_of_the_first(runs: Path) -> None:
    values = [load_file(runs / f"shared{rank}.safetensors")["value"].tolist() for rank in range(2)]
    assert values == [[1.0, 0.0]] * 2


def test_only_the_first_process_writes(runs: Path) -> None:
    assert len(read_metrics(runs / "several-2")) == 6
    assert len(list((runs / "several-2" / "checkpoints").iterdir())) == 1


def test_one_process_alone_changes_no_gradient() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.grad = torch.ones(2, 2)
    World().average_gradients(layer.parameters(), unused_weights="skip")
    assert torch.equal(layer.weight.grad, torch.ones(2, 2))
    assert layer.bias.grad is None
    World().average_gradients(layer.parameters(), unused_weights="decay")
    assert layer.bias.grad is not None
    assert not layer.bias.grad.any()


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed_world() as world:
        assert (world.rank, world.size, world.is_main_process) == (0, 1, True)
        assert world.mean([1.0, 2.0]) == [1.0, 2.0]


GOOD = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("WORLD_SIZE", text) for text in ("abc", "0", "-1", "2.0", "1e9", "9" * 30, "²", " 2", "99999999")),
        *(("RANK", text) for text in ("", "2", "-1", "x")),
        *(("LOCAL_RANK", text) for text in ("2", "x")),
        *(("MASTER_PORT", text) for text in ("", "0", "x", "65536", "9" * 30)),
        ("MASTER_ADDR", ""),
    ],
)
def test_variables_of_torchrun_are_checked(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {**GOOD, name: text}.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=f"{name}.* must be"), distributed_world():
        pass
