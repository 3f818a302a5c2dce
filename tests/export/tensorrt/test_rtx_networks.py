"""Networks of the spaces, parsed and built by NVIDIA's own parser and builder (TensorRT for RTX), which need no GPU.

Each test notes how many graphs the parser took and how many engines were built; `make test` prints the sums.
"""

from collections.abc import Sequence
from typing import Any

import pytest

from hwnas.export.onnx_graph import build_onnx
from hwnas.export.tensorrt import BuiltEngine, EngineSettings, build_engine
from hwnas.export.tensorrt.library import process_logger
from hwnas.space import SPACES
from hwnas.space.lookup import find_arch
from hwnas.supernet.families import make_network
from tests.conftest import ENGINES_BUILT, GRAPHS_PARSED, GRAPHS_REFUSED
from tests.strategies import repeats_a_mini_space

rtx = pytest.importorskip("tensorrt_rtx")

PRECISIONS = ("fp32", "fp16", "bf16")
BATCHES = (1, 8, None)
MICRO = [name for name in SPACES if name.endswith("-micro")]
ENGINES = {
    ("autoformer-tiny", "AutoFormer-T"),
    ("resnas-tiny", "ViT-ResNAS-T"),
    ("vitas-deit-small", "ViTAS-A"),
    ("vitas-twins-small", "Twins-SVT-S"),
    ("glit-tiny", "GLiT-T"),
}
"""A network of each large family, which is also built."""

SPREAD: dict[tuple[str, str], tuple[int | None, ...]] = {
    ("autoformer-micro", "fp16"): (8, None),
    ("resnas-micro", "bf16"): (8,),
    ("vitas-micro", "fp32"): (8,),
    ("vitas-twins-micro", "bf16"): (None,),
    ("glit-micro", "fp16"): (8, None),
}
"""Batches of the smallest network of each family in one precision; all other combinations are slow tests."""


class Nvidia:
    """The parser and the builder, and what they did in a test."""

    def __init__(self, notes: list[tuple[str, object]]) -> None:
        self._notes = notes

    def parser_errors(self, graph: bytes) -> list[str]:
        logger = process_logger(rtx)
        builder = rtx.Builder(logger)
        network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = rtx.OnnxParser(network, logger)
        accepted = parser.parse(graph)
        self._notes.append((GRAPHS_PARSED if accepted else GRAPHS_REFUSED, 1))
        errors = [str(parser.get_error(index).desc()) for index in range(parser.num_errors)]
        return errors if accepted or errors else ["refused without a reason"]

    def build(self, graph: bytes, *, precision: str) -> BuiltEngine:
        settings = EngineSettings(
            library="tensorrt-rtx",
            compute_capabilities=("8.9",),
            precision=precision,  # type: ignore[arg-type]
        )
        built = build_engine(graph, settings)
        self._notes.append((ENGINES_BUILT, 1))
        return built


@pytest.fixture
def nvidia(request: pytest.FixtureRequest) -> Nvidia:
    return Nvidia(request.node.user_properties)


def exported(space_name: str, arch_name: str, *, precision: str, batches: Sequence[int | None] = (1,)) -> list[bytes]:
    """The graphs of a network in a precision, one for each batch; None leaves it open."""
    space = SPACES.get(space_name)
    module = make_network(space, find_arch(space, arch_name)).eval()
    shape = space.config.input_shape
    graphs = (
        build_onnx(module, input_shape=shape, precision=precision, batch=batch, int8_rest="fp16") for batch in batches
    )
    return [bytes(graph.model.SerializeToString()) for graph in graphs]


def by_size(name: str) -> Any:
    """The larger spaces of a family differ from its smallest one in sizes alone: they are parsed in the slow run."""
    is_smallest = any(space == name for space, _ in ENGINES)
    return name if is_smallest else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize("space", [by_size(name) for name in SPACES if SPACES.get(name).published])
def test_the_parser_takes_published_networks_in_half_precision(nvidia: Nvidia, space: str) -> None:
    for arch in SPACES.get(space).published:
        (graph,) = exported(space, arch, precision="fp16")
        assert nvidia.parser_errors(graph) == []
        if (space, arch) in ENGINES:
            assert nvidia.build(graph, precision="fp16").card.num_layers > 100


@pytest.mark.slow
@pytest.mark.parametrize("space", MICRO)
def test_the_largest_networks_of_micro_spaces_are_built_in_half_precision(nvidia: Nvidia, space: str) -> None:
    (graph,) = exported(space, "max", precision="fp16")
    assert nvidia.parser_errors(graph) == []
    assert nvidia.build(graph, precision="fp16").engine


@pytest.mark.parametrize(("space", "precision"), SPREAD)
def test_the_parser_takes_each_family(nvidia: Nvidia, space: str, precision: str) -> None:
    for graph in exported(space, "min", precision=precision, batches=SPREAD[space, precision]):
        assert nvidia.parser_errors(graph) == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("space", MICRO)
def test_the_largest_networks_of_micro_spaces_are_built_in_8_bits(nvidia: Nvidia, space: str, precision: str) -> None:
    (graph,) = exported(space, "max", precision=precision)
    assert nvidia.parser_errors(graph) == []
    assert nvidia.build(graph, precision=precision).engine


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("space", MICRO)
def test_the_extreme_networks_of_micro_spaces_are_built(nvidia: Nvidia, space: str, precision: str) -> None:
    for arch in ("min", "max"):
        (graph,) = exported(space, arch, precision=precision)
        assert nvidia.parser_errors(graph) == []
        assert nvidia.build(graph, precision=precision).engine


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("space", [name for name in SPACES if not repeats_a_mini_space(name)])
def test_the_parser_takes_published_and_extreme_networks(nvidia: Nvidia, space: str, precision: str) -> None:
    for arch in ("min", "max", *SPACES.get(space).published):
        for batch in BATCHES:
            (graph,) = exported(space, arch, precision=precision, batches=(batch,))
            assert nvidia.parser_errors(graph) == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("space", "arch"), sorted(ENGINES))
def test_a_network_of_each_family_is_built(nvidia: Nvidia, space: str, arch: str, precision: str) -> None:
    (graph,) = exported(space, arch, precision=precision)
    assert nvidia.build(graph, precision=precision).engine
