"""No command opens a network connection unless it is asked to."""

import json
import os
import subprocess
import sys
from pathlib import Path

CLOSED_SOCKETS = """
import socket

_connect = socket.socket.connect


def _refuse(*arguments, **options):
    raise AssertionError(f"a network connection was opened: {arguments}")


def _connect_locally(self, address):
    if self.family != socket.AF_UNIX:
        _refuse(address)
    return _connect(self, address)


socket.socket.connect = socket.socket.connect_ex = _connect_locally
socket.getaddrinfo = socket.create_connection = socket.gethostbyname = _refuse
"""
"""An extension, which worker processes load as well."""

COMMANDS = (
    "doctor",
    "spaces",
    "describe autoformer-micro max",
    "profiles",
    "predict timm:deit_tiny_patch16_224 --device rtx4090",
    "explain autoformer-micro min --device cpu",
    "train --space autoformer-micro --data digits --max-images 64 --epochs 1 --batch 32 --out run",
    "evaluate run min",
    "export autoformer-micro min --out exported",
    "profile --space autoformer-micro --device cpu --samples 1 --repeats 0 --pairs 8 --no-reference-networks",
    "search --space autoformer-micro --no-accuracy --objective params --budget 4 --no-verify --export-top 0 --out s",
    "report s",
)

RUN = """
import json, sys
from hwnas.cli.app import run
for command in json.loads(sys.argv[1]):
    print(">", command, run(command.split()), file=sys.stderr)
"""


def test_no_command_opens_a_connection(tmp_path: Path) -> None:
    extension = tmp_path / "closed_sockets.py"
    extension.write_text(CLOSED_SOCKETS, encoding="utf-8")
    root = str(Path(__file__).parents[2])
    environ = {**os.environ, "HWNAS_EXTENSIONS": str(extension), "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(COMMANDS)], cwd=tmp_path, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    codes = {line[2:].rpartition(" ")[0]: line.split()[-1] for line in done.stderr.splitlines() if line[:2] == "> "}
    assert codes == dict.fromkeys(COMMANDS, "0"), done.stderr
    assert "a network connection was opened" not in done.stderr


def test_closed_sockets_refuse(tmp_path: Path) -> None:
    code = CLOSED_SOCKETS + "\nsocket.create_connection(('localhost', 9))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "a network connection was opened" in done.stderr
