"""Features of traced networks: those of our own are those of the closed form, which lists no concatenations."""

import numpy as np
import pytest

from hwnas.export.tracer import trace_workload
from hwnas.predict.features.counting import workload_features
from hwnas.space import SPACES
from hwnas.supernet.families import make_network
from tests.predict.synthetic import cpu_conditions


@pytest.mark.parametrize("name", ["vitas-micro", "autoformer-micro"])
def test_traced_and_closed_form_have_equal_features(name: str) -> None:
    space = SPACES.get(name)
    arch = space.smallest()
    traced = trace_workload(make_network(space, arch), image_size=space.config.image_size)
    pair = workload_features([space.workload(arch), traced], cpu_conditions())
    alike = [name for name in pair.cost_names if not name.startswith(("move.", "calls.move"))]
    np.testing.assert_allclose(pair.costs_by(alike)[1], pair.costs_by(alike)[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(pair.shapes[1], pair.shapes[0], rtol=1e-9)
