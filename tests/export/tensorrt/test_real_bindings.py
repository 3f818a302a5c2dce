"""The double of TensorRT for RTX against the library itself: names, signatures, and what the same calls give."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from hwnas.export.tensorrt.library import process_logger
from tests.export.tensorrt.api_list import RTX_VERSION, ApiClass, parse_list, read_list
from tests.export.tensorrt.behaviour import BODIES
from tests.export.tensorrt.double import make_double
from tests.export.tensorrt.graphs import small_graph
from tests.export.tensorrt.make_lists import describe_rtx

rtx = pytest.importorskip("tensorrt_rtx")

STRONG = 1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def test_the_list_is_that_of_the_library() -> None:
    version, lines = describe_rtx()
    if version != RTX_VERSION:
        pytest.skip(f"the list is of {RTX_VERSION}, and {version} is installed")
    assert parse_list(version, lines) == read_list(RTX_VERSION)


@pytest.mark.parametrize("owner", BODIES)
def test_the_double_offers_what_the_library_has(owner: str) -> None:
    """Whatever version is installed: each call that the double answers has the arguments of the real one."""
    real, listed = parse_list(*describe_rtx()).classes[owner], read_list(RTX_VERSION).classes[owner]
    for name in _answered(owner, listed):
        assert real.methods.get(name) == listed.methods.get(name)
        assert real.properties.get(name) == listed.properties.get(name)


def _answered(owner: str, listed: ApiClass) -> list[str]:
    """The listed names that the double has a body for, by the names of the library."""
    bodies = {name for name in vars(BODIES[owner]) if not name.startswith("_")}
    called = {name for name in listed.methods if name.strip("_") in bodies}
    return sorted(called | {name for name in listed.properties if {f"get_{name}", f"set_{name}"} & bodies})


# ------------------------------------------------------------------------------------------- the same calls


def parsed(module: Any, builder: Any, graph: bytes, *, flags: int = STRONG) -> Any:
    network = builder.create_network(flags)
    assert module.OnnxParser(network, process_logger(module)).parse(graph)
    return network


def configured(module: Any, builder: Any, *capabilities: str) -> Any:
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(capabilities)
    for index, name in enumerate(capabilities):
        config.set_compute_capability(getattr(module.ComputeCapability, name), index)
    return config


def an_empty_network_is_built(module: Any) -> bool:
    builder = module.Builder(process_logger(module))
    config = configured(module, builder, "SM89")
    return builder.build_serialized_network(builder.create_network(STRONG), config) is not None


def a_graph_is_built(module: Any) -> bool:
    builder = module.Builder(process_logger(module))
    network = parsed(module, builder, small_graph())
    return builder.build_serialized_network(network, configured(module, builder, "SM86", "SM89")) is not None


def an_open_batch_is_built_without_a_profile(module: Any) -> bool:
    builder = module.Builder(process_logger(module))
    network = parsed(module, builder, small_graph(batch=None))
    return builder.build_serialized_network(network, configured(module, builder, "SM89")) is not None


def an_open_batch_is_built_with_a_profile(module: Any) -> bool:
    builder = module.Builder(process_logger(module))
    network = parsed(module, builder, small_graph(batch=None))
    config = configured(module, builder, "SM89")
    profile = builder.create_optimization_profile()
    profile.set_shape("images", (1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config) is not None


def a_profile_of_falling_shapes_is_added(module: Any) -> bool:
    builder = module.Builder(process_logger(module))
    profile = builder.create_optimization_profile()
    profile.set_shape("images", (2, 3, 8, 8), (1, 3, 8, 8), (4, 3, 8, 8))
    return bool(builder.create_builder_config().add_optimization_profile(profile) >= 0)


def a_profile_with_shapes_of_two_lengths_is_added(module: Any) -> bool:
    builder = module.Builder(process_logger(module))
    profile = builder.create_optimization_profile()
    profile.set_shape("images", (2, 3, 8, 8), (2, 3, 8), (4, 3, 8, 8))
    return bool(builder.create_builder_config().add_optimization_profile(profile) >= 0)


def what_is_no_graph_is_parsed(module: Any) -> bool:
    builder = module.Builder(process_logger(module))
    network = builder.create_network(STRONG)
    return bool(module.OnnxParser(network, process_logger(module)).parse(b"no graph"))


def a_network_of_unknown_flags_is_created(module: Any) -> bool:
    builder = module.Builder(process_logger(module))
    return builder.create_network(1 << 20) is not None


def what_is_no_engine_is_loaded(module: Any) -> bool:
    return module.Runtime(process_logger(module)).deserialize_cuda_engine(b"no engine" * 100) is not None


def a_capability_beyond_their_number_is_set(module: Any) -> bool:
    builder = module.Builder(process_logger(module))
    config = configured(module, builder, "SM89")
    return bool(config.set_compute_capability(module.ComputeCapability.SM86, 5))


def a_monitor_is_called(module: Any) -> bool:
    calls: list[str] = []

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            calls.append("start")

        def step_complete(self, phase_name: str, step: int) -> bool:
            calls.append("step")
            return True

        def phase_finish(self, phase_name: str) -> None:
            calls.append("finish")

    builder = module.Builder(process_logger(module))
    network, config, monitor = parsed(module, builder, small_graph()), configured(module, builder, "SM89"), Monitor()
    config.progress_monitor = monitor
    assert builder.build_serialized_network(network, config) is not None
    return calls[0] == "start" and calls[-1] == "finish" and "step" in calls


CALLS: tuple[Callable[[Any], bool], ...] = (
    an_empty_network_is_built,
    a_graph_is_built,
    an_open_batch_is_built_without_a_profile,
    an_open_batch_is_built_with_a_profile,
    a_profile_of_falling_shapes_is_added,
    a_profile_with_shapes_of_two_lengths_is_added,
    what_is_no_graph_is_parsed,
    a_network_of_unknown_flags_is_created,
    what_is_no_engine_is_loaded,
    a_capability_beyond_their_number_is_set,
    a_monitor_is_called,
)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_the_double_answers_as_the_library_does(call: Callable[[Any], bool]) -> None:
    double, _ = make_double(RTX_VERSION)
    assert outcome(call, double) == outcome(call, importlib.import_module("tensorrt_rtx"))


def outcome(call: Callable[[Any], bool], module: ModuleType) -> object:
    try:
        return call(module)
    except (TypeError, ValueError) as error:
        return type(error)
