"""Networks of a plan, exported for a device that is elsewhere."""

from pathlib import Path
from typing import Any

import pytest

from hwnas.devices import DEVICES
from hwnas.errors import InputError, MissingError, UsageError
from hwnas.export.tensorrt import load_engine, read_engine
from hwnas.pipeline.export_network import EngineOptions
from hwnas.pipeline.export_plan import export_plan
from hwnas.pipeline.measure import measure_plan
from hwnas.pipeline.quantisation import QuantisationOptions
from hwnas.profile.environment import choose_runtime
from hwnas.profile.options import CampaignOptions
from hwnas.profile.plan import load_plan, write_plan
from hwnas.progress import NullReporter
from tests.export.tensorrt.conftest import ADA


def planned(folder: Path, *, device: str, precision: str = "fp16", classes: int | None = None, **changes: Any) -> Path:
    options = CampaignOptions(
        space="vitas-micro",
        classes=classes,
        device=device,
        samples=1,
        precision=precision,
        repeats=1,
        **{"batches": (1, 4), "runtime": "tensorrt-rtx", **changes},
    )
    return write_plan(options, folder / "plan.jsonl").path


def test_engines_are_built_for_the_device_of_the_plan(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    plan = planned(tmp_path, device="l4")
    exported = export_plan(plan, out=tmp_path / "out", format="tensorrt-rtx")
    networks = {task.subject.network_id for task in load_plan(plan).tasks if task.subject.source == "space"}
    assert {(network.network_id, network.batch) for network in exported.networks} == {
        (name, batch) for name in networks for batch in (1, 4)
    }
    assert exported.device == "l4"
    assert exported.left_out == ("timm:deit_small_patch16_224", "timm:deit_tiny_patch16_224")
    for network in exported.networks:
        settings = read_engine(network.files[0]).card.settings
        assert (settings.compute_capabilities, settings.precision, settings.batch) == (("8.9",), "fp16", network.batch)
    assert load_engine(exported.networks[0].files[0], gpu=ADA).engine


def test_a_plan_in_8_bits_takes_its_scales_from_images(tmp_path: Path) -> None:
    plan = planned(tmp_path, device="cpu", precision="int8", classes=10, batches=(8,), runtime="onnxruntime")
    with pytest.raises(UsageError, match="int8 needs labelled images"):
        export_plan(plan, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    images = QuantisationOptions(data="digits", num_images=16, max_drop=1.0)
    exported = export_plan(plan, out=tmp_path / "out", quantisation=images)
    networks = {task.subject.network_id for task in load_plan(plan).tasks if task.subject.source == "space"}
    assert {network.network_id for network in exported.networks} == networks
    for network in exported.networks:
        accuracy = network.parity.accuracy
        assert accuracy is not None
        assert "16 images" in str(accuracy.calibration)


def test_other_gpus_can_be_named(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    plan = planned(tmp_path, device="h100")
    with pytest.raises(InputError, match="must know their compute capability") as caught:
        export_plan(plan, out=tmp_path / "out", format="tensorrt-rtx")
    assert caught.value.got == "9.0"
    options = EngineOptions(devices=("rtx4090",))
    exported = export_plan(plan, out=tmp_path / "out", format="tensorrt-rtx", engine=options)
    card = read_engine(exported.networks[0].files[0]).card
    assert card.settings.compute_capabilities == ("8.9",)


def test_any_format_will_do(tmp_path: Path) -> None:
    messages: list[str] = []

    class Listener:
        def message(self, text: str) -> None:
            messages.append(text)

        def update(self, event: object) -> None:
            pass

    plan = planned(tmp_path, device="l4", classes=7)
    exported = export_plan(plan, out=tmp_path / "out", reporter=Listener())
    of_space = {task.subject.network_id for task in load_plan(plan).tasks if task.subject.source == "space"}
    assert {network.network_id for network in exported.networks} == of_space
    assert all(network.files[0].suffix == ".onnx" for network in exported.networks)
    assert [text.split(":")[0] for text in messages] == [
        f"{index} of {len(messages)}" for index in range(1, len(messages) + 1)
    ]


def test_a_plan_for_another_gpu_is_not_measured_here(tmp_path: Path) -> None:
    plan = planned(tmp_path, device="l4")
    with pytest.raises(MissingError) as caught:
        measure_plan(plan, out=tmp_path / "profiles")
    assert caught.value.exit_code == 3
    assert "l4" in str(caught.value)


def test_a_gpu_that_rtx_does_not_build_for_ends_a_campaign_before_it_begins() -> None:
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(MissingError, match="runtime tensorrt-rtx cannot be used") as caught:
        choose_runtime("tensorrt-rtx", DEVICES.get("h100"), NullReporter())
    assert caught.value.exit_code == 3
    assert str(caught.value.got).endswith("8.6, 8.9, 12.0, 12.1, and h100 has 9.0")


def test_what_is_no_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.jsonl").write_text("[]\n")
    with pytest.raises(InputError, match="must be the head of a plan"):
        export_plan(tmp_path / "plan.jsonl", out=tmp_path / "out")
