from pathlib import Path
from types import SimpleNamespace

import pytest

from hwnas.devices import detect
from hwnas.errors import MissingError, UnknownNameError, UsageError
from hwnas.pipeline.explain import explain
from hwnas.profile.runtime_profile import RuntimeProfile, TimedNodes, measured_bottlenecks, sum_by_name
from hwnas.records import Setting, Subject
from hwnas.space import SPACES

MACHINE = detect()
CPU = MACHINE.cpu.slug


def no_profile(subject: Subject, setting: Setting) -> RuntimeProfile | None:
    return None


def test_a_device_that_is_elsewhere_is_explained_by_its_datasheet() -> None:
    found = explain("autoformer-tiny", "AutoFormer-T", device="a100", precision="bf16", batch=8, machine=MACHINE)
    space = SPACES.get("autoformer-tiny")
    workload = space.workload(space.published["AutoFormer-T"])
    assert found.measured is None
    assert sum(cost.macs for cost in found.operations) == 8 * workload.macs_executed
    assert found.roofline_ms == pytest.approx(sum(group.time_ms or 0.0 for group in found.groups))
    assert found.roofline_ms is not None
    assert found.roofline_ms > 2e3 * 8 * workload.macs_executed / 312e12
    assert sum(group.share for group in found.groups) == pytest.approx(1.0)
    names = {group.name: group.num_operations for group in found.groups}
    assert names["blocks.*.fc1"] == 13
    assert names["head.classifier"] == 1
    assert [group.share for group in found.groups] == sorted((group.share for group in found.groups), reverse=True)
    assert any(hint.startswith("attention takes") for hint in found.hints)


def test_a_larger_batch_costs_less_for_each_image() -> None:
    one, many = (
        explain("autoformer-tiny", "AutoFormer-T", device="a100", precision="bf16", batch=batch, machine=MACHINE)
        for batch in (1, 64)
    )
    assert one.roofline_ms is not None
    assert many.roofline_ms is not None
    assert many.roofline_ms < 64 * one.roofline_ms


def test_a_device_that_is_here_is_asked() -> None:
    nodes = (TimedNodes(name="MatMul", time_ms=1.0, share=1.0, num_nodes=3),)
    asked: list[tuple[Subject, Setting]] = []

    def profiler(subject: Subject, setting: Setting) -> RuntimeProfile:
        asked.append((subject, setting))
        return RuntimeProfile(runtime="onnxruntime", total_ms=1.0, by_kind=nodes, by_segment=nodes)

    found = explain("autoformer-micro", "random:3", device="cpu", batch=4, machine=MACHINE, profiler=profiler)
    ((subject, setting),) = asked
    assert subject.network_id == found.network_id
    assert (setting.device, setting.batch, setting.precision) == (CPU, 4, "fp32")
    assert found.measured is not None
    assert found.roofline_ms is None
    assert {group.bound for group in found.groups} == {None}
    assert sum(group.share for group in found.groups) == pytest.approx(1.0)


@pytest.mark.parametrize(("runtime", "is_named"), [("openvino", True), ("onnxruntime", False)])
def test_another_runtime_than_that_of_the_profiles_is_named(
    runtime: str, is_named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = SimpleNamespace(device=CPU, runtime=runtime)
    entry = SimpleNamespace(manifest=SimpleNamespace(setting=setting))
    monkeypatch.setattr("hwnas.pipeline.explain.profile_entries", lambda paths: [entry])

    def profiler(subject: Subject, setting: Setting) -> RuntimeProfile:
        return RuntimeProfile(runtime="onnxruntime", total_ms=1.0, by_kind=(), by_segment=())

    found = explain("autoformer-micro", "min", device="cpu", machine=MACHINE, profiler=profiler)
    text = f"these times are of onnxruntime; profiles of {CPU}, and predictors fitted to them, are of openvino"
    assert (text in found.hints) == is_named
    monkeypatch.setenv("HWNAS_PROFILES", str(tmp_path / "none"))
    assert explain("autoformer-micro", "min", device="cpu", machine=MACHINE, profiler=profiler).measured is not None


def test_measured_times_are_told_as_rates_and_shares() -> None:
    kinds = [("Gemm", 6.0), ("MatMul", 2.0), ("Reshape", 1.0), ("Split", 0.5), ("Gelu", 0.5)]
    nodes = tuple(TimedNodes(name=name, time_ms=time, share=time / 10, num_nodes=4) for name, time in kinds)
    profile = RuntimeProfile(runtime="onnxruntime", total_ms=10.0, by_kind=nodes, by_segment=())
    assert measured_bottlenecks(profile, macs=400_000_000) == (
        "matrix products take 80% of the measured time, at 100 GFLOP/s",
        "8 nodes that only move elements (Reshape, Split) take 15% of the measured time",
    )


@pytest.mark.slow
def test_onnxruntime_tells_its_times_here() -> None:
    found = explain("autoformer-micro", "min", device="cpu", machine=MACHINE).measured
    assert found is not None
    assert {"LayerNormalization", "Softmax"} <= {nodes.name for nodes in found.by_kind}
    for nodes in filter(None, (found.by_kind, found.by_segment)):
        assert sum(node.share for node in nodes) == pytest.approx(1.0)
        assert sum(node.time_ms for node in nodes) == pytest.approx(found.total_ms)


def test_where_onnxruntime_lacks_a_precision_torch_tells_its_times() -> None:
    found = explain("autoformer-micro", "min", device="cpu", precision="bf16", machine=MACHINE).measured
    assert found is not None
    assert found.runtime == "torch"
    assert found.by_segment == ()
    kinds = {nodes.name: nodes.num_nodes for nodes in found.by_kind}
    assert kinds["native_layer_norm"] == 5
    assert {"bmm", "gelu"} <= kinds.keys()
    assert sum(nodes.share for nodes in found.by_kind) == pytest.approx(1.0)


def test_what_int8_does_not_speed_up_is_among_the_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "hwnas.pipeline.explain.precision_limits",
        lambda subject, setting: (f"openvino: 1 Reorder in {setting.precision}",),
    )
    found = explain(
        "autoformer-micro",
        "min",
        device="cpu",
        precision="int8",
        machine=MACHINE,
        profiler=lambda subject, setting: RuntimeProfile(
            runtime="onnxruntime", total_ms=1.0, by_kind=(), by_segment=()
        ),
    )
    assert "openvino: 1 Reorder in int8" in found.hints


def test_nodes_of_one_name_are_summed_the_longest_first() -> None:
    assert sum_by_name([("a", 1.0), ("b", 5.0), ("a", 2.0)]) == (
        TimedNodes(name="b", time_ms=5.0, share=0.625, num_nodes=1),
        TimedNodes(name="a", time_ms=3.0, share=0.375, num_nodes=2),
    )


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        (CPU, "bf16", "its peak rates are unknown, and no runtime of this machine measures bf16 on it"),
        ("v100", "bf16", "v100: its datasheet has no bf16 rate, and it is not in this machine"),
        ("intel-xeon-9999-8c-avx512", "fp32", "must be in this machine or have a datasheet"),
    ],
)
def test_what_nothing_is_known_of_ends_with_3(device: str, precision: str, message: str) -> None:
    with pytest.raises(MissingError, match=message):
        explain("autoformer-micro", "min", device=device, precision=precision, machine=MACHINE, profiler=no_profile)


def test_wrong_names_are_answered_with_the_right_ones() -> None:
    with pytest.raises(UnknownNameError, match="space 'autoformer-mini' is not known"):
        explain("autoformer-mini", "min")
    with pytest.raises(UsageError, match="precision 'fp12' is not known"):
        explain("autoformer-micro", "min", precision="fp12")
    with pytest.raises(UnknownNameError) as caught:
        explain("autoformer-tiny", "AutoFormer-X", machine=MACHINE)
    assert str(caught.value.hint).startswith("hwnas explain autoformer-tiny AutoFormer-")
