"""Structured long convolution (SGConv): a multi-scale depthwise kernel that decays with its lag.

Source: Brain-Semantoks (ICLR 2026), semantic tokenizer, structured branch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _shifts(
    taps: int, left: int, dilation: int, length: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return 0 or 1, shape (taps, L * L): row i moves the time s to t = s - (i * dilation - left).

    Made anew every time: a cache would keep what an exporter's tracing puts into it.
    """
    offset = torch.arange(taps, device=device) * dilation - left
    time = torch.arange(length, device=device)
    return (time == time[:, None] + offset[:, None, None]).to(dtype).flatten(1)


def convolve_rois(x: Tensor, kernel: Tensor, *, left: int, dilation: int = 1) -> Tensor:
    """Correlate every ROI with its own kernels, zeros beyond the ends.

    A patch is short, so that the correlation is a product with a banded (L, L) matrix: one batched
    matrix product over ROIs, which is several times faster than a grouped convolution and its
    backward pass, most of all in bfloat16.

    Parameters
    ----------
    x : Tensor of shape (C, L, M)
    kernel : Tensor of shape (C, h, taps)
        Tap i meets the time ``t + i * dilation - left``.
    left, dilation : int

    Returns
    -------
    Tensor of shape (C * h, L, M)
        ROI slow, kernel fast.
    """
    n_rois, length, m = x.shape
    n_kernels, taps = kernel.shape[1:]
    shifts = _shifts(taps, left, dilation, length, kernel.dtype, kernel.device)
    banded = (kernel.reshape(-1, taps) @ shifts).view(n_rois, n_kernels * length, length)
    return torch.bmm(banded, x).view(n_rois * n_kernels, length, m)


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
        x : Tensor of shape (n_channels, L, M)
            M signals, the last axis.

        Returns
        -------
        Tensor of shape (n_channels * n_heads, L, M)
            Channels ordered (ROI, head), head fast, as in the authors' weights.
        """
        kernel = self.kernel().flip(-1)
        left = (kernel.shape[-1] - 1) // 2
        at_lag_zero = torch.arange(kernel.shape[-1], device=kernel.device) == left
        with_skip = kernel + self.skip.unsqueeze(-1) * at_lag_zero
        return convolve_rois(x, with_skip.transpose(0, 1), left=left)
