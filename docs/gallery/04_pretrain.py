"""
Pretrain on your data
=====================

Pretraining needs a store and no labels. This tutorial trains a tiny model for a few steps, stops
it, resumes it, and looks at what was written. A real run differs in its preset and its hours.
"""

# %%
# A store and a configuration
# ---------------------------
# The configuration is a preset and what you change. Sites that you want to test on stay out: a
# person seen in pretraining is a leak.

from pathlib import Path
from tempfile import mkdtemp

from semantoks import RunConfig, Trainer, prepare_store

work = Path(mkdtemp())
prepare_store("abide-sample", work / "store")
config = RunConfig.preset(
    "tiny",
    {
        "data": {"store": str(work / "store"), "exclude_sites": ["KKI", "YALE"]},
        "optim": {"epochs": 6},
        "train": {"log_every": 1, "precision": "float32"},
    },
)
print(config.to_yaml())

# %%
# The same on the command line, where every key can be given as ``key.sub=value``:
#
# .. code-block:: console
#
#    semantoks pretrain runs/mine --preset tiny --store stores/mine optim.epochs=6
#
# Train
# -----
# Randomness is a function of the seed and the step: the same configuration gives the same weights.

trainer = Trainer(config, work / "run")
trainer.fit()
trainer.step, trainer.n_steps

# %%
# What is in the folder
# ---------------------
# The configuration, the checkpoints, and one line of numbers per logged step. A killed run resumes
# from its newest checkpoint with ``semantoks pretrain runs/mine --resume``, to the bit.

import pandas as pd

metrics = pd.read_json(work / "run" / "metrics.jsonl", lines=True)
sorted(p.name for p in (work / "run").iterdir()), [c for c in metrics if c.startswith("loss")]

# %%
from semantoks.figures.runs import loss_terms

figure = loss_terms(metrics)

# %%
# Use it
# ------
# ``load_pretrained`` and ``Embedder`` take the folder of the run. After six epochs on 144 people
# the model knows next to nothing; how it compares with its own random weights is what
# :doc:`/tutorials/03_honest_prediction` measures.

from semantoks import Embedder, RecordingStore, load_pretrained

encoder = load_pretrained(work / "run")
store = RecordingStore(work / "store")
tested = store.select(store.table["site"] == "YALE")
Embedder(encoder).fit_transform(tested).shape, encoder.pretraining.n_subjects

# %%
# :doc:`/pretraining` has several stores, other objectives, speed and clusters.
