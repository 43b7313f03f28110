"""Second-order models against connectivity on ABIDE: unseen sites, few labels, half scans.

    semantoks prepare abide stores/abide --missing-rois mark
    python -m benchmarks.abide stores/abide abide-results        # pretrains 4 models; an hour
    python -m benchmarks.abide stores/abide abide-results --included    # the model in the box

1. The sites are divided into four groups of similar size. For every group one model is pretrained,
   without labels and without the sites of the group (as `runs/connectome-base.yaml`).
2. Every site is left out once. Ridge regression on the others' features predicts it; each block of
   features is divided by its mean squared distance from the mean (over all people), and the
   strength is the one with the smallest squared error over the left-out sites of the training part.
3. Scores are those of all people together. Differences to connectivity, and to random weights, come
   with 95 % intervals over sites (1000 bootstrap samples of sites, paired). "yes" is an interval
   above zero.

The reference of the tangent space is fitted to all people (in its favour). Settings: all labels; a
quarter of the training people (mean of three draws); the first half of every scan. Random weights,
five seeds, are scored with all labels only.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from semantoks import RecordingStore, RunConfig, Trainer, load_pretrained
from semantoks.datasets import ABIDE_SAMPLE_SITES
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.tangent import TangentBaseline
from semantoks.model.encoder import Encoder
from semantoks.model.readout import PARTS, part_sizes, read_parts

Array = NDArray[np.float64]
N_GROUPS, N_RANDOM, N_DRAWS, N_BOOTSTRAP = 4, 5, 3, 1000
STRENGTHS = tuple(10.0 ** np.arange(-2, 3.1, 0.5))
TARGETS = ("diagnosis", "sex", "log age")
LEARNED = {"cls": ("cls",), "mean + cls": ("mean", "cls"), "tokens": ("tokens",)}


def targets_of(people: pd.DataFrame) -> Array:
    """Return the targets of every recording, shape (n, 3)."""
    diagnosis = np.where(people["diagnosis"] == "autism", 1.0, -1.0)
    sex = np.where(people["sex"] == "female", 1.0, -1.0)
    return np.stack([diagnosis, sex, np.log(people["age"].to_numpy(float))], axis=1)


def groups_of(sites: NDArray[np.str_]) -> list[list[str]]:
    """Divide the sites into groups of similar size, the largest dealt out first."""
    names, counts = np.unique(sites, return_counts=True)
    order = names[np.argsort(-counts, kind="stable")]
    return [[str(s) for s in order[i::N_GROUPS]] for i in range(N_GROUPS)]


def pretrained(store: str, folder: Path, excluded: list[str], seed: int) -> Encoder:
    """Pretrain without some sites, or load what was pretrained."""
    data = {"store": store, "exclude_sites": excluded}
    changes = {"data": data, "seed": seed, "train": {"precision": "float32"}}
    config = RunConfig.preset("connectome-base", changes)
    Trainer(config, folder, resume=(folder / "checkpoints").exists()).fit()
    return load_pretrained(folder)


@torch.inference_mode()
def embed(encoder: Encoder, signals: Iterable[NDArray[np.float32]]) -> dict[str, Array]:
    """Return every part of the embeddings of preprocessed signals."""
    x = [torch.from_numpy(np.ascontiguousarray(s.T))[None] for s in signals]
    both = torch.cat([read_parts(encoder, one, None, PARTS) for one in x]).numpy()
    ends = np.cumsum([part_sizes(encoder)[part] for part in PARTS])[:-1]
    return dict(zip(PARTS, np.split(both, ends, axis=1), strict=True))


def gram(blocks: Sequence[NDArray[np.floating]]) -> Array:
    """Return the sum of the blocks' kernels, each of mean 1 on its diagonal once centred."""
    total = np.zeros((len(blocks[0]), len(blocks[0])))
    for block in blocks:
        centred = block - block.mean(axis=0)
        one = (centred @ centred.T).astype(np.float64)
        total += one / np.trace(one) * len(one)
    return total / len(blocks)


def ridge(
    K: Array, Y: Array, sites: NDArray[np.str_], train: NDArray[np.intp], test: NDArray[np.intp]
) -> Array:
    """Predict the test rows; the strength has the smallest squared error over left-out sites.

    What a fit without a site predicts for it follows from the whole fit: its residuals times
    ``(I - H)^-1``, H the site's block of the hat matrix.
    """
    mean = K[np.ix_(train, train)].mean(axis=0)
    inner = K[np.ix_(train, train)] - mean - mean[:, None] + mean.mean()
    outer = K[np.ix_(test, train)]
    outer = outer - outer.mean(axis=1, keepdims=True) - mean + mean.mean()
    scale = np.trace(inner) / len(train)
    values, vectors = np.linalg.eigh(inner / scale)
    values = values.clip(0)
    centre = Y[train].mean(axis=0)
    y = Y[train] - centre
    rotated = vectors.T @ y
    groups = [np.flatnonzero(sites[train] == site) for site in np.unique(sites[train])]
    errors = []
    for strength in STRENGTHS:
        gain = values / (values + strength)
        residual = y - vectors @ (gain[:, None] * rotated)
        error = np.zeros(Y.shape[1])
        for g in groups:
            hat = (vectors[g] * gain) @ vectors[g].T + 1 / len(train)
            error += np.square(np.linalg.solve(np.eye(len(g)) - hat, residual[g])).sum(axis=0)
        errors.append(error)
    best = np.array(STRENGTHS)[np.argmin(errors, axis=0)]
    dual = vectors @ (rotated / (values[:, None] + best))
    return outer / scale @ dual + centre


def predict(
    blocks: Sequence[NDArray[np.floating]],
    Y: Array,
    sites: NDArray[np.str_],
    tested: Sequence[str],
    share: float = 1.0,
) -> Array:
    """Leave every tested site out; return predictions (draws, n, targets), NaN elsewhere."""
    draws = 1 if share == 1 else N_DRAWS
    out = np.full((draws, *Y.shape), np.nan)
    K = gram(blocks)
    for site in tested:
        others = np.flatnonzero(sites != site)
        for draw in range(draws):
            rng = np.random.default_rng([draw, sum(map(ord, site))])
            train = np.sort(rng.permutation(others)[: round(share * len(others))])
            test = np.flatnonzero(sites == site)
            out[draw, test] = ridge(K, Y, sites, train, test)
    return out


def score(y: Array, p: Array) -> float:
    """Return the AUROC of two classes (+1, -1), or Pearson's r."""
    if len(np.unique(y)) > 2:
        return float(np.corrcoef(y, p)[0, 1])
    positive = y > 0
    n = positive.sum()
    return float((rankdata(p)[positive].sum() - n * (n + 1) / 2) / (n * (len(y) - n)))


def scores(Y: Array, P: Array, rows: NDArray[np.intp]) -> Array:
    """Return the score of every target, the mean over draws."""
    columns = range(Y.shape[1])
    return np.array([np.mean([score(Y[rows, j], p[rows, j]) for p in P]) for j in columns])


def table(Y: Array, found: dict[str, Array], sites: NDArray[np.str_]) -> list[dict[str, object]]:
    """Return scores, and differences to connectivity with intervals over sites."""
    everyone = np.flatnonzero(~np.isnan(found["connectivity"][0, :, 0]))
    own = [np.flatnonzero(sites == s) for s in np.unique(sites[everyone])]
    rng = np.random.default_rng(0)
    samples = [
        np.concatenate([own[i] for i in rng.integers(0, len(own), len(own))])
        for _ in range(N_BOOTSTRAP)
    ]
    drawn = {name: np.array([scores(Y, P, rows) for rows in samples]) for name, P in found.items()}
    rows = []
    for name, P in found.items():
        values = scores(Y, P, everyone)
        for other in ("connectivity", f"random {name}"):
            if other not in found or other == name:
                continue
            low, high = np.percentile(drawn[name] - drawn[other], (2.5, 97.5), axis=0)
            difference = values - scores(Y, found[other], everyone)
            for j, target in enumerate(TARGETS):
                rows.append(
                    {
                        "model": name,
                        "target": target,
                        "score": values[j],
                        "against": other,
                        "difference": difference[j],
                        "low": low[j],
                        "high": high[j],
                        "better": "yes" if low[j] > 0 else "worse" if high[j] < 0 else "no",
                    }
                )
        if name == "connectivity":
            rows += [
                {"model": name, "target": target, "score": values[j]}
                for j, target in enumerate(TARGETS)
            ]
    return rows


def main() -> None:
    """Pretrain, embed, predict, and write one table per setting."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    help_ = "test the model that comes with the package on the seven sites that it has not seen"
    parser.add_argument("--included", action="store_true", help=help_)
    given = parser.parse_args()
    store = RecordingStore(given.store)
    given.out.mkdir(parents=True, exist_ok=True)
    sites = store.table["site"].to_numpy(str)
    Y = targets_of(store.table)
    whole = [store.signal(i)[store.kept(i)] for i in range(len(store))]
    half = [x[: len(x) // 2] for x in whole]
    groups = [[*ABIDE_SAMPLE_SITES]] if given.included else groups_of(sites)
    models = [
        (
            group,
            load_pretrained()
            if given.included
            else pretrained(given.store, given.out / f"group-{i}", group, given.seed),
        )
        for i, group in enumerate(groups)
    ]
    settings = (
        ("all labels", whole, 1.0, N_RANDOM),
        ("25 % of labels", whole, 0.25, 0),
        ("half scans", half, 1.0, 0),
    )
    for name, signals, share, n_random in settings:
        called = ("included " if given.included else "") + name
        file = given.out / f"{called.replace(' ', '-').replace('%', 'percent')}.csv"
        if not file.exists():
            found = predictions(signals, Y, sites, models, share, n_random)
            np.savez(file.with_suffix(".npz"), **found)
            pd.DataFrame(table(Y, found, sites)).to_csv(file, index=False)
        print(called, pd.read_csv(file).round(3).to_string(), sep="\n", flush=True)


def predictions(
    signals: Sequence[NDArray[np.float32]],
    Y: Array,
    sites: NDArray[np.str_],
    models: Sequence[tuple[list[str], Encoder]],
    share: float,
    n_random: int,
) -> dict[str, Array]:
    """Return the predictions of every row of the table."""
    everyone = [site for group, _ in models for site in group]
    spectral = embed(models[0][1], signals)["spectral"]
    connectivity = ConnectivityBaseline().fit_transform(signals)
    found = {
        "connectivity": predict([connectivity], Y, sites, everyone, share),
        "spectral": predict([spectral], Y, sites, everyone, share),
    }
    tangent = TangentBaseline().fit(signals)
    found["tangent"] = predict([tangent.transform(signals)], Y, sites, everyone, share)
    print("baselines done", flush=True)
    for group, encoder in models:
        variants = {"": [encoder]}
        if n_random:
            seeds = range(n_random)
            variants["random "] = [encoder.with_random_weights(seed) for seed in seeds]
        for prefix, encoders in variants.items():
            each = [embed(one, signals) for one in encoders]
            for name, parts in LEARNED.items():
                draws = [predict([e[p] for p in parts], Y, sites, group, share) for e in each]
                _put(found, prefix + name, np.concatenate(draws))
            if not prefix:
                blocks = [spectral, np.hstack([each[0]["mean"], each[0]["cls"]])]
                _put(found, "spectral + mean + cls", predict(blocks, Y, sites, group, share))
                both = predict([spectral, each[0]["tokens"]], Y, sites, group, share)
                _put(found, "spectral + tokens", both)
        print("done", group, flush=True)
    return found


def _put(found: dict[str, Array], name: str, part: Array) -> None:
    """Add the predictions of one group of sites."""
    known = found.setdefault(name, np.full(part.shape, np.nan))
    found[name] = np.where(np.isnan(known), part, known)


if __name__ == "__main__":
    main()
