"""Search spaces with the exact costs of their networks: those of four published systems, and elastic ones.

Numpy only, but for the elastic space of a model of timm, which is made when it is first named.
"""

from importlib import import_module

from hwnas.registry import Registry, require_named
from hwnas.space import autoformer, elastic, glit, resnas, vitas, vitas_twins
from hwnas.space.space import AnySpace, Space
from hwnas.space.task_head import HEAD_KINDS

SPACES: Registry[AnySpace] = Registry("space", hint="hwnas describe {} max", check=require_named("space", Space))
"""All named spaces."""

FAMILIES: Registry[type[AnySpace]] = Registry("family")
"""The classes of spaces, by family."""

for _kind in (autoformer.AutoFormer, resnas.ResNas, vitas.Vitas, vitas_twins.Twins, glit.Glit, elastic.Elastic):
    FAMILIES.add(_kind.family, _kind)

for _family in (autoformer, resnas, vitas, vitas_twins, glit):
    for _space in _family.SPACES:
        SPACES.add(_space.name, _space)


def _make_elastic(name: str) -> tuple[str, AnySpace]:
    """Make the elastic space of a model; timm and torch are imported for it, by the layer above."""
    space: AnySpace = import_module("hwnas.train.pretrained").elastic_space(name)
    return space.name, space


def _make_distilled(name: str) -> tuple[str, AnySpace]:
    """Make the space of networks with a distillation token."""
    space = resnas.distilled(SPACES.get(name[len(resnas.DISTILLED) :]))
    return space.name, space


def _make_level(name: str) -> tuple[str, AnySpace]:
    """Make the space of one level of GLiT."""
    level, _, rest = name.partition("-")
    groups, _, base = rest.partition("-") if f"{level.casefold()}-" == glit.DETAILS else ("", "", rest)
    space = glit.details_level(SPACES.get(base), groups=groups) if groups else glit.layout_level(SPACES.get(base))
    return space.name, space


def _make_task(name: str) -> tuple[str, AnySpace]:
    """Make the space of the same networks with a head for detection or segmentation."""
    kind = next(kind for kind in HEAD_KINDS if name.casefold().startswith(f"{kind}-"))
    space = SPACES.get(name[len(kind) + 1 :]).with_task_head(kind)
    return space.name, space


SPACES.add_maker(elastic.PREFIXES, _make_elastic)
SPACES.add_maker((resnas.DISTILLED,), _make_distilled)
SPACES.add_maker((glit.LAYOUT, glit.DETAILS), _make_level)
SPACES.add_maker(tuple(f"{kind}-" for kind in HEAD_KINDS), _make_task)
