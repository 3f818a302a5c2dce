"""Networks composed from templates of their segments."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.errors import InputError
from hwnas.export.compose import Composition, compose
from hwnas.export.onnx_session import Array, run_graph
from hwnas.export.templates import TemplateStore
from hwnas.space import SPACES
from hwnas.supernet.families import make_network
from tests.export.segmented import SHAPE, Network, counted

LEARNED = ((8, (2,)), (24, (3, 6)), (40, (5,)))
"""Networks that determine the rules of all templates between them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that has learned from a few networks."""
    folder = tmp_path_factory.mktemp("cache")
    store = TemplateStore(folder)
    for embed, heads in LEARNED:
        compose(Network(embed, heads), input_shape=SHAPE, store=store)
    return folder


@pytest.fixture
def store(folder: Path) -> TemplateStore:
    return TemplateStore(folder)


def images(count: int = 1) -> Array:
    return np.random.default_rng(0).standard_normal((count, *SHAPE), dtype=np.float32)


def difference(network: nn.Module, composition: Composition, *, batch: int = 1) -> float:
    with torch.inference_mode():
        expected = network.eval()(torch.from_numpy(images(batch))).numpy()
    return float(np.abs(run_graph(composition.model, images(batch)) - expected).max() / np.abs(expected).max())


def test_a_network_of_other_widths_needs_no_export(store: TemplateStore) -> None:
    network = Network(56, (7, 4, 2), seed=5)
    with counted() as exported:
        composition = compose(network, input_shape=SHAPE, store=store)
    assert exported == []
    assert (composition.segments, composition.reused, composition.exported) == (5, 5, ())
    assert difference(network, composition) < 1e-5


def test_weights_are_those_of_each_network(store: TemplateStore) -> None:
    for seed in (1, 2):
        network = Network(8, (2, 4), seed=seed)
        assert difference(network, compose(network, input_shape=SHAPE, store=store)) < 1e-5


def test_a_change_of_any_weight_reaches_the_output(store: TemplateStore) -> None:
    network = Network(8, (2,))
    before = run_graph(compose(network, input_shape=SHAPE, store=store).model, images())
    for name, parameter in network.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter))
        changed = compose(network, input_shape=SHAPE, store=store)
        assert difference(network, changed) < 1e-5
        assert np.abs(run_graph(changed.model, images()) - before).max() > 1e-3, name
        with torch.no_grad():
            parameter.copy_(kept)


def test_equal_weights_stay_apart(store: TemplateStore) -> None:
    network = Network(8, (2,))
    for part in network.modules():
        if isinstance(part, nn.LayerNorm):
            part.reset_parameters()
    first = compose(network, input_shape=SHAPE, store=store)
    with torch.no_grad():
        network.get_parameter("parts.1.norm2.weight").mul_(3)
    second = compose(network, input_shape=SHAPE, store=store)
    assert difference(network, second) < 1e-5
    assert np.abs(run_graph(first.model, images()) - run_graph(second.model, images())).max() > 1e-3


def test_the_graph_is_plain_and_static(store: TemplateStore) -> None:
    graph = compose(Network(8, (2, 4)), input_shape=SHAPE, store=store).model.graph
    assert [value.name for value in graph.input] == ["images"]
    assert [value.name for value in graph.output] == ["logits"]
    for value, sizes in ((graph.input[0], [1, *SHAPE]), (graph.output[0], [1, 5])):
        assert [dimension.dim_value for dimension in value.type.tensor_type.shape.dim] == sizes
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["LayerNormalization"] == 4
    assert not {"Shape", "ConstantOfShape", "Identity"} & set(kinds)
    assert all(node.name.startswith("part.") for node in graph.node)
    assert len({node.name for node in graph.node}) == len(graph.node)
    assert "part.1.norm1.weight" in {tensor.name for tensor in graph.initializer}


def test_a_network_in_training_mode_stays_in_it(store: TemplateStore) -> None:
    network = Network(8, (2,)).train()
    compose(network, input_shape=SHAPE, store=store)
    assert all(part.training for part in network.modules())


def test_a_wrong_inference_is_noticed_and_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, network = TemplateStore(None), Network(8, (2,))
    learned = TemplateStore(folder)
    monkeypatch.setattr(store, "get", learned.get)
    monkeypatch.setattr(store, "save", lambda text: None)
    compose(network, input_shape=SHAPE, store=learned)
    (template,) = [one for text, one in learned._templates.items() if "norm1" in text]
    template.is_verified = False
    other = Network(48, (6,))
    scale = next(index for index, number in enumerate(template.variants[0].numbers[0]) if isinstance(number, float))
    for row in template.variants[0].numbers:
        row[scale] = 9.0  # as if a rule had been missed
    with counted() as exported:
        composition = compose(other, input_shape=SHAPE, store=store)
    assert template.is_refuted
    assert len(exported) == 1
    assert difference(other, composition) < 1e-5


class Odd(nn.Module):
    """Holds an object that cannot be compared with another."""

    def __init__(self) -> None:
        super().__init__()
        self.holding = object()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def test_without_onnxruntime_only_verified_templates_infer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    store = TemplateStore(folder)
    assert compose(Network(56, (7, 4, 2)), input_shape=SHAPE, store=store).exported == ()
    for template in store._templates.values():
        template.is_verified = False
    network = Network(72, (9,))
    assert set(compose(network, input_shape=SHAPE, store=store).exported) == set(network.segments())


def test_an_opaque_segment_is_exported_every_time_and_named(store: TemplateStore) -> None:
    network = Network(8, (2,))
    network.parts.insert(1, Odd())
    for _ in range(2):
        composition = compose(network, input_shape=SHAPE, store=store)
        assert composition.exported == ("part.1",)
        assert composition.opaque == {"part.1": ".holding is a object"}
        assert difference(network, composition) < 1e-5


def test_a_module_without_segments_is_refused() -> None:
    with pytest.raises(InputError, match=r"must have segments\(\)") as caught:
        compose(nn.Linear(4, 4), input_shape=(4,), store=TemplateStore(None))
    assert "Linear" in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_other_precisions_and_batches_have_templates_of_their_own(folder: Path, precision: str) -> None:
    store = TemplateStore(folder)
    for embed, heads in (*LEARNED, (16, (4, 8))):
        network = Network(embed, heads, seed=3)
        composition = compose(network, input_shape=SHAPE, batch=4, precision=precision, store=store)
        assert difference(network, composition, batch=4) < {"fp16": 1e-2, "bf16": 5e-2}[precision]
    with counted() as exported:
        compose(Network(56, (7, 4)), input_shape=SHAPE, batch=4, precision=precision, store=store)
    assert exported == []


@pytest.mark.parametrize("name", ["fcos-vitas-twins-micro", "semantic-fpn-autoformer-micro"])
def test_networks_whose_heads_read_feature_maps_are_composed(name: str, tmp_path: Path) -> None:
    space = SPACES.get(name)
    x = np.random.default_rng(0).standard_normal((1, *space.config.input_shape), dtype=np.float32)
    compositions = []
    for arch in (space.smallest(), space.largest()):
        network = make_network(space, arch).eval()
        found = compose(network, input_shape=space.config.input_shape, store=TemplateStore(tmp_path))
        with torch.no_grad():
            expected = network(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(run_graph(found.model, x), expected, atol=1e-4 * np.abs(expected).max())
        compositions.append(found)
    assert "head" not in compositions[1].exported, "the head on its levels is the same in all networks of a space"
