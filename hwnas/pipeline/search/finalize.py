"""What follows a search: the front is measured again, winners are trained on and exported, tables are written."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.pipeline.search.context import Bench
from hwnas.pipeline.search.verify import front_members, skipped, verify
from hwnas.pipeline.search.winners import make_kit
from hwnas.profile.environment import Workplace
from hwnas.progress import Reporter
from hwnas.search.estimate import Estimate
from hwnas.search.record import SearchRecord, VerifiedMember, write_record
from hwnas.search.study import Study

if TYPE_CHECKING:
    from hwnas.pipeline.search.accuracy import TrueAccuracy


def finish(
    bench: Bench,
    run: Path,
    record: SearchRecord,
    *,
    truth: "TrueAccuracy | None",
    reporter: Reporter,
    workplace: Workplace | None,
) -> SearchRecord:
    """Do what is left to be done; each step is written down when it is done."""
    wanted = bench.config.finish
    # A run that was brought to its device, or a device that came back, is measured now.
    before = record
    if record.verification is None or (wanted.verify and record.verification.status != "verified"):
        record = _verified(bench, run, record, reporter=reporter, workplace=workplace)
        write_record(run, record)
    if _lacks_winners(record, max(wanted.kit, wanted.retrain)) or record.measured_front != before.measured_front:
        with Study.read(run) as study:
            members = front_members(bench, study, record)
        record = replace(record, kit=make_kit(bench, run, record, members, truth=truth, reporter=reporter))
        write_record(run, record)
    write_tables(run)
    return record


def _lacks_winners(record: SearchRecord, count: int) -> bool:
    """Whether there are fewer winners than there could be, or some that could not be exported."""
    front = record.front if record.measured_front is None else record.measured_front
    return len(record.kit) < min(count, len(front)) or any(item.failure is not None for item in record.kit)


def write_tables(run: Path) -> None:
    """The front as CSV, JSON and text, in the run."""
    from hwnas.report.front import write_front

    write_front(run)


def _verified(
    bench: Bench, run: Path, record: SearchRecord, *, reporter: Reporter, workplace: Workplace | None
) -> SearchRecord:
    if not bench.config.finish.verify:
        return replace(record, verification=skipped(bench, "it was not asked for (--no-verify)"))
    if not bench.cheap.predictors:
        return replace(record, verification=skipped(bench, "no metric of a device was searched for"))
    place = workplace or Workplace.here()
    record = verify(bench, run, record, reporter=reporter, workplace=place)
    if record.verification is not None and record.verification.some:
        _store(bench, run, record, record.verification.members)
    return record


def _store(bench: Bench, run: Path, record: SearchRecord, rows: tuple[VerifiedMember, ...]) -> None:
    """Keep what was measured in the study, beside what was predicted."""
    # Versions and machine decide what is searched, not what is measured: the study need not be of those that are here.
    with Study.read(run) as study:
        config = study.config
    with Study.resume(run, config=config) as study:
        candidates = {member.candidate.arch_id: member.candidate for member in front_members(bench, study, record)}
        for row in rows:
            for name, check in row.metrics.items():
                if check.measured is None:
                    continue
                ends = (check.measured, check.measured_lower or check.measured, check.measured_upper or check.measured)
                value = Estimate(*(np.array([end]) for end in ends))
                study.record(candidates[row.arch_id].genome[None], metric=name, value=value, source="measured")
