"""Structured long convolution (SGConv): a multi-scale depthwise kernel that decays with its lag.

Source: Brain-Semantoks (ICLR 2026), semantic tokenizer, structured branch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def shifts(taps: int, left: int, length: int, dilation: int = 1) -> Tensor:
    """Return 0 or 1, shape (taps, L * L): row i moves time s to t = s - (i * dilation - left)."""
    offset = torch.arange(taps) * dilation - left
    time = torch.arange(length)
    return (time == time[:, None] + offset[:, None, None]).float().flatten(1)


def convolve_rois(x: Tensor, kernel: Tensor, shifts: Tensor) -> Tensor:
    """Correlate every ROI with its own kernels, zeros beyond the ends.

    A patch is short, so that the correlation is a product with a banded (L, L) matrix: one batched
    matrix product over ROIs, which is several times faster than a grouped convolution and its
    backward pass, most of all in bfloat16.

    Parameters
    ----------
    x : Tensor of shape (C, L, M)
    kernel : Tensor of shape (C, h, taps)
    shifts : Tensor of shape (taps, L * L)
        Which time every tap meets, see `shifts`.

    Returns
    -------
    Tensor of shape (C * h, L, M)
        ROI slow, kernel fast.
    """
    n_rois, length, m = x.shape
    n_kernels, taps = kernel.shape[1:]
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
    length : int
        Time points of a signal, L.
    n_scales : int
        Learned pieces per kernel, S.
    base_length : int
        Learned values per piece, K.
    decay_min, decay_max : float
        The decay is spaced linearly between the two over the ROIs.
    """

    multiplier: Tensor
    kernel_norm: Tensor
    _scale: Tensor
    _place: Tensor
    _here: Tensor
    _shifts: Tensor

    def __init__(
        self,
        n_channels: int,
        n_heads: int,
        length: int,
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
        # Per learned value its piece's power of the decay, and per tap its learned value.
        value = torch.arange(n_scales * base_length).view(n_scales, base_length)
        stretched = [v.repeat_interleave(2 ** max(0, i - 1)) for i, v in enumerate(value)]
        taps = sum(map(len, stretched))
        left = (taps - 1) // 2
        for name, constant in (
            ("_scale", (n_scales - 1 - torch.arange(n_scales)).repeat_interleave(base_length)),
            ("_place", torch.cat(stretched)),
            ("_here", (torch.arange(taps) == left).float()),
            ("_shifts", shifts(taps, left, length)),
        ):
            self.register_buffer(name, constant, persistent=False)
        decay = torch.linspace(decay_min, decay_max, n_channels).view(1, -1, 1)
        self.register_buffer("multiplier", decay)
        with torch.no_grad():
            norm = self._raw_kernel().norm(dim=-1, keepdim=True)
        self.register_buffer("kernel_norm", norm)

    def _raw_kernel(self) -> Tensor:
        values = torch.cat(tuple(self.pieces), dim=-1) * self.multiplier**self._scale
        return values.index_select(-1, self._place)

    def kernel(self) -> Tensor:
        """Return the impulse response without the skip, shape (n_heads, n_channels, length)."""
        return self._raw_kernel() / self.kernel_norm

    def weights(self) -> Tensor:
        """Return the weights of ``x[t + offset]`` in ``y[t]``, the skip included.

        Returns
        -------
        Tensor of shape (n_channels, n_heads, length)
            The first offset is ``-((length - 1) // 2)``: a convolution runs backwards.
        """
        met = self.kernel().flip(-1) + self.skip.unsqueeze(-1) * self._here
        return met.transpose(0, 1)

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
        return convolve_rois(x, self.weights(), self._shifts)
