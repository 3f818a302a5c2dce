"""The command that fine-tunes a network of a search: `hwnas train --arch ID --supernet RUN --epochs N --out RUN`."""

from pathlib import Path

from hwnas.errors import HwnasError
from hwnas.files import relative_path
from hwnas.metrics import parse_metric
from hwnas.runs import MANIFEST, SUPERNET, Run
from hwnas.search.record import NETWORKS, SearchRecord
from hwnas.train.evaluated import ACCURACIES_FILE

MOST_EPOCHS = 20
"""Epochs of a fine-tuning at most, as in the recipe `finetune`."""

_LABELLED = ("accuracy", "mAP", "mIoU")
"""Metrics of searches whose supernet was trained on labelled images."""

_SHORT = 8
"""Digits of an id in the name of a run."""

_MOST_RUNS = 100
"""Fine-tunings of networks of one id, each of another supernet."""


def finetuning_epochs(supernet_epochs: int) -> int:
    """Return the epochs of a fine-tuning: 20, or those of the supernet if they are fewer."""
    return min(MOST_EPOCHS, supernet_epochs)


def finetuning_command(run: Path, record: SearchRecord, arch_id: str) -> tuple[str, ...]:
    """Return the command that fine-tunes a network with the weights that it has in the supernet.

    Args:
        run: The run of the search.
        record: Its record.
        arch_id: The network.

    Returns:
        The words of the command; none if there is no supernet, if it was trained without labels, if the network is
        retrained already, or if the training would not know it.
    """
    spec = record.spec.supernet
    if spec is None or not any(parse_metric(text).name in _LABELLED for text in record.spec.objectives):
        return ()
    retrained = {_digits(winner.arch_id) for winner in record.winners if winner.test_accuracy is not None}
    if _digits(arch_id) in retrained:
        return ()
    supernet = spec.path.parent if spec.path.name == SUPERNET and (spec.path.parent / MANIFEST).is_file() else spec.path
    arch: str | Path = arch_id
    is_known = supernet.resolve().parent == run.resolve().parent and (run / ACCURACIES_FILE).is_file()
    if not is_known:  # ids are those of searches beside the supernet
        arch = run / NETWORKS / arch_id / "arch.json"
        if not arch.is_file():
            return ()
    out = finetuned_run(run, arch_id, digest=spec.digest)
    return training_words(relative_path(supernet), str(arch), data=spec.data, out=out)


def training_words(supernet: Path, arch: str, *, data: str | None, out: Path) -> tuple[str, ...]:
    """Return the command that fine-tunes a network with the weights that it has in a supernet.

    Args:
        supernet: The run or the file of the supernet.
        arch: The network, as `hwnas train --arch` takes it.
        data: Images in place of those of the supernet's run.
        out: The run of the training.
    """
    images = () if data is None else ("--data", data)
    epochs = str(finetuning_epochs(_epochs_of(supernet)))
    words = ("hwnas", "train", "--arch", arch, "--supernet", str(supernet), *images, "--epochs", epochs)
    return (*words, "--out", str(out))


def finetuned_run(run: Path, arch_id: str, *, digest: str) -> Path:
    """Return the run that a network is fine-tuned in: that which began with these weights, or else a new one.

    Args:
        run: The run of the search or of the supernet, which it is beside.
        arch_id: The network.
        digest: Digest of the supernet's weights; another supernet may have a network of this id.
    """
    first = run.parent / f"tuned-{arch_id[:_SHORT]}"
    paths = (first, *(first.with_name(f"{first.name}-{number}") for number in range(2, _MOST_RUNS)))
    return next((path for path in paths if not path.exists() or _began_with(path, digest)), first)


def _began_with(run: Path, digest: str) -> bool:
    try:
        return Run.open(run).manifest.config.get("supernet_digest") == digest
    except HwnasError:
        return False


def _digits(candidate_id: str) -> str:
    """Return the id of a network without the deployment that it may end with."""
    return candidate_id.partition("-")[0]


def _epochs_of(supernet: Path) -> int:
    """Return the epochs that a supernet was trained for; those of a fine-tuning where that is unknown."""
    try:
        config = Run.open(supernet).manifest.config
    except HwnasError:  # a file of weights
        return MOST_EPOCHS
    changes = config.get("epochs_changes") or [config.get("recipe", {})]
    return int(changes[-1].get("epochs", 0)) or MOST_EPOCHS
