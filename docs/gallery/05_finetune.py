"""
Fine-tune
=========

``FineTuner`` trains an encoder together with a head on labels; it is a scikit-learn estimator of a
store or of arrays. With few people a linear probe on frozen embeddings is hard to beat, so that
fine-tuning belongs beside the probe, on the same folds.
"""

# %%
# Some people of two sites to train on, some of a third to test on.

import numpy as np
from sklearn.metrics import roc_auc_score

from semantoks import Embedder, FineTuner, LinearProbe
from semantoks.datasets import load_abide_sample

people = [r for r in load_abide_sample() if r.site in ("SDSU", "STANFORD", "YALE")][::3]
signals = [r.signal[:100] for r in people]
y = np.array([r.phenotypes["diagnosis"] for r in people])
test = np.array([r.site == "YALE" for r in people])
train = np.flatnonzero(~test)

# %%
# The ways to fine-tune
# ---------------------
# ``train="full"`` is the paper's; ``"lora"`` trains low-rank updates of the linear maps and the
# head; ``"head"`` the head alone. The model that you pass in is copied, never changed. Two epochs
# keep this page fast; the default is 50.

parts = [signals[i] for i in train], y[train]
scores = {}
for way in ("head", "lora"):
    tuner = FineTuner("connectome-base", tr=2.0, train=way, epochs=2, lr=1e-3, seed=0)
    tuner.fit(*parts)
    p = tuner.predict_proba([signals[i] for i in np.flatnonzero(test)])
    scores[way] = roc_auc_score(y[test] == tuner.classes_[1], p[:, 1])

# %%
# The control
# -----------
# The same encoder, frozen, with the linear probe.

embedder = Embedder(tr=2.0)
X = embedder.fit_transform(signals)
probe = LinearProbe().fit(X[train], y[train])
scores["probe"] = roc_auc_score(y[test] == probe.classes_[1], probe.predict_proba(X[test])[:, 1])
{name: round(float(score), 2) for name, score in scores.items()}

# %%
# Ten tested people decide nothing; these numbers show the calls, not which way is better. On the
# folds of an evaluation, with verdicts, fine-tuned models are rows of the comparison:
#
# .. code-block:: console
#
#    semantoks evaluate stores/mine results/mine --model runs/mine --target diagnosis --groups site
#   \ --finetune head --finetune lora --finetune-option patience=5
#
# ``tuner.encoder_`` is an ordinary encoder, which records whom it was fine-tuned on:

tuner.encoder_.pretraining.n_subjects, tuner.n_features_in_
