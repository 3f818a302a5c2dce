from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.metrics import parse_metric
from hwnas.predict.lookup import find_predictors, predictor_devices, predictor_entries, predictor_folder
from hwnas.predict.predictor import Predictor
from hwnas.predict.saving import save_predictor
from tests.predict.test_predictor import fitted

METRIC = parse_metric("latency_ms@toy-2c/onnxruntime/fp32/b1/t1")


def of_device(device: str, *, space: str | None = None) -> Predictor:
    card = fitted().card
    metric = parse_metric(f"{card.metric.name}@{device}/onnxruntime/fp32/b1/t1")
    return replace(fitted(), card=replace(card, metric=metric, space=space))


def saved(place: Path, predictor: Predictor) -> Path:
    card = predictor.card
    folder = place / predictor_folder(card.metric, space=card.space)
    save_predictor(predictor, folder)
    return folder


def test_a_folder_says_what_was_fitted() -> None:
    assert predictor_folder(METRIC, space="glit-tiny") == Path("toy-2c/glit-tiny-onnxruntime-fp32-b1-t1/latency_ms")
    every_batch = parse_metric("throughput@h200/torch/fp16/bany")
    assert predictor_folder(every_batch) == Path("h200/any-torch-fp16-bany/throughput")


def test_predictors_are_found_by_device_and_the_first_of_a_name_counts(tmp_path: Path) -> None:
    own, shipped = tmp_path / "own", tmp_path / "shipped"
    first = saved(own, of_device("toy-2c", space="glit-tiny"))
    saved(shipped, of_device("toy-2c", space="glit-tiny"))
    second = saved(shipped, of_device("toy-2c"))
    saved(shipped, of_device("other-4c"))
    places = ((own, "own"), (shipped, "shipped"), (tmp_path / "none", "shipped"))
    found = predictor_entries(places, device="toy-2c")  # type: ignore[arg-type]
    assert [(entry.path, entry.origin, entry.card.space) for entry in found] == [
        (first, "own", "glit-tiny"),
        (second, "shipped", None),
    ]
    assert found[0].name == "toy-2c/glit-tiny-onnxruntime-fp32-b1-t1/latency_ms"
    assert len(predictor_entries(places)) == 3  # type: ignore[arg-type]
    assert predictor_devices(places) == ("other-4c", "toy-2c")  # type: ignore[arg-type]


def test_a_broken_card_is_not_passed_over_and_disturbs_no_other_device(tmp_path: Path) -> None:
    folder = saved(tmp_path, of_device("toy-2c"))
    saved(tmp_path, of_device("other-4c"))
    (folder / "card.json").write_text("{}")
    with pytest.raises(InputError, match="must hold the card of a predictor"):
        predictor_entries(((tmp_path, "own"),), device="toy-2c")
    entries, (unreadable,) = find_predictors(((tmp_path, "own"),))
    assert [entry.deployment.device for entry in entries] == ["other-4c"]
    assert (unreadable.path, unreadable.space, str(unreadable.deployment)) == (
        folder,
        None,
        "toy-2c/onnxruntime/fp32/b1/t1",
    )
    assert len(predictor_entries(((tmp_path, "own"),), device="other-4c")) == 1


def test_what_a_killed_process_left_is_no_predictor(tmp_path: Path) -> None:
    folder = saved(tmp_path, of_device("toy-2c"))
    folder.rename(folder.with_name(".latency_ms.1234.new"))
    assert predictor_entries(((tmp_path, "own"),)) == ()


def test_a_folder_with_any_name_may_hold_a_broken_card(tmp_path: Path) -> None:
    for name in ("toy-2c/x/latency_ms", "a b/any-torch-fp16-b1/latency_ms", "toy-2c/any-torch-fp16-b99999/latency_ms"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "card.json").write_text("[" * 5000)
    entries, unreadable = find_predictors(((tmp_path, "own"),))
    assert (len(entries), len(unreadable)) == (0, 3)


def test_a_card_in_a_folder_of_another_device_or_that_is_a_folder_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path, of_device("toy-2c"))
    folder.parents[1].rename(tmp_path / "other-4c")
    saved(tmp_path, of_device("third-8c"))
    (card,) = (tmp_path / "third-8c").glob("*/*/card.json")
    card.unlink()
    card.mkdir()
    entries, unreadable = find_predictors(((tmp_path, "own"),))
    assert entries == ()
    assert [predictor.error.message.split(" must be ")[1] for predictor in unreadable] == [
        "of the device and the metric that its folders are named after",
        "the folder of a predictor",
    ]
