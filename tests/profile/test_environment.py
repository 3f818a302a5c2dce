from hwnas.devices import Cpu, Device, Gpu, Machine
from hwnas.profile.environment import device_facts, environment_facts
from hwnas.runs import Environment
from tests.records.rows import make_setting

CPU = Cpu(slug="toy-2c", model="Toy", vendor="toy", architecture="x86_64", num_cores=2)
H200 = Device(
    name="h200", kind="gpu", vendor="nvidia", architecture="hopper", memory_bytes=8, reported=("NVIDIA H200",)
)
MACHINE = Machine(
    cpu=CPU, gpus=(Gpu(index=0, reported="NVIDIA H200", driver="595.1", memory_bytes=8, uuid="GPU-1", device=H200),)
)
SOFTWARE = Environment(
    hwnas="0.1",
    python="3.11.7",
    system="Linux",
    release="6.1",
    machine="x86_64",
    packages=("torch==2.15.0", "click==8.2", "openvino==2026.4", "tensorrt==10.9", "triton==3.9"),
    commit="abc",
    modified=True,
)


def facts(device: str, *, runtime: str = "torch") -> dict[str, str]:
    setting = make_setting(device=device, runtime=runtime)
    return environment_facts(setting, machine=MACHINE, software=SOFTWARE, runtime={"cudnn": "9"})


def test_a_gpu_has_its_driver_and_the_packages_that_bear_on_speed() -> None:
    assert facts("h200") == {
        "device": "h200",
        "model": "NVIDIA H200",
        "driver": "595.1",
        "system": "Linux 6.1 x86_64",
        "python": "3.11.7",
        "hwnas": "0.1",
        "tensorrt": "10.9",
        "torch": "2.15.0",
        "triton": "3.9",
        "torch.cudnn": "9",
    }


def test_a_cpu_does_not_care_for_what_only_gpus_use() -> None:
    found = facts("toy-2c")
    assert found["model"] == "Toy"
    assert not {"driver", "triton", "tensorrt", "click"} & found.keys()


def test_only_openvino_cares_for_its_version() -> None:
    assert facts("toy-2c", runtime="openvino")["openvino"] == "2026.4"
    assert "openvino" not in facts("toy-2c", runtime="onnxruntime")


def test_what_is_not_known_of_a_device_is_left_out() -> None:
    assert device_facts(H200) == {
        "name": "h200",
        "kind": "gpu",
        "vendor": "nvidia",
        "architecture": "hopper",
        "reported": ["NVIDIA H200"],
        "memory_bytes": 8,
    }
