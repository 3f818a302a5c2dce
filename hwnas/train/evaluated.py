"""Networks that were evaluated in a run, and their look-up by id."""

import difflib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hwnas.config import parse_json
from hwnas.errors import HwnasError, InputError
from hwnas.files import printable, read_bytes
from hwnas.metrics import PRECISIONS, RUNTIMES, Deployment
from hwnas.runs import SUPERNET, Run
from hwnas.space.arch import Arch
from hwnas.space.lookup import find_arch
from hwnas.space.space import AnySpace, Candidate

ACCURACIES_FILE = "accuracies.jsonl"
"""File of a run that caches the accuracies of its networks."""

_ID = re.compile(r"[0-9a-f]{4,64}", re.IGNORECASE)
"""An id of a network, or its first digits; as few as four, as git takes of commits."""

_SHORT_ID = re.compile(r"(?=.*[0-9])[0-9a-f]{1,3}", re.IGNORECASE)
_LIKE = 0.8
"""Similarity from which an id is taken for a misspelled one: two unrelated ids have about half of it."""


def deployment_of_id(text: str) -> str | None:
    """Return the deployment that the id of a candidate ends with, such as `openvino-fp32`, or None if it has none."""
    digits, _, slug = text.casefold().partition("-")
    pairs = [(runtime, precision) for runtime in (None, *RUNTIMES) for precision in (None, *PRECISIONS)]
    slugs = {Deployment(runtime=runtime, precision=precision).slug for runtime, precision in pairs}
    return slug if slug and slug in slugs and _ID.fullmatch(digits) else None


def resolve_arch(
    space: AnySpace,
    text: str,
    run: Path | None,
    *,
    command: str,
    others: Iterable[Candidate] = (),
    front: Sequence[str] = (),
) -> Arch:
    """Find a network by a name, JSON or a file, as `find_arch` does, or by its id.

    Args:
        space: Space of the network.
        text: As for `find_arch`, or the first digits of an id, at least four: the `arch_id`, or the `network_id` that
            exported files are named by. Ids are known of networks that were evaluated in the run, of published ones, of
            the smallest and the largest, and of `others`; else of those that a search beside the run evaluated with its
            supernet. The deployment that an id ends with is left out.
        run: Run whose evaluated networks are known.
        command: Command of the hint in an error, with the placeholders `{space}` and `{arch}`.
        others: Further networks whose ids are known.
        front: Ids of the front where the run is that of a search; an error lists them.

    Raises:
        InputError: No network, or more than one, has this id.
    """
    start = text.casefold() if deployment_of_id(text) is None else text.casefold().partition("-")[0]
    is_short = _SHORT_ID.fullmatch(start) is not None
    if not (is_short or _ID.fullmatch(start)) or text in space.published or Path(text).is_file():
        return find_arch(space, text, command=command)
    if is_short:
        hint = _listing(space, run=run, front=front, command=command)
        raise InputError("an id must have at least four digits", got=text, known=front, hint=hint)
    known = dict(_known_ids(space, run, others))
    matches = {arch_id: arch for arch_id, arch in known.items() if arch_id.startswith(start)}
    if not matches and run is not None:
        known |= dict(_searched_ids(space, run))
        matches = {arch_id: arch for arch_id, arch in known.items() if arch_id.startswith(start)}
    if not matches:
        matches = {arch_id: arch for arch_id, arch in known.items() if space.network_id(arch).startswith(start)}
    if len(matches) == 1:
        return next(iter(matches.values()))
    if matches:
        raise InputError("an id must have enough digits to match one network", got=text, known=sorted(matches))
    where = space.name if run is None else str(run)
    beginnings = {arch_id[: len(start)]: arch_id for arch_id in known}
    like = difflib.get_close_matches(start, beginnings, n=1, cutoff=_LIKE)
    if like:
        near = beginnings[like[0]]
        hint, correction = command.format(space=space.name, arch=near), (text, near)
    else:
        hint, correction = _listing(space, run=run, front=front, command=command), None
    message = f"no network with this id was evaluated in {where}"
    raise InputError(message, got=text, known=front, hint=hint, correction=correction)


def _listing(space: AnySpace, *, run: Path | None, front: Sequence[str], command: str) -> str:
    """Return the command that lists the ids of a search, or the command with another network where there is none."""
    search = run if front or run is None else next(_searches(run), None)
    if search is not None:
        return f"hwnas export {shlex.quote(str(search))}, which lists the ids of its front"
    return command.format(space=space.name, arch="max")


def parse_accuracies(data: bytes, path: Path) -> Iterator[dict[str, Any]]:
    """Parse the complete lines of a file of accuracies.

    Args:
        data: Content of the file.
        path: The file, for errors.

    Raises:
        InputError: A line is no JSON, or no table with an arch_id.
    """
    for number, line in enumerate(data.splitlines(), start=1):
        source = f"{printable(path)}, line {number}"
        row = parse_json(line.decode(errors="replace"), source=source)
        if not isinstance(row, dict) or not isinstance(row.get("arch_id"), str):
            raise InputError(f"{source} must be a table with an arch_id", got=ascii(line[:80]))
        yield row


def _known_ids(space: AnySpace, run: Path | None, others: Iterable[Candidate]) -> Iterator[tuple[str, Arch]]:
    named = (space.smallest(), space.largest(), *space.published.values())
    for candidate in (*space.candidates(space.encode(named)), *others):
        yield candidate.arch_id, candidate.arch
    if run is not None:
        yield from _evaluated_ids(space, run / ACCURACIES_FILE)


def _evaluated_ids(space: AnySpace, file: Path) -> Iterator[tuple[str, Arch]]:
    if not file.is_file():
        return
    complete = read_bytes(file).rpartition(b"\n")[0]
    for row in parse_accuracies(complete, file):
        if "arch" in row:
            yield row["arch_id"], space.parse(row["arch"])


def _searched_ids(space: AnySpace, run: Path) -> Iterator[tuple[str, Arch]]:
    """Yield the networks that searches beside a training evaluated with its supernet."""
    for search in _searches(run):
        with suppress(HwnasError):  # a damaged run keeps no other from being found
            yield from list(_evaluated_ids(space, search / ACCURACIES_FILE))


def _searches(run: Path) -> Iterator[Path]:
    """Yield the searches beside a training that evaluated networks with its supernet."""
    supernet = run.resolve()
    folder = run.parent if run.parent.resolve() == supernet.parent else supernet.parent
    for file in sorted(folder.glob(f"*/{ACCURACIES_FILE}")):
        with suppress(HwnasError):
            searched = Run.open(file.parent).manifest.config.get("supernet")
            path = searched.get("path") if isinstance(searched, Mapping) else None
            if path in (str(supernet), str(supernet / SUPERNET)):
                yield file.parent
