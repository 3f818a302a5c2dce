"""Networks of all families, traced with an open batch."""

import pytest
import torch

from hwnas.export.dynamo import trace_program
from hwnas.space import SPACES
from hwnas.supernet.families import make_network
from tests.marks import slow_but

MICRO = ("autoformer-micro", "resnas-micro", "vitas-micro", "vitas-twins-micro", "glit-micro")


@pytest.mark.parametrize("name", slow_but(MICRO, "vitas-micro", "vitas-twins-micro"))
def test_a_network_can_be_traced_for_any_batch(name: str) -> None:
    """Nothing in a family may turn the number of images into a constant, as Python's len() does."""
    space = SPACES.get(name)
    network = make_network(space, space.smallest()).eval()
    program = trace_program(network, input_shape=space.config.input_shape, batch=None)
    images = torch.randn(3, *space.config.input_shape)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), network(images))
