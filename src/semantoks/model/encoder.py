"""The Brain-Semantoks encoder: parcellated BOLD signals in, one embedding and N x P tokens out.

1. A tokenizer turns the signals of every row, e.g. a functional network, into a token per patch.
2. Masked tokens are replaced by a learned vector; the tokenizer's positions are added.
3. A CLS token is prepended and a pre-norm transformer mixes everything.
4. The recording's embedding is ``cls_avg``: the mean over tokens (those with data, or all as in
   the paper) next to the CLS token.

Source: Brain-Semantoks (ICLR 2026), encoder. Letters: B recordings, C ROIs, T time points,
N networks, P patches, L patch length, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semantoks.atlas.channels import Channels, TokenRows
from semantoks.data.seen import SeenData
from semantoks.data.signal import Preprocessing
from semantoks.errors import InputError
from semantoks.model.architecture import EncoderConfig
from semantoks.model.crops import ReadsSignals
from semantoks.model.hub import SharedModel
from semantoks.model.positions import make_positions
from semantoks.model.recompute import run
from semantoks.model.tokenizers.registry import TOKENIZERS
from semantoks.model.transformer import Block, causal_mask

__all__ = ["Encoder", "EncoderConfig", "EncoderOutput", "mean_of"]


@dataclass(frozen=True)
class EncoderOutput:
    """Output of the encoder.

    Parameters
    ----------
    cls : Tensor of shape (B, D)
    tokens : Tensor of shape (B, N * P, D)
        Network index slow, patch index fast.
    left_out : Tensor of bool, shape (B, N * P), optional
        Tokens that the mean leaves out.
    """

    cls: Tensor
    tokens: Tensor
    left_out: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """The mean over tokens, shape (B, D)."""
        return mean_of(self.tokens, self.left_out)

    @property
    def cls_avg(self) -> Tensor:
        """The recording's embedding, shape (B, 2 D): [mean over tokens, cls]."""
        return torch.cat([self.mean, self.cls], dim=-1)


def mean_of(tokens: Tensor, left_out: Tensor | None) -> Tensor:
    """Return the mean over the tokens (B, N P, D) that are not left out; over all if none is."""
    if left_out is None:
        return tokens.mean(dim=1)
    counted = ~left_out | left_out.all(dim=1, keepdim=True)
    share = counted.to(tokens.dtype) / counted.sum(dim=1, keepdim=True)
    return torch.einsum("bnd,bn->bd", tokens, share.to(tokens.dtype))


class Encoder(ReadsSignals, SharedModel, nn.Module):
    """Encoder of signals with named channels, e.g. the ROIs of a parcellation.

    Parameters
    ----------
    config : EncoderConfig
    channels : Channels
        Names, order, groups and places of the channels that the encoder reads.
    preprocessing : Preprocessing
        What was done to the signals that it was trained on: TR, band, z-score.

    Attributes
    ----------
    tokenizer : Tokenizer
        The kind that `EncoderConfig.granularity` names; owns the positions of the tokens.
    pretraining : SeenData or None
        What the weights have seen, also in fine-tuning. None for random weights.
    checkpoint : bool
        In training, keep only what enters every network's tokenizer and every block and compute
        their insides again for the gradient: the same numbers in less memory, for one more forward
        pass.

    See Also
    --------
    load_pretrained : Loads one.
    Embedder : Embeds recordings, as a scikit-learn transformer.

    References
    ----------
    Brain-Semantoks, ICLR 2026, https://arxiv.org/abs/2512.11582.

    Examples
    --------
    >>> import torch
    >>> from semantoks import Encoder, EncoderConfig, Parcellation, Preprocessing
    >>> config = EncoderConfig(width=64, depth=1, head_width=32)
    >>> encoder = Encoder.random(config, Parcellation.load("schaefer100"), Preprocessing(), seed=0)
    >>> out = encoder(torch.randn(2, 100, config.patch_length * config.n_patches))
    >>> out.cls.shape, out.tokens.shape, out.cls_avg.shape
    (torch.Size([2, 64]), torch.Size([2, 35, 64]), torch.Size([2, 128]))
    """

    def __init__(
        self, config: EncoderConfig, channels: Channels, preprocessing: Preprocessing
    ) -> None:
        super().__init__()
        self.config, self.channels, self.preprocessing = config, channels, preprocessing
        self.pretraining: SeenData | None = None
        self.checkpoint = False
        self.tokenizer = TOKENIZERS[config.granularity].build(config, channels)
        if config.positions != "learned":
            self.tokenizer.positions = make_positions(
                config.positions, self.tokenizer.rows, channels, config.width
            )
        width = config.width
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.cls_token = nn.Parameter(0.02 * torch.randn(width))
        self.tokenizer.positions.draw()  # here: a seed gives the weights that it always gave
        self.blocks = nn.ModuleList(
            Block(
                width,
                width // config.head_width,
                config.mlp_ratio,
                config.layer_scale,
                config.drop_path * i / max(config.depth - 1, 1),
            )
            for i in range(config.depth)
        )
        self.norm = nn.LayerNorm(width) if config.final_norm else nn.Identity()

    @classmethod
    def random(
        cls,
        config: EncoderConfig,
        channels: Channels,
        preprocessing: Preprocessing,
        *,
        seed: int,
    ) -> Encoder:
        """Return an encoder with seeded random weights, the global generator left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, channels, preprocessing)

    def with_random_weights(self, seed: int) -> Encoder:
        """Return the control of this encoder: the same with seeded random weights.

        What its tokenizer fitted in closed form stays: it belongs to the input, not to what
        training learned.
        """
        other = Encoder.random(self.config, self.channels, self.preprocessing, seed=seed)
        other.tokenizer.copy_fitted(self.tokenizer)
        other.tokenizer.positions.copy_fitted(self.tokenizer.positions)
        return other.eval()

    def reading(self, channels: Channels) -> Encoder:
        """Return an encoder with a copy of the weights that reads other channels.

        Raises
        ------
        InputError
            If the tokenizer cannot: the weights of most belong to a fixed list of channels.
        """
        if not self.tokenizer.reads(channels):
            raise InputError(
                f"cannot be read by weights made for {self.channels.name}",
                field="channels",
                value=channels.name,
                fix=f"Prepare the recordings with {self.channels.name}",
            )
        other = Encoder.random(self.config, channels, self.preprocessing, seed=0)
        other.load_state_dict(self.state_dict())
        other.pretraining = self.pretraining
        return other.train(self.training)

    @property
    def is_fitted_first(self) -> bool:
        """Whether something in it is fitted to training crops before the first step."""
        return self.tokenizer.is_fitted_first or self.tokenizer.positions.is_fitted_first

    @property
    def shortest(self) -> int:
        """Volumes that a recording must have."""
        return self.tokenizer.shortest(self.config)

    @property
    def rows(self) -> TokenRows:
        """What every row of the token grid stands for."""
        return self.tokenizer.rows

    @property
    def n_networks(self) -> int:
        """Rows of the token grid N."""
        return len(self.rows)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> EncoderOutput:
        """Encode views.

        Parameters
        ----------
        x : Tensor of shape (B, C, T)
            Z-scored signals in the order of `channels`; T a multiple of the patch length, any
            number of patches, or any T for a tokenizer that reads whole crops.
        mask : Tensor of bool, shape (B, N, P), optional
            True where a token is replaced by the mask vector.

        Returns
        -------
        EncoderOutput

        Raises
        ------
        InputError
            If the number of ROIs, the length or the mask's shape does not fit.
        """
        sequence = self._sequence(x, mask)
        seen = self.seen(sequence)
        for block in self.blocks:
            sequence = run(block, sequence, None, seen, checkpoint=self.checkpoint)
        sequence = self.norm(sequence)
        return EncoderOutput(sequence[:, 0], sequence[:, 1:], self.left_out(mask))

    def seen(self, sequence: Tensor) -> Tensor | None:
        """Return which tokens of (B, 1 + N P, D) each of them sees, bool; None for all."""
        if self.config.attention == "full":
            return None
        n_patches = (sequence.shape[1] - 1) // self.n_networks
        return causal_mask(self.n_networks, n_patches, device=sequence.device)

    def left_out(self, mask: Tensor | None) -> Tensor | None:
        """Return which tokens the embedding's mean leaves out, bool (B, N P); None for none."""
        return None if mask is None or self.config.average == "all" else mask.flatten(1)

    def read(
        self, x: Tensor, mask: Tensor | None = None, wanted: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode views, and finish only the CLS tokens and the tokens that are wanted.

        The last block's attention still sees everything; its other rows are not computed, and for
        the CLS tokens alone neither are the keys and values of the others.

        Parameters
        ----------
        x, mask : as in `forward`
        wanted : Tensor of int64, shape (R,), optional
            Tokens to return, as places in their flattened (B N P); none of them if absent.

        Returns
        -------
        cls : Tensor of shape (B, D)
        tokens : Tensor of shape (R, D)
            The wanted ones.
        """
        return self.finish(self._sequence(x, mask), wanted)

    def finish(self, sequence: Tensor, wanted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run the blocks on an assembled sequence (B, 1 + N P, D); returns what `read` does."""
        seen = self.seen(sequence)
        for block in self.blocks[:-1]:
            sequence = run(block, sequence, None, seen, checkpoint=self.checkpoint)
        last = self.blocks[-1]
        assert isinstance(last, Block)
        batch, length, _ = sequence.shape
        if wanted is None:
            finished = run(last.first, sequence, checkpoint=self.checkpoint)
        else:
            first = torch.arange(batch, device=sequence.device) * length
            own_cls = wanted // (length - 1) + 1  # CLS tokens up to their recording's
            rows = torch.cat([first, wanted + own_cls])
            finished = run(last, sequence, rows, seen, checkpoint=self.checkpoint)
        finished = self.norm(finished)
        return finished[:batch], finished[batch:]

    def compile_blocks(self) -> None:
        """Compile the blocks with ``torch.compile``, in place; the weights keep their names.

        The tokenizers are left out: what PyTorch 2.13 makes of their gradient for a CPU ends in a
        corrupted heap.
        """
        for block in self.blocks:
            block.compile()

    def _sequence(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the CLS token and all tokens with their positions, shape (B, 1 + N P, D)."""
        self._check(x, mask)
        return self.assemble(self.tokenizer(x, mask, checkpoint=self.checkpoint), mask)

    def assemble(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Add the mask vector, the positions and the CLS token to the tokens.

        Parameters
        ----------
        tokens : Tensor of shape (B, N, P, D)
        mask : Tensor of bool, shape (B, N, P), or None

        Returns
        -------
        Tensor of shape (B, 1 + N P, D)
        """
        if mask is not None:
            tokens = torch.where(mask.unsqueeze(-1), self.mask_token.to(tokens.dtype), tokens)
        tokens = self.tokenizer.positions(tokens)
        cls = self.cls_token.to(tokens.dtype).expand(len(tokens), 1, -1)
        return torch.cat([cls, tokens.flatten(1, 2)], dim=1)

    def _check(self, x: Tensor, mask: Tensor | None) -> None:
        if x.ndim != 3 or x.shape[1] != len(self.channels):
            raise InputError(
                f"signals must have the shape (recordings, {len(self.channels)} ROIs, times)",
                field="x.shape",
                value=tuple(x.shape),
                fix=f"Order the ROIs as in {self.channels.name!r}",
            )
        length = x.shape[2] if self.tokenizer.whole else self.config.patch_length
        if x.shape[2] == 0 or x.shape[2] % length:
            raise InputError(
                f"the number of time points must be a multiple of the patch length {length}",
                field="x.shape",
                value=tuple(x.shape),
                fix="Pad with zeros at the end and mask the patches without data",
            )
        grid = (x.shape[0], self.n_networks, x.shape[2] // length)
        if mask is not None and (tuple(mask.shape) != grid or mask.dtype != torch.bool):
            raise InputError(
                f"must be bool with the shape (recordings, networks, patches) = {grid}",
                field="mask",
                value=(mask.dtype, tuple(mask.shape)),
            )
