"""`hwnas push`: upload a network to the Hugging Face Hub, in the layout of timm's models."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hwnas.arguments import checked_arguments
from hwnas.config import to_mapping
from hwnas.errors import InputError, MissingError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
"""Files of a folder that `hwnas export --format timm` wrote."""


@dataclass(frozen=True, kw_only=True)
class PushedNetwork:
    """An uploaded network."""

    repo: str
    """Name of the repository: OWNER/NAME."""
    url: str
    files: tuple[str, ...]
    """Names of the files that were uploaded."""

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields as plain values, as `--json` prints them."""
        return to_mapping(self)


@checked_arguments
def push_network(run: Path, repo: str, *, arch: str | None = None, private: bool = False) -> PushedNetwork:
    """Upload a network to a repository of the Hugging Face Hub, which is created if necessary.

    Args:
        run: The run that holds the network, or a folder that an export for timm wrote.
        repo: Name of the repository: OWNER/NAME.
        arch: Id or name of the network in the run; not needed if the run holds a single one.
        private: Create the repository as a private one.

    Raises:
        InputError: The run holds no such network, or the Hub refuses the upload.
        MissingError: huggingface_hub is not installed.
    """
    hub = _load_hub()
    with _exported(run, arch) as folder:
        files = tuple(sorted(file.name for file in folder.iterdir() if file.is_file()))
        try:
            url = hub.create_repo(repo_id=repo, private=private, exist_ok=True)
            hub.upload_folder(
                repo_id=repo,
                folder_path=str(folder),
                allow_patterns=list(files),  # what else lies in subfolders stays here
                commit_message="Upload a network of hwnas",
            )
        except (OSError, ValueError, RuntimeError) as error:  # the types of the library, its HTTP errors among them
            lines = str(error).strip().splitlines() or [type(error).__name__]
            hint = "hf auth login, and a repository OWNER/NAME that you may write to"
            raise InputError(f"{repo} must be a repository that can be written", got=lines[0], hint=hint) from error
    return PushedNetwork(repo=repo, url=str(url), files=files)


def _load_hub() -> Any:
    """Return the interface of the Hub."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        message = "huggingface_hub must be installed to upload networks"
        raise MissingError(message, got=error, hint="pip install 'hwnas[hub]'") from error
    return HfApi(library_name="hwnas")


@contextmanager
def _exported(run: Path, arch: str | None) -> Iterator[Path]:
    """Yield the folder of a network: the given one, or a temporary one with a network of a run."""
    if (run / CONFIG).is_file() and (run / WEIGHTS).is_file():
        if arch is not None:
            raise InputError("a folder that was exported holds one network", got=arch, hint="leave the network out")
        yield run
        return
    from hwnas.pipeline.export_network import export_network

    with TemporaryDirectory() as folder:
        yield export_network(str(run), arch, out=Path(folder), format="timm").files[0]
