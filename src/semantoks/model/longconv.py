"""Structured long convolution (SGConv): a multi-scale depthwise kernel that decays with its lag.

Source: Brain-Semantoks (ICLR 2026), semantic tokenizer, structured branch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StructuredConv(nn.Module):
    """Depthwise convolution with a long kernel built from a few short ones, plus a skip.

    The kernel of length ``base_length * 2**(n_scales - 1)`` is the concatenation of `n_scales`
    learned pieces; piece i is stretched by ``2**max(0, i - 1)`` and weighted with
    ``decay**(n_scales - 1 - i)``.

    Parameters
    ----------
    n_channels : int
        ROIs of the network, C_n.
    n_heads : int
        Kernels per ROI, h.
    n_scales : int
        Learned pieces per kernel, S.
    base_length : int
        Learned values per piece, K.
    decay_min, decay_max : float
        The decay is spaced linearly between the two over the ROIs.
    """

    multiplier: Tensor
    kernel_norm: Tensor

    def __init__(
        self,
        n_channels: int,
        n_heads: int,
        *,
        n_scales: int = 3,
        base_length: int = 4,
        decay_min: float = 2.0,
        decay_max: float = 2.0,
    ) -> None:
        super().__init__()
        self.n_channels, self.n_heads, self.n_scales = n_channels, n_heads, n_scales
        shape = (n_heads, n_channels, base_length)
        self.pieces = nn.ParameterList(torch.randn(shape) for _ in range(n_scales))
        self.skip = nn.Parameter(torch.randn(n_heads, n_channels))
        decay = torch.linspace(decay_min, decay_max, n_channels).view(1, -1, 1)
        self.register_buffer("multiplier", decay)
        with torch.no_grad():
            norm = self._raw_kernel().norm(dim=-1, keepdim=True)
        self.register_buffer("kernel_norm", norm)

    def _raw_kernel(self) -> Tensor:
        parts = [
            piece.repeat_interleave(2 ** max(0, i - 1), dim=-1)
            * self.multiplier ** (self.n_scales - 1 - i)
            for i, piece in enumerate(self.pieces)
        ]
        return torch.cat(parts, dim=-1)

    def kernel(self) -> Tensor:
        """Return the impulse response without the skip, shape (n_heads, n_channels, length)."""
        return self._raw_kernel() / self.kernel_norm

    def forward(self, x: Tensor) -> Tensor:
        """Convolve every ROI with each of its kernels.

        Parameters
        ----------
        x : Tensor of shape (M, n_channels, L)

        Returns
        -------
        Tensor of shape (M, n_heads * n_channels, L)
            Channels ordered (ROI, head), head fast, as in the authors' weights.
        """
        kernel = self.kernel().flip(-1)
        length = kernel.shape[-1]
        left = (length - 1) // 2
        weight = kernel.transpose(0, 1).reshape(self.n_channels * self.n_heads, 1, length)
        padded = F.pad(x, (left, length - 1 - left))
        y = F.conv1d(padded, weight, groups=self.n_channels)
        skip = self.skip.T[None, :, :, None] * x[:, :, None]
        return y + skip.reshape(y.shape)
