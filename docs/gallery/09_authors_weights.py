"""
The authors' weights
====================

Checkpoints of the paper's authors (``.pth``) load as any other model, and are written back exactly.
The published checkpoint is not part of this package; this tutorial writes a file in the authors'
form first, with random weights, and reads it.
"""

# %%
# A file in their form
# --------------------
# The paper's parcellation has 457 ROIs in nine networks. A small width keeps the file small.

from pathlib import Path
from tempfile import mkdtemp

from semantoks import Encoder, EncoderConfig, Parcellation, Preprocessing, SelfDistillation
from semantoks.model.pretrained import convert, save_model
from semantoks.objectives.distillation import DistillationConfig

work = Path(mkdtemp())
config = EncoderConfig(width=64, depth=1, head_width=32, average="all")
encoder = Encoder.random(config, Parcellation.load("semantoks457"), Preprocessing(), seed=0)
objective = SelfDistillation(encoder, DistillationConfig(separate_mask_head=True))
(work / "ours").mkdir()
save_model(work / "ours", objective.state_dict(), encoder, roles=objective.roles)
convert(work / "ours", work / "published.pth")

# %%
# Load it
# -------
# A ``.pth`` is a pickle, which could run code; it is read by PyTorch's restricted loader, which
# only builds tensors.

from semantoks import load_pretrained

theirs = load_pretrained(work / "published.pth")
theirs.config.width, len(theirs.channels), theirs.preprocessing.tr

# %%
# It embeds, is evaluated and fine-tuned as any model. A folder of this package is safer to share,
# and knows its ROIs by name:
#
# .. code-block:: console
#
#    semantoks convert published.pth models/published
#    semantoks embed models/published stores/mine embeddings.parquet

import torch

convert(work / "published.pth", work / "models")
again = load_pretrained(work / "models")
x = torch.randn(2, len(theirs.channels), 100, generator=torch.Generator().manual_seed(0))
torch.equal(theirs(x).cls_avg, again(x).cls_avg)

# %%
# Data for their model
# --------------------
# ``semantoks prepare ... --for-model published.pth`` takes TR, band and scaling from the
# checkpoint; ``semantoks paper-probe`` scores a model by the paper's own protocol.
