"""Our pretraining step and its inputs, as `Trainer` runs it but without a store and a run."""

from __future__ import annotations

import torch

from benchmarks.common import ATLAS, encoder_for
from semantoks.atlas.parcellation import Parcellation
from semantoks.objectives.distillation import SelfDistillation
from semantoks.objectives.objective import Losses
from semantoks.train.gradient import Gradient
from semantoks.train.run import RunConfig
from semantoks.views.batch import ViewBatch
from semantoks.views.masks import MaskConfig, draw_masks

# Share of each kind of step in a whole run: half of all steps have masks, and L_net counts in the
# first 5 of 100 epochs. (masked, with L_net) -> share.
KINDS = {
    (True, True): 0.025,
    (False, True): 0.025,
    (True, False): 0.475,
    (False, False): 0.475,
}
NETWORK_WEIGHT = 0.5


def distillation(config: RunConfig) -> SelfDistillation:
    """Student and teacher with seeded random weights."""
    torch.manual_seed(0)
    return SelfDistillation(encoder_for(config), config.objective).train()


def some_batch(config: RunConfig, batch_size: int, *, masked: bool, seed: int = 0) -> ViewBatch:
    """White noise of the right shape, with the configuration's masks."""
    generator = torch.Generator().manual_seed(seed)
    n_rois = len(Parcellation.load(ATLAS))
    views = torch.randn(2, batch_size, n_rois, config.encoder.view_length, generator=generator)
    return ViewBatch(views, some_masks(config, batch_size, generator) if masked else None)


def some_masks(config: RunConfig, batch_size: int, generator: torch.Generator) -> torch.Tensor:
    """Masks of a batch's views as the configuration draws them, (2, B, N, P)."""
    n_networks, n_patches = len(Parcellation.load(ATLAS).network_names), config.encoder.n_patches
    masks = draw_masks(2 * batch_size, n_networks, n_patches, MaskConfig(frequency=1.0), generator)
    assert masks is not None
    return masks.view(2, batch_size, n_networks, n_patches)


class OurStep:
    """A whole step as `Trainer` does it; the batch in one part or in several."""

    def __init__(
        self,
        method: SelfDistillation,
        lr: float,
        weight_decay: float,
        *,
        bfloat16: bool,
        n_parts: int = 1,
    ) -> None:
        self.method, self.bfloat16 = method, bfloat16
        self.gradient = Gradient(method, n_parts)
        self.parameters = [p for p in method.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=lr, weight_decay=weight_decay, fused=True
        )

    def __call__(self, batch: ViewBatch, network_weight: float, momentum: float) -> Losses:
        def arithmetic(_part: int) -> torch.autocast:
            device = batch.views.device.type
            return torch.autocast(
                device, torch.bfloat16, enabled=self.bfloat16, cache_enabled=False
            )

        plan = self.method.plan_with(batch, network_weight)
        losses, backward = self.gradient.losses(batch, plan, arithmetic)
        backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.method.update_teacher(momentum)
        self.optimizer.zero_grad()
        return losses
