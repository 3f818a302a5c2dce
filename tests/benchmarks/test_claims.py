import pytest
import torch

from benchmarks.claims import CLAIMS, Comparison, table
from benchmarks.support.claim_models import PlainReduction
from benchmarks.support.claim_trainings import _OneLevel
from benchmarks.support.claim_variants import VARIANTS, Variant
from hwnas.pipeline.search.predicted_metrics import CheapMetrics
from hwnas.search.ledger import Budget
from hwnas.search.objective import make_objectives
from hwnas.search.problem import Evaluators, Problem
from hwnas.search.run import run_search
from hwnas.search.strategies.published import GlitEvolution
from hwnas.space.autoformer import AutoFormerArch, AutoFormerBlock
from hwnas.supernet.resnas import Reduction


@pytest.mark.parametrize(
    ("ours", "others", "verdict"),
    [
        ([50.0, 51.0, 52.0], [47.0, 48.0, 47.5], "holds"),
        ([47.0, 48.0, 47.5], [50.0, 51.0, 52.0], "does not hold at this scale"),
        ([50.0, 51.0, 52.0], [49.0, 50.0, 50.5], "not decided"),
        ([50.0], [40.0], "not decided"),
    ],
)
def test_a_claim_holds_if_the_means_differ_by_more_than_the_seeds(
    ours: list[float], others: list[float], verdict: str
) -> None:
    compared = Comparison(claim="a", figure="top-1", sides=("with", "without"), values=(ours, others))

    assert compared.verdict == verdict
    assert compared.row().count("|") == 7


def test_differences_are_those_of_each_seed() -> None:
    compared = Comparison(claim="a", figure="top-1", sides=("with", "without"), values=([50.0, 52.0], [49.0, 50.5]))

    assert "| +1.25 (+1.00 – +1.50) |" in compared.row()


def test_unfinished_claims_are_in_the_table_as_such() -> None:
    text = table({}, list(CLAIMS), seeds=3)

    assert text.count("not finished") == len(CLAIMS)


def _gradients(variant: Variant, *, trained: AutoFormerArch, other: AutoFormerArch) -> tuple[set[str], set[str]]:
    """Return the names of the weights that training a network changes, and of those that another network uses."""
    supernet = variant.supernet(seed=0)
    supernet(torch.ones(2, 3, 32, 32), trained).sum().backward()
    changed = {name for name, weight in supernet.shared.named_parameters() if weight.grad is not None}
    used = {
        part.name for segment in supernet.path(other).values() for parts in segment.sources.values() for part in parts
    }
    return changed, used


def test_separate_blocks_share_no_weights() -> None:
    narrow, wide = (
        AutoFormerArch(embed_dim=width, blocks=(AutoFormerBlock(num_heads=2, mlp_ratio=2.0),) * 2) for width in (32, 80)
    )

    changed, used = _gradients(VARIANTS.get("autoformer, separate blocks"), trained=wide, other=narrow)
    assert changed
    assert not changed & used
    changed, used = _gradients(VARIANTS.get("autoformer"), trained=wide, other=narrow)
    assert changed <= used


def test_reductions_without_their_skip_have_the_same_weights() -> None:
    images = torch.ones(2, 3, 32, 32)
    with_skip, without = (VARIANTS.get(name).supernet(seed=0).eval() for name in ("resnas", "resnas, no skip"))
    arch = with_skip.space.largest()

    assert with_skip.state_dict().keys() == without.state_dict().keys()
    assert not torch.allclose(with_skip(images, arch), without(images, arch))


def test_a_network_on_its_own_has_no_skip_where_its_supernet_has_none() -> None:
    variant = VARIANTS.get("resnas, no skip")
    network = variant.network(variant.space.largest(), seed=0)
    assert [type(part) for part in network.modules() if isinstance(part, Reduction)] == [PlainReduction] * 2


def test_one_level_evolves_layout_and_details_together() -> None:
    space = VARIANTS.get("glit").space
    problem = Problem(space=space, objectives=make_objectives([], macs=False), constraints=())
    found = {}
    for strategy in (GlitEvolution(windows=1), _OneLevel(windows=1)):
        evaluators = Evaluators(
            cheap=CheapMetrics(space=space), expensive=lambda genomes: enumerate([0.5] * len(genomes))
        )
        result = run_search(problem, evaluators, strategy=strategy, budget=Budget(evaluations=24), seed=0)
        found[type(strategy)] = result.candidates.genomes[:8].tolist()
    assert found[GlitEvolution] != found[_OneLevel]
