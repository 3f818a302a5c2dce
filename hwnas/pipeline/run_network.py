"""Look-up of a network in the run of a search or a training, with its weights."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hwnas.errors import HwnasError, InputError
from hwnas.metrics import Deployment, parse_metric
from hwnas.pipeline.network_names import require_name
from hwnas.profile.runners.runner import graph_precision
from hwnas.runs import NETWORK, SUPERNET, Run
from hwnas.search.record import NETWORKS, RECORD_FILE, read_record
from hwnas.search.spec import SupernetSpec
from hwnas.search.study import Study
from hwnas.space import SPACES
from hwnas.space.arch import Arch
from hwnas.space.deployed import DeployedSpace, networks_of
from hwnas.space.space import AnySpace, Candidate
from hwnas.train.evaluated import deployment_of_id, resolve_arch
from hwnas.train.options import read_train_config, supernet_file
from hwnas.train.run_folder import require_weights, weights_digest

_COMMAND = "hwnas export {run} --arch {{arch}} --out exported"


@dataclass(frozen=True, kw_only=True)
class RunNetwork:
    """A network of a run, at the image size and classes of the run."""

    space: AnySpace
    arch: Arch
    weights: Path | None
    """File of the network itself, or of the supernet that contains it; None: the run has no weights."""


def network_of_run(run: Path, arch: str | None) -> RunNetwork:
    """Find a network in the run of a search or a training.

    Args:
        run: The run. A network of a search has the weights of the exported winner, or else those of the supernet.
        arch: Id or name of the network; may be None for the training of a single network, which it must otherwise be.

    Returns:
        The network and the file of its weights.

    Raises:
        InputError: The run holds no such network, or the searched supernet was moved or changed.
    """
    Run.open(run)
    require_name(run, arch)
    if (run / RECORD_FILE).is_file():
        return _of_search(run, str(arch))
    if (run / NETWORK).is_file():
        from hwnas.supernet.store import load_network

        stored = load_network(run / NETWORK)
        if arch is not None:
            _require_same(stored.space, stored.arch, arch, run)
        return RunNetwork(space=stored.space, arch=stored.arch, weights=run / NETWORK)
    if (run / SUPERNET).is_file():
        return _of_supernet(run, str(arch))
    require_weights(run)
    hint = "a finished run of hwnas search or hwnas train"
    raise InputError(f"{run} must be a run that holds networks", got="no networks of a space", hint=hint)


def network_without_weights(run: Path, name: str) -> tuple[AnySpace, Arch]:
    """Return space and arch of a network of a run; its weights may be elsewhere by now.

    Args:
        run: The run of a search or a training.
        name: Id or name of the network.
    """
    Run.open(run)
    if (run / RECORD_FILE).is_file():
        networks, arch, _ = _searched_network(run, name)
        return networks, arch
    found = network_of_run(run, name)
    return found.space, found.arch


def searched_precision(run: str, name: str | None) -> str:
    """Return the precision in which a search found a network, and fp32 for networks that no search found.

    Args:
        run: The run of a search; what is none has no precisions.
        name: Id of the candidate, which ends with its deployment if the search had several, or the first digits of it.

    Raises:
        InputError: The network is on the front in several precisions, and the id does not say in which.
    """
    if name is None or not (Path(run) / RECORD_FILE).is_file():
        return "fp32"
    record = read_record(Path(run))
    if record.spec.supernet is not None and record.spec.supernet.precision is not None:
        return record.spec.supernet.precision
    deployments = tuple(map(Deployment.parse, record.spec.deployments or ()))
    named = next((item for item in deployments if name.endswith(f"-{item.slug}")), None)
    if named is not None or not deployments:
        return graph_precision(named)
    members = [member for member in record.front if member.startswith(name.casefold())]
    if not members:  # another name of a network, such as its network_id; the export refuses one that is none
        with suppress(HwnasError):
            networks, arch, _ = _searched_network(Path(run), name)
            members = [member for member in record.front if member.startswith(networks.arch_id(arch))]
    found = {member: item for member in members for item in deployments if member.endswith(f"-{item.slug}")}
    precisions = {graph_precision(item) for item in found.values()}
    if len(precisions) > 1 and len({member.partition("-")[0] for member in found}) == 1:
        message = "a network that is on the front in several precisions must be named with one of them"
        raise InputError(message, got=name, known=sorted(found), hint=f"--arch {min(found)}")
    return precisions.pop() if len(precisions) == 1 else graph_precision(None)


def searched_batch(run: str) -> int:
    """Return the batch that a search predicted and measured its first metric of a device at; 1 if there is none.

    Args:
        run: The run of a search; what is none has no batch.
    """
    if not (Path(run) / RECORD_FILE).is_file():
        return 1
    metrics = map(parse_metric, read_record(Path(run)).spec.objectives)
    return next((batch for metric in metrics if (batch := metric.deployment.fixed_batch) is not None), 1)


def space_of_run(run: Path) -> tuple[str, int | None, int]:
    """Return space, image size and classes of the networks of a supernet's training; no size if it is the space's own.

    Raises:
        InputError: The run has no supernet.
    """
    config = read_train_config(Run.open(run))
    if config.space is None:
        message = f"{run} must be the training of a supernet"
        raise InputError(message, got=config.model, hint="hwnas profile --extra-model timm:NAME")
    own = SPACES.get(config.space).config.image_size
    size = None if config.image_size == own else config.image_size
    return SPACES.resolve(config.space), size, config.num_classes


def _require_same(space: AnySpace, arch: Arch, name: str, run: Path) -> None:
    """Require that a name is that of the one network of a run."""
    stored = space.candidate(arch)
    named = resolve_arch(space, name, run, command=_COMMAND.format(run=run), others=[stored])
    if space.arch_id(named) != stored.arch_id:
        message = f"a network of {run} must be the one that it holds"
        raise InputError(message, got=name, known=[stored.arch_id], hint=f"--arch {stored.arch_id}")


def _of_supernet(run: Path, name: str) -> RunNetwork:
    from hwnas.supernet.store import load_supernet

    file = supernet_file(run)
    space = load_supernet(file).space
    command = _COMMAND.format(run=run)
    return RunNetwork(space=space, arch=resolve_arch(space, name, run, command=command), weights=file)


def _of_search(run: Path, name: str) -> RunNetwork:
    networks, arch, ids = _searched_network(run, name)
    return RunNetwork(space=networks, arch=arch, weights=_weights(run, ids, read_record(run).spec.supernet))


def _searched_network(run: Path, name: str) -> tuple[AnySpace, Arch, Sequence[str]]:
    """Return space and arch of a network of a search, and its ids in all deployments, the named one first."""
    space = read_record(run).spec.load_space(run)
    networks = networks_of(space)
    slugs = [deployment.slug for deployment in space.deployments] if isinstance(space, DeployedSpace) else []
    # The id of a candidate ends with its deployment, which its weights do not depend on.
    slug = deployment_of_id(name)
    if slug is not None and slug not in slugs:
        message = f"an id of {run} ends with a deployment that was searched, or with none"
        raise InputError(message, got=name, known=slugs, hint=f"--arch {name.partition('-')[0]}")
    command, front = _COMMAND.format(run=run), read_record(run).front
    arch = resolve_arch(networks, name, run, command=command, others=_candidates(space, run), front=front)
    arch_id = networks.arch_id(arch)
    ids = [arch_id] if not slugs else [f"{arch_id}-{item}" for item in sorted(slugs, key=lambda item: item != slug)]
    return networks, arch, ids


def _candidates(space: AnySpace, run: Path) -> Iterator[Candidate]:
    study = Study.read(run)
    try:
        yield from space.candidates(study.table([]).genomes)
    finally:
        study.close()


def _weights(run: Path, ids: Sequence[str], supernet: SupernetSpec | None) -> Path | None:
    """Return the retrained or extracted weights of a winner, or else those of the supernet that was searched."""
    folders = [run / NETWORKS / candidate_id for candidate_id in ids]
    for file in (*(folder / "training" / NETWORK for folder in folders), *(folder / NETWORK for folder in folders)):
        if file.is_file():
            return file
    if supernet is None:
        return None
    file = supernet_file(supernet.path)
    if not file.is_file():
        raise InputError(f"the supernet of {run} must be at its path", got=supernet.path, hint="move it back there")
    if supernet.digest != weights_digest(file):
        message = f"the supernet of {run} must be the one that was searched"
        raise InputError(message, got=f"{supernet.path}, which has changed", hint="restore the old file")
    return file
