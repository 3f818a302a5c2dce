"""2-D relative position on keys and values, without a vector per pair of tokens.

AutoFormer adds to each score q·k a term q·T[distance], and to each output the attention-weighted mean of vectors of a
second table (Shaw et al. 2018, https://arxiv.org/abs/1803.02155), with separate tables for distances along grid rows
and grid columns. A tensor of these vectors per pair of tokens is large. But the vectors depend on the grid row and the
grid column of the key alone once the query is fixed, so the products of a query with all table vectors,

    P = q Tᵀ

can be gathered into one extra column per grid row, per grid column and for the class token. With keys and values that
carry one-hot columns at these places, plain attention

    q' = [q, P gathered]    k' = [k, one-hot]    v' = [v, one-hot]

adds the key term to the scores, and its extra output columns hold how much attention fell on each grid row and grid
column, from which the value term follows by one product with the value table. This augmented form is exact and works
with any fused attention kernel. On few tokens the direct form of the paper is faster and is used instead.

Shape suffixes: B images, H heads, N tokens, D channels of a head, E extra columns, T vectors of two tables.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hwnas.supernet.layers import attend
from hwnas.workload import Attention, Operation, RelativePosition, is_direct_grid, relative_columns

TABLES = ("key_rows", "key_columns", "value_rows", "value_columns")


class RelativeAttention(nn.Module):
    """Attention among a class token and a square grid of patches, with relative position.

    Each table holds `2 * clip + 2` vectors that all heads share: the first for pairs with the class token, the others
    for the distances from -clip to clip; larger distances are clipped.
    """

    key_rows: Tensor
    key_columns: Tensor
    value_rows: Tensor
    value_columns: Tensor

    def __init__(self, *, grid: int, clip: int, head_dim: int) -> None:
        super().__init__()
        for name in TABLES:
            self.register_parameter(name, nn.Parameter(torch.empty(2 * clip + 2, head_dim)))
        for table in self.parameters():
            nn.init.trunc_normal_(table, std=0.02)
        self.grid, self.clip, self.head_dim = grid, clip, head_dim
        direct = is_direct_grid(grid)
        self.attention: nn.Module = (
            _DirectAttention(grid, clip) if direct else _AugmentedAttention(grid, clip, head_dim)
        )

    def forward(self, q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor) -> Tensor:
        """Attend with relative position; the result has the shape (B, H, N, D)."""
        keys_TD = torch.cat([self.key_rows, self.key_columns])
        values_TD = torch.cat([self.value_rows, self.value_columns])
        out: Tensor = self.attention(q_BHND, k_BHND, v_BHND, keys_TD, values_TD)
        return out

    def summarise_workload(self, operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
        """Return attention without relative position and the operations that relative position adds to it."""
        tokens = self.grid**2 + 1
        plain = Attention(name="attention", heads=1, width=self.head_dim, queries=tokens, keys=tokens)
        added = RelativePosition(
            name="relative_position", heads=1, grid=self.grid, head_dim=self.head_dim, clip=self.clip
        )
        heads = sum(operation.macs for operation in operations) // (plain.macs + added.macs)
        return replace(plain, heads=heads, width=heads * self.head_dim), replace(added, heads=heads)


class _AugmentedAttention(nn.Module):
    """Attention with extra columns of the products of each query with all table vectors."""

    near_NE: Tensor
    mass_NS: Tensor
    class_NT: Tensor
    one_hot_NE: Tensor

    def __init__(self, grid: int, clip: int, head_dim: int) -> None:
        super().__init__()
        self.num_near = 2 * grid
        self.num_columns = relative_columns(grid, head_dim=head_dim)
        self.num_clipped = max(grid - clip, 1)
        self.register_buffer("near_NE", _near_index(grid, clip), persistent=False)
        self.register_buffer("mass_NS", torch.tensor(_mass_index(grid, clip)), persistent=False)
        self.register_buffer("class_NT", _class_token_mass(grid, clip), persistent=False)
        self.register_buffer("one_hot_NE", _one_hot_columns(grid, self.num_columns), persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, keys_TD: Tensor, values_TD: Tensor) -> Tensor:
        batch, heads, _, head_dim = q.shape
        one_hot = self.one_hot_NE.to(q.dtype).expand(batch, heads, -1, -1)
        products_BHNT = q @ keys_TD.transpose(0, 1)
        queries = torch.cat([q, self._key_columns(products_BHNT)], dim=-1)
        keys, values = torch.cat([k, one_hot], dim=-1), torch.cat([v, one_hot], dim=-1)
        attended = attend(queries, keys, values, scale=head_dim**-0.5)
        mass_BHNT = self._attention_by_vector(attended[..., head_dim:])
        return attended[..., :head_dim] + torch.matmul(mass_BHNT, values_TD)

    def _key_columns(self, products_BHNT: Tensor) -> Tensor:
        """Return what each grid row, each grid column and the class token add to the scores of a query."""
        near = _gather_columns(products_BHNT, self.near_NE)
        half = products_BHNT.shape[-1] // 2
        class_token = products_BHNT[..., :1] + products_BHNT[..., half : half + 1]
        columns = torch.cat([near, class_token], dim=-1)
        # Padded so that a head is a multiple of 8 wide, as fused kernels want it.
        return F.pad(columns, (0, self.num_columns - self.num_near - 1))

    def _attention_by_vector(self, mass_BHNE: Tensor) -> Tensor:
        """Sum the attention of a query by the table vector that applies to it."""
        # A gather in place of adding each column to its vector: ONNX has the latter only as a scatter with a
        # reduction, which no runtime of NVIDIA takes in every precision. Columns beyond the class token are padding,
        # which no key has: their attention is exactly 0, and there is at least one, as 2 * grid + 1 is odd.
        mass = _gather_columns(mass_BHNE, self.mass_NS)
        if self.num_clipped > 1:
            mass = self._sum_clipped(mass)
        return mass + self.class_NT.to(mass.dtype)

    def _sum_clipped(self, mass_BHNS: Tensor) -> Tensor:
        """Sum the distances that are clipped to the first or the last vector of a table."""
        clipped, tables = self.num_clipped, mass_BHNS.chunk(2, dim=-1)
        parts = []
        for table in tables:
            first, last = table[..., 1 : 1 + clipped], table[..., -clipped:]
            inner = table[..., 1 + clipped : -clipped]
            parts += [table[..., :1], first.sum(-1, keepdim=True), inner, last.sum(-1, keepdim=True)]
        return torch.cat(parts, dim=-1)


def _gather_columns(values_BHNC: Tensor, index_NS: Tensor) -> Tensor:
    """Select columns of each token's row."""
    batch, heads = values_BHNC.shape[:2]
    return values_BHNC.gather(-1, index_NS.expand(batch, heads, -1, -1))


class _DirectAttention(nn.Module):
    """Attention with one vector per pair of tokens, as the paper writes it."""

    index_NN2: Tensor

    def __init__(self, grid: int, clip: int) -> None:
        super().__init__()
        self.register_buffer("index_NN2", torch.tensor(_pair_index(grid, clip)), persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, keys_TD: Tensor, values_TD: Tensor) -> Tensor:
        keys_NND, values_NND = (table[self.index_NN2].sum(dim=2) for table in (keys_TD, values_TD))
        bias = torch.einsum("bhnd,nmd->bhnm", q, keys_NND)
        scores = (q @ k.transpose(-2, -1) + bias) * q.shape[-1] ** -0.5
        weights = scores.softmax(dim=-1).to(v.dtype)
        return torch.matmul(weights, v) + torch.einsum("bhnm,nmd->bhnd", weights, values_NND)


def _near_index(grid: int, clip: int) -> Tensor:
    """Return, per query, the table index of each grid row and each grid column; 0 for the class token."""
    line = torch.arange(grid)
    near = (line[None, :] - line[:, None]).clamp(-clip, clip) + clip + 1
    rows, columns = near.repeat_interleave(grid, 0), near.repeat(grid, 1)
    patches = torch.cat([rows, columns + 2 * clip + 2], dim=1)
    class_token = torch.cat([torch.zeros(1, grid), torch.full((1, grid), 2 * clip + 2)], dim=1)
    return torch.cat([class_token.long(), patches])


@lru_cache(maxsize=32)
def _mass_index(grid: int, clip: int) -> NDArray[np.int64]:
    """Return, per query, the columns of attention that make up the mass of each table vector.

    A table has a column for the class token, for each distance within the clip one, and for the distances that are
    clipped to the first and to the last vector `grid - clip` each. Distances that lead out of the grid, and all of the
    class token, select a column of padding, which holds zeros.
    """
    class_token, padding, reach = 2 * grid, 2 * grid + 1, max(grid - 1, clip)
    place = np.arange(grid)[:, None] + np.arange(-reach, reach + 1)[None, :]
    near = np.where((place >= 0) & (place < grid), np.stack([place, place + grid]), padding)
    rows, columns = near[0].repeat(grid, axis=0), np.tile(near[1], (grid, 1))
    classes = np.full((grid**2, 1), class_token)
    index: NDArray[np.int64] = np.concatenate([classes, rows, classes, columns], axis=1)
    return np.concatenate([np.full((1, index.shape[1]), padding), index])


def _class_token_mass(grid: int, clip: int) -> Tensor:
    """Return the mass that no column holds: all attention of the class token is with the first vector of each table."""
    mass = torch.zeros(grid**2 + 1, 2 * (2 * clip + 2))
    mass[0, 0] = mass[0, 2 * clip + 2] = 1
    return mass


def _one_hot_columns(grid: int, num_columns: int) -> Tensor:
    """Return, per key, ones in the columns of its grid row and grid column, or in that of the class token."""
    one_hot = torch.zeros(grid**2 + 1, num_columns)
    patches = torch.arange(grid**2)
    one_hot[0, 2 * grid] = 1
    one_hot[1 + patches, patches // grid] = 1
    one_hot[1 + patches, grid + patches % grid] = 1
    return one_hot


@lru_cache(maxsize=32)
def _pair_index(grid: int, clip: int) -> NDArray[np.int64]:
    """Return, per pair of tokens, the index of its vector in the row table and in the column table."""
    # In numpy and cached: all networks of a space have the same index, and torch builds it slowly on `meta`.
    line = np.arange(grid)
    near = (line[None, :] - line[:, None]).clip(-clip, clip) + clip + 1
    patches = np.arange(grid**2)
    row, column = patches // grid, patches % grid
    index: NDArray[np.int64] = np.zeros((grid**2 + 1, grid**2 + 1, 2), dtype=np.int64)
    index[1:, 1:, 0] = near[row][:, row]
    index[1:, 1:, 1] = near[column][:, column]
    index += np.array([0, 2 * clip + 2])
    return index
