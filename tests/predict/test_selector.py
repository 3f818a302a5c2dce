from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.devices import Machine, detect
from hwnas.errors import InputError, MissingError
from hwnas.metrics import ANY_BATCH, Deployment, parse_metric
from hwnas.predict.lookup import predictor_folder
from hwnas.predict.predictor import Prediction
from hwnas.predict.saving import save_predictor
from hwnas.predict.selector import choose_predictor
from tests.predict.synthetic import networks
from tests.predict.test_predictor import fitted

MACHINE: Machine = detect()
CPU = MACHINE.cpu.device.name


def put(place: Path, text: str, *, space: str | None = None, threads: int | None = None) -> Path:
    """A predictor of a metric such as `latency_ms@h200/torch/fp16/b1`; without a batch, of several ones."""
    metric = parse_metric(text)
    data = replace(fitted().card.data, usual_batch=None if metric.deployment.batch else 256)
    made = metric.completed(Deployment(batch=ANY_BATCH, threads=threads))
    card = replace(fitted().card, metric=made, space=space, data=data)
    folder = place / predictor_folder(made, space=space)
    save_predictor(replace(fitted(), card=card), folder)
    return folder


def test_the_spaces_own_predictor_comes_before_any_then_the_best_runtime(tmp_path: Path) -> None:
    put(tmp_path, "latency_ms@h200/tensorrt/fp16/b1")
    own = put(tmp_path, "latency_ms@h200/onnxruntime/fp32/b1", space="glit-tiny")
    other = put(tmp_path, "latency_ms@h200/torch-graph/fp32/b1", space="resnas-tiny")
    put(tmp_path, "latency_ms@h200/torch/bf16/b1", space="glit-tiny")
    for space, path in (("glit-tiny", own), ("resnas-tiny", other)):
        assert choose_predictor(parse_metric("latency_ms@h200"), space=space, predictors=tmp_path).path == path
    for unknown in (None, "autoformer-tiny"):
        chosen = choose_predictor(parse_metric("latency_ms@h200"), space=unknown, predictors=tmp_path)
        assert str(chosen.metric) == "latency_ms@h200/tensorrt/fp16/b1"


@pytest.mark.parametrize("level", ["layout-glit-tiny", "details-301301310303-glit-tiny"])
def test_a_level_has_its_own_predictor_then_that_of_both_levels(tmp_path: Path, level: str) -> None:
    wanted = parse_metric("latency_ms@h200")
    for text, space in (
        ("latency_ms@h200/tensorrt/fp16/b1", None),
        ("latency_ms@h200/torch/fp32/b1", "glit-tiny"),
        ("latency_ms@h200/onnxruntime/fp32/b1", level),
    ):
        path = put(tmp_path, text, space=space)
        assert choose_predictor(wanted, space=level, predictors=tmp_path).path == path
    assert choose_predictor(wanted, space="glit-tiny", predictors=tmp_path).predictor.card.space == "glit-tiny"


def test_the_batch_is_the_smallest_and_of_throughput_the_largest(tmp_path: Path) -> None:
    for batch in (1, 8, 64):
        for name in ("latency_ms", "throughput"):
            put(tmp_path, f"{name}@h200/torch/fp16/b{batch}")
            put(tmp_path, f"{name}@h200/torch/bf16/b{batch}")
    for name, batch in (("latency_ms", 1), ("throughput", 64)):
        chosen = choose_predictor(parse_metric(f"{name}@h200"), space=None, predictors=tmp_path)
        assert str(chosen.metric) == f"{name}@h200/torch/bf16/b{batch}"
    asked = choose_predictor(parse_metric("latency_ms@h200/fp16/b8"), space=None, predictors=tmp_path)
    assert str(asked.metric) == "latency_ms@h200/torch/fp16/b8"
    assert asked.note == (
        "latency_ms@h200/torch/fp16/b8, fitted to 30 networks of all kinds (torch is the best runtime with a predictor)"
    )


def test_the_threads_are_the_fewest_or_those_that_are_asked_for(tmp_path: Path) -> None:
    paths = {
        count: put(tmp_path, "latency_ms@h200/onnxruntime/fp32/b1", space="glit-tiny", threads=count)
        for count in (1, 4)
    }
    metric = parse_metric("latency_ms@h200/onnxruntime/fp32/b1")
    fewest = choose_predictor(metric, space="glit-tiny", predictors=tmp_path)
    assert fewest.path == paths[1]
    assert fewest.note.endswith("networks of glit-tiny (1 is the fewest threads)")
    asked = choose_predictor(parse_metric(f"{metric}/t4"), space="glit-tiny", predictors=tmp_path)
    assert str(asked.metric) == f"{metric}/t4"
    assert asked.path == paths[4]
    assert asked.note.endswith("networks of glit-tiny")
    with pytest.raises(InputError, match="no predictor for h200 fits this metric") as caught:
        choose_predictor(parse_metric(f"{metric}/t2"), space="glit-tiny", predictors=tmp_path)
    assert caught.value.got == f"{metric}/t2"
    assert caught.value.known == (f"{metric}/t1 (glit-tiny)", f"{metric}/t4 (glit-tiny)")


def test_a_predictor_of_several_batches_answers_at_the_commonest_or_at_the_one_asked_for(tmp_path: Path) -> None:
    put(tmp_path, "throughput@rtx4090/torch/fp16")
    for text, batch in (("throughput@4090", 256), ("throughput@rtx-4090/b64", 64)):
        chosen = choose_predictor(parse_metric(text), space=None, predictors=tmp_path)
        assert str(chosen.metric) == f"throughput@rtx4090/torch/fp16/b{batch}"


@pytest.mark.parametrize("device", ["", "@cpu"])
def test_without_a_device_it_is_that_of_this_machine(tmp_path: Path, device: str) -> None:
    path = put(tmp_path, f"latency_ms@{CPU}/onnxruntime/fp32/b1", space="autoformer-tiny", threads=1)
    here = replace(MACHINE, gpus=())
    chosen = choose_predictor(
        parse_metric(f"latency_ms{device}"), space="autoformer-tiny", predictors=tmp_path, machine=here
    )
    assert (chosen.metric.deployment.device, chosen.path, chosen.origin) == (CPU, path, "own")
    answer = chosen.predictor.predict_features(networks(3))
    assert isinstance(answer, Prediction)
    assert (answer.lower < answer.mean).all()
    assert (answer.mean < answer.upper).all()


def test_where_there_is_none_the_error_names_the_commands(tmp_path: Path) -> None:
    put(tmp_path, "latency_ms@h200/torch/fp16/b1", space="glit-tiny")
    with pytest.raises(MissingError, match="there is no predictor for a100") as caught:
        choose_predictor(parse_metric("latency_ms@a100"), space="glit-tiny", predictors=tmp_path)
    assert caught.value.known == ("h200",)
    commands = "hwnas profile --space glit-tiny --device a100, then hwnas fit --device a100"
    assert caught.value.hint == commands
    with pytest.raises(MissingError) as caught:
        choose_predictor(parse_metric("memory_mb@a100"), space="glit-tiny", predictors=tmp_path)
    assert caught.value.hint == f"{commands} --metric memory_mb"
    for text, space in (
        ("throughput@h200", "glit-tiny"),
        ("latency_ms@h200/b8", "glit-tiny"),
        ("latency_ms@h200", "autoformer-tiny"),
    ):
        with pytest.raises(InputError, match="no predictor for h200 fits this metric") as wrong:
            choose_predictor(parse_metric(text), space=space, predictors=tmp_path)
        assert wrong.value.known == ("latency_ms@h200/torch/fp16/b1 (glit-tiny)",)


def test_an_unknown_device_is_an_error_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="device 'rtx9999' is not known"):
        choose_predictor(parse_metric("latency_ms@rtx9999"), space=None, predictors=tmp_path)


def test_a_damaged_card_is_passed_over_where_it_would_not_have_been_chosen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = put(tmp_path, "latency_ms@h200/torch/bf16/b1", space="glit-tiny")
    others = [
        put(tmp_path, "latency_ms@h200/tensorrt/fp16/b1"),
        put(tmp_path, "latency_ms@h200/torch/bf16/b8", space="glit-tiny"),
        put(tmp_path, "latency_ms@h200/tensorrt/fp16/b1", space="resnas-tiny"),
        put(tmp_path, "memory_mb@h200/tensorrt/fp16/b1", space="glit-tiny"),
        put(tmp_path, "latency_ms@rtx4090/tensorrt/fp16/b1", space="glit-tiny"),
    ]
    for folder in others:
        (folder / "card.json").write_text("{}")
    assert choose_predictor(parse_metric("latency_ms@h200"), space="glit-tiny", predictors=tmp_path).path == chosen
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sorted(text.split(" is passed over")[0] for text in warnings) == sorted(map(str, others[:3]))
    with pytest.raises(InputError, match="must hold the card of a predictor"):
        choose_predictor(parse_metric("latency_ms@h200"), space=None, predictors=tmp_path)


def test_a_damaged_card_that_may_have_been_chosen_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, "latency_ms@h200/torch/fp16/b8")
    damaged = put(tmp_path, "latency_ms@h200/torch/fp16/b1")
    (damaged / "card.json").write_text("{}")
    for text in ("latency_ms@h200", "latency_ms@h200/b1"):
        with pytest.raises(InputError, match="must hold the card of a predictor"):
            choose_predictor(parse_metric(text), space=None, predictors=tmp_path)
    found = choose_predictor(parse_metric("latency_ms@h200/b8"), space=None, predictors=tmp_path)
    assert found.metric.deployment.batch == 8
    damaged.parent.rename(damaged.parent.with_name("renamed"))
    with pytest.raises(InputError, match="must hold the card of a predictor"):
        choose_predictor(parse_metric("latency_ms@h200/b8"), space=None, predictors=tmp_path)
