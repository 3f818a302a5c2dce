import numpy as np
import pytest

from hwnas.devices import DEVICES
from hwnas.devices.device import Device
from hwnas.errors import InputError
from hwnas.predict.features.conditions import Conditions, conditions_of


def test_rates_are_those_of_the_datasheet() -> None:
    conditions = conditions_of(DEVICES.get("a100"), precision="bf16", batch=4)
    assert (conditions.op_per_s, conditions.byte_per_s, conditions.num_sms) == (312e12, 2039e9, 108)
    assert conditions.bytes_per_element == 2


def test_a_cpu_without_datasheet_has_nominal_rates() -> None:
    conditions = conditions_of(Device(name="c", kind="cpu", vendor="v", architecture="a"))
    assert (conditions.op_per_s, conditions.byte_per_s, conditions.num_sms) == (1e11, 2e10, None)


def test_layouts_are_torchs_where_torch_runs() -> None:
    runtimes = ("torch", "torch-compile", "onnxruntime", "tensorrt")
    found = [conditions_of(DEVICES.get("t4"), runtime=runtime).torch_layouts for runtime in runtimes]
    assert found == [True, True, False, False]


def test_conditions_survive_as_plain_values() -> None:
    conditions = conditions_of(DEVICES.get("t4"), precision="fp16", runtime="torch", autocast=True)
    assert Conditions(**conditions.plain()) == conditions  # type: ignore[arg-type]


def test_a_batch_without_images_is_refused() -> None:
    with pytest.raises(InputError, match="a batch must have 1 to 65536 images"):
        conditions_of(DEVICES.get("t4"), batch=np.array([4, 0]))


def test_tf32_is_stored_as_float32() -> None:
    conditions = conditions_of(DEVICES.get("a100"), precision="tf32")
    assert (conditions.op_per_s, conditions.bytes_per_element) == (156e12, 4)
