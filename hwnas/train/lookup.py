"""Networks by their id, where the run knows it: those that were judged in it, besides the ones with names."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from hwnas.config import parse_json
from hwnas.errors import InputError
from hwnas.space.arch import Arch
from hwnas.space.lookup import find_arch
from hwnas.space.space import AnySpace, Candidate
from hwnas.train.evaluation import ACCURACIES

_ID = re.compile(r"[0-9a-f]{12,}", re.IGNORECASE)


def named_arch(
    space: AnySpace, given: str, run: Path | None, *, command: str, others: Iterable[Candidate] = ()
) -> Arch:
    """The network that is given as for `find_arch`, or by the first 12 digits of its id or more.

    An id is known where a network of it was judged in `run`, or where it is that of a published, the smallest or the
    largest network, or of one of `others`. `command` is what an error tells the user to try, with places for a space
    and an arch.
    """
    if not _ID.fullmatch(given) or Path(given).is_file():
        return find_arch(space, given, command=command)
    found = {id_: arch for id_, arch in _known(space, run, others) if id_.startswith(given.casefold())}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise InputError("an id must have enough digits to be of one network", got=given, known=sorted(found))
    where = space.name if run is None else str(run)
    hint = command.format(space=space.name, arch="'{…}'") + ", the network as JSON"
    raise InputError(f"no network with this id has been judged in {where}", got=given, hint=hint)


def _known(space: AnySpace, run: Path | None, others: Iterable[Candidate]) -> Iterator[tuple[str, Arch]]:
    named = (space.smallest(), space.largest(), *space.published.values())
    for candidate in (*space.candidates(space.encode(named)), *others):
        yield candidate.arch_id, candidate.arch
    file = None if run is None else run / ACCURACIES
    if file is not None and file.is_file():
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            row = parse_json(line, source=f"{file}, line {number}")
            if isinstance(row, dict) and "arch" in row:
                yield row["arch_id"], space.parse(row["arch"])
