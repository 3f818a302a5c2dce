"""The winners of a search, exported: each in a folder with its weights, graphs, arch and card."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import HwnasError, MissingError
from hwnas.files import file_errors, path_within, storage_failed, write_atomic
from hwnas.metrics import QUANTISED, Deployment, Metric, parse_metric
from hwnas.pipeline.search.context import SearchContext
from hwnas.profile.runners.runner import graph_precision
from hwnas.progress import Reporter
from hwnas.report.network_card import card_page
from hwnas.search.choice import Pick
from hwnas.search.objective import exact
from hwnas.search.pareto import most_improving
from hwnas.search.problem import Problem
from hwnas.search.record import NETWORKS, ExportedWinner, Repair, SearchRecord
from hwnas.search.verification import FrontMember
from hwnas.space.arch import Arch
from hwnas.space.deployed import networks_of
from hwnas.space.elastic import Elastic, ElasticArch

if TYPE_CHECKING:
    from hwnas.export.accuracy import QuantisedAccuracy
    from hwnas.pipeline.repair import RepairedNetwork
    from hwnas.pipeline.search.accuracy import SupernetAccuracy
    from hwnas.supernet.network import Network
    from hwnas.train.data.preprocess import Preprocess

SPREAD = "adds most hypervolume to those before it"

_WEIGHTS = "network.safetensors"


@dataclass(frozen=True, kw_only=True)
class WinnerWeights:
    """The file with the weights of a winner; None: there is no supernet, and they are random."""

    file: Path | None
    test_accuracy: float | None = None
    repair: Repair | None = None


@dataclass(frozen=True, kw_only=True)
class WinnerGraphs:
    """The exported files of a winner."""

    files: tuple[Path, ...] = ()
    accuracy: "QuantisedAccuracy | None" = None
    """Accuracy of the graph, if its precision changes accuracy."""


@dataclass(frozen=True, kw_only=True)
class WinnerExporter:
    """Exports networks of the front to folders of a run."""

    context: SearchContext
    run: Path
    supernet_accuracy: "SupernetAccuracy | None"
    """None for a search without accuracy."""
    reporter: Reporter

    def export(self, record: SearchRecord, members: Sequence[FrontMember]) -> tuple[ExportedWinner, ...]:
        """Export the winners of a search; work that an earlier run has done is not repeated.

        Args:
            record: The record of the search.
            members: The networks of the searched front.

        Returns:
            The winners, the best first. One that could not be exported has its `failure`.
        """
        post_search = self.context.spec.post_search
        done = {item.arch_id: item for item in record.winners if item.failure is None}
        chosen = choose_winners(
            self.context.problem, record, members, post_search.num_winners, pick=Pick.parse(post_search.pick)
        )
        winners = []
        for index, (member, why) in enumerate(chosen):
            candidate_id = member.candidate.id
            retrain, export, old = index < post_search.retrain, index < post_search.export_top, done.get(candidate_id)
            if old is not None and (old.test_accuracy is not None or not retrain) and (old.files or not export):
                winner = replace(old, why=why)
            else:
                self.reporter.message(f"network {candidate_id}: {why}")
                winner = self._export_winner(member, why, retrain=retrain, export=export)
            self._describe(record, member, winner)
            winners.append(winner)
        return tuple(winners)

    def _export_winner(self, member: FrontMember, why: str, *, retrain: bool, export: bool) -> ExportedWinner:
        folder, failure = self._folder(member), None
        with file_errors(folder, "written"):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            weights = self._retrained_weights(member, folder) if retrain else self._inherited_weights(member, folder)
            graphs = self._export_graphs(member, folder, weights) if export else WinnerGraphs()
        except HwnasError as error:
            if storage_failed(error):
                raise
            weights, graphs, failure = WinnerWeights(file=None), WinnerGraphs(), str(error).splitlines()[0]
        return ExportedWinner(
            arch_id=member.candidate.id,
            network_id=member.candidate.network_id,
            folder=str(folder.relative_to(self.run)),
            why=why,
            files=tuple(file.relative_to(folder).as_posix() for file in graphs.files),
            test_accuracy=weights.test_accuracy,
            failure=failure,
            file_accuracy=None if graphs.accuracy is None else graphs.accuracy.top1,
            float_accuracy=None if graphs.accuracy is None else graphs.accuracy.float_top1,
            repair=weights.repair,
        )

    def _folder(self, member: FrontMember) -> Path:
        return path_within(self.run, NETWORKS, member.candidate.id)

    def _inherited_weights(self, member: FrontMember, folder: Path) -> WinnerWeights:
        if self.supernet_accuracy is None:
            return WinnerWeights(file=None)
        from hwnas.supernet.store import save_network
        from hwnas.train.data.preprocess import write_preprocess

        arch, file, space, repair = member.candidate.arch, folder / _WEIGHTS, networks_of(self.context.space), None
        network = self.supernet_accuracy.extract(arch)
        if self.context.spec.post_search.repair:
            repaired = self._repaired(network, arch)
            network, repair = repaired.module, repaired.repair
        save_network(network, file, space=space, arch=arch)
        write_preprocess(folder, self._preprocess(arch))
        return WinnerWeights(file=file, repair=repair)

    def _preprocess(self, arch: Arch) -> "Preprocess":
        """Return how the images of a network are prepared, from the run of the supernet if there is one."""
        from hwnas.train.data.preprocess import preprocess_of
        from hwnas.train.options import supernet_file

        supernet = self.context.spec.supernet
        weights = None if supernet is None else supernet_file(supernet.path)
        return preprocess_of(networks_of(self.context.space), arch, weights=weights)

    def _repaired(self, network: "Network", arch: Arch) -> "RepairedNetwork":
        """Repair a network by the model and the images that the supernet was made from."""
        from hwnas.pipeline.quantisation import QuantisationOptions
        from hwnas.pipeline.repair import repair_from_run
        from hwnas.supernet.loading import WeightedNetwork

        supernet = self.context.spec.supernet
        assert supernet is not None, "an extracted network without a supernet"
        space, path = networks_of(self.context.space), supernet.path
        source = WeightedNetwork(module=network, space=space, arch=arch, weights=str(path), fresh=False)
        return repair_from_run(source, run=path, options=QuantisationOptions(data=supernet.data))

    def _retrained_weights(self, member: FrontMember, folder: Path) -> WinnerWeights:
        """Retrain the network, and evaluate it once on the test images."""
        from hwnas.pipeline.evaluate import evaluate
        from hwnas.pipeline.search.retraining import retraining_options
        from hwnas.pipeline.train import train_model
        from hwnas.runs import MANIFEST
        from hwnas.train.options import TrainOptions

        training = folder / "training"
        resume = (training / MANIFEST).is_file()
        options = TrainOptions()
        if not resume:
            precision = self._graph_precision(member.candidate.deployment)
            options = retraining_options(
                self.context.spec,
                member.candidate.arch,
                space=networks_of(self.context.space),
                folder=folder,
                hold_out=precision in QUANTISED,  # what quantisation loses is measured on the held-out images
            )
        trained = train_model(options, out=training, resume=resume, reporter=self.reporter)
        (row,) = evaluate(training, split="test").networks
        return WinnerWeights(file=trained.weights, test_accuracy=row.top1)

    def _export_graphs(self, member: FrontMember, folder: Path, weights: WinnerWeights) -> WinnerGraphs:
        """Export ONNX graphs at the batches of the search and for any batch, and a program of torch, each checked.

        A graph in int8 is calibrated on training images, and its accuracy is measured on held-out ones.
        """
        from hwnas.export.precision import TORCH_DTYPES
        from hwnas.pipeline.export_network import export_network
        from hwnas.pipeline.quantisation import QuantisationOptions

        space, supernet, candidate = self.context.space, self.context.spec.supernet, member.candidate
        own = [item for item in self.context.cheap.predictors if item.deployment in (None, candidate.deployment)]
        batches = sorted({item.metric.deployment.fixed_batch or 1 for item in own}) or [1]
        precision, quantisation = graph_precision(candidate.deployment), None
        if supernet is not None and weights.file is not None:
            precision = self._graph_precision(candidate.deployment)
            if precision in QUANTISED:  # the search knows what int8 costs, so no drop is too large unless one says so
                max_drop = self.context.spec.post_search.max_drop
                quantisation = QuantisationOptions(
                    data=supernet.data, run=supernet.path, max_drop=1.0 if max_drop is None else max_drop
                )
        in_float = precision if precision in TORCH_DTYPES else "fp32"
        files, accuracy = [] if weights.file is None else [weights.file], None
        for format_, batch in (*self._onnx_formats(batches), ("pt2", batches[0])):
            is_quantised = format_ == "onnx" and quantisation is not None
            exported = export_network(
                space.name,
                candidate.arch,
                out=folder,
                format=format_,
                precision=precision if is_quantised else in_float,  # random weights are calibrated on nothing
                batch=batch,
                any_batch=format_ == "onnx" and batch == batches[0],
                weights=weights.file,
                quantisation=quantisation if is_quantised else None,
                replace_files=True,
                # A file of weights states image size and classes itself.
                image_size=None if weights.file is not None else space.config.image_size,
                num_classes=None if weights.file is not None else space.config.num_classes,
            )
            accuracy = accuracy or exported.parity.accuracy
            files += exported.files
        if weights.file is not None:
            files += self._timm_files(candidate.arch, folder, weights.file)
        return WinnerGraphs(files=tuple(files), accuracy=accuracy)

    def _graph_precision(self, deployment: Deployment | None) -> str:
        """Return the precision of the graph of a winner with trained weights."""
        supernet = self.context.spec.supernet
        return (supernet and supernet.precision) or graph_precision(deployment)

    def _timm_files(self, arch: Arch, folder: Path, weights: Path) -> tuple[Path, ...]:
        """Write a network that is a plain model of timm as one, too."""
        space = networks_of(self.context.space)
        if not isinstance(space, Elastic) or not isinstance(arch, ElasticArch):
            return ()
        from hwnas.pipeline.export_network import export_network
        from hwnas.train.plain_timm import differing_blocks

        if differing_blocks(space, arch) is not None:
            return ()
        try:
            exported = export_network(space.name, arch, out=folder, format="timm", weights=weights, replace_files=True)
            return exported.files
        except HwnasError as error:
            if storage_failed(error):
                raise
            self.reporter.message(f"not written as a model of timm: {error}")
            return ()

    def _onnx_formats(self, batches: Sequence[int]) -> tuple[tuple[str, int], ...]:
        """Return the ONNX format for each batch, or nothing if graphs cannot be checked here."""
        from hwnas.export.onnxruntime_library import load_onnxruntime

        try:
            load_onnxruntime()
        except MissingError as error:
            self.reporter.message(f"no ONNX graphs of the winners: {error}")
            return ()
        return tuple(("onnx", batch) for batch in batches)

    def _describe(self, record: SearchRecord, member: FrontMember, winner: ExportedWinner) -> None:
        """Write the arch and the card of a winner, which change with the record."""
        preprocess = self._preprocess(member.candidate.arch).to_timm()
        arch = {
            "space": record.spec.space,
            "image_size": getattr(member.candidate.arch, "image_size", None) or record.spec.image_size,
            "channels": record.spec.channels,
            "num_classes": record.spec.num_classes,
            "arch_id": member.candidate.arch_id,
            "network_id": member.candidate.network_id,
            **({} if member.candidate.deployment is None else {"deployment": str(member.candidate.deployment)}),
            "preprocess": preprocess,
            "arch": member.candidate.arch.to_mapping(),
        }
        folder = self._folder(member)  # not the one that the record names: it may come from elsewhere
        write_atomic(folder / "arch.json", json.dumps(arch, indent=2) + "\n")
        write_atomic(folder / "card.md", card_page(record, member, winner, preprocess=preprocess))


def choose_winners(
    problem: Problem, record: SearchRecord, members: Sequence[FrontMember], count: int, *, pick: Pick
) -> list[tuple[FrontMember, str]]:
    """Choose the picked network of the front first, then one after the other the network that adds most hypervolume.

    Args:
        problem: The objectives.
        record: The record of the search; its measured front is used if there is one.
        members: The networks of the searched front.
        count: The most winners to choose.
        pick: The rule that chooses the first one.

    Returns:
        The winners, the best first, each with the rule that chose it; none if no network is within the limits.
    """
    front = record.front if record.measured_front is None else record.measured_front
    members = [member for member in members if member.candidate.id in front]
    if not members or count < 1:
        return []
    columns = _values(record, members)
    objectives = [objective.metric for objective in problem.objectives]
    first = pick.choose(objectives, columns)
    if first is None:
        return []
    values = np.stack([item.minimised(exact(columns[item.metric])) for item in problem.objectives], axis=1)
    others = [index for index in range(len(members)) if index != first]
    rest = most_improving(values[others], values[[first]], count - 1, record.bounds) if others else []
    # Networks that add nothing to the hypervolume, such as equal ones, come last.
    rest += [index for index in range(len(others)) if index not in rest]
    return [(members[first], pick.why(objectives)), *((members[others[index]], SPREAD) for index in rest[: count - 1])]


def _values(record: SearchRecord, members: Sequence[FrontMember]) -> dict[Metric, NDArray[np.float64]]:
    """Return the metrics of networks by column, measured where they were."""
    checks = {} if record.verification is None else {row.arch_id: row.metrics for row in record.verification.members}
    columns = {}
    for name in members[0].searched:
        values = []
        for member in members:
            check = checks.get(member.candidate.id, {}).get(name)
            measured = None if check is None else check.measured
            values.append(float(member.searched[name].mean[0]) if measured is None else measured)
        columns[parse_metric(name)] = np.array(values, dtype=np.float64)
    return columns
