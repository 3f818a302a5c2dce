"""Run folders, whose manifest records how they were made.

RUN/manifest.json    command line, resolved config, seeds, environment, time of creation
    RUN/error.json       the error that ended the last command; none where it succeeded
"""

import json
import logging
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import import_module, metadata
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from hwnas.config import Between, UtcTime, from_mapping, load_json, require_schema, shown, to_mapping
from hwnas.errors import HwnasError, InputError
from hwnas.files import file_errors, nearest_path, read_text, write_atomic

_log = logging.getLogger(__name__)

SCHEMA = "hwnas.run/1"
"""Schema of the manifest that this version writes and reads."""

LOCK = ".lock"
"""The file that the process that writes a run holds locked."""

MANIFEST = "manifest.json"
"""The file that makes a folder a run."""

ERROR = "error.json"
"""The file of the error that ended the last command that wrote a run."""

SUPERNET, NETWORK, MODEL = "supernet.safetensors", "network.safetensors", "model.safetensors"
"""Files of weights in a run: of a supernet, of a network of a space, and of a model of timm."""

_MAX_ERROR = 4000
"""Characters of an error that a run keeps."""

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
    "openvino",
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
    "tensorrt-rtx",
    "timm",
    "tomli-w",
    "torch",
    "torchvision",
    "triton",
    "xgboost",
)
"""Distributions whose versions a run records if they are installed."""


@dataclass(frozen=True, kw_only=True)
class CommandOutcome:
    """Output of another program, or in `failure` the reason why there is none."""

    output: str = ""
    failure: str | None = None


CommandRunner = Callable[[Sequence[str]], CommandOutcome]


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Software that a run was made with, without the names of host and user."""

    hwnas: str
    python: str
    system: str
    release: str
    machine: str
    packages: tuple[str, ...]
    """`name==version` of the installed distributions of `PACKAGES`."""
    commit: str | None = None
    """Git commit, if hwnas is a checkout."""
    modified: bool | None = None
    """True if the checkout differs from its commit."""
    commit_problem: str | None = None
    """Reason why the commit of a checkout is unknown."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Origin, configuration and seeds of a run."""

    schema: str
    created_utc: UtcTime
    command: tuple[str, ...]
    environment: Environment
    config: Mapping[str, Any]
    seeds: Mapping[str, Annotated[int, Between(0, 2**63 - 1)]]


_project_words: ContextVar[tuple[str, ...]] = ContextVar("project_words", default=())


def note_project_words(words: Sequence[str]) -> None:
    """Remember the options that the project's file gives the command of this process, as words of a command line."""
    _project_words.set(tuple(words))


_run_commands: ContextVar[Mapping[str, str]] = ContextVar("run_commands", default=MappingProxyType({}))


def note_run_commands(commands: Mapping[str, str]) -> None:
    """Remember the commands that make the runs of the project's file, by run folder."""
    _run_commands.set(dict(commands))


def command_line() -> tuple[str, ...]:
    """Return the command of this process, with the options that the project's file gives it."""
    return ("hwnas", *sys.argv[1:], *_project_words.get())


@dataclass(frozen=True)
class Run:
    """A run folder and its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def create(
        cls, path: Path, *, command: Sequence[str], config: object, seeds: Mapping[str, int] | None = None
    ) -> "Run":
        """Create a run folder with its manifest.

        Args:
            path: The folder, which must be new or empty.
            command: Command line that the manifest records.
            config: Settings dataclass, or mapping of plain values.
            seeds: Seeds by name.

        Raises:
            InputError: The folder is not empty, or it cannot be written.
        """
        manifest = Manifest(
            schema=SCHEMA,
            created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            command=tuple(command),
            config=dict(config) if isinstance(config, Mapping) else to_mapping(config),
            seeds=dict(seeds or {}),
            environment=environment(),
        )
        text = json.dumps(to_mapping(manifest), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        require_new_folder(path)
        with file_errors(path, "made a run folder"):
            path.mkdir(parents=True, exist_ok=True)
        write_atomic(path / MANIFEST, text)
        _log.info("new run %s", path)
        return cls(path, manifest)

    def with_config(self, config: object) -> "Run":
        """Replace the config in the manifest, as of a run that goes on with another one."""
        manifest = replace(self.manifest, config=to_mapping(config))
        text = json.dumps(to_mapping(manifest), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomic(self.path / MANIFEST, text)
        return type(self)(self.path, manifest)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Read the run in a folder; raise InputError if there is none."""
        if not path.is_dir():
            raise missing_run(path)
        if not (path / MANIFEST).exists():
            raise InputError(f"{path} is not a run: it has no {MANIFEST}")
        return cls(path, _parse(load_json(path / MANIFEST), source=str(path / MANIFEST)))


def missing_run(path: Path, message: str | None = None, *, accept: Callable[[Path], bool] | None = None) -> InputError:
    """Make the error for a run folder that does not exist.

    It suggests the command that makes it, if it is a run of the project's file, or else the nearest run beside it.

    Args:
        path: The folder.
        message: What must hold; None: that there is such a run folder.
        accept: Returns True for a path that can take its place; None: for a run.
    """
    message = f"there is no run folder {path}" if message is None else message
    if (command := _run_commands.get().get(str(path))) is not None:
        return InputError(message, hint=command)
    near = nearest_path(path, accept=accept or (lambda folder: (folder / MANIFEST).is_file()))
    if near is None:
        return InputError(message)
    return InputError(message, hint=shlex.quote(str(near)), correction=(str(path), str(near)))


@dataclass(frozen=True, kw_only=True)
class RunError:
    """The error that ended a command."""

    time_utc: UtcTime
    kind: str
    """Name of the exception."""
    message: str
    """With what was given, what is valid, and what to do next."""

    @classmethod
    def of(cls, error: BaseException) -> "RunError":
        """Describe an exception that was raised now."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(time_utc=now, kind=type(error).__name__, message=str(error)[:_MAX_ERROR])


@contextmanager
def record_error(run: Path) -> Iterator[None]:
    """Keep the error that ends a block in a run, for those who watch it; a block that succeeds removes it."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        with suppress(InputError):  # on a full disk the error itself is what matters
            write_atomic(run / ERROR, json.dumps(to_mapping(RunError.of(error)), ensure_ascii=False) + "\n")
        raise
    with suppress(OSError):
        (run / ERROR).unlink(missing_ok=True)


def read_error(run: Path) -> RunError | None:
    """Read the error that ended the last command of a run; None: there is none, or its file cannot be read."""
    try:
        if not (run / ERROR).is_file():
            return None
        data = json.loads(read_text(run / ERROR, follow_links=False)[: 4 * _MAX_ERROR])
        return from_mapping(RunError, data, where=str(run / ERROR))
    except (HwnasError, OSError, ValueError, RecursionError):
        return None


def environment() -> Environment:
    """Describe the software of this process."""
    commit, modified, problem = git_commit(Path(__file__).resolve().parent.parent)
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
    """Return the version of hwnas."""
    # Not an import statement: the root package imports the public functions, which belong to a higher layer.
    return str(import_module("hwnas").__version__)


def package_versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of the distributions that are installed, without importing them."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit(root: Path, *, run: CommandRunner | None = None) -> tuple[str | None, bool | None, str | None]:
    """Read the commit of a checkout.

    Args:
        root: Folder of the checkout.
        run: Runs git; None: `run_command`.

    Returns:
        The commit, True if files differ from it, and the reason if they are unknown; all None outside a checkout.
    """
    if not (root / ".git").exists():
        return None, None, None
    execute = run or run_command
    head = execute(("git", "-C", str(root), "rev-parse", "HEAD"))
    changes = execute(("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"))
    problem = head.failure or changes.failure
    if problem is not None:
        return None, None, problem
    return head.output.strip(), bool(changes.output.strip()), None


def run_command(arguments: Sequence[str], *, timeout_s: float = 10.0) -> CommandOutcome:
    """Run a program that only reports something, and kill it after `timeout_s` seconds."""
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
        process.kill()
        try:
            process.communicate(timeout=1.0)
            suffix = ""
        except subprocess.TimeoutExpired:  # it hangs inside the kernel, as with a stuck driver
            suffix = " and cannot be killed"
        return CommandOutcome(failure=f"{name} did not answer within {timeout_s:g} s{suffix}")
    if process.returncode != 0:
        complaint = complaint.strip() or output.strip()
        first = complaint.splitlines()[0] if complaint else "it printed nothing"
        return CommandOutcome(failure=f"{name} ended with code {process.returncode}: {first}")
    return CommandOutcome(output=output)


def require_new_folder(path: Path) -> None:
    """Raise an InputError unless a folder for a run does not exist yet, or is empty."""
    with file_errors(path, "made a run folder"):
        if not path.exists():
            return
        # An interrupted `write_atomic` may have left a temporary file of the manifest.
        names = (item.name for item in path.iterdir() if item.name != LOCK)
        inside = sorted(name for name in names if not (name.startswith(f".{MANIFEST}.") and name.endswith(".tmp")))
    if inside:
        raise InputError(
            f"{path} must be a new or an empty folder",
            got=f"a folder with {', '.join(inside[:3])}{', …' if len(inside) > 3 else ''}",
            hint="another name for the run",
        )


def _parse(data: object, *, source: str) -> Manifest:
    if not isinstance(data, Mapping) or "schema" not in data:
        raise InputError(f"{source} is not the manifest of a run", got=shown(data))
    require_schema(data["schema"], expected=SCHEMA, source=source)
    return from_mapping(Manifest, data, where=source)
