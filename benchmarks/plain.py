"""The pretraining step written plainly: the yardstick for every ratio of the benchmarks.

It does what the method's equations say, one operation after the other, in float32: one network at
a time, one view at a time, the structured convolution as a depthwise convolution followed by a
linear map, attention as two matrix products around a softmax, a loop over recordings for the
masked tokens, and an optimiser and a teacher's update that go parameter by parameter. It works on
the weights of our own modules, so that its losses and gradients can be compared with ours.

Where the method leaves a choice, the cheaper one is taken: a term without weight is not computed,
and only masked tokens are projected for L_mask.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantoks.model.encoder import Encoder, EncoderOutput
from semantoks.model.positions import LearnedPositions, sincos_positions
from semantoks.model.projection import ProjectionHead
from semantoks.model.tokenizers.branches import StructuredProjection
from semantoks.model.tokenizers.longconv import StructuredConv
from semantoks.model.tokenizers.networks import NetworkTokenizer, SemanticTokenizer
from semantoks.model.transformer import Block
from semantoks.objectives.distillation import ProjectedEncoder, SelfDistillation
from semantoks.objectives.objective import Losses
from semantoks.views.batch import ViewBatch


def structured_conv(conv: StructuredConv, x: Tensor) -> Tensor:
    """Depthwise convolution with every ROI's kernels, plus the skip: (M, C, L) -> (M, C h, L)."""
    kernel = conv.kernel().flip(-1)
    length = kernel.shape[-1]
    left = (length - 1) // 2
    weight = kernel.transpose(0, 1).reshape(conv.n_channels * conv.n_heads, 1, length)
    y = F.conv1d(F.pad(x, (left, length - 1 - left)), weight, groups=conv.n_channels)
    skip = conv.skip.T[None, :, :, None] * x[:, :, None]
    return y + skip.reshape(y.shape)


def branch(module: nn.Module, x: Tensor) -> Tensor:
    if isinstance(module, StructuredProjection):
        y: Tensor = module.projection(structured_conv(module.conv, x).transpose(1, 2))
        return y.transpose(1, 2)
    for conv in [module] if isinstance(module, nn.Conv1d) else module.children():
        assert isinstance(conv, nn.Conv1d)
        x = F.conv1d(
            x, conv.weight, conv.bias, padding="same", dilation=conv.dilation, groups=conv.groups
        )
    return x


def network_token(network: NetworkTokenizer, x: Tensor) -> Tensor:
    parts = [branch(module, x) for module in network.branches]
    pooled = F.gelu(torch.cat(parts, dim=1)).mean(dim=-1)
    return F.layer_norm(pooled, pooled.shape[-1:], network.norm.weight, network.norm.bias)


def tokens_of(tokenizer: SemanticTokenizer, x: Tensor) -> Tensor:
    """Tokenize one view: (B, C, T) -> (B, N, P, D)."""
    batch, _, n_times = x.shape
    n_patches = n_times // tokenizer.patch_length
    tokens = []
    for i, network in enumerate(tokenizer.networks):
        rois = x[:, tokenizer.get_buffer(f"rois_{i}")]
        patches = rois.view(batch, -1, n_patches, tokenizer.patch_length).transpose(1, 2)
        token = network_token(network, patches.reshape(-1, *patches.shape[2:]))
        tokens.append(token.view(batch, n_patches, -1))
    return torch.stack(tokens, dim=1)


def attention(block: Block, x: Tensor) -> Tensor:
    batch, length, width = x.shape
    n_heads = block.attention.n_heads
    qkv = F.linear(x, block.attention.qkv.weight)
    qkv = qkv.view(batch, length, 3, n_heads, width // n_heads).permute(2, 0, 3, 1, 4)
    query, key, value = qkv[0], qkv[1], qkv[2]
    scores = query @ key.transpose(-2, -1) / math.sqrt(width // n_heads)
    mixed = scores.softmax(dim=-1) @ value
    merged = mixed.transpose(1, 2).reshape(batch, length, width)
    return F.linear(merged, block.attention.projection.weight, block.attention.projection.bias)


def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias)


def block_output(block: Block, x: Tensor) -> Tensor:
    x = x + block.scale1 * attention(block, norm(block.norm1, x))
    first, last = block.mlp[0], block.mlp[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    hidden = F.gelu(F.linear(norm(block.norm2, x), first.weight, first.bias))
    return x + block.scale2 * F.linear(hidden, last.weight, last.bias)


def encode(encoder: Encoder, x: Tensor, mask: Tensor | None = None) -> EncoderOutput:
    """Encode one view: (B, C, T) -> CLS (B, D) and tokens (B, N P, D)."""
    assert isinstance(encoder.tokenizer, SemanticTokenizer)
    tokens = tokens_of(encoder.tokenizer, x)
    if mask is not None:
        tokens = torch.where(mask.unsqueeze(-1), encoder.mask_token, tokens)
    positions = encoder.tokenizer.positions
    assert isinstance(positions, LearnedPositions)
    tokens = tokens + positions.table[:, None]
    tokens = tokens + sincos_positions(tokens.shape[2], tokens.shape[3], like=tokens)
    sequence = torch.cat([encoder.cls_token.expand(len(x), 1, -1), tokens.flatten(1, 2)], dim=1)
    for block in encoder.blocks:
        assert isinstance(block, Block)
        sequence = block_output(block, sequence)
    sequence = norm(encoder.norm, sequence)
    return EncoderOutput(cls=sequence[:, 0], tokens=sequence[:, 1:])


def project(head: ProjectionHead, x: Tensor) -> Tensor:
    hidden = F.gelu(F.linear(x, head.hidden.weight, head.hidden.bias))
    return F.normalize(F.linear(hidden, head.out.weight, head.out.bias), dim=-1)


def network_rows(projected: ProjectedEncoder, out: EncoderOutput) -> Tensor:
    """Projections of the tokens averaged over patches, one row per recording and network."""
    batch, _, width = out.tokens.shape
    grid = out.tokens.view(batch, projected.encoder.n_networks, -1, width)
    return project(projected.head, grid.mean(dim=2)).flatten(0, 1)


def coding_rate(z: Tensor, eps: float) -> Tensor:
    m, d = z.shape
    return 0.5 * torch.logdet(torch.eye(d, dtype=z.dtype) + d / (m * eps) * z.T @ z)


def simdino(student: list[Tensor], teacher: list[Tensor], eps: float) -> Tensor:
    m, d = student[0].shape
    agreement = [(teacher[i] * student[1 - i]).sum(dim=-1).mean() for i in range(2)]
    rates = [coding_rate((student[i] + teacher[i]) / 2, eps) for i in range(2)]
    return -(agreement[0] + agreement[1]) / 2 - (d + m) / (d * m) * (rates[0] + rates[1]) / 2


def masked_term(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Sum over recordings of the mean over their masked tokens; rows are the masked tokens."""
    cosine = F.cosine_similarity(student, teacher, dim=-1)
    total, place = cosine.new_zeros(()), 0
    for count in mask.sum(dim=1).tolist():
        total = total - cosine[place : place + count].mean()
        place += count
    return total


def losses(method: SelfDistillation, batch: ViewBatch, network_weight: float) -> Losses:
    """The loss of one step, without missing data."""
    config, (student, teacher) = method.config, (method.student, method.teacher)
    views = range(2)
    masks = [None, None] if batch.masks is None else [batch.masks[v] for v in views]
    seen = [encode(student.encoder, batch.views[v], masks[v]) for v in views]
    with torch.no_grad():
        whole = [encode(teacher.encoder, batch.views[v]) for v in views]
        targets = [project(teacher.head, out.cls) for out in whole]
    cls = simdino([project(student.head, out.cls) for out in seen], targets, config.eps)
    network = mask = cls.new_zeros(())
    if network_weight:
        with torch.no_grad():
            targets = [network_rows(teacher, out) for out in whole]
        network = simdino([network_rows(student, out) for out in seen], targets, config.eps)
    if batch.masks is not None:
        for v in views:
            hidden = batch.masks[v].flatten(1)
            with torch.no_grad():
                target = project(teacher.mask_head, whole[v].tokens[hidden])
            found = project(student.mask_head, seen[v].tokens[hidden])
            mask = mask + masked_term(found, target, hidden) / (2 * len(hidden))
    total = config.cls_weight * cls + network_weight * network + config.mask_weight * mask
    terms = {"cls": cls, "network": network, "mask": mask}
    return Losses(total, terms, whole[0].cls)


class PlainStep:
    """A whole step: losses, gradient, clipping, AdamW, and the teacher, parameter by parameter."""

    def __init__(self, method: SelfDistillation, lr: float, weight_decay: float) -> None:
        self.method = method
        self.parameters = list(method.student.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=lr, weight_decay=weight_decay, foreach=False
        )

    def __call__(self, batch: ViewBatch, network_weight: float, momentum: float) -> Losses:
        found = losses(self.method, batch, network_weight)
        self.optimizer.zero_grad()
        found.total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=False)
        self.optimizer.step()
        with torch.no_grad():
            for mean, new in zip(self.method.teacher.parameters(), self.parameters, strict=True):
                mean.mul_(momentum).add_(new, alpha=1.0 - momentum)
        return found
