"""Notes of a search on its supernet."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from hwnas.metrics import indistinct_supernet_warning
from hwnas.pipeline.search.recording import _health_notes
from hwnas.space import SPACES
from tests.supernet_extremes import SUPERNET_EXTREMES


@pytest.mark.parametrize(("smallest", "largest", "num_images", "warns"), SUPERNET_EXTREMES)
def test_a_supernet_that_hardly_separates_its_networks_is_noted(
    smallest: float, largest: float, num_images: int, warns: bool
) -> None:
    supernet = SimpleNamespace(data=SimpleNamespace(heldout=range(num_images)))
    bench = SimpleNamespace(space=SPACES.get("autoformer-micro"), supernet=supernet)
    accuracy = SimpleNamespace(of=lambda genomes: [smallest, largest])
    notes = _health_notes(cast("Any", bench), cast("Any", accuracy))
    assert notes == ((indistinct_supernet_warning(smallest, largest, num_images=num_images),) if warns else ())
