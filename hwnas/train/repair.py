"""Repair of a cut network: its last layers of attention and MLP are fitted anew to what the model computes.

A network that lacks heads or hidden units of a model computes other tokens than the model does. Block after block, the
weights behind the heads (`proj`) and behind the hidden units (`fc2`) are changed such that the tokens come closest to
the model's, by linear least squares on images without labels. The inputs of a layer are those of the network that was
repaired up to there, so a layer also corrects what those before it could not.

Shape suffixes: B images, N tokens, D channels.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hwnas.supernet.network import Network

Damping = Literal["mean", "max"]
"""The ridge penalty: 0.01 of the mean, or 0.1 of the largest, of the summed squares of a layer's inputs."""

_SHARES: Mapping[Damping, float] = {"mean": 0.01, "max": 0.1}
_STREAM_BYTES = 1 << 30
"""Size of the kept tokens of both networks at which no further images are used."""
_ROWS = 8192
"""Tokens whose products are summed at once in double precision."""


@torch.no_grad()
def repair_network(network: Network, model: Network, batches: Iterable[Tensor], *, damping: Damping = "mean") -> int:
    """Fit the last layers of attention and MLP of a cut network to the tokens of the model, in place.

    The ridge penalty is on the change of the weights: where nothing was cut, nothing changes. A skipped attention or
    MLP is made up for by the layer in front of it and the one behind.

    Args:
        network: A network of an elastic space.
        model: The network with all heads and hidden units, at the same sizes of images and patches, on the same device.
        batches: Images, without labels. Beyond one gigabyte of tokens, further images are not used.
        damping: The ridge penalty.

    Returns:
        The number of images that were used.
    """
    streams, stems = [], (model.get_submodule("stem"), network.get_submodule("stem"))
    num_bytes = num_images = 0
    for images in batches:
        stream = _Stream(*(stem(images) for stem in stems))
        streams.append(stream)
        num_bytes, num_images = num_bytes + 2 * stream.own.nbytes, num_images + len(images)
        if num_bytes >= _STREAM_BYTES:
            break
    fitted: _Branch | None = None
    for branch, own in _branches(model, network):
        if own is not None:
            _advance(streams, fitted, damping)
            fitted = own
        for stream in streams:
            stream.target = branch(stream.target)
    _advance(streams, fitted, damping)
    return num_images


@dataclass
class _Stream:
    """The tokens of some images in the model and in the network."""

    target: Tensor
    own: Tensor


@dataclass(frozen=True)
class _Branch:
    """The attention or the MLP of a block, with its norm."""

    norm: Any
    layer: Any
    last: nn.Linear

    def __call__(self, x_BND: Tensor) -> Tensor:
        out: Tensor = x_BND + self.layer(self.norm(x_BND))
        return out


def _branches(model: Network, network: Network) -> Iterator[tuple[_Branch, _Branch | None]]:
    """Yield the branches of all blocks in the order in which they run, with the network's or None if it skips one."""
    for name in model.outline:
        if name.startswith("blocks."):
            own = _branches_of(network.get_submodule(name)) if name in network.outline else {}
            for kind, branch in _branches_of(model.get_submodule(name)).items():
                yield branch, own.get(kind)


def _branches_of(block: Any) -> dict[str, _Branch]:
    found = {}
    if block.norm1 is not None:
        found["attention"] = _Branch(block.norm1, block.attention, block.attention.proj)
    if block.norm2 is not None:
        found["mlp"] = _Branch(block.norm2, block.mlp, block.mlp.fc2)
    return found


def _advance(streams: Sequence[_Stream], branch: _Branch | None, damping: Damping) -> None:
    """Fit a branch to the targets, which are ahead of the network's tokens by it, and apply it to these."""
    if branch is not None:
        _fit(streams, branch, damping)
        for stream in streams:
            stream.own = branch(stream.own)


def _fit(streams: Sequence[_Stream], branch: _Branch, damping: Damping) -> None:
    """Change the last layer of a branch by the ridge regression of what the tokens lack on the layer's inputs."""
    last = branch.last
    sums = _Sums.zeros(last.in_features, last.out_features, device=last.weight.device)
    with _inputs_kept(last) as kept:
        for stream in streams:
            lacking = stream.target - branch(stream.own)
            sums.add(kept.pop(), lacking)
    solved = sums.solve(damping)
    if solved is None:
        return
    change, shift = solved
    scale = branch.layer.scale
    if scale is not None:  # a channel whose scale is 0 cannot be changed
        inverse = torch.where(scale == 0, 0.0, 1 / scale.double())
        change, shift = change * inverse, shift * inverse
    last.weight.add_(change.T)
    last.bias.add_(shift)


@dataclass
class _Sums:
    """Sums over tokens, in double precision, of inputs x, of what the outputs lack y, and of their products."""

    count: int
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor

    @classmethod
    def zeros(cls, width: int, outputs: int, *, device: torch.device) -> "_Sums":
        shapes = ((width,), (outputs,), (width, width), (width, outputs))
        return cls(0, *(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def add(self, x_BND: Tensor, y_BND: Tensor) -> None:
        for x, y in zip(*(torch.split(tensor.flatten(0, 1), _ROWS) for tensor in (x_BND, y_BND)), strict=True):
            x, y = x.double(), y.double()
            self.count += len(x)
            self.x += x.sum(dim=0)
            self.y += y.sum(dim=0)
            self.xx += x.T @ x
            self.xy += x.T @ y

    def solve(self, damping: Damping) -> tuple[Tensor, Tensor] | None:
        """Return weights, of shape (inputs, outputs), and biases; None if the inputs do not vary, or are not finite."""
        mean_x, mean_y = self.x / self.count, self.y / self.count
        covariance = self.xx - self.count * torch.outer(mean_x, mean_x)
        diagonal = covariance.diagonal()
        penalty = _SHARES[damping] * (diagonal.mean() if damping == "mean" else diagonal.max())
        factor, failed = torch.linalg.cholesky_ex(covariance + penalty * torch.eye(len(diagonal)).to(covariance))
        if failed or not penalty > 0:
            return None
        weights = torch.cholesky_solve(self.xy - self.count * torch.outer(mean_x, mean_y), factor)
        return weights, mean_y - mean_x @ weights


@contextmanager
def _inputs_kept(layer: nn.Linear) -> Iterator[list[Tensor]]:
    """Keep the inputs of a layer in a list while it runs."""
    kept: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    try:
        yield kept
    finally:
        handle.remove()
