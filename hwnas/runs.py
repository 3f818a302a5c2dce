"""A run is a folder that explains itself: who made it, from what, with which versions.

    RUN/manifest.json    command line, resolved config, seeds, environment, time of creation

Whatever writes a file that must never be seen half-written writes it with `write_atomic`.
"""

import json
import os
import platform
import secrets
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from hwnas.config import from_mapping, load_json, shown, to_mapping
from hwnas.errors import InputError

SCHEMA = "hwnas.run/1"
"""The form of the manifest that this version writes and reads."""

MANIFEST = "manifest.json"
"""The file that makes a folder a run."""

PACKAGES = (
    "click",
    "jinja2",
    "matplotlib",
    "moocore",
    "numpy",
    "nvidia-cublas",
    "nvidia-cublas-cu12",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "nvidia-ml-py",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxscript",
    "optuna",
    "plotly",
    "pyarrow",
    "pymoo",
    "ray",
    "rich",
    "safetensors",
    "scikit-learn",
    "scipy",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "timm",
    "tomli-w",
    "torch",
    "torchvision",
    "triton",
    "xgboost",
)
"""The distributions whose versions a run records, where they are installed."""


@dataclass(frozen=True, kw_only=True)
class CommandOutcome:
    """What another program printed, or in `failure` why it has no answer."""

    output: str = ""
    failure: str | None = None


CommandRunner = Callable[[Sequence[str]], CommandOutcome]


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The software that a run was made with; it names neither the host nor the user."""

    hwnas: str
    python: str
    system: str
    release: str
    machine: str
    packages: tuple[str, ...]
    """`name==version` of those of `PACKAGES` that are installed."""
    commit: str | None = None
    """The git commit, where hwnas is a checkout."""
    modified: bool | None = None
    """Whether the checkout differs from its commit."""
    commit_problem: str | None = None
    """Why the commit of a checkout could not be told."""


@dataclass(frozen=True, kw_only=True)
class _Origin:
    schema: str
    created_utc: str
    command: tuple[str, ...]
    environment: Environment


@dataclass(frozen=True, kw_only=True)
class Manifest(_Origin):
    """What a run says about itself."""

    config: Mapping[str, Any]
    seeds: Mapping[str, int]


@dataclass(frozen=True)
class Run:
    """A run folder and its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def create(
        cls, path: Path, *, command: Sequence[str], config: object, seeds: Mapping[str, int] | None = None
    ) -> "Run":
        """Make the folder and write its manifest; a folder that holds anything is refused.

        `config` is a settings dataclass or a mapping of plain values.
        """
        manifest = Manifest(
            schema=SCHEMA,
            created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            command=tuple(command),
            config=dict(config) if isinstance(config, Mapping) else to_mapping(config),
            seeds=dict(seeds or {}),
            environment=environment(),
        )
        text = _dump(manifest)
        _make_folder(path)
        write_atomic(path / MANIFEST, text)
        return cls(path, manifest)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Read the run that stands in a folder."""
        if not path.is_dir():
            raise InputError(f"there is no run folder {path}")
        if not (path / MANIFEST).exists():
            raise InputError(f"{path} is not a run: it has no {MANIFEST}")
        return cls(path, _parse(load_json(path / MANIFEST), source=str(path / MANIFEST)))


def environment() -> Environment:
    """The software of this process."""
    commit, modified, problem = git_commit(_package_root())
    return Environment(
        hwnas=hwnas_version(),
        python=platform.python_version(),
        system=platform.system(),
        release=platform.release(),
        machine=platform.machine(),
        packages=tuple(f"{name}=={version}" for name, version in package_versions().items()),
        commit=commit,
        modified=modified,
        commit_problem=problem,
    )


def hwnas_version() -> str:
    """The version of hwnas itself."""
    # Not an import statement: the root package names the public verbs, which lie above this layer.
    return str(import_module("hwnas").__version__)


def package_versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """The versions of those distributions that are installed, read without importing them."""
    found = {name: _version(name) for name in names}
    return {name: version for name, version in found.items() if version is not None}


def git_commit(root: Path, *, run: CommandRunner | None = None) -> tuple[str | None, bool | None, str | None]:
    """The commit of the checkout at `root`, whether it is modified, and what kept us from knowing."""
    if not (root / ".git").exists():
        return None, None, None
    ask = run or run_command
    head = ask(("git", "-C", str(root), "rev-parse", "HEAD"))
    changes = ask(("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"))
    problem = head.failure or changes.failure
    if problem is not None:
        return None, None, problem
    return head.output.strip(), bool(changes.output.strip()), None


def run_command(arguments: Sequence[str], *, timeout_s: float = 10.0) -> CommandOutcome:
    """Run a program that only tells something, and wait for it no longer than `timeout_s`."""
    name = arguments[0]
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
    except FileNotFoundError:
        return CommandOutcome(failure=f"{name} is not installed")
    except OSError as error:
        return CommandOutcome(failure=f"{name} cannot be started: {error.strerror}")
    try:
        output, complaint = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return _give_up(process, name=name, timeout_s=timeout_s)
    if process.returncode != 0:
        return CommandOutcome(failure=_failure(name, process.returncode, complaint.strip() or output.strip()))
    return CommandOutcome(output=output)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that whoever looks finds the old content or the new, also after a power cut."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        _write_through(temporary, data)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        _discard(temporary)
        raise _cannot("written", path, error) from error
    except BaseException:
        _discard(temporary)
        raise


def _write_through(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _discard(temporary: Path) -> None:
    # A folder that lost its permissions may refuse this too; the error that led here says more.
    try:
        temporary.unlink()
    except OSError:
        return


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        inside = sorted(item.name for item in path.iterdir() if not _is_leftover(item.name))
    except OSError as error:
        raise _cannot("made a run folder", path, error) from error
    if inside:
        raise InputError(
            f"{path} must be a new or an empty folder",
            got=f"a folder with {', '.join(inside[:3])}{', …' if len(inside) > 3 else ''}",
            hint="another name for the run",
        )


def _is_leftover(name: str) -> bool:
    """Whether a file is what a killed `write_atomic` left of a manifest."""
    return name.startswith(f".{MANIFEST}.") and name.endswith(".tmp")


def _cannot(done: str, path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be {done}", got=error.strerror or str(error))


def _dump(manifest: Manifest) -> str:
    return json.dumps(to_mapping(manifest), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _parse(data: object, *, source: str) -> Manifest:
    if not isinstance(data, Mapping) or "schema" not in data:
        raise InputError(f"{source} is not the manifest of a run", got=shown(data))
    if data["schema"] != SCHEMA:
        hint = "read it with the version of hwnas that wrote it"
        raise InputError(f"{source} has another form", got=data["schema"], known=[SCHEMA], hint=hint)
    origin = from_mapping(_Origin, {name: data[name] for name in data if name not in ("config", "seeds")})
    return Manifest(
        schema=origin.schema,
        created_utc=origin.created_utc,
        command=origin.command,
        environment=origin.environment,
        config=_table(data, "config", source=source),
        seeds=_seeds(_table(data, "seeds", source=source), source=source),
    )


def _table(data: Mapping[str, object], name: str, *, source: str) -> dict[str, Any]:
    table = data.get(name)
    if not isinstance(table, dict):
        raise InputError(f"{source}: {name} must be a table of named values", got=shown(table))
    return table


def _seeds(table: dict[str, Any], *, source: str) -> dict[str, int]:
    wrong = {name: seed for name, seed in table.items() if type(seed) is not int}
    if wrong:
        raise InputError(f"{source}: every seed must be a whole number", got=shown(wrong))
    return table


def _package_root() -> Path:
    return Path(__file__).resolve().parent.parent


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _give_up(process: subprocess.Popen[str], *, name: str, timeout_s: float) -> CommandOutcome:
    process.kill()
    try:
        process.communicate(timeout=1.0)
        left = ""
    except subprocess.TimeoutExpired:  # it hangs inside the kernel, as with a driver that is stuck
        left = " and cannot be ended"
    return CommandOutcome(failure=f"{name} did not answer within {timeout_s:g} s{left}")


def _failure(name: str, code: int, complaint: str) -> str:
    first = complaint.splitlines()[0] if complaint else "it said nothing"
    return f"{name} ended with code {code}: {first}"
