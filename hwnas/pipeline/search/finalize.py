"""The steps after a search: measure the front, retrain and export the winners, write the tables."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.pipeline.search.context import SearchContext
from hwnas.pipeline.search.verify import front_members, unmeasured_front, verify
from hwnas.pipeline.search.winners import WinnerExporter
from hwnas.profile.environment import CampaignEnvironment
from hwnas.progress import Reporter
from hwnas.search.objective import Estimate
from hwnas.search.record import SearchRecord, VerifiedMember, write_record
from hwnas.search.study import Study

if TYPE_CHECKING:
    from hwnas.pipeline.search.accuracy import TrueAccuracy


def finalize(
    context: SearchContext,
    run: Path,
    record: SearchRecord,
    *,
    true_accuracy: "TrueAccuracy | None",
    reporter: Reporter,
    campaign_environment: CampaignEnvironment | None,
) -> SearchRecord:
    """Do the steps after a search that are still to be done, and write the record after each of them.

    Args:
        context: The inputs of the search.
        run: The run folder.
        record: The record of the search.
        true_accuracy: The evaluator of accuracy, which has the weights of the winners.
        reporter: Receives messages and progress.
        campaign_environment: Where the front is measured; None: on this machine.

    Returns:
        The record with verification and winners.
    """
    from hwnas.report.front import write_front

    post_search, searched = context.spec.post_search, record
    # A run is verified when it comes to the machine of its device, or when the device is available again.
    if record.verification is None or (post_search.verify and record.verification.status != "verified"):
        record = _verify(context, run, record, reporter=reporter, campaign_environment=campaign_environment)
        write_record(run, record)
    count = max(post_search.export_top, post_search.retrain)
    if _lacks_winners(record, count) or record.measured_front != searched.measured_front:
        with Study.read(run) as study:
            members = front_members(context, study, record)
        exporter = WinnerExporter(context=context, run=run, true_accuracy=true_accuracy, reporter=reporter)
        record = replace(record, winners=exporter.export(record, members))
        write_record(run, record)
    write_front(run)
    return record


def _lacks_winners(record: SearchRecord, count: int) -> bool:
    """Return True if there are fewer winners than possible, or some that could not be exported."""
    front = record.front if record.measured_front is None else record.measured_front
    return len(record.winners) < min(count, len(front)) or any(item.failure is not None for item in record.winners)


def _verify(
    context: SearchContext,
    run: Path,
    record: SearchRecord,
    *,
    reporter: Reporter,
    campaign_environment: CampaignEnvironment | None,
) -> SearchRecord:
    reason = None if context.cheap.predictors else "the search had no metric of a device"
    if not context.spec.post_search.verify:
        reason = "verification was turned off (--no-verify)"
    if reason is not None:
        return replace(record, verification=unmeasured_front(context, "skipped", reason))
    environment = campaign_environment or CampaignEnvironment.of_this_machine()
    record = verify(context, run, record, reporter=reporter, campaign_environment=environment)
    if record.verification is not None and record.verification.has_measurements:
        _store_measured(context, run, record, record.verification.members)
    return record


def _store_measured(context: SearchContext, run: Path, record: SearchRecord, rows: tuple[VerifiedMember, ...]) -> None:
    """Store measured values in the study, in addition to the predicted ones."""
    # The versions in the specification decide what is searched, not what is measured: a study of other versions is
    # opened with its own configuration.
    with Study.read(run) as study:
        config = study.config
    with Study.resume(run, config=config) as study:
        candidates = {member.candidate.arch_id: member.candidate for member in front_members(context, study, record)}
        for row in rows:
            for name, check in row.metrics.items():
                if check.measured is None:
                    continue
                ends = (check.measured, check.measured_lower or check.measured, check.measured_upper or check.measured)
                value = Estimate(*(np.array([end]) for end in ends))
                study.store_value(candidates[row.arch_id].genome[None], metric=name, value=value, source="measured")
