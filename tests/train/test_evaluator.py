"""The accuracy of networks against a plain loop over the images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwnas.errors import InputError
from hwnas.space.autoformer import MICRO as AUTOFORMER
from hwnas.space.glit import MICRO as GLIT
from hwnas.supernet.autoformer import AutoFormerSupernet
from hwnas.supernet.batch_norm import recalibrated
from hwnas.supernet.glit import GlitSupernet
from hwnas.train import evaluator as module
from hwnas.train.data.images import ImageDataset
from hwnas.train.data.loader import Batch, EvalLoader
from hwnas.train.evaluator import Accuracy, SupernetEvaluator, evaluate_module
from tests.train.data.image_files import CountedImages, array_images

SHAPE = (3, 32, 32)


def make_images(count: int = 50) -> CountedImages:
    return CountedImages(array_images(count, size=32, classes=10))


def batches(images: ImageDataset | None = None) -> EvalLoader:
    return EvalLoader(images or make_images(), image_shape=SHAPE, batch_size=16)


@pytest.fixture(scope="module")
def supernet() -> AutoFormerSupernet:
    torch.manual_seed(0)
    supernet = AutoFormerSupernet(AUTOFORMER)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return supernet


def archs(space: Any, count: int) -> list[Any]:
    return list(space.decode(space.sample(np.random.default_rng(1), count)))


def evaluator(supernet: Any, heldout: EvalLoader | None = None, **options: Any) -> SupernetEvaluator:
    return SupernetEvaluator(supernet, heldout or batches(), **{"checkpoint_id": "c1", "split_id": "s1", **options})


def expected(network: nn.Module, loader: EvalLoader) -> tuple[float, float, float]:
    """Top-1, top-5 and loss, counted image by image."""
    top1 = top5 = 0
    losses = []
    network.eval()
    for batch in loader:
        for image, label in zip(batch.images, batch.labels.tolist(), strict=True):
            with torch.no_grad():
                (logits,) = network(image[None])
            better = sum(value > logits[label] for value in logits)
            top1 += int(better == 0)
            top5 += int(better < 5)
            losses.append(-float(torch.log_softmax(logits, 0)[label]))
    return top1 / len(losses), top5 / len(losses), float(np.mean(losses))


def test_several_networks_in_one_pass_are_what_a_plain_loop_finds(supernet: AutoFormerSupernet) -> None:
    images = make_images()
    networks = archs(AUTOFORMER, 4)
    found = evaluator(supernet, batches(images)).evaluate(networks)
    assert images.reads == 50
    for arch, accuracy in zip(networks, found, strict=True):
        top1, top5, loss = expected(supernet.subnet(arch), batches())
        assert accuracy.arch_id == AUTOFORMER.arch_id(arch)
        assert accuracy.count == 50
        assert accuracy.top1 == pytest.approx(top1)
        assert accuracy.top5 == pytest.approx(top5)
        assert accuracy.loss == pytest.approx(loss, rel=1e-4)
    assert len({accuracy.loss for accuracy in found}) == 4


def test_groups_of_networks_change_nothing(supernet: AutoFormerSupernet, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = archs(AUTOFORMER, 5)
    whole = evaluator(supernet).evaluate(networks)
    for name, value in (("NETWORKS_PER_PASS", 2), ("NETWORKS_BYTES", 10)):
        monkeypatch.setattr(module, name, value)
        assert evaluator(supernet).evaluate(networks) == whole


def test_images_are_decoded_once_where_they_fit(supernet: AutoFormerSupernet, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = archs(AUTOFORMER, 2)
    for limit, reads in ((1 << 30, 50), (10, 100)):
        monkeypatch.setattr(module, "CACHE_BYTES", limit)
        images = make_images()
        counted = evaluator(supernet, batches(images))
        for arch in networks:
            counted.evaluate([arch])
        assert images.reads == reads


def test_each_network_is_evaluated_once(supernet: AutoFormerSupernet, tmp_path: Path) -> None:
    networks = archs(AUTOFORMER, 3)
    cache = tmp_path / "accuracy.jsonl"
    first = evaluator(supernet, cache=cache).evaluate([*networks, networks[0]])
    assert first[3] == first[0]
    assert len(cache.read_text().splitlines()) == 3
    images = make_images()
    again = evaluator(supernet, batches(images), cache=cache)
    assert again.evaluate(networks) == first[:3]
    assert images.reads == 0


@pytest.mark.parametrize(
    "other", [{"checkpoint_id": "c2"}, {"split_id": "test"}, {"precision": "bf16"}], ids=["weights", "split", "bf16"]
)
def test_another_checkpoint_split_or_precision_is_another_result(
    supernet: AutoFormerSupernet, tmp_path: Path, other: dict[str, str]
) -> None:
    cache = tmp_path / "accuracy.jsonl"
    networks = archs(AUTOFORMER, 1)
    evaluator(supernet, cache=cache).evaluate(networks)
    images = make_images()
    evaluator(supernet, batches(images), cache=cache, **other).evaluate(networks)
    assert images.reads == 50
    assert len(cache.read_text().splitlines()) == 2


def test_a_line_that_was_cut_off_is_dropped(supernet: AutoFormerSupernet, tmp_path: Path) -> None:
    cache = tmp_path / "accuracy.jsonl"
    networks = archs(AUTOFORMER, 2)
    first = evaluator(supernet, cache=cache).evaluate(networks)
    whole = cache.read_bytes()
    cache.write_bytes(whole[:-20])
    assert evaluator(supernet, cache=cache).evaluate(networks) == first
    assert cache.read_bytes() == whole


def test_a_broken_line_in_the_middle_is_an_error(supernet: AutoFormerSupernet, tmp_path: Path) -> None:
    cache = tmp_path / "accuracy.jsonl"
    cache.write_text('{"arch_id": "a"}\n{"arch_id": \n{"arch_id": "b"}\n')
    with pytest.raises(InputError, match=r"accuracy.jsonl, line 2 is not JSON"):
        evaluator(supernet, cache=cache)
    cache.write_text("[1]\n")
    with pytest.raises(InputError, match=r"line 1 must be a table with an arch_id"):
        evaluator(supernet, cache=cache)


def test_a_cache_that_is_a_link_is_left_alone(supernet: AutoFormerSupernet, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("one line\nand a last one without an end")
    (tmp_path / "memo.jsonl").symlink_to(tmp_path / "precious.txt")
    with pytest.raises(InputError, match="must not be a symbolic link"):
        evaluator(supernet, cache=tmp_path / "memo.jsonl")
    (tmp_path / "memo.jsonl").unlink()
    (tmp_path / "memo.jsonl").symlink_to(tmp_path / "missing")
    with pytest.raises(InputError, match="must not be a symbolic link"):
        evaluator(supernet, cache=tmp_path / "memo.jsonl")
    assert not (tmp_path / "missing").exists()


def test_a_file_of_something_else_is_not_truncated(supernet: AutoFormerSupernet, tmp_path: Path) -> None:
    path = tmp_path / "memo.jsonl"
    path.write_text("something else\nand a last line without an end")
    with pytest.raises(InputError, match="line 1 is not JSON"):
        evaluator(supernet, cache=path)
    assert path.read_text().endswith("without an end")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top1", 2),
        ("top1", None),
        ("top5", "x"),
        ("loss", -1),
        ("loss", True),
        ("count", 1.5),
        ("hits", "0"),
        ("hits", 3),
    ],
)
def test_figures_in_the_cache_are_checked(
    supernet: AutoFormerSupernet, tmp_path: Path, name: str, value: object
) -> None:
    path = tmp_path / "memo.jsonl"
    evaluator(supernet, cache=path).evaluate([supernet.space.smallest()])
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, name: value}) + "\n")
    with pytest.raises(InputError, match=f"line 1: {name} must be"):
        evaluator(supernet, cache=path)


def test_hits_are_kept_image_by_image_and_remembered(supernet: AutoFormerSupernet, tmp_path: Path) -> None:
    cache = tmp_path / "accuracy.jsonl"
    (arch,) = archs(AUTOFORMER, 1)
    evaluator(supernet, cache=cache).evaluate([arch])
    for _ in range(2):  # the first row has no hits and is replaced, the second time they are remembered
        (found,) = evaluator(supernet, cache=cache, keep_hits=True).evaluate([arch])
        with torch.no_grad():
            network = supernet.subnet(arch).eval()
            right = [network(batch.images).argmax(1) == batch.labels for batch in batches()]
        assert found.hits is not None
        assert found.hits.tolist() == torch.cat(right).tolist()
        assert found.top1 == found.hits.mean()
    assert len(cache.read_text().splitlines()) == 2
    assert len(json.loads(cache.read_text().splitlines()[1])["hits"]) == 14


def test_batch_norms_are_recalibrated() -> None:
    torch.manual_seed(0)
    supernet = GlitSupernet(GLIT)
    arch = next(arch for arch in archs(GLIT, 30) if any(block.groups for block in arch.blocks))
    calibrating = list(EvalLoader(array_images(20, size=32), image_shape=SHAPE, batch_size=10))
    (found,) = evaluator(supernet, recalibration=iter(calibrating)).evaluate([arch])
    network = recalibrated(supernet, arch, [batch.images for batch in calibrating])
    assert found.loss == pytest.approx(expected(network, batches())[2], rel=1e-4)
    assert found.loss != pytest.approx(expected(supernet.subnet(arch), batches())[2], rel=1e-4)
    with pytest.raises(InputError, match="needs batches to estimate their statistics from"):
        evaluator(supernet).evaluate([arch])


def test_one_shot_batches_serve_all_networks() -> None:
    supernet = GlitSupernet(GLIT)
    calibrating = EvalLoader(array_images(20, size=32), image_shape=SHAPE, batch_size=10)
    found = evaluator(supernet, recalibration=iter(calibrating)).evaluate(archs(GLIT, 3))
    assert [accuracy.count for accuracy in found] == [50, 50, 50]


def test_outputs_that_are_no_numbers_name_the_network(supernet: AutoFormerSupernet) -> None:
    broken = AutoFormerSupernet(AUTOFORMER)
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.fill_(float("nan"))
    (arch,) = archs(AUTOFORMER, 1)
    with pytest.raises(InputError, match=f"network {AUTOFORMER.arch_id(arch)} must be finite"):
        evaluator(broken).evaluate([arch])


class Known(nn.Module):
    """Guesses the classes 0, 1, 2, … in this order; its other output is not looked at."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        return torch.arange(self.classes, 0.0, -1.0).expand(len(images), -1), None


def test_a_module_is_evaluated_by_its_first_output() -> None:
    network = Known(10).train()
    found = evaluate_module(network, batches(), name="known", keep_hits=True)
    assert (found.arch_id, found.top1, found.top5, found.count) == ("known", 0.1, 0.5, 50)
    logits = torch.arange(10, 0.0, -1.0)
    assert found.loss == pytest.approx(float(torch.logsumexp(logits, 0) - logits.mean()), rel=1e-5)
    assert found.hits is not None
    assert found.hits.tolist() == [index % 10 == 0 for index in range(50)]
    assert network.training


def test_five_guesses_of_fewer_classes_are_always_right() -> None:
    three = EvalLoader(array_images(9, size=32, classes=3), image_shape=SHAPE, batch_size=4)
    found = evaluate_module(Known(3), three)
    assert found.top1 == pytest.approx(1 / 3)
    assert found.top5 == 1.0


def test_a_module_keeps_its_own_statistics() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 32 * 32, 10)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    evaluate_module(network, batches())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network[0].training


def test_bfloat16_is_near() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    exact, rounded = (evaluate_module(network, batches(), precision=precision) for precision in ("fp32", "bf16"))
    assert rounded.loss != exact.loss
    assert rounded.loss == pytest.approx(exact.loss, rel=0.02)
    with pytest.raises(InputError, match="precision 'fp8' is not known"):
        evaluate_module(network, batches(), precision="fp8")


def test_no_images_are_an_error() -> None:
    nothing: list[Batch] = []
    with pytest.raises(InputError, match="at least one image"):
        evaluate_module(Known(10), nothing)


def test_accuracies_are_equal_whatever_their_hits() -> None:
    values: dict[str, Any] = {"arch_id": "a", "top1": 0.5, "top5": 1.0, "loss": 1.0, "count": 2}
    assert Accuracy(**values) == Accuracy(**values, hits=np.array([True, False]))
