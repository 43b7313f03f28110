"""The paper's own linear probe, for numbers to compare with the published ones.

Batch normalisation and one linear layer, trained by SGD on every crop; the learning rate is
chosen on a validation part; test predictions are averaged over a subject's crops; repeated over
random stratified splits. Source: Brain-Semantoks (ICLR 2026), evaluation protocol. For claims use
`semantoks.evaluate.compare.evaluation`: this protocol mixes sites and has no controls.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from semantoks.data.splits import three_parts
from semantoks.data.store import RecordingStore
from semantoks.evaluate.compare.targets import Target, target_values
from semantoks.evaluate.features.embed import Embedder
from semantoks.evaluate.stats.metrics import balanced_accuracy, mean_absolute_error

LEARNING_RATES = (0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
EPOCHS, MOMENTUM, WEIGHT_STD, LARGEST_BATCH = 50, 0.9, 2e-5, 256

TorchLoss = Callable[[Tensor, Tensor], Tensor]


def paper_probe(
    store: RecordingStore,
    embedder: Embedder,
    target: Target | str,
    *,
    n_repetitions: int = 10,
    shares: tuple[float, float, float] = (0.6, 0.15, 0.25),
    seed: int = 0,
) -> pd.DataFrame:
    """Score a model as the paper does.

    Parameters
    ----------
    store : RecordingStore
    embedder : Embedder
        Its crops are the samples.
    target : Target or str
        Every recording needs a value.
    n_repetitions : int
        Random stratified splits.
    shares : (float, float, float)
        Shares of the subjects for training, validation and test.
    seed : int

    Returns
    -------
    DataFrame
        One row per repetition: repetition, metric ("balanced accuracy" or "MAE"), value,
        learning_rate (the one chosen), n_test.

    Raises
    ------
    InputError
        If labels are missing or there are too few people for three parts.

    References
    ----------
    Brain-Semantoks, ICLR 2026, evaluation protocol.
    """
    chosen = target if isinstance(target, Target) else Target(target)
    _, values, kind = target_values(store, chosen, "refuse")
    crops = embedder.fit(store).crop_features(store)
    sample_of = np.repeat(np.arange(len(crops)), [len(c) for c in crops])
    X = torch.from_numpy(np.concatenate(crops))
    subjects = store.table["subject"].to_numpy(str)
    classify = kind == "classification"
    classes, codes = np.unique(values, return_inverse=True)
    y = torch.from_numpy(codes) if classify else torch.tensor(values).float()[:, None]
    loss: TorchLoss = F.cross_entropy if classify else F.l1_loss
    rows = []
    for repetition in range(n_repetitions):
        parts = three_parts(subjects, values if classify else None, shares, seed=seed + repetition)
        train, validation, test = (np.isin(sample_of, part) for part in parts)
        scored = []
        for rate in LEARNING_RATES:
            probe = _fit(
                X[train], y[sample_of[train]], len(classes) if classify else 1, loss, rate, seed
            )
            held = [
                _score(probe, X[p], sample_of[p], subjects, y, classify) for p in (validation, test)
            ]
            scored.append((held[0], held[1], rate))
        best = max(scored, key=lambda s: s[0] if classify else -s[0])
        row = {"repetition": repetition, "metric": "balanced accuracy" if classify else "MAE"}
        n_test = len(set(subjects[parts[2]]))
        rows.append(row | {"value": best[1], "learning_rate": best[2], "n_test": n_test})
    return pd.DataFrame(rows)


def _fit(
    X: Tensor, y: Tensor, n_outputs: int, loss: TorchLoss, rate: float, seed: int
) -> nn.Module:
    """Train batch normalisation and a linear layer by SGD."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = nn.Linear(X.shape[1], n_outputs)
        nn.init.trunc_normal_(linear.weight, std=WEIGHT_STD)
        nn.init.zeros_(linear.bias)
        if y.dtype.is_floating_point:  # start at the mean: an L1 loss moves it at a constant pace
            nn.init.constant_(linear.bias, float(y.mean()))
        probe = nn.Sequential(nn.BatchNorm1d(X.shape[1]), linear)
        optimizer = torch.optim.SGD(probe.parameters(), lr=rate, momentum=MOMENTUM)
        n_batches = max(len(X) // max(min(LARGEST_BATCH, len(X) // 8), 2), 1)
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(X)).tensor_split(n_batches):
                optimizer.zero_grad()
                loss(probe(X[batch]), y[batch]).backward()
                optimizer.step()
    return probe.eval()


@torch.inference_mode()
def _score(
    probe: nn.Module,
    X: Tensor,
    sample_of: NDArray[np.intp],
    subjects: NDArray[np.str_],
    y: Tensor,
    classify: bool,
) -> float:
    """Average the outputs over the crops of a subject and score them."""
    out = probe(X)
    out = (out.softmax(dim=1) if classify else out).double().numpy()
    who, code = np.unique(subjects[sample_of], return_inverse=True)
    mean = np.zeros((len(who), out.shape[1]))
    np.add.at(mean, code, out)
    mean /= np.bincount(code)[:, None]
    first = np.unique(code, return_index=True)[1]
    truth = y[sample_of[first]].numpy()
    if classify:
        return balanced_accuracy(truth, mean)
    return mean_absolute_error(truth[:, 0].astype(float), mean[:, 0])
