"""
Your own atlas
==============

A parcellation is a table of ROIs with names and networks, and coordinates where they are known.
Models and stores are bound to it by the names: a wrong order cannot go unnoticed.
"""

# %%
# Built in
# --------

from semantoks import Parcellation

Parcellation.available()

# %%
atlas = Parcellation.load("schaefer100")
atlas.to_frame().head(3)

# %%
# Networks by place
# -----------------
# For spheres, or any ROIs with centres in MNI space, ``assign_by_coordinates`` finds the network of
# Yeo-7, the subcortex or the cerebellum of each; for an image of labels there is
# ``semantoks assign atlas.nii.gz mine.tsv``.

from semantoks import assign_by_coordinates

spheres = {
    "visual cortex": (-8, -92, 4),
    "posterior cingulate": (2, -52, 28),
    "hand area": (-38, -24, 56),
    "putamen": (26, 6, 0),
    "cerebellum": (20, -60, -28),
}
table = assign_by_coordinates(list(spheres.values()), list(spheres))
table

# %%
# Save it as a table and load it where an atlas is asked for: ``--atlas mine.tsv``. ROIs far from
# every network are listed as weak; look at them.

from pathlib import Path
from tempfile import mkdtemp

work = Path(mkdtemp())
table.to_csv(work / "mine.tsv", sep="\t", index=False)
mine = Parcellation.load(work / "mine.tsv")
mine.labels, mine.network_names

# %%
# Names decide, not the order
# ---------------------------
# A recording with the same ROIs in another order is put into the order of the atlas; one with
# another name is refused.

mine.columns_of(["putamen", "cerebellum", "hand area", "posterior cingulate", "visual cortex"])

# %%
from semantoks import InputError

try:
    mine.columns_of(
        ["Putamen 1", "cerebellum", "hand area", "posterior cingulate", "visual cortex"]
    )
except InputError as error:
    print(error)

# %%
# A model on your atlas
# ---------------------
# The weights of a model belong to its ROIs. For an atlas of your own, pretrain on it
# (:doc:`/tutorials/04_pretrain`), or move time series to the atlas of a model by overlap
# (``--from-atlas``, :doc:`/preparing`), which is an approximation that the store's notes state.
