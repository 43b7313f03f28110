"""Make the tables of the built-in parcellations, and the small image of the nine networks.

    python scripts/make_atlas_tables.py SOURCE_FOLDER

`SOURCE_FOLDER` holds, for every atlas, its labels with centroids and Yeo-7 overlaps. The tables
hold names, centroids and networks, never images of an atlas. The network of a Schaefer parcel is
the one in its official name; of the 457 ROIs, the published assignment; of all others the network
with the largest overlap, brain stem counted as Subcortical (the nine networks know none).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.datasets import load_mni152_brain_mask
from nilearn.image import resample_to_img

TABLES = Path(__file__).parents[1] / "src" / "semantoks" / "atlas" / "tables"
SCHAEFER = "schaefer2018/atlas-Schaefer2018v0143_desc-{}ParcelsAllNetworks_dseg.tsv"
FSL = "MNI152NLin6Asym"

#: What the 4S atlases add to Schaefer's parcels, in their order: CIT168, thalamus, HCP, cerebellum.
BASAL = tuple("Pu Ca NAC EXA GPe GPi SNc_PBP_VTA RN SNr VeP HN HTH MN STH".split(" "))  # noqa: SIM905
THALAMUS = (
    "Pulvinar",
    "Anterior",
    "Medio_Dorsal",
    "Ventral_Latero_Dorsal",
    "Central_Lateral-Lateral_Posterior-Medial_Pulvinar",
    "Ventral_Anterior",
    "Ventral_Latero_Ventral",
)


def read(path: Path, sep: str = "\t") -> pd.DataFrame:
    return pd.read_csv(path, sep=sep, keep_default_na=False, na_values=[""])


def table(
    labels: Iterable[str],
    networks: Iterable[str],
    rois: pd.DataFrame,
    space: str,
    aliases: Iterable[Sequence[str]] | None = None,
) -> pd.DataFrame:
    """One row per ROI; the aliases of a ROI are joined by `|`, one naming scheme per place."""
    frame = pd.DataFrame({"label": list(labels), "network": list(networks)})
    frame = frame.join(rois[["x", "y", "z"]].reset_index(drop=True)).assign(space=space)
    frame["alias"] = ["|".join(names) for names in aliases or [()] * len(frame)]
    return frame.assign(index=rois["roi_index"].to_numpy())


def by_overlap(source: Path, name: str, space: str = FSL) -> pd.DataFrame:
    """An atlas whose networks are those that its ROIs overlap with most."""
    rois = read(source / "networks" / f"{name}.tsv")
    labels = rois["label"].str.split("|").str[0]
    frame = table(labels, nine(rois["yeo7_network"]), rois, space)
    return frame.assign(overlap_fraction=rois["overlap_fraction"])


def nine(networks: pd.Series) -> pd.Series:
    return networks.replace("Brainstem", "Subcortical")


def schaefer_aliases(official: pd.DataFrame) -> list[list[str]]:
    names_7, names_17 = official["label_7network"], official["label_17network"]
    return [
        [a.removeprefix("7Networks_"), b, b.removeprefix("17Networks_")]
        for a, b in zip(names_7, names_17, strict=True)
    ]


def schaefer(source: Path, n: int) -> pd.DataFrame:
    official = read(source / SCHAEFER.format(n))
    assert sorted(official["index_17network"]) == list(range(1, n + 1))
    assert official["index"].tolist() == list(range(1, n + 1))
    rois = official.rename(columns={"index": "roi_index"}).assign(x=np.nan, y=np.nan, z=np.nan)
    centroids = source / "networks" / f"schaefer{n}_7n.tsv"
    if centroids.exists():
        known = read(centroids)
        assert (known["label"] == official["label_7network"]).all()
        rois[["x", "y", "z"]] = known[["x", "y", "z"]]
    labels, networks = official["label_7network"], official["network_label"]
    frame = table(labels, networks, rois, FSL, schaefer_aliases(official))
    return frame.assign(index_17network=official["index_17network"])


def semantoks457(source: Path) -> pd.DataFrame:
    rois = read(source / "semantoks457" / "semantoks457.tsv")
    rois["roi_index"] = np.arange(1, 458)
    cortex = schaefer_aliases(read(source / SCHAEFER.format(400)))
    counts = rois.groupby("network_token").size().tolist()
    assert counts == [61, 77, 46, 47, 26, 52, 91, 50, 7], counts
    aliases = cortex + [[]] * (len(rois) - len(cortex))
    return table(rois["label"], rois["network"], rois, FSL, aliases)


def semantoks457_17n(source: Path) -> pd.DataFrame:
    """The same ROIs; the network of a parcel is the one in its official 17-network name."""
    frame = semantoks457(source)
    cortex = read(source / SCHAEFER.format(400))["label_17network"].str.split("_").str[2]
    assert cortex.nunique() == 17
    return frame.assign(network=[*cortex, *frame["network"][len(cortex) :]])


def cc200(source: Path) -> pd.DataFrame:
    rois = read(source / "networks" / "cc200.tsv")
    described = read(source / "cc200" / "CC200_ROI_labels.csv", sep=",")
    centres = described["center of mass"].str.strip("()").str.split(";", expand=True).astype(float)
    assert np.allclose(centres, rois[["x", "y", "z"]], atol=0.11)
    parts = rois["label"].str.extract(r"(CC200_(\d+))\|AAL:(.*)")
    assert (parts[1].astype(int) == described["ROI number"]).all()
    # `#1`, `#2`, ... head the columns of the time series of the Preprocessed Connectomes Project.
    aliases = [[f"#{n}"] for n in parts[1]]
    frame = table(parts[0], nine(rois["yeo7_network"]), rois, "MNI152", aliases)
    return frame.assign(overlap_fraction=rois["overlap_fraction"], anatomy=parts[2])


def cc400(source: Path) -> pd.DataFrame:
    frame = by_overlap(source, "cc400", "MNI152")
    return frame.assign(alias=[f"#{n}" for n in frame["index"]])


def aal116(source: Path) -> pd.DataFrame:
    frame = by_overlap(source, "aal116", "MNI152")
    names = (source / "aal" / "aal116NodeNames.txt").read_text().split()
    codes = (source / "aal" / "aal116NodeIndex.1D").read_text().split()
    assert names == frame["label"].tolist(), "the codes are in another order"
    # The Preprocessed Connectomes Project heads the columns with the codes of SPM: `#2001`, ...
    return frame.assign(alias=[f"#{code}" for code in codes])


def dosenbach160(source: Path) -> pd.DataFrame:
    frame = by_overlap(source, "dosenbach160")
    assert frame["label"].is_unique
    return frame


def subcortex_4s() -> pd.DataFrame:
    """The 56 ROIs that all 4S atlases have after Schaefer's parcels."""
    sides = ("LH", "RH")
    labels = [f"{side}-{name}" for names in (BASAL, THALAMUS) for side in sides for name in names]
    labels += [f"{side}_{name}" for side in sides for name in ("Hippocampus", "Amygdala")]
    networks = ["Subcortical"] * len(labels) + ["Cerebellar"] * 10
    labels += [f"Cerebellar_Region{i}" for i in range(1, 11)]
    return pd.DataFrame({"label": labels, "network": networks})


def network_image(source: Path) -> nib.Nifti1Image:
    """Codes 1 to 7 of Yeo-7 (liberal mask), 8 Subcortical, 9 Cerebellar, 10 brain stem, at 2 mm.

    Subcortical is the Melbourne atlas. The cerebellum and the brain stem are boxes, in millimetres,
    of what is left of the brain mask: no cerebellar atlas may be shipped.
    """
    yeo = nib.load(source / "yeo2011" / "Yeo-7-liberal_space-MNI152NLin6_res-2x2x2.nii.gz")
    codes = np.asarray(yeo.dataobj).astype(np.uint8)
    tian = nib.load(source / "tian2020" / "Tian_Subcortex_S3_3T_2mm.nii.gz")
    codes[np.asarray(tian.dataobj) > 0] = 8
    brain = load_mni152_brain_mask(resolution=2)
    options = {"interpolation": "nearest", "force_resample": True, "copy_header": True}
    free = (resample_to_img(brain, yeo, **options).get_fdata() > 0) & (codes == 0)
    places = nib.affines.apply_affine(yeo.affine, np.indices(codes.shape).reshape(3, -1).T)
    x, y, z = places.T.reshape(3, *codes.shape)
    stem = (abs(x) < 12) & (y > -44) & (y < -8) & (z < -8)
    codes[free & stem] = 10
    codes[free & ~stem & (y < -30) & (z < -12)] = 9
    theirs = source / "semantoks457" / "network_reference_space-MNI152NLin6Asym_res-2mm.nii.gz"
    buckner = np.asarray(nib.load(theirs).dataobj) == 9
    dice = 2 * ((codes == 9) & buckner).sum() / ((codes == 9).sum() + buckner.sum())
    print(f"cerebellum: Dice {dice:.3f} with the mask of Buckner's cerebellar networks")
    return nib.Nifti1Image(codes, yeo.affine)


def main() -> None:
    source = Path(sys.argv[1])
    TABLES.mkdir(parents=True, exist_ok=True)
    frames = {f"schaefer{n}": schaefer(source, n) for n in range(100, 1001, 100)}
    frames |= {f"tian-s{k}": by_overlap(source, f"tian_s{k}_3T") for k in (1, 2, 3, 4)}
    for make in (semantoks457, semantoks457_17n, cc200, cc400, aal116, dosenbach160):
        frames[make.__name__.replace("_", "-")] = make(source)
    for name in ("harvard_oxford112", "desikan_killiany83", "power264", "gordon333", "glasser360"):
        frames[name.replace("_", "-")] = by_overlap(source, name)
    frames["seitzman300"] = by_overlap(source, "seitzman300")
    frames["_4s-subcortex"] = subcortex_4s()
    for name, frame in frames.items():
        frame.to_csv(TABLES / f"{name}.tsv", sep="\t", index=False, lineterminator="\n")
        print(f"{name}: {len(frame)} ROIs, {frame['network'].value_counts().to_dict()}")
    nib.save(network_image(source), TABLES / "networks_space-MNI152NLin6Asym_res-2mm.nii.gz")


if __name__ == "__main__":
    main()
