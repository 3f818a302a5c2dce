import os
import signal
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from hwnas.cli.app import run
from hwnas.errors import InputError, Interrupted
from hwnas.extensions import GROUP, VARIABLE, load_extensions
from hwnas.profile.worker_messages import CHANNEL_VARIABLE

COUNTING = "import hwnas\nhwnas.loads = getattr(hwnas, 'loads', 0) + 1\n"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that the test loads are forgotten after it."""
    monkeypatch.setattr("hwnas.loads", 0, raising=False)
    for name in ("counted_extension", "counted_module", "broken_extension"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def num_loads() -> int:
    import hwnas

    return int(vars(hwnas)["loads"])


def written(path: Path, text: str = COUNTING) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.usefixtures("loads")
def test_a_file_and_a_module_are_each_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "counted_extension.py")
    written(tmp_path / "counted_module.py")
    monkeypatch.syspath_prepend(tmp_path)
    environ = {VARIABLE: os.pathsep.join([str(file), "counted_module", str(file)])}
    assert load_extensions(environ=environ) == ("counted_extension", "counted_module")
    assert load_extensions(environ=environ) == ("counted_extension", "counted_module")
    assert num_loads() == 2


@pytest.mark.usefixtures("loads")
def test_an_installed_package_names_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "counted_module.py")
    monkeypatch.syspath_prepend(tmp_path)
    entry = metadata.EntryPoint(name="mine", value="counted_module", group=GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [entry] if group == GROUP else [])
    assert load_extensions(environ={}) == ("counted_module",)
    assert num_loads() == 1


def test_without_any_nothing_happens() -> None:
    assert load_extensions(environ={VARIABLE: ""}) == ()


@pytest.mark.usefixtures("loads")
@pytest.mark.parametrize(
    ("name", "text", "got"),
    [
        ("broken_extension.py", "1 / 0", "ZeroDivisionError: division by zero"),
        ("broken_extension.py", None, "there is no file "),
        ("broken_extension", None, "ModuleNotFoundError: No module named 'broken_extension'"),
    ],
)
def test_one_that_cannot_be_imported_is_an_error(tmp_path: Path, name: str, text: str | None, got: str) -> None:
    path = str(tmp_path / name) if name.endswith(".py") else name
    if text is not None:
        written(Path(path), text)
    with pytest.raises(InputError, match="must be a module that can be imported") as caught:
        load_extensions(environ={VARIABLE: path})
    assert str(caught.value.got).startswith(got)
    assert "broken_extension" not in sys.modules


@pytest.mark.usefixtures("loads")
@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("exit(0)", "SystemExit: 0"),
        ("import sys\nsys.exit()", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("class Odd(BaseException): pass\nraise Odd", "broken_extension.Odd"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
        (
            "class Odd(Exception):\n    def __str__(self): return 1 / 0\nraise Odd",
            "broken_extension.Odd: <exception str",
        ),
        ("x = (", "SyntaxError: "),
        ("\0", "SyntaxError: "),
    ],
)
def test_one_that_ends_the_process_or_raises_anything_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, got: str
) -> None:
    file = written(tmp_path / "broken_extension.py", f"print('shown on stderr')\n{text}")
    # As in a command, where Ctrl-C is an `Interrupted`.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with pytest.raises(InputError, match=r"the extension .*broken_extension.py must be a module") as caught:
            load_extensions(environ={VARIABLE: str(file)})
    finally:
        signal.signal(signal.SIGINT, before)
    assert str(caught.value.got).startswith(got) or got in str(caught.value.got)
    assert VARIABLE in str(caught.value.hint)
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("loads")
def test_a_signal_while_an_extension_loads_is_no_error_of_it(tmp_path: Path) -> None:
    file = written(
        tmp_path / "broken_extension.py", "from hwnas.errors import Interrupted\nraise Interrupted(number=15)"
    )
    with pytest.raises(Interrupted):
        load_extensions(environ={VARIABLE: str(file)})


def test_a_named_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(InputError, match="must be a module") as caught:
        load_extensions(environ={VARIABLE: str(tmp_path / "pipe.py")})
    assert "ordinary file" in str(caught.value.got)


def test_a_file_named_like_a_module_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "json.py")
    with pytest.raises(InputError, match="must not have the name of a loaded module") as caught:
        load_extensions(environ={VARIABLE: str(file)})
    assert caught.value.hint == "rename the file: my_json.py"


def test_the_command_line_loads_them_and_a_broken_one_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none.py"))
    assert run(["spaces"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: the extension {tmp_path / 'none.py'} must be a module")
    assert run(["--help"]) == 0


def test_a_worker_process_loads_them(tmp_path: Path) -> None:
    file = written(tmp_path / "told_extension.py", "import sys; print('the worker has it', file=sys.stderr)")
    campaign, worker = socket.socketpair()
    campaign.shutdown(socket.SHUT_WR)  # no request will come
    with campaign, worker:
        done = subprocess.run(
            [sys.executable, "-m", "hwnas.profile.worker_process"],
            env={**os.environ, VARIABLE: str(file), CHANNEL_VARIABLE: str(worker.fileno())},
            pass_fds=(worker.fileno(),),
            capture_output=True,
            text=True,
            check=True,
        )
    assert "the worker has it" in done.stderr
