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
