"""Encoders of semantoks in Brainmarks (a namespace plugin, found once both are installed)."""

import os

from brainmarks.models.base import Embeddings
from brainmarks.models.registry import register_model
from torch import Tensor, nn

from semantoks import Encoder, InputError, Parcellation, load_pretrained

#: Space of Brainmarks -> the parcellation that has its ROIs in its order.
SPACES = {"schaefer400": "schaefer400-17n", "schaefer400_tians3_buckner7": "semantoks457"}


class Wrapper(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        labels = {space: Parcellation.load(name).labels for space, name in SPACES.items()}
        found = [space for space, ours in labels.items() if ours == encoder.channels.labels]
        if not found:
            rule = f"must have the ROIs, by name, of {' or '.join(SPACES.values())}"
            raise InputError(rule, field="parcellation", value=encoder.channels.name)
        (self.__space__,) = found

    def forward(self, batch: dict[str, Tensor]) -> Embeddings:
        out = self.encoder(batch["view"], batch["mask"])
        return Embeddings(out.cls[:, None], out.mean[:, None], out.tokens)


@register_model
def semantoks(ckpt_path: str | None = None):
    """`ckpt_path`, or the variable SEMANTOKS_MODEL: what `load_pretrained` takes."""
    encoder = load_pretrained(ckpt_path or os.environ["SEMANTOKS_MODEL"])

    def transform(sample: dict) -> dict:
        view, mask = encoder.prepare(sample.pop("bold"), float(sample["tr"]))
        return {**sample, "view": view, "mask": mask}

    return transform, Wrapper(encoder)
