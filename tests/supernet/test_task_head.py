"""Heads for detection and segmentation inside supernets: slices, costs, strides, and where boxes lie."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.export.tracer import trace_module
from hwnas.space import SPACES
from hwnas.space.space import AnySpace
from hwnas.space.task_head import HEAD_KINDS, TaskHead
from hwnas.supernet.families import make_supernet
from hwnas.supernet.task_head import MapPyramid, TaskHeadConfig, anchors_of, detector

BACKBONES = (
    "autoformer-micro",
    "resnas-micro",
    "vitas-micro",
    "vitas-twins-micro",
    "glit-micro",
    "elastic:timm:test_vit",
)
CASES = [
    *((kind, "vitas-twins-micro") for kind in HEAD_KINDS),
    *(("fcos", name) for name in BACKBONES if name != "vitas-twins-micro"),
]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def space(request: pytest.FixtureRequest) -> AnySpace:
    kind, backbone = request.param
    return SPACES.get(f"{kind}-{backbone}").adapted(num_classes=4)


def images(space: AnySpace, count: int) -> Tensor:
    return torch.randn(count, *space.config.input_shape)


def test_an_extracted_network_predicts_what_its_slices_predict_and_costs_what_is_counted(space: AnySpace) -> None:
    supernet, x = make_supernet(space).eval(), images(space, 2)
    for arch in (space.smallest(), *space.decode(space.sample(np.random.default_rng(0), 1))):
        network = supernet.subnet(arch).eval()
        with torch.no_grad():
            assert torch.equal(network(x), supernet(x, arch))
            assert torch.equal(supernet.bind(arch)(x), supernet(x, arch))
        traced, counted = trace_module(network, input_shape=(1, *space.config.input_shape)), space.workload(arch)
        assert (traced.macs_executed, traced.params) == (counted.macs_executed, counted.params)


def test_images_go_to_several_networks_in_turn(space: AnySpace) -> None:
    supernet, x = make_supernet(space).eval(), images(space, 4)
    archs = [space.smallest(), space.largest()]
    with torch.no_grad():
        together = supernet(x, archs)
        for index, arch in enumerate(archs):
            torch.testing.assert_close(together[index::2], supernet(x[index::2], arch), rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_channels_of_a_network_alone() -> None:
    space = SPACES.get("retinanet-vitas-twins-micro")
    supernet = make_supernet(space)
    supernet(images(space, 1), space.smallest()).square().sum().backward()
    lateral = supernet.shared.get_submodule("head.pyramid.fpn.inner_blocks.2.0")
    used = lateral.weight.grad.abs().sum(dim=(0, 2, 3)) > 0  # type: ignore[union-attr, operator]
    assert int(used.sum()) == space.smallest().stages[2].embed_dim < len(used)


def test_a_network_with_a_head_is_another_network_in_another_space() -> None:
    plain = SPACES.get("vitas-twins-micro").adapted(image_size=64)
    spaces = [plain, *(SPACES.get(f"{kind}-vitas-twins-micro") for kind in HEAD_KINDS)]
    assert len({space.network_id(space.smallest()) for space in spaces}) == len(spaces)
    tasks = ["classification", "detection", "detection", "detection", "segmentation"]
    assert [space.config.task for space in spaces] == tasks


def test_strides_are_powers_of_two_that_divide_the_images() -> None:
    assert SPACES.get("retinanet-autoformer-tiny").config.task_head.strides == (8, 16, 32)
    resnas = SPACES.get("retinanet-resnas-tiny").config  # strides of 14, 28 and 56
    assert (resnas.image_size, resnas.task_head.strides) == (448, (16, 32, 64))
    with pytest.raises(InputError, match="image_size must be a multiple of 64"):
        SPACES.get("retinanet-resnas-tiny").adapted(image_size=280)
    with pytest.raises(InputError, match="one head"):
        SPACES.get("fcos-retinanet-resnas-tiny")


def test_boxes_lie_where_they_are_on_maps_of_strides_that_are_no_powers_of_two() -> None:
    from torchvision.ops import MultiScaleRoIAlign

    config = TaskHeadConfig(
        head=TaskHead(kind="retinanet", strides=(16, 32, 64)),
        image_size=448,
        num_classes=2,
        channels=(1, 1, 1),
        levels=(0, 1, 2),
    )
    pyramid = MapPyramid(config)
    pyramid.norms, pyramid.fpn = nn.ModuleList(nn.Identity() for _ in range(3)), nn.Identity()
    positions = [_positions(448, stride) for stride in (14, 28, 56)]
    boxes = [torch.tensor([[100.0, 40.0, 164.0, 104.0], [200.0, 150.0, 392.0, 342.0]])]
    centres = torch.tensor([132.0, 296.0])

    def pooled(levels: list[Tensor]) -> Tensor:
        pool = MultiScaleRoIAlign(["0", "1", "2"], output_size=1, sampling_ratio=2)
        found: Tensor = pool(OrderedDict((str(n), level) for n, level in enumerate(levels)), boxes, [(448, 448)])
        return found.flatten()

    torch.testing.assert_close(pooled(pyramid(positions)), centres, rtol=0, atol=2.0)
    assert (pooled(positions) - centres).abs().max() > 10, "the trap that the pyramid avoids"


def _positions(image_size: int, stride: int) -> Tensor:
    """Return a feature map of positions in pixels from the left, of the point that torchvision takes for a cell."""
    lefts = torch.arange(image_size // stride) * float(stride)
    return lefts.expand(1, 1, len(lefts), -1).clone()


@pytest.mark.parametrize("kind", ["retinanet", "fcos"])
def test_boxes_of_the_anchors_themselves_are_found(kind: str) -> None:
    space = SPACES.get(f"{kind}-vitas-twins-micro")
    head, size = space.config.task_head, space.config.image_size
    anchors = anchors_of(head, image_size=size)
    assert len(anchors) == head.anchors * sum(grid**2 for grid in head.grids(size))
    model = detector(head, num_classes=3)
    assert all(parameter.is_meta for parameter in model.parameters())
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    per_level = [head.anchors * grid**2 for grid in head.grids(size)]
    for level, stride in zip(torch.split(centres, per_level), head.strides, strict=True):
        assert level.diff(dim=0)[head.anchors - 1].tolist() == [stride, 0]
