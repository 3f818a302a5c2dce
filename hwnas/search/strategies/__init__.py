"""Search strategies, by name."""

from hwnas.registry import Registry
from hwnas.search.strategies.nsga2 import HierarchicalSearch, Nsga2Search
from hwnas.search.strategies.published import AutoFormerEvolution, GlitEvolution, ResNasEvolution, VitasEvolution
from hwnas.search.strategies.rounds import RoundsSearch
from hwnas.search.strategies.strategy import RandomSearch, SearchStrategy

STRATEGIES: Registry[type[SearchStrategy]] = Registry("strategy")
"""All search strategies."""

for _name, _strategy in (
    ("rounds", RoundsSearch),
    ("nsga2", Nsga2Search),
    ("hierarchical", HierarchicalSearch),
    ("random", RandomSearch),
    ("autoformer", AutoFormerEvolution),
    ("resnas", ResNasEvolution),
    ("vitas", VitasEvolution),
    ("glit", GlitEvolution),
):
    STRATEGIES.add(_name, _strategy)
