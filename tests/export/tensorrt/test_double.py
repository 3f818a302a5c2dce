"""The double refuses what the lists lack and what TensorRT would refuse."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.export.tensorrt.api_list import RTX_VERSION, VERSIONS, ApiList, read_list
from tests.export.tensorrt.behaviour import BODIES
from tests.export.tensorrt.conftest import Double
from tests.export.tensorrt.double import EnumBase, make_double
from tests.export.tensorrt.graphs import small_graph, small_images

BOTH = ("10.16.1.11", "11.4.0.106")


def reachable(api: ApiList) -> set[str]:
    """Every public dotted name of a double."""
    module, library = make_double(api.version)
    found = {name for name in vars(module) if not name.startswith("_")}
    inside = {
        f"{name}.{member}"
        for name, cls in library.classes.items()
        for member in vars(cls)
        if not member.startswith("_") or member in api.classes[name].methods
    }
    return found | inside


@pytest.mark.parametrize("version", [*VERSIONS, RTX_VERSION])
def test_it_has_what_the_list_has_and_nothing_else(version: str) -> None:
    api = read_list(version)
    listed = {name for name in api.names() if not name.endswith(".__init__")}
    assert {name for name in reachable(api) if not name.endswith(".__init__")} == listed
    assert len(listed) > 1000


def test_the_lists_say_where_they_are_from() -> None:
    assert [version.partition(".")[0] for version in VERSIONS] == ["10", "10", "11"]
    for version in VERSIONS:
        api = read_list(version)
        assert api.classes["Builder"].methods["__init__"][0] is not None
        assert api.classes["Logger"].base == "ILogger"


def test_every_body_is_of_a_listed_name() -> None:
    special = {"init", "len", "getitem", "bytes"}
    for owner, body in BODIES.items():
        names = {name for name in vars(body) if not name.startswith("_")} - special
        listed: set[str] = set()
        for version in (*VERSIONS, RTX_VERSION):
            entry = read_list(version).classes[owner]
            listed |= set(entry.methods) | {f"get_{name}" for name in entry.properties}
        assert names <= listed


@pytest.mark.parametrize(("version", "there"), [("10.16.1.11", True), ("11.4.0.106", False)])
def test_the_precision_flags_are_those_of_the_version(version: str, there: bool) -> None:
    module, _ = make_double(version)
    assert hasattr(module.BuilderFlag, "FP16") is there
    assert hasattr(module.Builder, "platform_has_fast_fp16") is there
    assert int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED) == (1 if there else 0)


def test_names_that_are_not_listed_are_not_there(double: Double) -> None:
    config = builder_of(double).create_builder_config()
    with pytest.raises(AttributeError, match="max_workspace_size"):
        config.max_workspace_size = 1
    with pytest.raises(AttributeError, match="max_workspace_size"):
        _ = config.max_workspace_size
    with pytest.raises(AttributeError, match="build_cuda_engine"):
        builder_of(double).build_cuda_engine()
    with pytest.raises(AttributeError, match="infer"):
        double.trt.infer()


def test_listed_names_that_the_double_does_not_do_say_so(double: Double) -> None:
    with pytest.raises(NotImplementedError, match=r"Builder\.reset"):
        builder_of(double).reset()


@pytest.mark.parametrize(
    "call",
    [
        lambda it: it.builder.create_network("strong"),
        lambda it: it.builder.create_network(1.0),
        lambda it: it.config.set_flag(6),
        lambda it: it.config.set_memory_pool_limit(it.trt.MemoryPoolType.WORKSPACE, 1.5),
        lambda it: it.config.set_memory_pool_limit(2**30),
        lambda it: it.config.add_optimization_profile(None),
        lambda it: it.builder.build_serialized_network(it.network),
        lambda it: it.builder.create_builder_config(level=3),
        lambda it: it.trt.Runtime(it.logger).deserialize_cuda_engine("engine"),
        lambda it: it.trt.OnnxParser(it.logger, it.network),
        lambda it: it.trt.Builder(object()),
    ],
)
def test_wrong_arguments_are_refused(double: Double, call: Any) -> None:
    builder = builder_of(double)
    it = SimpleNamespace(
        trt=double.trt, logger=builder.logger, builder=builder,
        network=builder.create_network(0), config=builder.create_builder_config(),
    )  # fmt: skip
    with pytest.raises(TypeError, match="incompatible function arguments"):
        call(it)


def test_objects_of_the_library_cannot_be_made_from_outside(double: Double) -> None:
    with pytest.raises(TypeError, match="IBuilderConfig: No constructor defined"):
        double.trt.IBuilderConfig()


def test_read_only_properties_cannot_be_set(double: Double) -> None:
    with pytest.raises(AttributeError, match="no setter"):
        builder_of(double).logger = None


def test_properties_have_a_type(double: Double) -> None:
    config = builder_of(double).create_builder_config()
    config.builder_optimization_level = 5
    assert config.builder_optimization_level == 5
    with pytest.raises(TypeError, match="builder_optimization_level is int"):
        config.builder_optimization_level = "high"


def test_an_enum_is_no_number(double: Double) -> None:
    tf32 = double.trt.BuilderFlag.TF32
    assert isinstance(tf32, EnumBase)
    assert (tf32 == int(tf32), tf32 == double.trt.BuilderFlag(int(tf32)), tf32.name) == (False, True, "TF32")
    with pytest.raises(ValueError, match="not a valid"):
        double.trt.BuilderFlag(99)


def test_a_logger_must_call_its_base(double: Double) -> None:
    base: Any = double.trt.ILogger

    class Forgetful(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.messages: list[str] = []

    with pytest.raises(TypeError, match="incompatible"):
        double.trt.Builder(Forgetful())


def test_a_network_that_was_not_parsed_is_not_built(double: Double, capsys: pytest.CaptureFixture[str]) -> None:
    builder = builder_of(double)
    assert builder.build_serialized_network(builder.create_network(0), builder.create_builder_config()) is None
    assert "at least one output" in capsys.readouterr().out


def test_a_strongly_typed_network_takes_no_precision_flag(capsys: pytest.CaptureFixture[str]) -> None:
    module, _ = make_double("10.16.1.11")
    builder = module.Builder(module.Logger())
    network = parsed(module, builder, flags=1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    config = builder.create_builder_config()
    config.set_flag(module.BuilderFlag.FP16)
    assert builder.build_serialized_network(network, config) is None
    assert "a strongly typed network with FP16" in capsys.readouterr().out


def test_an_open_batch_needs_a_profile(double: Double, capsys: pytest.CaptureFixture[str]) -> None:
    builder = builder_of(double)
    network = parsed(double.trt, builder, data=small_graph(batch=None))
    assert builder.build_serialized_network(network, builder.create_builder_config()) is None
    assert "no optimization profile" in capsys.readouterr().out


def test_a_profile_must_rise(double: Double) -> None:
    profile = builder_of(double).create_optimization_profile()
    profile.set_shape("images", (2, 3, 8, 8), (1, 3, 8, 8), (4, 3, 8, 8))
    assert builder_of(double).create_builder_config().add_optimization_profile(profile) == -1


def test_a_second_graph_in_one_network_is_refused(double: Double) -> None:
    builder = builder_of(double)
    network = parsed(double.trt, builder)
    parser = double.trt.OnnxParser(network, builder.logger)
    assert parser.parse(small_graph()) is False
    assert "must be empty" in parser.get_error(0).desc()


@pytest.mark.parametrize("data", [b"", b"not an engine"])
def test_what_is_no_engine_is_not_loaded(double: Double, data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    assert double.trt.Runtime(double.trt.Logger()).deserialize_cuda_engine(data) is None
    assert "magicTag" in capsys.readouterr().out


def test_a_run_needs_shapes_addresses_and_a_stream(double: Double, capsys: pytest.CaptureFixture[str]) -> None:
    context = engine_of(double).create_execution_context()
    cuda, images, logits = double.cuda(), small_images(2), small_images(1)
    assert context.execute_async_v3(cuda.handle) is False
    assert context.set_tensor_address("images", images.data_ptr())
    assert context.set_tensor_address("logits", logits.data_ptr())
    assert not context.set_tensor_address("pictures", images.data_ptr())
    assert context.execute_async_v3(7) is False
    assert context.execute_async_v3(cuda.handle) is True
    said = capsys.readouterr().out
    assert "no address was set for images" in said
    assert "no stream 0x7" in said


def test_nothing_runs_before_somebody_waits(double: Double) -> None:
    context = engine_of(double).create_execution_context()
    cuda, images = double.cuda(), small_images(2)
    logits = cuda.empty((2, 10), images.dtype)
    context.set_tensor_address("images", images.data_ptr())
    context.set_tensor_address("logits", logits.data_ptr())
    assert context.execute_async_v3(cuda.handle)
    assert logits.isnan().all()
    cuda.wait()
    assert logits.isfinite().all()


def test_a_first_run_is_not_recorded(double: Double) -> None:
    context = engine_of(double).create_execution_context()
    cuda, images, logits = double.cuda(), small_images(2), small_images(2)
    context.set_tensor_address("images", images.data_ptr())
    context.set_tensor_address("logits", logits.data_ptr())
    answers: list[bool] = []
    cuda.record(lambda: answers.append(context.execute_async_v3(cuda.handle)))
    assert answers == [False]


def builder_of(double: Double) -> Any:
    return double.trt.Builder(double.trt.Logger())


def parsed(module: Any, builder: Any, *, flags: int = 0, data: bytes | None = None) -> Any:
    network = builder.create_network(flags)
    assert module.OnnxParser(network, builder.logger).parse(data or small_graph())
    return network


def engine_of(double: Double) -> Any:
    builder = builder_of(double)
    plan = builder.build_serialized_network(parsed(double.trt, builder), builder.create_builder_config())
    return double.trt.Runtime(builder.logger).deserialize_cuda_engine(bytes(plan))
