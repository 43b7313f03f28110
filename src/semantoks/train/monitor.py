"""The fixed batch on which the checkpoints of a run are compared."""

from __future__ import annotations

import torch

from semantoks.data.mixture import Recordings
from semantoks.model.encoder import Encoder
from semantoks.objectives.terms.monitors import effective_rank
from semantoks.views.augment import AugmentConfig
from semantoks.views.crops import CropConfig, CropGroup, ViewPlan
from semantoks.views.loader import ViewLoader
from semantoks.views.masks import MaskConfig

_N_RECORDINGS, _AT_ONCE = 128, 32
_NONE = AugmentConfig(roi_dropout="none", time_dropout="none", amplitude="none", noise="none")


class FixedBatch:
    """One whole crop of each of at most 128 subjects, the same at every checkpoint.

    Parameters
    ----------
    store : RecordingStore or StoreMixture
    encoder : Encoder
        Says what a crop is.
    seed : int
        Decides about subjects and crops.
    device : torch device
    """

    def __init__(
        self, store: Recordings, encoder: Encoder, *, seed: int, device: torch.device
    ) -> None:
        self._loader = ViewLoader(
            store,
            encoder.rows,
            patch_length=encoder.config.patch_length,
            n_patches=encoder.config.n_patches,
            batch_size=_N_RECORDINGS,
            crops=CropConfig(),
            augmentation=_NONE,
            masks=MaskConfig(kind="none"),
            plan=ViewPlan(groups=(CropGroup(n_views=1),)),
            seed=seed,
            device=device,
        )

    @torch.no_grad()
    def effective_rank(self, encoder: Encoder) -> float | None:
        """Return the effective rank of the CLS tokens, which needs no labels (RankMe).

        Recordings that are not finite do not count; None if fewer than two are left.
        """
        batch, training = self._loader.batch(0), encoder.training
        if encoder.cls_token.dtype == torch.float64:
            batch = batch.double()
        encoder.eval()
        parts = [
            encoder.read(part.views[0], None if part.missing is None else part.missing[0])[0]
            for part in batch.split(-(-batch.views.shape[1] // _AT_ONCE))
        ]
        encoder.train(training)
        cls = torch.cat(parts)
        cls = cls[cls.isfinite().all(dim=1)]
        return effective_rank(cls) if len(cls) > 1 else None
