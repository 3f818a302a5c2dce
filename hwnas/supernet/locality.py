"""GLiT's locality module: a gated 1-D convolution over the tokens, the class token included.

Shape suffixes: B images, N tokens, D channels of the module, I inner channels.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class Locality(nn.Module):
    """Expand to values and gates, convolve each inner channel over the tokens, normalise, reduce.

    A token meets those from `kernel_size // 2` before it to `(kernel_size - 1) // 2` after it, zeros beyond the ends.
    """

    def __init__(self, *, channels: int, inner_dim: int, kernel_size: int) -> None:
        super().__init__()
        self.expand = nn.Conv1d(channels, 2 * inner_dim, 1)
        self.glu = nn.GLU(dim=1)
        self.depthwise = nn.Conv1d(inner_dim, inner_dim, kernel_size, padding=(kernel_size - 1) // 2, groups=inner_dim)
        self.batch_norm = nn.BatchNorm1d(inner_dim)
        self.silu = nn.SiLU()
        self.reduce = nn.Conv1d(inner_dim, channels, 1)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Tokens to tokens."""
        x_BIN = self.glu(self.expand(x_BND.transpose(1, 2)))
        x_BIN = self.silu(self.batch_norm(self.depthwise(self._one_more_before(x_BIN))))
        out: Tensor = self.reduce(x_BIN).transpose(1, 2)
        return out

    def _one_more_before(self, x_BIN: Tensor) -> Tensor:
        """An even kernel reaches one token farther back than ahead."""
        return x_BIN if self.depthwise.kernel_size[0] % 2 else F.pad(x_BIN, (1, 0))
