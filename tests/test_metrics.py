from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwnas.errors import InputError, UnknownNameError
from hwnas.metrics import ANY_BATCH, METRICS, Deployment, Metric, indistinct_supernet_warning, parse_metric
from tests.supernet_extremes import SUPERNET_EXTREMES

H200 = Deployment(device="h200", runtime="torch-graph", precision="bf16", batch=64)
FULL = Metric(name="throughput", deployment=H200)
ANY = Metric(name="latency_ms", deployment=Deployment(device="t4", runtime="torch", precision="fp32", batch=ANY_BATCH))


def test_the_metrics_are_those_of_the_design() -> None:
    names = [
        "accuracy",
        "divergence",
        "energy_j",
        "knn_accuracy",
        "latency_ms",
        "mAP",
        "mIoU",
        "macs",
        "memory_mb",
        "params",
        "throughput",
    ]
    assert sorted(METRICS, key=lambda name: (name.casefold()[0], name)) == names
    best_high = ["accuracy", "knn_accuracy", "mAP", "mIoU", "throughput"]
    assert [name for name in names if METRICS.get(name).goal == "max"] == best_high


@pytest.mark.parametrize(
    ("text", "metric"),
    [
        ("accuracy", Metric(name="accuracy")),
        ("throughput", Metric(name="throughput")),
        (" latency_ms@cpu ", Metric(name="latency_ms", deployment=Deployment(device="cpu"))),
        ("throughput@rtx4090", Metric(name="throughput", deployment=Deployment(device="rtx4090"))),
        ("throughput@h200/torch-graph/bf16/b64", FULL),
        ("throughput@h200/b64/bf16/torch-graph", FULL),
        ("energy_j@a100/fp16", Metric(name="energy_j", deployment=Deployment(device="a100", precision="fp16"))),
    ],
)
def test_texts_are_read(text: str, metric: Metric) -> None:
    assert parse_metric(text) == metric
    assert parse_metric(str(metric)) == metric


def test_the_full_form_is_written() -> None:
    assert str(FULL) == "throughput@h200/torch-graph/bf16/b64"
    assert str(Metric(name="macs")) == "macs"


@pytest.mark.parametrize(
    ("deployment", "text", "slug"),
    [
        (H200, "h200/torch-graph/bf16/b64", "torch-graph-bf16-b64"),
        (replace(H200, threads=2), "h200/torch-graph/bf16/b64/t2", "torch-graph-bf16-b64-t2"),
        (replace(H200, batch=ANY_BATCH), "h200/torch-graph/bf16/bany", "torch-graph-bf16-bany"),
        (Deployment(runtime="torch", threads=4), "torch/t4", "torch-t4"),
        (Deployment(), "", ""),
    ],
)
def test_a_deployment_has_a_text_and_names_a_folder(deployment: Deployment, text: str, slug: str) -> None:
    assert (str(deployment), deployment.slug) == (text, slug)
    assert Deployment.parse(text) == deployment


def test_a_deployment_matches_what_it_specifies() -> None:
    assert Deployment().matches(H200)
    assert Deployment(runtime="torch-graph", batch=64).matches(H200)
    assert not Deployment(batch=8).matches(H200)
    assert not Deployment(threads=1).matches(H200)
    table = replace(H200, batch=ANY_BATCH)
    assert Deployment(batch=8).matches(table)
    assert not table.matches(H200)
    assert (H200.fixed_batch, table.fixed_batch, Deployment().fixed_batch) == (64, None, None)


@pytest.mark.parametrize("name", ["batch", "threads"])
def test_counts_of_a_deployment_are_at_least_1(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} must be between 1 and"):
        Deployment(**{name: 0})  # type: ignore[arg-type]


def test_a_metric_of_the_network_alone_has_no_deployment() -> None:
    with pytest.raises(InputError, match="macs is the same on every device"):
        Metric(name="macs", deployment=H200)


def test_what_is_left_out_is_filled_in() -> None:
    given = parse_metric("throughput@h200/b8")
    filled = given.completed(Deployment(device="a100", runtime="tensorrt", precision="fp16", batch=64))
    assert str(filled) == "throughput@h200/tensorrt/fp16/b8"
    assert Metric(name="macs").completed(Deployment(device="a100")) == Metric(name="macs")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("macs", "1.4G", 1.4e9),
        ("params", "6M", 6e6),
        ("params", "5e6", 5e6),
        ("latency_ms", "8", 8.0),
        ("latency_ms", "8ms", 8.0),
        ("latency_ms", "0.5 s", 500.0),
        ("latency_ms", "250us", 0.25),
        ("throughput", "1.5k", 1500.0),
        ("throughput", "1200 img/s", 1200.0),
        ("memory_mb", "2GB", 2000.0),
        ("memory_mb", "1MiB", 1.048576),
        ("energy_j", "300mJ", 0.3),
        ("accuracy", "75%", 0.75),
    ],
)
def test_bounds_have_units(name: str, text: str, value: float) -> None:
    assert METRICS.get(name).parse(text) == pytest.approx(value, rel=1e-12)


def test_an_unknown_metric_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as error:
        parse_metric("thruput", what="objective")
    assert error.value.message == "objective 'thruput' is not known"
    assert error.value.hint == "throughput"
    assert set(error.value.known) == set(METRICS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("macs@h200", "macs is the same on every device"),
        ("throughput@", "after throughput@ a device must be named"),
        ("throughput@b64", "after throughput@ a device must be named"),
        ("throughput@h200/bf17", "in 'throughput@h200/bf17' the part 'bf17' is not known"),
        ("throughput@h200/b0", "in 'throughput@h200/b0' the part 'b0' is not known"),
        ("throughput@h200/b8/b16", "a deployment has one batch"),
        ("", "metric '' is not known"),
    ],
)
def test_wrong_metrics_say_why(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_metric(text)
    assert error.value.message == message


def test_an_unknown_unit_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"unit of latency_ms: 'min' is not known") as error:
        METRICS.get("latency_ms").parse("8min")
    assert error.value.known == ("ms", "s", "us")
    assert error.value.hint is None
    with pytest.raises(UnknownNameError) as error:
        METRICS.get("latency_ms").parse("8 sec")
    assert error.value.hint == "8s"


@pytest.mark.parametrize("text", ["", "fast", "1.2.3", "nan", "inf", "--3"])
def test_a_bound_is_a_number(text: str) -> None:
    with pytest.raises(InputError, match=r"must be a number|is not known"):
        METRICS.get("macs").parse(text)


@pytest.mark.parametrize(("smallest", "largest", "num_images", "warns"), SUPERNET_EXTREMES)
def test_a_supernet_warns_unless_its_largest_network_is_better_by_two_standard_errors(
    smallest: float, largest: float, num_images: int, warns: bool
) -> None:
    assert (indistinct_supernet_warning(smallest, largest, num_images=num_images) is not None) == warns


def test_the_warning_of_a_supernet_has_its_figures_and_a_remedy() -> None:
    assert indistinct_supernet_warning(0.50, 0.53, num_images=1000) == (
        "the supernet hardly separates its networks: top-1 is 50.00% for the smallest and 53.00% for the largest "
        "network on 1,000 held-out images, and two standard errors are 4.5 points; "
        "train for more --epochs or with another --recipe before a search"
    )
    worse = indistinct_supernet_warning(0.80, 0.70, num_images=10_000)
    assert worse is not None
    assert "on 10,000 held-out images, and the largest is worse; train" in worse
    longer = indistinct_supernet_warning(0.50, 0.53, num_images=1000, command="hwnas train --resume --epochs 2")
    assert longer is not None
    assert longer.endswith(
        "; train for longer (hwnas train --resume --epochs 2) or with another --recipe before a search"
    )


def test_any_batch_is_written_in_full() -> None:
    assert str(ANY) == "latency_ms@t4/torch/fp32/bany"


def test_throughput_is_fitted_as_the_time_of_a_batch() -> None:
    figures, batch = np.array([3200.0, 640.0]), np.full(2, 64.0)
    np.testing.assert_allclose(FULL.to_target(figures, batch=batch), [20.0, 100.0])
    np.testing.assert_allclose(FULL.from_target(np.array([20.0, 100.0]), batch=batch), figures)
    assert FULL.maximised


@pytest.mark.parametrize("name", ["latency_ms", "memory_mb", "energy_j"])
def test_other_metrics_are_fitted_as_they_are(name: str) -> None:
    metric = Metric(name=name)
    np.testing.assert_array_equal(metric.to_target(np.array([3.0]), batch=np.array([8.0])), [3.0])
    assert not metric.maximised


def test_the_batch_is_the_measured_one() -> None:
    assert FULL.require_batch(None) == 64
    assert ANY.require_batch(8) == 8
    with pytest.raises(InputError, match="measured at another batch"):
        FULL.require_batch(32)
    with pytest.raises(InputError, match="needs a batch"):
        ANY.require_batch(None)


@pytest.mark.parametrize(
    "text",
    [
        "h200/b" + "9" * 5000,
        "h200/t" + "9" * 5000,
        "h200/b0",
        "h200/b-1",
        "h200/b1.5",
        "h200/b1/b2",
        "h200/../../evil",
        "../evil",
        "/etc",
        "h200\0",
        "\ud800",
        "x" * 10**7,
        "h200/" * 10**5,
        "h200/b\u0661",
    ],
)
def test_a_hostile_deployment_is_an_error(text: str) -> None:
    with pytest.raises(InputError):
        Deployment.parse(text)
    with pytest.raises(InputError) as caught:
        parse_metric(f"latency_ms@{text}")
    assert len(str(caught.value)) < 10_000


@pytest.mark.parametrize("text", [None, 5, b"h200", ["h200"]])
def test_what_is_no_text_is_no_deployment(text: Any) -> None:
    with pytest.raises(InputError, match="must be a text"):
        Deployment.parse(text)
    if text is not None:
        with pytest.raises(InputError, match="must be a text"):
            Deployment(device=text)


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "-inf", "1e", "0x10", "1_000", "1" * 10**5 + " a b", "٣ms", "8 ms ms"]
)
def test_a_hostile_bound_is_an_error_at_once(text: str) -> None:
    with pytest.raises(InputError):
        METRICS.get("latency_ms").parse(text)
