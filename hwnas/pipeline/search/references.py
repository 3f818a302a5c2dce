"""The reference networks that a front is compared with.

Every front is compared with two well-known networks, which are measured with it if they take images of the same size.
That of an elastic space is also compared with what costs no search: the model itself, cuts of it that are alike in all
blocks, the model on smaller images and with larger patches, and timm's next smaller model of its kind.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.errors import HwnasError
from hwnas.metrics import QUANTISED, Deployment
from hwnas.pipeline.search.context import SearchContext
from hwnas.profile.reference import REFERENCE_NETWORKS
from hwnas.profile.subjects import parse_timm_model, space_network, space_subject
from hwnas.records import Subject
from hwnas.runs import MANIFEST, MODEL, Run
from hwnas.search.record import ReferenceKind, ReferenceNetwork
from hwnas.space import SPACES
from hwnas.space.deployed import networks_of
from hwnas.space.elastic import PREFIXES, SIZES, Elastic, ElasticArch, uniform_cut
from hwnas.space.space import AnySpace
from hwnas.workload import Workload

if TYPE_CHECKING:
    from hwnas.pipeline.search.accuracy import OpenSupernet, SupernetAccuracy

NAMES: Mapping[str, str] = {"timm:deit_tiny_patch16_224": "DeiT-Ti", "timm:deit_small_patch16_224": "DeiT-S"}
"""Names of the well-known reference networks by the id of the network."""

_CUTS = (0.35, 0.55)
"""Shares of the MACs that the uniform cuts lack."""

_MOST_IMAGES = 3
"""Smaller images of the model that are shown, the largest first."""

_SIZES = ("tiny", "small", "base", "large", "huge", "giant")
"""Words of timm's names, from small to large."""

_OTHER_WEIGHTS = "the weights of the model, resampled and not trained further"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A network that is measured with a front."""

    name: str
    subject: Subject
    kind: ReferenceKind = "known"
    note: str = ""
    """Weights or the lack of them, where the name does not say that."""

    def workload(self) -> Workload:
        """Return its workload for one image."""
        if self.subject.source == "timm":
            return _timm_workload(self.subject.name, self.subject.image_size)
        space, arch = space_network(self.subject)
        return space.workload(arch)


def references_of(space: AnySpace) -> tuple[Reference, ...]:
    """Return the networks that fronts of a space are compared with."""
    networks = networks_of(space)
    own = _elastic_references(networks) if isinstance(networks, Elastic) else ()
    known = [Reference(name=NAMES[item.network_id], subject=item) for item in REFERENCE_NETWORKS]
    return (*(item for item in own if item.subject.network_id not in NAMES), *known)


def reference_networks(
    context: SearchContext, *, qualities: Mapping[tuple[str, Deployment | None], float]
) -> tuple[ReferenceNetwork, ...]:
    """Predict the metrics of the reference networks, in each of the deployments that are searched.

    Args:
        context: The inputs of the search; metrics outside a predictor's range are left out.
        qualities: Known values of the search's measure of quality, by the id of the network and the deployment.
    """
    found = []
    predictors, confidence = context.cheap.predictors, context.cheap.confidence
    quality = context.problem.expensive or "accuracy"
    deployments = dict.fromkeys(item.deployment for item in predictors) or {None: None}
    for reference in references_of(context.space):
        workload = reference.workload()
        for deployment in deployments:
            metrics, value = {}, qualities.get((reference.subject.network_id, deployment))
            if value is not None and quality != "accuracy":
                metrics[quality] = value
            for item in predictors:
                if item.deployment == deployment:
                    prediction = item.predict([workload], confidence=confidence)
                    if not prediction.outside[0]:
                        metrics[str(item.column)] = float(prediction.mean[0])
            found.append(
                ReferenceNetwork(
                    name=_reference_name(reference.name, deployment),
                    macs=workload.macs,
                    params=workload.params,
                    metrics=metrics,
                    measured=False,
                    accuracy=value if quality == "accuracy" else None,
                    deployment=None if deployment is None else str(deployment),
                    kind=reference.kind,
                    network_id=reference.subject.network_id,
                    note=reference.note,
                )
            )
    return tuple(found)


def reference_qualities(
    context: SearchContext, supernet_accuracy: "SupernetAccuracy | None", *, runs: Path
) -> dict[tuple[str, Deployment | None], float]:
    """Evaluate the reference networks that have weights, by the id of the network and the deployment.

    The model itself has the weights that it was given, from which its networks were trained. So has the model on other
    images or patches than the networks of its supernet choose among.

    Args:
        context: The inputs of the search.
        supernet_accuracy: The evaluator of accuracy; None for a search without accuracy.
        runs: A folder of runs; trainings of well-known networks in it have accuracies to compare with.
    """
    if context.supernet is None or supernet_accuracy is None or context.spec.supernet is None:
        return {}
    deployments = tuple(dict.fromkeys(item.deployment for item in context.cheap.predictors)) or (None,)
    known = _known_accuracies_of(context.supernet, runs) if context.problem.expensive == "accuracy" else {}
    found = {
        (network_id, deployment): value
        for network_id, value in known.items()
        for deployment in deployments
        if deployment is None or deployment.precision not in QUANTISED
    }
    space = networks_of(context.space)
    if not isinstance(space, Elastic):
        return found
    own = [item for item in references_of(space) if item.kind not in ("known", "smaller")]
    given = [item for item in own if item.kind == "original" or item.subject.name != space.name]
    trained = [item for item in own if item not in given]
    sized, archs = _with_sizes(space), {item.name: space_network(item.subject)[1] for item in own}
    in_precision: dict[str | None, dict[str, float]] = {}  # deployments that only round share an evaluation
    for deployment in deployments:
        precision = context.spec.supernet.precision if deployment is None else deployment.precision
        precision = precision if precision in QUANTISED else None
        values = in_precision.get(precision)
        if values is None:
            values = in_precision[precision] = {}
            accuracies = supernet_accuracy.evaluate_archs([archs[item.name] for item in trained], precision)
            values |= zip((item.subject.network_id for item in trained), accuracies, strict=True)
            if supernet_accuracy.has_original:  # a file of weights alone does not
                before = supernet_accuracy.evaluate_original([archs[it.name] for it in given], precision, space=sized)
                values |= zip((item.subject.network_id for item in given), before, strict=True)
        found |= {(network_id, deployment): value for network_id, value in values.items()}
    return found


def network_id_of(network: ReferenceNetwork) -> str:
    """Return the id that a reference network is measured under; older records name the well-known ones alone."""
    if network.network_id is not None:
        return network.network_id
    deployment = None if network.deployment is None else Deployment.parse(network.deployment)
    return next(network_id for network_id, name in NAMES.items() if _reference_name(name, deployment) == network.name)


def reference_subjects(space: AnySpace, networks: Sequence[ReferenceNetwork]) -> tuple[Subject, ...]:
    """Return the subjects of a record's reference networks that are measured with its front.

    The well-known ones are measured with every front on images of their size, and with no other: they would take longer
    than the front itself, and no report would show them.
    """
    wanted = {*NAMES, *map(network_id_of, networks)}
    subjects = (item.subject for item in references_of(space) if item.subject.network_id in wanted)
    size = space.config.image_size
    return tuple(item for item in subjects if item.network_id not in NAMES or item.image_size == size)


def _reference_name(name: str, deployment: Deployment | None) -> str:
    """Return the name of a reference network, in a deployment where a search has several."""
    return name if deployment is None else f"{name} {deployment}"


def _elastic_references(space: Elastic) -> Iterator[Reference]:
    """Yield the networks that an elastic front is compared with, at most eight."""
    original = space.original
    yield _of_space(space, original, name="original", kind="original")
    macs = space.workload(original).macs
    for arch in dict.fromkeys(uniform_cut(space, cut) for cut in _CUTS):
        if arch != original:
            share = space.workload(arch).macs / macs
            yield _of_space(space, arch, name=f"uniform {share:.0%}", kind="uniform")
    sized = _with_sizes(space)
    config, note = sized.config, "" if sized is space else _OTHER_WEIGHTS
    smaller = [size for size, patch in config.inputs if patch == config.patch_size and size < config.image_size]
    for size in sorted(smaller, reverse=True)[:_MOST_IMAGES]:
        arch = replace(original, image_size=size)
        yield _of_space(sized, arch, name=f"original at {size} px", kind="resolution", note=note)
    patches = [patch for size, patch in config.inputs if size == config.image_size and patch > config.patch_size]
    for patch in sorted(patches)[-1:]:
        arch = replace(original, patch_size=patch)
        yield _of_space(sized, arch, name=f"original at patch {patch}", kind="patch", note=note)
    yield from _smaller_models(space)


def _of_space(space: Elastic, arch: ElasticArch, *, name: str, kind: ReferenceKind, note: str = "") -> Reference:
    subject = space_subject(space, space.candidate(arch))
    return Reference(name=name, subject=subject, kind=kind, note=note)


def _with_sizes(space: Elastic) -> Elastic:
    """Return an elastic space of a model of timm with smaller images and larger patches; itself if it has them."""
    if len(space.config.inputs) > 1 or not space.name.startswith(PREFIXES):
        return space
    config = space.config
    sized = SPACES.get(space.name + SIZES).adapted(
        image_size=config.image_size, channels=config.channels, num_classes=config.num_classes
    )
    assert isinstance(sized, Elastic)
    return sized if len(sized.config.inputs) > 1 else space


def _smaller_models(space: Elastic) -> Iterator[Reference]:
    """Yield timm's next smaller model of the same kind, if there is one that takes the same images."""
    from hwnas.train.pretrained import parse_space_name

    if not space.name.startswith(PREFIXES):
        return
    model = parse_space_name(space.name).model.partition(".")[0]  # the tag names weights, which are not used
    match = re.search(rf"(?<![a-z])({'|'.join(_SIZES)})(?![a-z])", model)
    for size in () if match is None else reversed(_SIZES[: _SIZES.index(match[1])]):
        assert match is not None
        name = model[: match.start()] + size + model[match.end() :]
        try:
            subject = parse_timm_model(f"timm:{name}@{space.config.image_size}")
        except HwnasError:  # timm has no such model, or it takes other images
            continue
        yield Reference(name=name, subject=subject, kind="smaller", note="its speed alone: it has no weights here")
        return


def _known_accuracies_of(supernet: "OpenSupernet", runs: Path) -> dict[str, float]:
    from hwnas.train.options import read_train_config

    config = read_train_config(Run.open(supernet.path)) if supernet.path.is_dir() else None
    data = {"name": supernet.data.name, "seed": 0 if config is None else config.data.seed}
    return known_accuracies(runs, data=data, num_images=len(supernet.data.heldout))


def known_accuracies(runs: Path, *, data: Mapping[str, object], num_images: int) -> dict[str, float]:
    """Return held-out accuracies of well-known networks that were trained on the same images.

    Args:
        runs: A folder of runs, of which those of `hwnas train --model timm:NAME` are used.
        data: Name and seed of the data set, which decide the held-out images.
        num_images: The number of held-out images.

    Returns:
        The best accuracy of each network, by the id of the network.
    """
    from hwnas.pipeline.evaluate import evaluate

    found: dict[str, float] = {}
    for folder in sorted(runs.iterdir()) if runs.is_dir() else []:
        name = _trained_reference_network(folder, data)
        if name is not None:
            try:
                (row,) = evaluate(folder).networks
            except HwnasError:  # its images may be gone, for example
                continue
            if row.count == num_images and row.top1 is not None:
                found[name] = max(row.top1, found.get(name, 0.0))
    return found


def _trained_reference_network(folder: Path, data: Mapping[str, object]) -> str | None:
    """Return the id of the reference network that a run trained on these images; None if it did not."""
    try:
        if not (folder / MANIFEST).is_file() or not (folder / MODEL).is_file():
            return None
        config = Run.open(folder).manifest.config
    except (HwnasError, OSError):  # a broken run, or a folder of another user
        return None
    trained = config.get("data")
    same = isinstance(trained, Mapping) and all(trained.get(name) == data.get(name) for name in ("name", "seed"))
    return str(config["model"]) if same and config.get("model") in NAMES else None


@cache
def _timm_workload(name: str, image_size: int) -> Workload:
    from hwnas.export.timm_models import build_timm

    return build_timm(name, image_size=image_size).workload()
