from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hwnas.export.tracer import trace_module
from hwnas.workload import FLOAT32, ONCE, STRIDED


class Patches(nn.Module):
    """Tokens of 8 x 8 patches, with a class token before them or without."""

    def __init__(self, *, class_token: bool, norm_first: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.token = nn.Parameter(torch.zeros(1, 1, 16)) if class_token else None
        self.table = nn.Parameter(torch.zeros(1, 4 + class_token, 16))
        self.first = nn.LayerNorm(16) if norm_first else nn.Identity()
        self.norm = nn.LayerNorm(16)
        self.fc = nn.Linear(16, 16)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        if self.token is not None:
            tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.first(tokens + self.table)
        out: Tensor = tokens + self.fc(self.norm(tokens))
        return out


def traits(module: nn.Module) -> dict[str, tuple[str, ...]]:
    found = trace_module(module, input_shape=(1, 3, 16, 16))
    return {operation.name: operation.traits for operation in found.operations if operation.kind != "table"}


def test_tokens_that_are_a_view_of_pixels_are_strided_and_so_is_what_is_added_to_them() -> None:
    found = traits(Patches(class_token=False))
    assert {name for name, of in found.items() if STRIDED in of} == {"add", "norm", "add_2"}


def test_a_class_token_brings_the_tokens_in_order() -> None:
    found = traits(Patches(class_token=True))
    assert not any(STRIDED in of for of in found.values())


def test_the_stream_behind_a_table_stays_in_float32_and_products_do_not() -> None:
    found = traits(Patches(class_token=True))
    assert {name for name, of in found.items() if FLOAT32 in of} == {"add", "norm", "add_2"}


def test_a_norm_before_the_first_block_ends_float32() -> None:
    found = traits(Patches(class_token=True, norm_first=True))
    assert {name for name, of in found.items() if FLOAT32 in of} == {"add", "first"}


class Windowed(nn.Module):
    """Attention of 4 tokens in each of 4 windows, which are a dimension of their own or part of the batch."""

    def __init__(self, *, own_dimension: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.shape = (-1, 2, 4, 4, 8) if own_dimension else (-1, 2, 4, 8)

    def forward(self, images: Tensor) -> Tensor:
        heads = self.patches(images).flatten(1).reshape(self.shape)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads)


def test_attention_that_no_fused_kernel_takes_is_in_float32() -> None:
    # torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed() is False unless a user changes it.
    own = traits(Windowed(own_dimension=True))
    products = [name for name in own if name.startswith("matmul")]
    assert len(products) == 2
    assert all(FLOAT32 in own[name] for name in (*products, "softmax"))
    assert traits(Windowed(own_dimension=False)) == {"patches": (), "attention": ()}


class Biased(nn.Module):
    """A linear whose bias is made of a table by a network of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(5, 2))
        self.wide, self.act, self.narrow = nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 16)
        self.fc = nn.Linear(16, 16)

    def forward(self, images: Tensor) -> Tensor:
        bias = self.narrow(self.act(self.wide(self.table))).contiguous()
        out: Tensor = self.fc(images) + bias.mean(dim=0)
        return out


def test_what_is_made_of_parameters_alone_runs_once() -> None:
    found = traits(Biased())
    assert {name for name, of in found.items() if ONCE in of} == {"wide", "act", "narrow", "pool"}


def test_copies_and_views_hand_on_where_they_come_from() -> None:
    class Copied(Biased):
        def forward(self, images: Tensor) -> Tensor:
            rows = self.fc(images).transpose(1, 2).contiguous().flatten(1).clone()
            out: Tensor = rows + 1
            return out

    assert traits(Copied())["add"] == ()


def test_a_sum_in_place_keeps_the_precision_of_its_target() -> None:
    class InPlace(Biased):
        def __init__(self, *, in_place: bool) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(16))
            self.in_place = in_place

        def forward(self, images: Tensor) -> Tensor:
            out: Tensor = self.fc(images)
            return out.mul_(self.scale) if self.in_place else out * self.scale

    assert traits(InPlace(in_place=True))["mul"] == ()
    assert traits(InPlace(in_place=False))["mul"] == (FLOAT32,)


def traits_of(forward: Callable[[Any, Tensor], object]) -> dict[str, tuple[str, ...]]:
    """The traits of what a function of images does, with a linear and a scale at hand."""

    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.scale = nn.Linear(16, 16), nn.Parameter(torch.zeros(1, 4, 16))
            self.one = nn.Parameter(torch.zeros(()))

        def forward(self, images: Tensor) -> object:
            return forward(self, images)

    return traits(Written())


def test_what_is_expanded_to_the_batch_does_not_run_once() -> None:
    found = traits_of(lambda self, images: (self.fc(self.scale.expand(len(images), -1, -1)), images))
    assert found["fc"] == ()
    made = traits_of(lambda self, images: images.new_zeros(len(images), 4, 16) + self.scale)
    assert ONCE not in made["add"]


def test_strides_are_those_of_more_than_one_image() -> None:
    found = traits_of(lambda self, images: self.fc(images)[:, 1:] * 2)
    assert STRIDED in found["mul"]


def test_an_element_that_stands_for_many_is_not_strided() -> None:
    found = traits_of(lambda self, images: (out := self.fc(images)) / out.norm(dim=-1, keepdim=True).expand_as(out))
    assert STRIDED not in found["div"]


def test_numbers_and_indices_do_not_decide_the_precision() -> None:
    found = traits_of(lambda self, images: self.fc(images) * self.one)
    assert found["mul"] == ()
    rows = torch.tensor([1, 0, 2], device="meta")
    picked = traits_of(lambda self, images: self.fc(images).index_select(1, rows) + 1)
    assert picked["add"] == ()


def test_a_network_for_one_image_alone_has_the_traits_of_that() -> None:
    def one_alone(self: Any, images: Tensor) -> Tensor:
        if len(images) > 1:
            raise ValueError("one image")
        out: Tensor = self.fc(images) + self.scale.sum()
        return out

    found = traits_of(one_alone)
    assert (found["sum"], found["add"]) == ((ONCE,), ())
