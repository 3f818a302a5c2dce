"""The networks of a space in several deployments."""

from typing import Any

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.metrics import Deployment
from hwnas.space.deployed import DEPLOYMENT, DeployedSpace, networks_of
from hwnas.space.space import AnySpace
from tests.strategies import TINY, space_id

DEPLOYMENTS = tuple(map(Deployment.parse, ("onnxruntime/fp32", "torch/bf16", "torch/int8")))

every_space = pytest.mark.parametrize("networks", TINY, ids=space_id)


def deployed(networks: AnySpace) -> tuple[DeployedSpace, Any]:
    space = DeployedSpace.of(networks, DEPLOYMENTS)
    return space, space.sample(np.random.default_rng(0), 40)


@every_space
def test_a_candidate_is_a_network_in_a_deployment(networks: AnySpace) -> None:
    space, rows = deployed(networks)
    assert space.size == 3 * networks.size
    assert set(rows[:, -1].tolist()) == {0, 1, 2}
    for candidate, network in zip(space.candidates(rows), networks.candidates(rows[:, :-1]), strict=True):
        assert (candidate.arch, candidate.arch_id) == (network.arch, network.arch_id)
        assert candidate.network_id == network.network_id
        assert candidate.deployment == DEPLOYMENTS[candidate.genome[-1]]
        assert candidate.id == f"{network.arch_id}-{DEPLOYMENTS[candidate.genome[-1]].slug}"
        assert network.id == network.arch_id


@every_space
def test_ids_are_unique(networks: AnySpace) -> None:
    space, rows = deployed(networks)
    rows = np.unique(rows, axis=0)
    assert len({candidate.id for candidate in space.candidates(rows)}) == len(rows)


@every_space
def test_the_networks_decide_everything_else(networks: AnySpace) -> None:
    space, rows = deployed(networks)
    inner = rows[:, :-1]
    assert space.decode(rows) == networks.decode(inner)
    assert all((a == b).all() for a, b in zip(space.costs(rows), networks.costs(inner), strict=True))
    assert (space.used(rows) == np.column_stack([networks.used(inner), np.ones(len(rows), dtype=bool)])).all()
    assert (space.repair(rows + 1)[:, :-1] == networks.repair(inner + 1)).all()
    assert (space.repair(rows + 1)[:, -1] == np.minimum(rows[:, -1] + 1, 2)).all()
    assert space.workload(space.largest()) == networks.workload(networks.largest())
    assert (
        space.encode(space.decode(rows)) == np.column_stack([networks.encode(networks.decode(inner)), 0 * rows[:, -1:]])
    ).all()
    assert space.parse(space.smallest().to_mapping()) == networks.smallest()
    assert networks_of(space) is networks_of(networks) is networks


@every_space
def test_neighbours_change_the_network_or_the_deployment(networks: AnySpace) -> None:
    space, rows = deployed(networks)
    moved, origins = space.neighbours(rows[:5])
    same_network = (moved[:, :-1] == rows[origins][:, :-1]).all(axis=1)
    assert same_network.sum() == 2 * 5
    own = networks.neighbours(rows[:5, :-1])
    assert (np.unique(moved[~same_network], axis=0)[:, :-1].shape) == np.unique(
        np.column_stack([own.genomes, rows[own.origins, -1]]), axis=0
    )[:, :-1].shape


def test_precisions_that_round_little_share_the_accuracy() -> None:
    space, rows = deployed(TINY[0])
    representatives = space.accuracy_representatives(rows)
    assert (representatives[:, :-1] == rows[:, :-1]).all()
    assert (representatives[:, -1] == np.array([0, 0, 2])[rows[:, -1]]).all()
    siblings = space.accuracy_siblings(rows[:1])
    expected = {0: [1], 1: [0], 2: []}[int(rows[0, -1])]
    assert siblings[:, -1].tolist() == expected
    assert space.accuracy_siblings(rows[:0]).shape == (0, len(space.dimensions))


def test_the_deployment_is_the_last_dimension() -> None:
    space, _ = deployed(TINY[0])
    assert [dimension.name for dimension in space.dimensions].index(DEPLOYMENT) == len(space.dimensions) - 1
    assert space.adapted(num_classes=7).config == TINY[0].adapted(num_classes=7).config


@pytest.mark.parametrize("texts", [(), ("fp32", "fp32"), ("",), ("cpu/fp32",), ("fp32/b2",)])
def test_deployments_must_be_distinct_and_of_runtime_and_precision(texts: tuple[str, ...]) -> None:
    with pytest.raises(InputError):
        DeployedSpace.of(TINY[0], [Deployment.parse(text) for text in texts])
