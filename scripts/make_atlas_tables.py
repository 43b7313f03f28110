"""Make the tables of the built-in parcellations: names, centroids and networks, never images.

    python scripts/make_atlas_tables.py SOURCE_FOLDER

`SOURCE_FOLDER` holds, for every atlas, its labels with centroids and Yeo-7 overlaps. The network of
a Schaefer parcel is the one in its official name; of the 457 ROIs, the published assignment; of
CC200 and AAL, the network with the largest overlap, brain stem counted as Subcortical (the nine
networks of the method know no brain stem).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

TABLES = Path(__file__).parents[1] / "src" / "semantoks" / "atlas" / "tables"
SCHAEFER = "schaefer2018/atlas-Schaefer2018v0143_desc-400ParcelsAllNetworks_dseg.tsv"


def read(path: Path, sep: str = "\t") -> pd.DataFrame:
    return pd.read_csv(path, sep=sep, keep_default_na=False, na_values=[""])


def table(labels, networks, source: pd.DataFrame, aliases, space: str) -> pd.DataFrame:
    """One row per ROI; the aliases of a ROI are joined by `|`, one naming scheme per place."""
    coordinates = source[["x", "y", "z"]].reset_index(drop=True)
    frame = pd.DataFrame({"label": list(labels), "network": list(networks)}).join(coordinates)
    return frame.assign(space=space, alias=["|".join(names) for names in aliases])


def schaefer_aliases(official: pd.DataFrame) -> list[list[str]]:
    names_7, names_17 = official["label_7network"], official["label_17network"]
    return [
        [a.removeprefix("7Networks_"), b, b.removeprefix("17Networks_")]
        for a, b in zip(names_7, names_17, strict=True)
    ]


def schaefer400(source: Path) -> pd.DataFrame:
    official = read(source / SCHAEFER)
    centroids = read(source / "networks" / "schaefer400_7n.tsv")
    assert (centroids["label"] == official["label_7network"]).all()
    assert sorted(official["index_17network"]) == list(range(1, 401))
    frame = table(
        official["label_7network"],
        official["network_label"],
        centroids,
        schaefer_aliases(official),
        "MNI152NLin6Asym",
    )
    return frame.assign(index_17network=official["index_17network"])


def semantoks457(source: Path) -> pd.DataFrame:
    rois = read(source / "semantoks457" / "semantoks457.tsv")
    cortex = schaefer_aliases(read(source / SCHAEFER))
    counts = rois.groupby("network_token").size().tolist()
    assert counts == [61, 77, 46, 47, 26, 52, 91, 50, 7], counts
    aliases = cortex + [[]] * (len(rois) - len(cortex))
    return table(rois["label"], rois["network"], rois, aliases, "MNI152NLin6Asym")


def semantoks457_17n(source: Path) -> pd.DataFrame:
    """The same ROIs; the network of a parcel is the one in its official 17-network name."""
    frame = semantoks457(source)
    cortex = read(source / SCHAEFER)["label_17network"].str.split("_").str[2]
    assert cortex.nunique() == 17
    return frame.assign(network=[*cortex, *frame["network"][len(cortex) :]])


def cc200(source: Path) -> pd.DataFrame:
    rois = read(source / "networks" / "cc200.tsv")
    described = read(source / "cc200" / "CC200_ROI_labels.csv", sep=",")
    centres = described["center of mass"].str.strip("()").str.split(";", expand=True).astype(float)
    assert np.allclose(centres, rois[["x", "y", "z"]], atol=0.11)
    parts = rois["label"].str.extract(r"(CC200_(\d+))\|AAL:(.*)")
    assert (parts[1].astype(int) == described["ROI number"]).all()
    networks = rois["yeo7_network"].replace("Brainstem", "Subcortical")
    # `#1`, `#2`, ... head the columns of the time series of the Preprocessed Connectomes Project.
    frame = table(parts[0], networks, rois, [[f"#{n}"] for n in parts[1]], "MNI152")
    return frame.assign(overlap_fraction=rois["overlap_fraction"], anatomy=parts[2])


def aal116(source: Path) -> pd.DataFrame:
    rois = read(source / "networks" / "aal116.tsv")
    names = (source / "aal" / "aal116NodeNames.txt").read_text().split()
    codes = (source / "aal" / "aal116NodeIndex.1D").read_text().split()
    assert names == rois["label"].tolist(), "the codes are in another order"
    networks = rois["yeo7_network"].replace("Brainstem", "Subcortical")
    # The Preprocessed Connectomes Project heads the columns with the codes of SPM: `#2001`, ...
    frame = table(rois["label"], networks, rois, [[f"#{code}"] for code in codes], "MNI152")
    return frame.assign(overlap_fraction=rois["overlap_fraction"])


def main() -> None:
    source = Path(sys.argv[1])
    TABLES.mkdir(parents=True, exist_ok=True)
    for make in (schaefer400, semantoks457, semantoks457_17n, cc200, aal116):
        frame, name = make(source), make.__name__.replace("_", "-")
        frame.to_csv(TABLES / f"{name}.tsv", sep="\t", index=False, lineterminator="\n")
        print(f"{name}: {len(frame)} ROIs, {frame['network'].value_counts().to_dict()}")


if __name__ == "__main__":
    main()
