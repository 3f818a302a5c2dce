"""Whether a study is of a space as it is now: it holds networks by the places of their choices.

A study keeps a digest of its space in its configuration. Those that were made before there was one can only be held
against the range of the genes, which another order of choices passes.
"""

from hwnas.config import to_mapping
from hwnas.errors import InputError
from hwnas.search.study import Study
from hwnas.space.arch import digest
from hwnas.space.space import AnySpace

DIGEST = "space_digest"
"""Its name in the configuration of a study."""


def space_digest(space: AnySpace) -> str:
    """What the genomes of a space mean: its dimensions with their choices, and its config."""
    dimensions = [to_mapping(dimension) for dimension in space.dimensions]
    return digest({"space": space.name, "config": to_mapping(space.config), "dimensions": dimensions})


def require_digest(space: AnySpace, kept: str | None, *, where: str, made_by: str) -> None:
    """The digest that a search kept must be that of the space."""
    if kept not in (None, space_digest(space)):
        raise _changed(space, where=where, made_by=made_by, got="other choices or sizes")


def require_same_space(study: Study, space: AnySpace, *, made_by: str) -> str | None:
    """The networks of a study must be of the space as it is now; what cannot be told of an old one is answered."""
    where, kept = str(study.path), study.config.get(DIGEST)
    require_digest(space, kept, where=where, made_by=made_by)
    genomes = study.table(()).genomes
    if len(genomes) and (genomes.shape[1] != len(space.dimensions) or not space.contains(genomes).all()):
        raise _changed(space, where=where, made_by=made_by, got="some that it does not have")
    if kept is not None:
        return None
    return (
        f"the study was made by hwnas {made_by}, which kept no digest of {space.name}: if the space has changed since, "
        "these are other networks"
    )


def _changed(space: AnySpace, *, where: str, made_by: str, got: str) -> InputError:
    message = f"{where}: the networks of the study must be of {space.name} as it is now"
    said = f"{got}: the space has changed since hwnas {made_by} searched it"
    return InputError(message, got=said, hint="the hwnas that made the run, or a new search")
