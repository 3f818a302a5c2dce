import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

import hwnas
from hwnas import runs
from hwnas.errors import InputError
from hwnas.runs import CommandOutcome, Run, environment, git_commit, run_command


@dataclass(frozen=True, kw_only=True)
class Settings:
    epochs: int = 3
    data: Path = Path("images")
    rates: tuple[float, ...] = (0.5, 0.25)


def create(path: Path) -> Run:
    return Run.create(path, command=("hwnas", "train"), config=Settings(), seeds={"train": 7})


# --------------------------------------------------------------------------------------------- runs


def test_a_run_is_read_back_as_it_was_made(tmp_path: Path) -> None:
    made = create(tmp_path / "deep" / "run")
    assert Run.open(made.path) == made
    assert made.manifest.command == ("hwnas", "train")
    assert made.manifest.config == {"epochs": 3, "data": "images", "rates": [0.5, 0.25]}
    assert made.manifest.seeds == {"train": 7}
    assert made.manifest.environment == environment()


def test_the_manifest_is_dated_in_utc(tmp_path: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    created = datetime.fromisoformat(create(tmp_path).manifest.created_utc)
    assert created.utcoffset() is not None
    assert before <= created <= datetime.now(UTC)


def test_a_config_may_be_a_mapping(tmp_path: Path) -> None:
    run = Run.create(tmp_path, command=(), config={"space": {"name": "x", "seed": None}})
    assert Run.open(tmp_path) == run
    assert run.manifest.config == {"space": {"name": "x", "seed": None}}


def test_a_config_that_json_cannot_hold_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        Run.create(tmp_path / "run", command=(), config={"rate": float("nan")})
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    for name in ("d", "b", "a", "c"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="must be a new or an empty folder") as caught:
        create(tmp_path)
    assert caught.value.got == "a folder with a, b, c, …"
    assert not (tmp_path / "manifest.json").exists()


def test_a_run_is_never_made_over_a_run(tmp_path: Path) -> None:
    create(tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(InputError, match="empty folder"):
        create(tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_what_a_killed_creation_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".manifest.json.0123456789ab.tmp").write_text('{"sch')
    assert create(tmp_path) == Run.open(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(InputError, match=r"run cannot be made a run folder"):
        create(tmp_path / "run")
    with pytest.raises(InputError, match=r"there is no run folder .*run"):
        Run.open(tmp_path / "run")


def test_a_misspelled_run_suggests_the_nearest_one(tmp_path: Path) -> None:
    create(tmp_path / "search")
    (tmp_path / "searches").mkdir()
    with pytest.raises(InputError, match="there is no run folder") as caught:
        Run.open(tmp_path / "serches")
    assert caught.value.hint == str(tmp_path / "search")
    with pytest.raises(InputError, match="there is no run folder") as caught:
        Run.open(tmp_path / "training")
    assert caught.value.hint is None


def test_a_folder_without_a_manifest_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a run: it has no manifest.json"):
        Run.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{", "is not JSON"),
        ("[]", "is not the manifest of a run"),
        ('{"command": []}', "is not the manifest of a run"),
        ('{"schema": "hwnas.run/999"}', "has an unsupported schema"),
        ('{"schema": "hwnas.run/1"}', "created_utc is missing"),
    ],
)
def test_a_broken_manifest_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=message):
        Run.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": []}, r"manifest.json.config must be a table"),
        ({"seeds": {"train": True}}, r"seeds.train must be a whole number"),
        ({"command": "hwnas"}, r"command must be a list"),
        ({"colour": 1}, r"key 'colour' is not known"),
    ],
)
def test_a_manifest_with_a_wrong_value_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    create(tmp_path)
    data = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(data | change))
    with pytest.raises(InputError, match=message):
        Run.open(tmp_path)


# -------------------------------------------------------------------------------------- environment


def test_the_environment_says_what_ran() -> None:
    env = environment()
    assert env.hwnas == hwnas.__version__
    assert env.python == ".".join(map(str, sys.version_info[:3]))
    assert any(re.fullmatch(r"click==[\d.]+", entry) for entry in env.packages)
    assert replace(env) == env


def test_the_environment_names_neither_host_nor_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "secrethost")
    monkeypatch.setenv("USER", "secretuser")
    create(tmp_path)
    assert "secret" not in (tmp_path / "manifest.json").read_text()


def test_only_installed_packages_have_versions() -> None:
    assert list(runs.package_versions(("click", "no-such-distribution"))) == ["click"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()
    return tmp_path


@pytest.mark.parametrize(("status", "modified"), [("", False), (" M hwnas/runs.py\n", True)])
def test_a_checkout_has_a_commit(checkout: Path, status: str, modified: bool) -> None:
    def git(arguments: Sequence[str]) -> CommandOutcome:
        assert arguments[:3] == ("git", "-C", str(checkout))
        return CommandOutcome(output="0123abcd\n" if "rev-parse" in arguments else status)

    assert git_commit(checkout, run=git) == ("0123abcd", modified, None)


def test_a_commit_that_cannot_be_told_says_why(checkout: Path) -> None:
    failing = CommandOutcome(failure="git ended with code 128: fatal: dubious ownership")
    assert git_commit(checkout, run=lambda _: failing) == (None, None, failing.failure)


def test_what_is_no_checkout_has_no_commit_whatever_repository_is_around_it(checkout: Path) -> None:
    (checkout / "site-packages").mkdir()
    assert git_commit(checkout / "site-packages") == (None, None, None)


# -------------------------------------------------------------------------------------- run_command


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_a_command_gives_its_output() -> None:
    assert run_command(python("print('yes')")) == CommandOutcome(output="yes\n")


def test_a_command_that_fails_says_how() -> None:
    outcome = run_command(python("import sys; print('ignored'); sys.exit('broken\\nmore')"))
    assert outcome == CommandOutcome(failure=f"{sys.executable} ended with code 1: broken")


def test_a_command_that_complains_on_stdout_is_heard() -> None:
    outcome = run_command(python("print('no devices'); raise SystemExit(6)"))
    assert outcome.failure == f"{sys.executable} ended with code 6: no devices"


def test_a_command_that_hangs_is_ended() -> None:
    outcome = run_command(python("import time; time.sleep(60)"), timeout_s=0.2)
    assert outcome == CommandOutcome(failure=f"{sys.executable} did not answer within 0.2 s")


def test_a_command_that_is_absent_is_named() -> None:
    assert run_command(("no-such-program",)).failure == "no-such-program is not installed"


def test_a_command_that_cannot_start_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a program")
    name = str(tmp_path / "file")
    assert run_command((name,)).failure == f"{name} cannot be started: Permission denied"
