"""One network of a run, by its id: what it is, and where its weights are."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hwnas.errors import InputError
from hwnas.runs import Run
from hwnas.search.record import NETWORKS, RECORD_FILE, read_record
from hwnas.search.spec import SupernetSpec
from hwnas.search.study import Study
from hwnas.space.arch import Arch
from hwnas.space.space import AnySpace, Candidate
from hwnas.train.evaluation import resolve_arch, weights_digest
from hwnas.train.options import supernet_file
from hwnas.train.weights import NETWORK, SUPERNET

_COMMAND = "hwnas export {run} --arch {{arch}} --out exported"


@dataclass(frozen=True, kw_only=True)
class RunNetwork:
    """A network of a space, at the images and classes of its run."""

    space: AnySpace
    arch: Arch
    weights: Path | None
    """The file of the network itself, or of the supernet that it is a part of; None: the run has no weights."""


def network_of_run(run: Path, arch: str | None) -> RunNetwork:
    """The network of a search's run, or of a training's, that an id or a name means.

    Of a search it is the exported winner with its own weights, or else a part of the supernet; a training of one
    network needs no name.
    """
    Run.open(run)
    if (run / RECORD_FILE).is_file():
        return _of_search(run, _named(arch, run))
    if (run / NETWORK).is_file():
        return _of_network(run / NETWORK)
    if (run / SUPERNET).is_file():
        return _of_supernet(run, _named(arch, run))
    hint = "a run of hwnas search that has ended, or of hwnas train"
    raise InputError(f"{run} must be a run that holds networks", got="no networks of a space", hint=hint)


def _named(arch: str | None, run: Path) -> str:
    if arch is None:
        raise InputError("the network must be named", got=str(run), hint=f"hwnas export {run} --arch ID --out exported")
    return arch


def _of_network(file: Path) -> RunNetwork:
    from hwnas.supernet.store import load_network

    stored = load_network(file)
    return RunNetwork(space=stored.space, arch=stored.arch, weights=file)


def _of_supernet(run: Path, name: str) -> RunNetwork:
    from hwnas.supernet.store import load_supernet

    file = supernet_file(run)
    space = load_supernet(file).space
    command = _COMMAND.format(run=run)
    return RunNetwork(space=space, arch=resolve_arch(space, name, run, command=command), weights=file)


def _of_search(run: Path, name: str) -> RunNetwork:
    spec = read_record(run).spec
    space = spec.load_space(run)
    arch = resolve_arch(space, name, run, command=_COMMAND.format(run=run), others=_candidates(space, run))
    return RunNetwork(space=space, arch=arch, weights=_weights(run, space.arch_id(arch), spec.supernet))


def _candidates(space: AnySpace, run: Path) -> Iterator[Candidate]:
    study = Study.read(run)
    try:
        yield from space.candidates(study.table([]).genomes)
    finally:
        study.close()


def _weights(run: Path, arch_id: str, supernet: SupernetSpec | None) -> Path | None:
    """The winner's own file, trained on or extracted; else that of the supernet, which must be what was searched."""
    folder = run / NETWORKS / arch_id
    for file in (folder / "training" / NETWORK, folder / NETWORK):
        if file.is_file():
            return file
    if supernet is None:
        return None
    file = supernet_file(supernet.path)
    if not file.is_file():
        raise InputError(f"the supernet of {run} must be where it was", got=supernet.path, hint="put it back there")
    if supernet.digest != weights_digest(file):
        message = f"the supernet of {run} must be the one that was searched"
        raise InputError(message, got=f"{supernet.path}, which has changed", hint="put the old file back there")
    return file
