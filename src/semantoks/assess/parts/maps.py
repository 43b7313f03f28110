"""Embeddings in two dimensions."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from semantoks.assess.parts.base import Found, Question, Work
from semantoks.assess.parts.section import Heading, Pictures, Section, SectionBlock, Text
from semantoks.errors import InputError
from semantoks.figures import runs as plots
from semantoks.figures.picture import Picture


def compute(work: Work) -> Found:
    """Return the first two principal components of every trained model's embeddings."""
    if not work.trained:
        raise InputError("no model was given", field="models")
    table = work.store.table
    columns = ["site", *(t.column for t in work.plan.targets), "mean_fd"]
    shown = [c for c in dict.fromkeys(columns) if c in table and table[c].notna().any()]
    tables, shares = {}, {}
    for i, (name, model) in enumerate(work.trained.items()):
        embeddings = model.fit(work.store).transform(work.store)
        if len(embeddings) < 3 or not np.ptp(embeddings, axis=0).any():
            raise InputError("fewer than three different embeddings", field=name)
        pca = PCA(2, svd_solver="full").fit(embeddings)
        points = pd.DataFrame(pca.transform(embeddings), columns=["PC 1", "PC 2"])
        tables[f"points{i}"] = pd.concat([points, table[shown].reset_index(drop=True)], axis=1)
        shares[name] = [float(share) for share in pca.explained_variance_ratio_]
    return Found(tables, {"shares": shares, "columns": shown})


def sentence(_: Found) -> str:
    """Return the part's sentence in the methods paragraph."""
    return "Embeddings were displayed along their first two principal components."


def show(found: Found) -> Section:
    """Return maps of every model, one per column that colours them."""
    blocks: list[SectionBlock] = []
    for i, (model, shares) in enumerate(found.facts["shares"].items()):
        table = found.tables[f"points{i}"]
        points = table[["PC 1", "PC 2"]].to_numpy(np.float64)
        pictures = [
            Picture(
                plots.embedding_map(points, shares, column, table[column]),
                f"First two principal components of the embeddings, coloured by {column}",
            )
            for column in found.facts["columns"]
        ]
        note = (
            f"One dot per recording ({len(table)}): first two principal components, "
            f"{sum(shares):.0%} of the variance. If recordings cluster by site, the embeddings "
            "carry the scanner."
        )
        blocks += [Heading(model), Pictures(pictures), Text(note)]
    return Section("Embeddings", blocks)


QUESTION = Question(compute=compute, sentence=sentence, show=show)
