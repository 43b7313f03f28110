"""
From arrays to embeddings
=========================

Region time series in, one row of numbers per recording out. This tutorial uses the model that comes
with the package and the people of one site of the ABIDE sample, which the model has not seen.
"""

# %%
# Signals
# -------
# A signal is an array of shape (time points, ROIs), as nilearn's maskers return it. The model that
# comes with the package reads the 200 ROIs of the CC200 parcellation, in their order.

from semantoks.datasets import load_abide_sample

people = [r for r in load_abide_sample() if r.site == "YALE"]
signals = [r.signal for r in people]
len(signals), signals[0].shape, people[0].tr

# %%
# Embeddings
# ----------
# ``tr`` is the repetition time of the signals in seconds. Arrays are detrended, filtered, resampled
# and z-scored as the model's training data were; you give them as they come out of the masker.
# Recordings may have different lengths.

from semantoks import Embedder

embedder = Embedder(tr=2.0, parts=("mean", "cls"))
X = embedder.fit_transform(signals)
X.shape, X.dtype

# %%
# ``fit`` loads the model and learns nothing, so that ``fit_transform`` on all recordings leaks
# nothing from one to another. With pandas output, columns have names:

embedder.set_output(transform="pandas")
embedder.transform(signals[:3]).iloc[:, :4].round(2)

# %%
# What does not fit is refused
# ----------------------------
# An error names the rule, the place and the way out. Here the array is transposed:

from semantoks import InputError

try:
    embedder.transform([signals[0].T])
except InputError as error:
    print(error)

# %%
# Do the embeddings hold the person?
# ----------------------------------
# Embed both halves of every scan. If the embedding holds what is stable about a person, the second
# half of a scan is more similar to its own first half than to those of others: the diagonal.

import numpy as np

from semantoks.figures.scores import fingerprint

embedder.set_output(transform="default")
first = embedder.transform([s[: len(s) // 2] for s in signals])
second = embedder.transform([s[len(s) // 2 :] for s in signals])
similarity = np.corrcoef(first, second)[: len(first), len(first) :].astype(np.float32)
found = (similarity.argmax(axis=1) == np.arange(len(first))).mean()
print(f"recognised: {found:.0%}, by chance {1 / len(first):.0%}")

figure = fingerprint(similarity, "Halves of a scan", "halves")

# %%
# The default parts
# -----------------
# ``mean`` and ``cls`` are what was learned, 512 numbers. The default of this model is
# ``("spectral", "tokens")``, 22,404 numbers, which predict better with a few hundred people:
# :doc:`/second-order`. The next step is a prediction whose score means something:
# :doc:`/tutorials/03_honest_prediction`.
