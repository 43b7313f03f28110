"""
Which networks matter
=====================

Network occlusion masks one network, or all but one, and measures how far the embedding moves. It
describes the model, not the brain: a network that others can replace moves little.
"""

# %%
# Mask and measure
# ----------------
# Four people of one site, to keep this page fast; the model that comes with the package.

import numpy as np

from semantoks import load_pretrained
from semantoks.datasets import load_abide_sample
from semantoks.explain.networks import occlusion

people = [r for r in load_abide_sample() if r.site == "YALE"][:4]
encoder = load_pretrained()
moved = occlusion(encoder, [r.signal for r in people], tr=2.0)
summary = moved.summary(np.array([r.subject for r in people]))
summary[summary["measure"] == "without"].round(4)

# %%
# "Without" is large where nothing else makes up for the network; "alone" is small where the
# network says most of it by itself. Intervals are over people.

from semantoks.figures.brain import glass_brain_figure, occlusion_figure, roi_values

figure = occlusion_figure(summary)

# %%
# On the brain
# ------------
# Every ROI has the value of its network, at its centre.

brain = glass_brain_figure(
    encoder.channels.coordinates, roi_values(encoder, summary, measure="without")
)

# %%
# Is it pretraining?
# ------------------
# The same measure on random weights is the control: what they show too is the anatomy of the atlas,
# such as the number of ROIs in a network, and was not learned.

control = occlusion(encoder.with_random_weights(0), [r.signal for r in people], tr=2.0)
trained, untrained = moved.without.mean(axis=0), control.without.mean(axis=0)
sizes = [len(rois) for rois in encoder.rows.channels]
for row in zip(moved.networks, sizes, trained.round(4), untrained.round(4), strict=True):
    print("{:13} {:3} ROIs   trained {:.4f}   random {:.4f}".format(*row))

# %%
# ``semantoks explain MODEL STORE FOLDER`` writes these pictures and tables, and for models with
# long convolutions their filters in hertz.
