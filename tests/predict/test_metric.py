import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.metrics import ANY_BATCH, Deployment, Metric

THROUGHPUT = Metric(
    name="throughput", deployment=Deployment(device="h200", runtime="torch-graph", precision="bf16", batch=64)
)
ANY = Metric(name="latency_ms", deployment=Deployment(device="t4", runtime="torch", precision="fp32", batch=ANY_BATCH))


def test_it_is_written_in_full() -> None:
    assert str(THROUGHPUT) == "throughput@h200/torch-graph/bf16/b64"
    assert str(ANY) == "latency_ms@t4/torch/fp32/bany"


def test_throughput_is_fitted_as_the_time_of_a_batch() -> None:
    figures, batch = np.array([3200.0, 640.0]), np.full(2, 64.0)
    np.testing.assert_allclose(THROUGHPUT.to_target(figures, batch=batch), [20.0, 100.0])
    np.testing.assert_allclose(THROUGHPUT.from_target(np.array([20.0, 100.0]), batch=batch), figures)
    assert THROUGHPUT.maximised


@pytest.mark.parametrize("name", ["latency_ms", "memory_mb", "energy_j"])
def test_other_metrics_are_fitted_as_they_are(name: str) -> None:
    metric = Metric(name=name)
    np.testing.assert_array_equal(metric.to_target(np.array([3.0]), batch=np.array([8.0])), [3.0])
    assert not metric.maximised


def test_the_batch_is_the_measured_one() -> None:
    assert THROUGHPUT.require_batch(None) == 64
    assert ANY.require_batch(8) == 8
    with pytest.raises(InputError, match="measured at another batch"):
        THROUGHPUT.require_batch(32)
    with pytest.raises(InputError, match="needs a batch"):
        ANY.require_batch(None)
