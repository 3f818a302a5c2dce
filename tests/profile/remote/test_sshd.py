"""Campaigns over the system's ssh, to an sshd of this machine with a key, a configuration and a port of its own."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.pipeline.measure import measure
from hwnas.profile.remote.connection import ConnectionLimits
from hwnas.profile.remote.host import Host, RemoteHosts
from hwnas.records import load_profile
from tests.profile.remote.pipes import options

SSHD = shutil.which("sshd") or ("/usr/sbin/sshd" if Path("/usr/sbin/sshd").is_file() else None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SSHD is None or shutil.which("ssh") is None, reason="there is no sshd, or no ssh, here"),
]

LIMITS = ConnectionLimits(retry_s=(0.5,), give_up_s=5.0)

SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/hostkey
PidFile none
AuthorizedKeysFile {folder}/key.pub
StrictModes no
PasswordAuthentication no
UsePAM no
PermitRootLogin yes
SetEnv HWNAS_CACHE={folder}/cache-{port}
"""

CLIENT = """
Host {name}
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known
  StrictHostKeyChecking no
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Servers:
    """Two servers, `one` and `two`, each with a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("hostkey", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        client = ""
        for name in ("one", "two"):
            port, config = free_port(), folder / f"{name}.conf"
            config.write_text(SERVER.format(port=port, folder=folder))
            client += CLIENT.format(name=name, port=port, user=getpass.getuser(), folder=folder)
            command = [str(SSHD), "-D", "-f", str(config)]
            self.processes[name] = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        (folder / "config").write_text(client)

    def children(self, name: str) -> list[int]:
        """Processes of the connections of a server."""
        done = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.processes[name].pid)], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in done.stdout.split()]

    def cut(self, name: str) -> None:
        """Cut the connections of a server, which stays."""
        for pid in self.children(name):
            os.kill(pid, signal.SIGKILL)

    def stop(self, name: str) -> None:
        """Stop a server with its connections."""
        connections = self.children(name)
        self.processes[name].kill()
        for pid in connections:
            os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        for name, process in self.processes.items():
            self.stop(name)
            process.wait()


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    monkeypatch.setenv("HWNAS_SSH", f"ssh -F {tmp_path}/config")
    running = Servers(tmp_path)
    try:
        yield running
    finally:
        running.close()


def hosts(*names: str) -> list[Host]:
    return [Host(address=name, python=sys.executable) for name in names]


def test_two_hosts_measure_one_campaign_and_a_cut_connection_costs_nothing(servers: Servers, tmp_path: Path) -> None:
    messages: list[str] = []
    cut = [2]

    class CutsOnce:
        def message(self, text: str) -> None:
            messages.append(text)

        def update(self, event: object) -> None:
            cut[0] -= 1
            if not cut[0]:
                servers.cut("one")

    campaign = options(tmp_path / "out", samples=4, repeats=0)
    with RemoteHosts(hosts("one", "two"), on_message=messages.append, limits=LIMITS) as remote:
        result = measure(campaign, reporter=CutsOnce(), campaign_environment=remote.environment())
    rows = load_profile(result.profiles[0].path).measurements
    assert all(row.failure is None for row in rows)
    assert set(Counter(row.subject.network_id for row in rows).values()) == {1}
    assert {row.host for row in rows} == {"one", "two"}
    assert any(text.startswith("one: the connection was lost") for text in messages)


def test_a_host_that_cannot_be_reached_is_named(servers: Servers) -> None:
    servers.stop("two")
    with pytest.raises(InputError, match="two must be reachable by ssh") as caught:
        RemoteHosts(hosts("two"), limits=LIMITS)
    assert "Connection refused" in str(caught.value.got)
