"""What follows a search: the front is measured again, winners are trained on and exported, tables are written."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.pipeline.search.context import SearchContext
from hwnas.pipeline.search.verify import front_members, skipped, verify
from hwnas.pipeline.search.winners import export_winners
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
    """Do what is left to be done; each step is written down when it is done."""
    wanted = context.spec.post_search
    # A run that was brought to its device, or a device that came back, is measured now.
    before = record
    if record.verification is None or (wanted.verify and record.verification.status != "verified"):
        record = _verified(context, run, record, reporter=reporter, campaign_environment=campaign_environment)
        write_record(run, record)
    if _lacks_winners(record, max(wanted.export_top, wanted.retrain)) or record.measured_front != before.measured_front:
        with Study.read(run) as study:
            members = front_members(context, study, record)
        winners = export_winners(context, run, record, members, true_accuracy=true_accuracy, reporter=reporter)
        record = replace(record, winners=winners)
        write_record(run, record)
    write_tables(run)
    return record


def _lacks_winners(record: SearchRecord, count: int) -> bool:
    """Whether there are fewer winners than there could be, or some that could not be exported."""
    front = record.front if record.measured_front is None else record.measured_front
    return len(record.winners) < min(count, len(front)) or any(item.failure is not None for item in record.winners)


def write_tables(run: Path) -> None:
    """The front as CSV, JSON and text, in the run."""
    from hwnas.report.front import write_front

    write_front(run)


def _verified(
    context: SearchContext,
    run: Path,
    record: SearchRecord,
    *,
    reporter: Reporter,
    campaign_environment: CampaignEnvironment | None,
) -> SearchRecord:
    if not context.spec.post_search.verify:
        return replace(record, verification=skipped(context, "it was not asked for (--no-verify)"))
    if not context.cheap.predictors:
        return replace(record, verification=skipped(context, "no metric of a device was searched for"))
    place = campaign_environment or CampaignEnvironment.here()
    record = verify(context, run, record, reporter=reporter, campaign_environment=place)
    if record.verification is not None and record.verification.has_measurements:
        _store(context, run, record, record.verification.members)
    return record


def _store(context: SearchContext, run: Path, record: SearchRecord, rows: tuple[VerifiedMember, ...]) -> None:
    """Keep what was measured in the study, beside what was predicted."""
    # Versions and machine decide what is searched, not what is measured: the study need not be of those that are here.
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
