"""Two agents of torchrun on this machine, as on two nodes: gloo, and a rendezvous of their own (c10d)."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.train.toys import assert_same

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
TRAIN = ["-m", "hwnas", "train", "--space", "autoformer-micro", "--data", "digits", "--max-images", "256"]
TRAIN += ["--batch", "64", "--epochs", "8"]
TRAIN += ["--set", "schedule.warmup_epochs=0", "--out"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def node(log: Path, *, port: int, out: Path, is_host: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """An agent with one process, in a process group of its own; it is killed at the end."""
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test"]
    rendezvous += ["--rdzv-conf", f"is_host={int(is_host)}"]
    command = [
        *TORCHRUN,
        "--nnodes",
        "2",
        "--nproc-per-node",
        "1",
        "--max-restarts",
        "3",
        *rendezvous,
        *TRAIN,
        str(out),
    ]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with log.open("ab") as file:
        agent = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=file, stderr=file, start_new_session=True)
    try:
        yield agent
    finally:
        kill(agent)


def kill(agent: subprocess.Popen[bytes]) -> None:
    """Take a node away: its agent, and the process of the training."""
    if agent.poll() is None:
        tree = subprocess.run(
            ["pgrep", "-P", str(agent.pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        for pid in (agent.pid, *map(int, tree)):
            os.kill(pid, signal.SIGKILL)
    agent.wait()


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a training on one node with two processes."""
    out = tmp_path_factory.mktemp("one") / "run"
    command = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", *TRAIN, str(out)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    return out / "supernet.safetensors"


def test_two_nodes_train_as_one_with_two_processes_does(tmp_path: Path, one_node: Path) -> None:
    out, port = tmp_path / "run", free_port()
    with (
        node(tmp_path / "log0", port=port, out=out, is_host=True) as first,
        node(tmp_path / "log1", port=port, out=out) as second,
    ):
        codes = [first.wait(), second.wait()]
    assert codes == [0, 0], (tmp_path / "log0").read_text() + (tmp_path / "log1").read_text()
    assert_same(load_file(out / "supernet.safetensors"), load_file(one_node))


def test_a_node_that_is_lost_and_comes_back_costs_no_weights(tmp_path: Path, one_node: Path) -> None:
    out, port, log = tmp_path / "run", free_port(), tmp_path / "log0"
    with node(log, port=port, out=out, is_host=True) as first:
        with node(tmp_path / "log1", port=port, out=out) as second:
            while not list(out.glob("checkpoints/*")):
                assert first.poll() is None, log.read_text()
                assert second.poll() is None, log.read_text()
                time.sleep(0.1)
        # The node is gone; the one with the rendezvous has to stay.
        with node(tmp_path / "log2", port=port, out=out) as again:
            codes = [first.wait(), again.wait()]
    assert codes == [0, 0], log.read_text() + (tmp_path / "log2").read_text()
    assert "all processes of a training must stay" in log.read_text()
    assert_same(load_file(out / "supernet.safetensors"), load_file(one_node))
