"""The card of an exported winner: its arch, its metrics and their origin."""

from collections.abc import Mapping
from typing import Any

from hwnas.predict.card import UNMEASURED
from hwnas.search.record import ExportedWinner, MetricCheck, SearchRecord
from hwnas.search.spec import SearchSpec
from hwnas.search.verification import FrontMember
from hwnas.space.arch import Arch, canonical_json


def card_page(record: SearchRecord, member: FrontMember, item: ExportedWinner, *, preprocess: Mapping[str, Any]) -> str:
    """Return the card of an exported winner as Markdown.

    Args:
        record: The record of the search.
        member: The network.
        item: Its files.
        preprocess: The preparation of its images, with the names of timm's `pretrained_cfg`.
    """
    lines = [
        f"# {record.spec.space} {member.candidate.network_id}",
        "",
        f"Chosen as {item.why}.",
        "",
        "| metric | searched | measured |",
        "| --- | ---: | ---: |",
        *_rows(record, member),
        "",
        f"- arch_id {member.candidate.arch_id}, network_id {member.candidate.network_id}",
        *([] if member.candidate.deployment is None else [f"- deployment {member.candidate.deployment}"]),
        f"- images {_images(record.spec, member.candidate.arch)}",
        *_preparation(preprocess),
        f"- {_weights(record.spec, item)}",
        f"- {_measured(record)}",
        *_repair(record.spec, item),
        *_file_accuracy(item),
        *(f"- {note}" for note in record.notes if UNMEASURED in note),
        "",
        "```json",
        canonical_json(member.candidate.arch.to_mapping()),
        "```",
        "",
        f"Files: {', '.join(item.files) or 'none'}.",
        *([f"It could not be exported: {item.failure}."] if item.failure else []),
    ]
    return "\n".join(lines) + "\n"


def _rows(record: SearchRecord, member: FrontMember) -> list[str]:
    checks: Mapping[str, MetricCheck] = {}
    if record.verification is not None:
        checks = {row.arch_id: row.metrics for row in record.verification.members}.get(member.candidate.id, {})
    rows = []
    for name, estimate in member.searched.items():
        measured = checks[name].measured if name in checks else None
        shown = "-" if measured is None else f"{measured:,.6g}"
        rows.append(f"| {name} | {float(estimate.mean[0]):,.6g} | {shown} |")
    return rows


def _images(spec: SearchSpec, arch: Arch) -> str:
    size = getattr(arch, "image_size", None) or spec.image_size
    return f"{spec.channels} x {size} x {size}, {spec.num_classes} classes"


def _preparation(preprocess: Mapping[str, Any]) -> list[str]:
    """Say how an image is prepared, and name the classes."""
    size = int(preprocess["input_size"][1] / preprocess["crop_pct"])
    mean, std = (", ".join(f"{value:g}" for value in preprocess[name]) for name in ("mean", "std"))
    names = preprocess.get("label_names", ())
    how = f"the shorter side to {size} pixels ({preprocess['interpolation']}), center crop"
    if preprocess["crop_mode"] == "letterbox":
        how = f"the longer side to {size} pixels ({preprocess['interpolation']}), top left on the color of the mean"
    return [
        f"- preparation: {how}, pixels from 0 to 1 less {mean}, divided by {std}",
        *([f"- classes: {', '.join(names)}"] if names else []),
    ]


def _weights(spec: SearchSpec, item: ExportedWinner) -> str:
    supernet = spec.supernet
    if supernet is None:
        return "weights: randomly initialised, because no supernet was searched; train it before use"
    if item.test_accuracy is not None:
        scratch = spec.post_search.retrain_from == "scratch"
        how = "trained from scratch" if scratch else f"retrained from {supernet.path.name}"
        return f"weights: {how}; test accuracy {item.test_accuracy:.2%}, evaluated once"
    return f"weights: inherited from {supernet.path.name}; evaluated on {supernet.num_images} held-out images"


def _repair(spec: SearchSpec, item: ExportedWinner) -> list[str]:
    found = item.repair
    if found is None:
        is_whole = spec.post_search.repair and item.test_accuracy is None and item.failure is None
        return ["- not repaired: the network has all heads and hidden units"] if is_whole else []
    how = f"least squares on {found.images:,} training images of {found.data}"
    done = f"repaired by {how}" if found.kept else f"not repaired, as {how} made it worse"
    accuracy = ""
    if found.accuracy is not None:
        change = f"{found.accuracy_before:.2%} before and {found.accuracy:.2%} after"
        accuracy = f"accuracy {change} (the model {found.model_accuracy:.2%}), "
    agreement = f"{found.agreement_before:.2%} before and {found.agreement:.2%} after"
    where = f"on {found.heldout_images:,} held-out images"
    return [f"- {done}; {where} {accuracy}agreement with the model {agreement}"]


def _file_accuracy(item: ExportedWinner) -> list[str]:
    if item.file_accuracy is None or item.float_accuracy is None:
        return []
    return [f"- accuracy of the exported graph {item.file_accuracy:.2%}, {item.float_accuracy:.2%} in float32"]


def _measured(record: SearchRecord) -> str:
    verification = record.verification
    if verification is None or not verification.has_measurements:
        reason = "" if verification is None else f": {verification.reason}"
        return f"not measured{reason}"
    but = "".join(f"; not measured: {metric} ({why})" for metric, why in verification.unmeasured.items())
    return f"measured on {verification.device} with {verification.runtime}{but}"
