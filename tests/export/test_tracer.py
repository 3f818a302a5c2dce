import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from hwnas.errors import InputError
from hwnas.export.tracer import trace_module, trace_workload
from hwnas.space import autoformer, glit
from hwnas.workload import Attention, Elementwise, Linear, Move, Norm, Table, Workload
from tests.export.counters import counted
from tests.export.mirrors import Block, Head, Locality, Mixed, SelfAttention, Stem
from tests.export.operations import without_traits

TOKENS = (1, 10, 16)


class Written(nn.Module):
    """A forward given as a function, on parts and parameters given by name."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.written = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.written(self, x)


def weights(*sizes: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(sizes))


def labels(workload: Workload) -> list[str]:
    return [operation.label for operation in workload.operations]


def params(workload: Workload) -> dict[str, int]:
    """The parameters by the name of their row; rows that have none are left out."""
    return {operation.name: operation.params for operation in workload.operations if operation.params}


# --------------------------------------------------------------------------- as the spaces say in closed form


def plain(workload: Workload) -> list[tuple[str, dict[str, int], int]]:
    """What a workload consists of, names aside; spaces do not write down data that only moves."""
    return [
        (operation.label, operation.shape, operation.params)
        for operation in workload.operations
        if not isinstance(operation, Move)
    ]


def assert_equal(traced: Workload, closed: Workload) -> None:
    assert plain(traced) == plain(closed)
    assert (traced.macs, traced.macs_executed, traced.params) == (closed.macs, closed.macs_executed, closed.params)
    moved = {name for name, part in traced.by_kind().items() if isinstance(part.operations[0], Move)}
    assert {name: part.macs for name, part in traced.by_kind().items() if name not in moved} == {
        name: part.macs for name, part in closed.by_kind().items()
    }


def vit(config: autoformer.AutoFormerConfig, arch: autoformer.AutoFormerArch) -> nn.Module:
    embed = arch.embed_dim
    blocks = (
        Block(
            embed,
            mixer=SelfAttention(embed, heads=block.num_heads, head_dim=config.head_dim),
            hidden=int(embed * block.mlp_ratio),
        )
        for block in arch.blocks
    )
    return nn.Sequential(
        Stem(image_size=config.image_size, patch_size=config.patch_size, embed=embed),
        *blocks,
        Head(embed, num_classes=config.num_classes, average=config.pooling == "average"),
    )


@pytest.mark.parametrize("pooling", ["average", "token"])
def test_a_plain_vit_is_what_the_autoformer_space_says(pooling: Any) -> None:
    config = dataclasses.replace(autoformer.MICRO.config, relative_clip=None, pooling=pooling)
    space = autoformer.AutoFormer(name="plain", config=config)
    for arch in space.decode(space.sample(np.random.default_rng(0), 5)):
        assert_equal(trace_workload(vit(config, arch), image_size=32), space.workload(arch))


def glit_mixer(config: glit.GlitConfig, block: glit.GlitBlock) -> nn.Module:
    split = block.groups * config.embed_dim // glit.GROUPS
    rest = config.embed_dim - split
    heads = block.groups * config.num_heads // glit.GROUPS
    attention, locality = None, None
    if block.value_ratio is not None:
        attention = SelfAttention(split, heads=heads, head_dim=int(split * block.value_ratio) // heads)
    if block.expansion is not None and block.kernel_size is not None:
        locality = Locality(rest, inner=rest * block.expansion, kernel=block.kernel_size)
    return Mixed(attention, locality, split=split)


def test_a_network_with_locality_modules_is_what_the_glit_space_says() -> None:
    space, config = glit.MICRO, glit.MICRO.config
    for arch in space.decode(space.sample(np.random.default_rng(0), 5)):
        embed = config.embed_dim
        blocks = (
            Block(embed, mixer=glit_mixer(config, block), hidden=embed * block.mlp_ratio) for block in arch.blocks
        )
        stem = Stem(image_size=config.image_size, patch_size=config.patch_size, embed=embed)
        head = Head(embed, num_classes=config.num_classes, average=False)
        assert_equal(trace_workload(nn.Sequential(stem, *blocks, head), image_size=32), space.workload(arch))


# -------------------------------------------------------------------------------------------------- names


def test_rows_are_named_by_the_modules_that_run_them() -> None:
    block = Block(16, mixer=SelfAttention(16, heads=2, head_dim=8), hidden=32)
    net = nn.ModuleDict({"stem": Stem(image_size=8, patch_size=4, embed=16), "blocks": nn.ModuleList([block])})
    module = Written(lambda self, x: self.net["blocks"][0](self.net["stem"](x)), net=net)
    assert [operation.name for operation in trace_workload(module, image_size=8).operations] == [
        "net.stem.patch_embed",
        "net.stem.class_token",
        "net.stem.cat",
        "net.stem.position",
        "net.stem.add",
        "net.blocks.0.norm1",
        "net.blocks.0.mixer.qkv",
        "net.blocks.0.mixer.attention",
        "net.blocks.0.mixer.proj",
        "net.blocks.0.add",
        "net.blocks.0.norm2",
        "net.blocks.0.fc1",
        "net.blocks.0.gelu",
        "net.blocks.0.fc2",
        "net.blocks.0.add_2",
    ]


def test_a_linear_that_no_module_runs_is_named_by_its_weight() -> None:
    module = nn.MultiheadAttention(16, 4, batch_first=True)
    traced = trace_module(
        Written(lambda self, x: self.attention(x, x, x, need_weights=False), attention=module), input_shape=TOKENS
    )
    assert [operation.name for operation in traced.operations] == [
        "attention",
        "attention.attention",
        "attention.out_proj",
    ]


# --------------------------------------------------------------------------------------------- parameters


def test_a_tied_weight_is_counted_by_the_first_that_uses_it() -> None:
    module = Written(lambda self, x: self.linear(self.linear(x)), linear=nn.Linear(16, 16))
    first, second = trace_module(module, input_shape=TOKENS).operations
    assert first == Linear(name="linear", tokens=10, inputs=16, outputs=16)
    assert second == Linear(name="linear_2", tokens=10, inputs=16, outputs=16, shared=16 * 17)
    assert (first.params, second.params) == (16 * 17, 0)
    assert second.elements_read == 10 * 16 + 16 * 17


def test_a_linear_with_a_tied_weight_and_its_own_bias_counts_the_bias() -> None:
    first, second = nn.Linear(16, 16), nn.Linear(16, 16)
    second.weight = first.weight
    traced = trace_module(nn.Sequential(first, second), input_shape=TOKENS)
    assert params(traced) == {"0": 16 * 16 + 16, "0_2": 16}


def test_a_parameter_that_is_not_used_is_not_counted() -> None:
    module = Written(lambda self, x: self.used(x), used=nn.Linear(16, 4), unused=nn.Linear(16, 4), table=weights(3))
    assert params(trace_module(module, input_shape=TOKENS)) == {"used": 68}


def test_a_parameter_of_which_only_the_shape_is_used_is_not_counted() -> None:
    module = Written(
        lambda self, x: self.linear(x + torch.zeros_like(self.table)), linear=nn.Linear(16, 4), table=weights(16)
    )
    assert params(trace_module(module, input_shape=TOKENS)) == {"linear": 68}


def test_a_frozen_parameter_is_counted_and_a_buffer_is_not() -> None:
    module = nn.BatchNorm1d(10).requires_grad_(False)
    assert params(trace_module(module, input_shape=TOKENS)) == {"batch_norm": 20}


def test_a_slice_of_a_weight_makes_the_whole_weight_a_table() -> None:
    module = Written(
        lambda self, x: F.linear(x, self.weight[:4], self.bias[:4]), weight=weights(8, 16), bias=weights(8)
    )
    traced = trace_module(module, input_shape=TOKENS)
    assert params(traced) == {"weight": 128, "bias": 8}
    assert traced.operations[-1] == Linear(name="linear", tokens=10, inputs=16, outputs=4, shared=68)
    assert traced.macs == 10 * 16 * 4


def test_a_weight_that_is_computed_is_a_table() -> None:
    module = Written(lambda self, x: F.linear(x, self.weight * 2, self.bias), weight=weights(4, 16), bias=weights(4))
    traced = trace_module(module, input_shape=TOKENS)
    assert params(traced) == {"weight": 64, "linear": 4}
    assert labels(traced) == ["table", "mul", "linear"]


@pytest.mark.parametrize("through", [lambda p: p, lambda p: p[:, :5], lambda p: p.repeat(2, 1, 1), lambda p: p.half()])
def test_a_table_is_counted_once_and_in_full_whatever_it_goes_through(through: Callable[[Tensor], Tensor]) -> None:
    module = Written(
        lambda self, x: (x.sum() + through(self.table).sum(), x * through(self.table).sum()), table=weights(1, 10, 16)
    )
    assert params(trace_module(module, input_shape=TOKENS)) == {"table": 160}


def test_a_table_is_read_by_its_row_and_not_by_the_sum_it_enters() -> None:
    module = Written(lambda self, x: (x + self.table) * self.table, table=weights(1, 10, 16))
    assert without_traits(trace_module(module, input_shape=TOKENS)) == (
        Table(name="table", elements=160),
        Elementwise(name="add", variant="add", elements=160),
        Elementwise(name="mul", variant="mul", elements=160, operands=2),
    )


def test_weight_norm_counts_both_its_parts() -> None:
    module = nn.utils.parametrizations.weight_norm(nn.Linear(16, 4))
    assert trace_module(module, input_shape=TOKENS).params == 4 + 64 + 4


# ------------------------------------------------------------------------------------------ whole modules


MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "encoder layer": (nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), TOKENS),
    "lstm": (Written(lambda self, x: self.lstm(x)[0], lstm=nn.LSTM(16, 8, 2, bidirectional=True)), TOKENS),
    "gru": (Written(lambda self, x: self.gru(x)[0], gru=nn.GRU(16, 8)), TOKENS),
    "cross attention": (
        Written(lambda self, x: self.m(x[:, :3], x, x)[0], m=nn.MultiheadAttention(16, 4, batch_first=True)),
        TOKENS,
    ),
    "linear on a vector": (nn.Linear(16, 4), (16,)),
    "half precision": (nn.Linear(16, 4).half(), TOKENS),
    "compiled": (cast(nn.Module, torch.compile(nn.Linear(16, 4))), TOKENS),
    "reflected": (nn.Conv2d(16, 8, 3, padding=1, padding_mode="reflect"), (1, 16, 5, 5)),
    "channels last": (nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), (1, 3, 9, 9)),
    "norms": (nn.Sequential(nn.GroupNorm(4, 16), nn.PReLU(16), nn.LayerNorm((16, 9), bias=False)), (1, 16, 9)),
    "transposed": (nn.ConvTranspose2d(16, 8, 3, groups=4, stride=2, bias=False), (1, 16, 5, 5)),
}


@pytest.mark.parametrize("name", MODULES)
def test_macs_and_params_are_those_that_torch_counts(name: str) -> None:
    module, shape = MODULES[name]
    traced = trace_module(module, input_shape=shape)
    expected = counted(getattr(module, "_orig_mod", module).to("meta"), *shape)
    assert (traced.macs, traced.params) == (expected.macs, expected.params)
    assert expected.params > 0


def test_products_with_a_vector_count_although_the_flop_counter_leaves_them_out() -> None:
    module = Written(lambda self, x: x @ self.vector, vector=weights(16))
    assert counted(module.to("meta"), *TOKENS).macs == 0
    assert trace_module(module, input_shape=TOKENS).macs == 10 * 16


# --------------------------------------------------------------------------------------- attention, by shape


def attention(query: tuple[int, ...], key: tuple[int, ...], *, value: int | None = None, **options: Any) -> Workload:
    """The traced attention of tensors of these shapes; the scaling by a parameter in front is left out."""

    def forward(self: Any, x: Tensor) -> Tensor:
        sizes = query, key, (*key[:-1], value or key[-1])
        tensors = [torch.empty(size) * self.scale for size in sizes]
        return F.scaled_dot_product_attention(*tensors, **options)

    traced = trace_module(Written(forward, scale=weights(1)), input_shape=(1,))
    return Workload(without_traits(traced)[4:])


def test_attention_is_one_operation() -> None:
    (found,) = attention((1, 3, 10, 8), (1, 3, 10, 8)).operations
    assert found == Attention(name="attention", heads=3, width=24, queries=10, keys=10)
    assert found.macs == 2 * 3 * 10 * 10 * 8


def test_windows_and_keys_of_another_number() -> None:
    (found,) = attention((8, 3, 7, 8), (8, 3, 5, 8)).operations
    assert found == Attention(name="attention", heads=3, width=24, queries=7, keys=5, windows=8)


@pytest.mark.parametrize("batch", [(1, 3, 4), (12,)], ids=["windows in a dimension of their own", "no heads"])
def test_attention_in_other_than_four_dimensions_is_not_fused(batch: tuple[int, ...]) -> None:
    traced = attention((*batch, 7, 8), (*batch, 5, 8))
    parts = [row for row in traced.operations if row.label in ("attention", "matmul", "softmax")]
    assert [row.label for row in parts] == ["matmul", "softmax", "matmul"]
    assert traced.macs == 2 * 12 * 7 * 5 * 8


def test_an_lstm_counts_the_products_of_all_its_gates() -> None:
    # timm's tables count 0.6 of these for Sequencer2D, whose paper (Tatsunami and Taki 2022) states all of them.
    module = Written(lambda self, x: self.lstm(x)[0], lstm=nn.LSTM(16, 8, bidirectional=True, batch_first=True))
    traced = trace_module(module, input_shape=TOKENS)
    assert traced.macs == 2 * 10 * 4 * 8 * (16 + 8)
    # One kernel computes the gates: no row but the products.
    assert {row.label for row in traced.operations} == {"linear"}


def test_a_mask_is_read() -> None:
    mask = torch.empty(1, 3, 10, 10, device="meta")
    (found,) = attention((1, 3, 10, 8), (1, 3, 10, 8), attn_mask=mask).operations
    assert found == Attention(name="attention", heads=3, width=24, queries=10, keys=10, mask=300)
    assert found.elements_read == 3 * 10 * 24 + 300


def test_values_of_another_width_count_as_the_mean_of_both() -> None:
    (found,) = attention((1, 4, 10, 8), (1, 4, 10, 8), value=16).operations
    assert found == Attention(name="attention", heads=4, width=48, queries=10, keys=10)
    assert found.macs == 4 * 10 * 10 * (8 + 16)
    assert found.elements_read + found.elements_written == 4 * 10 * (8 + 8 + 16 + 16)


def test_widths_without_a_whole_mean_are_written_as_products() -> None:
    products = [part for part in attention((1, 3, 10, 8), (1, 3, 10, 8), value=5).operations if part.macs]
    assert [part.macs for part in products] == [3 * 10 * 10 * 8, 3 * 10 * 10 * 5]


def test_grouped_queries_count_for_every_head_of_theirs() -> None:
    traced = attention((1, 4, 10, 8), (1, 2, 10, 8), enable_gqa=True)
    assert traced.macs == 2 * 4 * 10 * 10 * 8
    assert not any(isinstance(part, Attention) for part in traced.operations)


# ---------------------------------------------------------------------------- the module stays as it was


class Refusing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails on any operation that makes or reads values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        assert out.device.type == "meta", f"{func} made values"
        return out


class Caching(nn.Module):
    """Keeps a tensor between calls, as LeViT does with its position bias."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.kept = nn.Linear(16, 16), {"bias": torch.ones(3)}
        self.dropout, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(10)
        self.graph = self.linear.weight * 2

    def forward(self, x: Tensor) -> Tensor:
        self.kept["last"] = self.norm(self.dropout(self.linear(x)))
        return self.kept["last"]


def test_the_module_keeps_its_values_mode_hooks_and_caches() -> None:
    module = Caching().train()
    module.linear.bias.grad = torch.ones(16)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    traced = trace_module(module, input_shape=TOKENS)
    assert labels(traced) == ["linear", "batch_norm"]
    assert all(part.training for part in module.modules())
    assert list(module.kept) == ["bias"]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.device.type == "cpu"


def test_no_value_is_copied_or_computed() -> None:
    module = Caching()
    with Refusing():  # type: ignore[no-untyped-call]
        traced = trace_module(module, input_shape=TOKENS)
    assert traced.operations


def test_a_module_on_meta_gives_the_same_and_needs_no_memory() -> None:
    with torch.device("meta"):
        huge = nn.Linear(10**7, 10**7)
    assert trace_module(huge, input_shape=(1, 10**7)).params == 10**14 + 10**7
    here = nn.Linear(16, 4)
    assert trace_module(here, input_shape=TOKENS) == trace_module(here.to("meta"), input_shape=TOKENS)


def test_tracing_twice_gives_equal_workloads() -> None:
    module = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    assert trace_module(module, input_shape=TOKENS) == trace_module(module, input_shape=TOKENS)


def test_it_is_traced_as_in_evaluation() -> None:
    module = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5), nn.BatchNorm1d(10)).train()
    assert without_traits(trace_module(module, input_shape=TOKENS)) == (
        Linear(name="0", tokens=10, inputs=16, outputs=16),
        Norm(name="2", variant="batch_norm", tokens=16, channels=10),
    )


def test_tensors_made_in_the_forward_are_free() -> None:
    module = Written(lambda self, x: x + torch.arange(16) * self.scale, scale=weights(1))
    assert without_traits(trace_module(module, input_shape=TOKENS)) == (
        Table(name="scale", elements=1),
        Elementwise(name="mul", variant="mul", elements=16),
        Elementwise(name="add", variant="add", elements=160),
    )


# -------------------------------------------------------------------------------------------------- images


def test_images_may_be_oblong_and_have_other_channels() -> None:
    module = nn.Conv2d(1, 4, 2, stride=2)
    (found,) = trace_workload(module, image_size=(8, 6), channels=1).operations
    assert found.shape["positions_in"] == 48
    assert found.shape["positions_out"] == 12


# ------------------------------------------------------------------------------------------------- errors


@dataclass
class Failing:
    module: nn.Module
    message: str
    got: str
    shape: tuple[int, ...] = TOKENS


@pytest.fixture(scope="module")
def library() -> Iterator[Any]:
    """An operation that is not torch's own."""
    with torch.library._scoped_library("hwnas_test", "FRAGMENT") as scoped:
        scoped.define("twice(Tensor x) -> Tensor")
        scoped.impl("twice", lambda x: torch.empty_like(x), "Meta")
        yield torch.ops.hwnas_test.twice


def written(forward: Callable[[Tensor], Any]) -> Written:
    return Written(lambda self, x: forward(x * self.scale), scale=weights(1))


FAILING = {
    "item": Failing(written(lambda x: x if x.sum() > 0 else -x), "must run on shapes alone", "item"),
    "mask": Failing(written(lambda x: x[x > 0]), "must run on shapes alone", "nonzero"),
    "list": Failing(written(lambda x: x[0, 0].tolist()), "must run on shapes alone", "meta tensor"),
    "array": Failing(
        written(lambda x: x + torch.from_numpy(np.ones(16, dtype=np.float32))), "must run on shapes alone", "cpu"
    ),
    "size": Failing(nn.Linear(8, 4), "must accept an input of 1 x 10 x 16", "must have same reduction dim"),
    "channels": Failing(nn.Conv1d(3, 4, 1), "must accept an input of 1 x 10 x 16", "channel"),
    "inside": Failing(
        written(lambda x: getattr(x, "f" + "oo")), "must accept an input of 1 x 10 x 16", "no attribute 'foo'"
    ),
    "no parameters": Failing(nn.ReLU(), "must have parameters", "ReLU"),
    "lazy": Failing(nn.LazyLinear(4), "that can be copied", "uninitialized"),
    "not copied": Failing(Written(lambda self, x: x, stream=weights(1)), "that can be copied", "generator"),
}
FAILING["not copied"].module.stream_of_values = (value for value in "abc")  # type: ignore[assignment]


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize("name", FAILING)
def test_what_cannot_be_traced_is_said_with_its_cause(name: str) -> None:
    failing = FAILING[name]
    with pytest.raises(InputError, match=failing.message) as caught:
        trace_module(failing.module, input_shape=failing.shape)
    assert failing.got in str(caught.value.got)
    assert caught.value.hint
    assert "\n" not in str(caught.value.got)
    if name != "no parameters":
        assert caught.value.__cause__ is not None


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_a_scripted_module_is_refused() -> None:
    with pytest.raises(InputError, match="must be a plain module") as caught:
        trace_module(nn.Sequential(torch.jit.script(nn.Linear(16, 4))), input_shape=TOKENS)
    assert "scripted" in str(caught.value.got)


def test_an_operation_that_is_not_of_torch_is_refused(library: Any) -> None:
    with pytest.raises(InputError, match="torch's own operations") as caught:
        trace_module(written(library), input_shape=TOKENS)
    assert "hwnas_test" in str(caught.value.got)


def test_a_product_without_a_rule_is_refused() -> None:
    def scaled(x: Tensor) -> Tensor:
        half = x[0, :8].to(torch.float8_e4m3fn)
        return torch._scaled_mm(half.repeat(2, 1), half.repeat(2, 1).t(), torch.ones(()), torch.ones(()))

    with pytest.raises(InputError, match="that the tracer can count") as caught:
        trace_module(written(scaled), input_shape=TOKENS)
    assert "_scaled_mm" in str(caught.value.got)
