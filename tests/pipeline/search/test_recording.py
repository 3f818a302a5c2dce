"""Notes of a search on its supernet."""

from dataclasses import replace

import pytest

from hwnas.metrics import indistinct_supernet_warning
from hwnas.pipeline.search.recording import _health_notes
from hwnas.search.record import SupernetHealth
from tests.search.test_record import SPEC
from tests.supernet_extremes import SUPERNET_EXTREMES


@pytest.mark.parametrize(("smallest", "largest", "num_images", "warns"), SUPERNET_EXTREMES)
def test_a_supernet_that_hardly_separates_its_networks_is_noted(
    smallest: float, largest: float, num_images: int, warns: bool
) -> None:
    assert SPEC.supernet is not None
    health = SupernetHealth(smallest=smallest, largest=largest)
    notes = list(_health_notes(health, replace(SPEC.supernet, num_images=num_images)))
    assert notes == ([indistinct_supernet_warning(smallest, largest, num_images=num_images)] if warns else [])
