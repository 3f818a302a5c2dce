"""The card of a winner: what it is, what it costs, and what stands behind each figure."""

from collections.abc import Mapping

from hwnas.search.record import KitItem, MetricCheck, SearchRecord
from hwnas.search.verification import Member
from hwnas.space.arch import canonical_json


def card_page(record: SearchRecord, member: Member, item: KitItem, *, fresh: bool) -> str:
    """The card as Markdown."""
    lines = [
        f"# {record.space} {member.candidate.network_id}",
        "",
        f"Chosen as {item.why}.",
        "",
        "| metric | searched | measured |",
        "| --- | ---: | ---: |",
        *_rows(record, member),
        "",
        f"- arch_id {member.candidate.arch_id}, network_id {member.candidate.network_id}",
        f"- images {_images(record)}",
        f"- {_weights(record, item, fresh=fresh)}",
        f"- {_measured(record)}",
        "",
        "```json",
        canonical_json(member.candidate.arch.to_mapping()),
        "```",
        "",
        f"Files: {', '.join(item.files) or 'none'}.",
        *([f"It could not be exported: {item.failure}."] if item.failure else []),
    ]
    return "\n".join(lines) + "\n"


def _rows(record: SearchRecord, member: Member) -> list[str]:
    checks: Mapping[str, MetricCheck] = {}
    if record.verification is not None:
        checks = {row.arch_id: row.metrics for row in record.verification.members}.get(member.candidate.arch_id, {})
    rows = []
    for name, estimate in member.searched.items():
        measured = checks[name].measured if name in checks else None
        shown = "-" if measured is None else f"{measured:,.6g}"
        rows.append(f"| {name} | {float(estimate.mean[0]):,.6g} | {shown} |")
    return rows


def _images(record: SearchRecord) -> str:
    config = record.space_config
    size = config["image_size"]
    return f"{config['channels']} x {size} x {size}, {config['num_classes']} classes"


def _weights(record: SearchRecord, item: KitItem, *, fresh: bool) -> str:
    if fresh:
        return "weights: fresh ones, because no supernet was searched; train it before use"
    if item.test_accuracy is not None:
        return f"weights: trained on from {record.supernet}; test accuracy {item.test_accuracy:.2%}, looked at once"
    return f"weights: inherited from {record.supernet}; accuracy is that of {record.num_pictures} held-out pictures"


def _measured(record: SearchRecord) -> str:
    verification = record.verification
    if verification is None or not verification.some:
        reason = "" if verification is None else f": {verification.reason}"
        return f"not measured again{reason}"
    but = "".join(f"; not measured: {metric} ({why})" for metric, why in verification.unmeasured.items())
    return f"measured on {verification.device} with {verification.runtime}{but}"
