"""Which networks the embedding depends on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from semantoks.assess.parts.base import Found, Question, Work
from semantoks.assess.parts.section import Heading, Pictures, Section, SectionBlock, Text
from semantoks.errors import InputError
from semantoks.explain.networks import occlusion
from semantoks.figures.brain import glass_brain_figure, occlusion_figure, roi_values
from semantoks.figures.picture import Picture

#: Recordings in which networks are masked: it takes two passes per network each.
IMPORTANCE_RECORDINGS = 50


def compute(work: Work) -> Found:
    """Mask networks in every trained model; see `semantoks.explain.networks`."""
    if not work.trained:
        raise InputError("no model was given", field="models")
    store = work.store
    if len(store) > IMPORTANCE_RECORDINGS:
        rows = np.linspace(0, len(store) - 1, IMPORTANCE_RECORDINGS).astype(int)
        store = store.select(rows)
    subjects = store.table["subject"].to_numpy(str)
    summaries, rois = [], {}
    for i, (name, model) in enumerate(work.trained.items()):
        encoder = model.fit(store).encoder_
        found = occlusion(encoder, store, n_crops=work.plan.n_crops)
        summary = found.summary(subjects, seed=work.plan.seed)
        summaries.append(summary.assign(model=name))
        places = pd.DataFrame(encoder.channels.coordinates, columns=["x", "y", "z"])
        rois[f"rois{i}"] = places.assign(value=roi_values(encoder, summary, "without"))
    tables = {"networks": pd.concat(summaries, ignore_index=True), **rois}
    return Found(tables, {"models": [*work.trained], "n_recordings": len(store)})


def sentence(found: Found) -> str:
    """Return the part's sentence in the methods paragraph."""
    return (
        "The importance of a functional network is the cosine distance by which the embedding "
        f"moves when the network is masked ({found.facts['n_recordings']} recordings)."
    )


def show(found: Found) -> Section:
    """Return a glass brain and the distances per network, for every model."""
    networks = found.tables["networks"]
    blocks: list[SectionBlock] = []
    for i, model in enumerate(found.facts["models"]):
        rois = found.tables[f"rois{i}"]
        summary = networks[networks["model"] == model]
        brain = glass_brain_figure(
            rois[["x", "y", "z"]].to_numpy(np.float64), rois["value"].to_numpy(np.float64)
        )
        pictures = [Picture(occlusion_figure(summary), f"Distances of masked networks, {model}")]
        if brain is not None:
            pictures.insert(0, Picture(brain, f"Glass brain: importance of networks, {model}"))
        blocks += [Heading(model), Pictures(pictures, size="wide")]
    note = (
        "Cosine distance by which the embedding of a recording moves when a network is masked "
        "(glass brain, right panel), or when all others are (left panel); "
        f"{found.facts['n_recordings']} recordings, 95 % intervals over people. It describes the "
        "embedding, not the prediction of a target."
    )
    return Section("Importance of networks", [*blocks, Text(note)])


QUESTION = Question(compute=compute, sentence=sentence, show=show)
