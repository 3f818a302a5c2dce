"""ViT-ResNAS with a distillation token (DeiT): costs, slices, outputs and losses."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from hwnas.errors import InputError
from hwnas.export.tracer import trace_module
from hwnas.space import SPACES
from hwnas.space.resnas import distilled
from hwnas.supernet.resnas import ResNasHeadConfig, ResNasSupernet, ResNasSupernetConfig, TrainingHead
from hwnas.supernet.transfer import resize_positions
from hwnas.train.losses import Microbatch, supervised_loss
from hwnas.train.mixing import MixedBatch
from hwnas.train.models import build_network, build_supernet
from hwnas.train.presets import default_recipe, single_network_recipe
from hwnas.train.recipe import RegularizationConfig, StrategyConfig, TeacherConfig
from tests.train.toys import RESNAS, first_step, stepper, toy_loader, toy_recipe

SPACE = distilled(RESNAS)
PATCHES = toy_recipe(
    strategy=StrategyConfig(name="several"),
    regularization=RegularizationConfig(patch_loss=True),
    teacher=TeacherConfig(labels="hard"),
)


def test_the_second_token_costs_what_a_token_costs() -> None:
    plain = SPACES.get("resnas-tiny")
    space = SPACES.get("distilled-resnas-tiny")
    assert space.name == "distilled-resnas-tiny"
    arch = plain.published["ViT-ResNAS-T"]
    (before,), (after,) = (
        list(zip(*(values.tolist() for values in (costs.params, costs.macs)), strict=True))
        for costs in (part.costs(part.encode([arch])) for part in (plain, space))
    )
    embeds = [stage.embed_dim for stage in arch.stages]
    macs = embeds[2] * 1000 + embeds[0] * embeds[1] + embeds[1] * embeds[2]
    for stage, tokens, width in zip(arch.stages, (257, 65, 17), (32, 48, 64), strict=True):
        for block in filter(None, stage.blocks):
            total, embed = block.num_heads * width, stage.embed_dim
            macs += 4 * embed * total + 2 * embed * block.hidden_dim + 2 * total * ((tokens + 1) ** 2 - tokens**2)
    assert after[0] - before[0] == 2 * embeds[0] + (embeds[2] + 1) * 1000
    assert after[1] - before[1] == macs


@pytest.mark.parametrize("name", ["smallest", "largest"])
def test_costs_are_those_of_the_network(name: str) -> None:
    arch = getattr(SPACE, name)()
    network = ResNasSupernet(SPACE).subnet(arch).eval()
    costs = SPACE.costs(SPACE.encode([arch]))
    assert sum(parameter.numel() for parameter in network.parameters()) == costs.params[0]
    assert trace_module(network, input_shape=(1, *SPACE.config.input_shape)).macs == costs.macs[0]


def test_slices_of_the_supernet_are_its_networks() -> None:
    supernet = ResNasSupernet(SPACE, ResNasSupernetConfig(patch_logits="training")).eval()
    images = torch.randn(2, *SPACE.config.input_shape)
    for arch in (SPACE.smallest(), SPACE.largest()):
        assert torch.allclose(supernet(images, arch), supernet.subnet(arch)(images), atol=1e-5)


def test_a_trained_network_answers_with_the_mean_of_both_tokens() -> None:
    head = TrainingHead(ResNasHeadConfig(embed_dim=6, num_classes=3, patch_logits="training", distillation=True))
    tokens = torch.randn(2, 6, 6)
    normed = head.norm(tokens)
    of_class, of_teacher = head.classifier(normed[:, 0]), head.distillation_classifier(normed[:, 1])
    logits, taught, patches = head.train()(tokens)
    assert torch.equal(logits, of_class)
    assert torch.equal(taught, of_teacher)
    assert torch.allclose(patches, head.patch_classifier(normed[:, 2:]))
    assert torch.allclose(head.eval()(tokens), (of_class + of_teacher) / 2)


def test_the_teacher_teaches_the_second_token_alone() -> None:
    logits, taught, teacher = torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 3)
    targets = torch.eye(3)[torch.tensor([0, 1, 2, 0])]
    microbatch = Microbatch(MixedBatch(torch.zeros(4, 3, 2, 2), targets), teacher)
    hard = TeacherConfig(labels="hard", smoothing=0.0, weight=0.5)
    expected = 0.5 * F.cross_entropy(logits, targets) + 0.5 * F.cross_entropy(taught, teacher.argmax(dim=1))
    assert supervised_loss((logits, taught), microbatch, hard).item() == pytest.approx(expected.item())
    patches = torch.randn(4, 5, 3)
    more = F.cross_entropy(patches.flatten(0, 1), targets[:, None].expand(-1, 5, -1).flatten(0, 1))
    found = supervised_loss((logits, taught, patches), microbatch, hard)
    assert found.item() == pytest.approx((expected + more).item(), rel=1e-5)


def test_it_is_trained_with_a_teacher() -> None:
    teacher = build_network(RESNAS, RESNAS.smallest(), single_network_recipe(toy_recipe()), seed=1).eval()
    supernet = build_supernet(SPACE, PATCHES, seed=0)
    name = "shared.head.distillation_classifier.weight"
    before = supernet.state_dict()[name].clone()
    training = stepper(SPACE, PATCHES, model=supernet, teacher=teacher)
    assert not first_step(training, next(toy_loader(SPACE, PATCHES).epoch(0))).problem
    assert not torch.equal(supernet.state_dict()[name], before)
    with pytest.raises(InputError, match="learns the labels of a teacher"):
        stepper(SPACE, PATCHES)


def test_positions_behind_two_tokens_are_interpolated() -> None:
    table = torch.randn(1, 2 + 16, 4)
    larger = resize_positions(table, tokens=2 + 36)
    assert torch.equal(larger[:, :2], table[:, :2])
    assert torch.equal(larger[:, 2:], resize_positions(table[:, 2:], tokens=36))


def test_feature_maps_leave_out_both_tokens() -> None:
    network = ResNasSupernet(SPACE).subnet(SPACE.largest()).eval()
    tokens, maps = network.forward_intermediates(torch.randn(2, *SPACE.config.input_shape))
    assert torch.equal(maps[-1].flatten(2).transpose(1, 2), tokens[:, 2:])
    assert [entry["reduction"] for entry in network.feature_info] == [
        SPACE.config.image_size // grid for grid in SPACE.config.grids
    ]


def test_only_vit_resnas_has_it() -> None:
    assert default_recipe(SPACES.get("distilled-resnas-small")) == "resnas-small"
    assert replace(SPACES.get("distilled-resnas-small").config, distillation=None) == SPACES.get("resnas-small").config
    with pytest.raises(InputError, match="are those of ViT-ResNAS"):
        SPACES.get("distilled-glit-tiny")
    with pytest.raises(InputError, match="have one distillation token") as caught:
        SPACES.get("distilled-distilled-resnas-micro")
    assert caught.value.hint == "distilled-resnas-micro"
