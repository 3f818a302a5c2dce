"""The choose_winners of a search, exported: each in a folder with weights, graphs, its arch and a card."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import HwnasError, InputError
from hwnas.pipeline.search.context import SearchContext
from hwnas.progress import Reporter
from hwnas.report.network_card import card_page
from hwnas.runs import write_atomic
from hwnas.search.objective import exact
from hwnas.search.pareto import knee, most_improving
from hwnas.search.record import NETWORKS, ExportedWinner, SearchRecord
from hwnas.search.verification import FrontMember
from hwnas.space.arch import canonical_json

if TYPE_CHECKING:
    from hwnas.pipeline.search.accuracy import TrueAccuracy

KNEE = "the knee of the front: farthest from the plane through its extremes"
SPREAD = "adds most hypervolume to those before it"

_WEIGHTS = "network.safetensors"


@dataclass(frozen=True, kw_only=True)
class WinnerWeights:
    """The file with the weights of a winner; None: there is no supernet, and they are fresh."""

    file: Path | None
    test_accuracy: float | None = None


def export_winners(
    context: SearchContext,
    run: Path,
    record: SearchRecord,
    members: Sequence[FrontMember],
    *,
    true_accuracy: "TrueAccuracy | None",
    reporter: Reporter,
) -> tuple[ExportedWinner, ...]:
    """Export the choose_winners; one that cannot be is said. What was done for one before is not done again."""
    wanted = context.spec.post_search
    done = {item.arch_id: item for item in record.winners if item.failure is None}
    items = []
    for place, (member, why) in enumerate(
        choose_winners(context, record, members, max(wanted.export_top, wanted.retrain))
    ):
        folder = run / NETWORKS / member.candidate.arch_id
        folder.mkdir(parents=True, exist_ok=True)
        old, retrained, exported = done.get(member.candidate.arch_id), place < wanted.retrain, place < wanted.export_top
        if old is not None and (old.test_accuracy is not None or not retrained) and (old.files or not exported):
            item = replace(old, why=why)
        else:
            reporter.message(f"network {member.candidate.arch_id}: {why}")
            item = _made(
                context,
                run,
                member,
                why,
                true_accuracy=true_accuracy,
                retrained=retrained,
                exported=exported,
                reporter=reporter,
            )
        _describe(context, record, member, item, folder)
        items.append(item)
    return tuple(items)


def _made(
    context: SearchContext,
    run: Path,
    member: FrontMember,
    why: str,
    *,
    true_accuracy: "TrueAccuracy | None",
    retrained: bool,
    exported: bool,
    reporter: Reporter,
) -> ExportedWinner:
    folder = run / NETWORKS / member.candidate.arch_id
    try:
        weights = _weights(context, member, folder, true_accuracy=true_accuracy, retrained=retrained, reporter=reporter)
        files = _exported(context, member, folder, weights) if exported else ()
        failure = None
    except HwnasError as error:
        weights, files, failure = WinnerWeights(file=None), (), str(error).splitlines()[0]
    return ExportedWinner(
        arch_id=member.candidate.arch_id,
        network_id=member.candidate.network_id,
        folder=str(folder.relative_to(run)),
        why=why,
        files=tuple(file.name for file in files),
        test_accuracy=weights.test_accuracy,
        failure=failure,
    )


def choose_winners(
    context: SearchContext, record: SearchRecord, members: Sequence[FrontMember], count: int
) -> list[tuple[FrontMember, str]]:
    """The knee of the front first, then one after the other whatever adds most to what is chosen.

    The front is that of measured values where there is one.
    """
    able = _able(record, members)
    if not able or count < 1:
        return []
    values = _objectives(context, record, able)
    first = knee(values)
    assert first is not None
    chosen = [(able[first], KNEE)]
    others = [place for place in range(len(able)) if place != first]
    rest = most_improving(values[others], values[[first]], count - 1, record.bounds) if others else []
    # What adds nothing to the hypervolume, as equal networks do, comes last.
    rest += [place for place in range(len(others)) if place not in rest]
    return chosen + [(able[others[place]], SPREAD) for place in rest[: count - 1]]


def _able(record: SearchRecord, members: Sequence[FrontMember]) -> list[FrontMember]:
    wanted = record.front if record.measured_front is None else record.measured_front
    return [member for member in members if member.candidate.arch_id in wanted]


def _objectives(context: SearchContext, record: SearchRecord, members: Sequence[FrontMember]) -> NDArray[np.float64]:
    measured = {} if record.verification is None else {row.arch_id: row.metrics for row in record.verification.members}
    columns = []
    for objective in context.problem.objectives:
        name = str(objective)
        values = []
        for member in members:
            check = measured.get(member.candidate.arch_id, {}).get(name)
            known = None if check is None else check.measured
            values.append(float(member.searched[name].mean[0]) if known is None else known)
        columns.append(objective.minimised(exact(values)))
    return np.stack(columns, axis=1)


def _weights(
    context: SearchContext,
    member: FrontMember,
    folder: Path,
    *,
    true_accuracy: "TrueAccuracy | None",
    retrained: bool,
    reporter: Reporter,
) -> WinnerWeights:
    """The weights of a winner in a file of its own: inherited, or trained on from there."""
    if true_accuracy is None:
        if retrained:
            raise InputError(
                "only a network of a supernet is trained on", got="--no-accuracy", hint="leave out --retrain"
            )
        return WinnerWeights(file=None)
    if retrained:
        return _retrained(context, member, folder, reporter)
    from hwnas.supernet.store import save_network

    save_network(
        true_accuracy.network(member.candidate.arch), folder / _WEIGHTS, space=context.space, arch=member.candidate.arch
    )
    return WinnerWeights(file=folder / _WEIGHTS)


def _retrained(context: SearchContext, member: FrontMember, folder: Path, reporter: Reporter) -> WinnerWeights:
    """Train the network on from the supernet's weights, and look at the test pictures once."""
    from hwnas.pipeline.evaluate import evaluate
    from hwnas.pipeline.train import train_model
    from hwnas.runs import MANIFEST
    from hwnas.train.options import TrainOptions

    supernet, training = context.spec.supernet, folder / "training"
    assert supernet is not None, "a retrained network without a supernet"
    options = TrainOptions(
        data=supernet.data,
        arch=canonical_json(member.candidate.arch.to_mapping()),
        supernet=supernet.path,
        epochs=context.spec.post_search.retrain_epochs,
        seed=context.spec.seed,
    )
    resume = (training / MANIFEST).is_file()
    trained = train_model(TrainOptions() if resume else options, out=training, resume=resume, reporter=reporter)
    (row,) = evaluate(training, split="test").networks
    return WinnerWeights(file=trained.weights, test_accuracy=row.top1)


def _exported(context: SearchContext, member: FrontMember, folder: Path, weights: WinnerWeights) -> tuple[Path, ...]:
    """The graphs of a winner, checked against torch: ONNX at the batches of the search, and a program of torch."""
    from hwnas.pipeline.export_network import export_network

    batches = sorted({item.metric.deployment.fixed_batch or 1 for item in context.cheap.predictors}) or [1]
    fresh = None if weights.file is not None else context.space.config
    files = [] if weights.file is None else [weights.file]
    for format_, batch in (*(("onnx", batch) for batch in batches), ("pt2", batches[0])):
        exported = export_network(
            context.space.name,
            member.candidate.arch,
            out=folder,
            format=format_,
            batch=batch,
            weights=weights.file,
            image_size=None if fresh is None else fresh.image_size,
            num_classes=None if fresh is None else fresh.num_classes,
        )
        files += exported.files
    return tuple(files)


def _describe(
    context: SearchContext, record: SearchRecord, member: FrontMember, item: ExportedWinner, folder: Path
) -> None:
    """The arch and the card of a winner."""
    arch = {
        "space": context.space.name,
        "image_size": context.spec.image_size,
        "channels": context.spec.channels,
        "num_classes": context.spec.num_classes,
        "arch_id": member.candidate.arch_id,
        "network_id": member.candidate.network_id,
        "arch": member.candidate.arch.to_mapping(),
    }
    write_atomic(folder / "arch.json", json.dumps(arch, indent=2) + "\n")
    write_atomic(folder / "card.md", card_page(record, member, item))
