"""Commands that others suggest next, for the runs that the user has."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.cli.project import project_data, project_supernet
from hwnas.errors import HwnasError
from hwnas.runs import NETWORK, SUPERNET, Run

if TYPE_CHECKING:
    from hwnas.pipeline.export_network import ExportedNetwork
    from hwnas.search.record import SearchRecord


def trained_space(spaces: Sequence[str]) -> str:
    """Return the space of the project's supernet, else that whose supernet is the newest, else the first of several."""
    from hwnas.pipeline.search.defaults import newest_supernet

    for space in spaces:
        if project_supernet(space) is not None:
            return space
    runs = {space: newest_supernet(space, runs=Path("runs")) for space in spaces}
    created = {space: Run.open(run).manifest.created_utc for space, run in runs.items() if run is not None}
    return max(created, key=lambda space: created[space], default=spaces[0])


def search_command(space: str, device: str, *, objective: str, options: Sequence[str] = ()) -> tuple[str, ...]:
    """Return a search of a space with the supernet of the project or the newest one; without one, by costs alone.

    Args:
        space: The space.
        device: The device whose speed is searched for.
        objective: Its metric.
        options: Other options.
    """
    from hwnas.pipeline.search.defaults import newest_supernet

    supernet = project_supernet(space) or newest_supernet(space, runs=Path("runs"))
    what = ("--space", space) if supernet is None else ("--supernet", str(supernet))
    more = ("--no-accuracy",) if supernet is None else ()
    return ("hwnas", "search", *what, "--device", device, *options, "--objective", objective, *more)


def finished_search(supernet: Path) -> Path | None:
    """Return the newest finished search with a supernet, of those beside its run."""
    from hwnas.search.record import RECORD_FILE

    found = []
    for file in supernet.parent.glob(f"*/{RECORD_FILE}"):
        with suppress(HwnasError):  # a damaged run keeps no other from being found
            manifest = Run.open(file.parent).manifest
            searched = manifest.config.get("supernet")
            path = searched.get("path") if isinstance(searched, Mapping) else None
            if path in (str(supernet.resolve()), str(supernet.resolve() / SUPERNET)):
                found.append((manifest.created_utc, file.parent))
    return max(found)[1] if found else None


def finetuning(run: Path, record: "SearchRecord", arch_id: str) -> tuple[str, ...]:
    """Return the command that fine-tunes a network of a search, or exports it where that is done; none where none can.

    Args:
        run: The run of the search.
        record: Its record.
        arch_id: The network.
    """
    from hwnas.report.finetuning import finetuned_run, finetuning_command
    from hwnas.train.data.sources import absolute_data_name

    supernet = record.spec.supernet
    if supernet is None:
        return ()
    begun = _begun(finetuned_run(run, arch_id, digest=supernet.digest))
    if begun:
        return begun
    words, data = finetuning_command(run, record, arch_id), project_data()
    if words and "--data" not in words and data is not None:
        words += () if absolute_data_name(data) == supernet.data_name else ("--data", supernet.data_name)
    return words


def finetuning_of_export(run: Path, exported: "ExportedNetwork") -> tuple[str, ...]:
    """Return the command that fine-tunes an exported network of a run; none if its weights are its own."""
    from hwnas.report.finetuning import finetuned_run, training_words
    from hwnas.search.record import RECORD_FILE, read_record
    from hwnas.train.run_folder import weights_digest

    if (run / RECORD_FILE).is_file():
        return finetuning(run, read_record(run), exported.arch_id)
    is_labelled = Run.open(run).manifest.config.get("labelled", True)
    if Path(exported.weights).name != SUPERNET or not is_labelled:
        return ()
    out = finetuned_run(run, exported.arch_id, digest=weights_digest(Path(exported.weights)))
    return _begun(out) or training_words(run, str(exported.arch_file), data=None, out=out)


def _begun(tuned: Path) -> tuple[str, ...]:
    """Return the command that goes on with a fine-tuning, or exports its network; none if it is not begun."""
    if (tuned / NETWORK).is_file():
        return export_command(tuned)
    return ("hwnas", "train", "--out", str(tuned), "--resume") if tuned.exists() else ()


def commands_for(run: Path, record: "SearchRecord", arch_id: str) -> tuple[tuple[str, ...], ...]:
    """Return the commands that fine-tune a network of a search and that export it as it is."""
    export = ("hwnas", "export", str(run), "--arch", arch_id, "--out", "exported")
    return finetuning(run, record, arch_id), export


def export_command(run: Path) -> tuple[str, ...]:
    """Return the export of the network of a training, to a folder of its own: others may hold it with other weights."""
    return ("hwnas", "export", str(run), "--out", f"exported-{run.resolve().name}")
