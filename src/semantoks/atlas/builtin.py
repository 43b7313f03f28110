"""The tables of the built-in parcellations, and those derived from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from semantoks.tables import read_words

TABLES = Path(__file__).parent / "tables"

_SCHAEFER = range(100, 1001, 100)  # numbers of parcels


def builtin_names() -> tuple[str, ...]:
    """Return the names of the built-in parcellations, sorted."""
    tables = {path.stem for path in TABLES.glob("[!_]*.tsv")}
    derived = {f"schaefer{n}-17n" for n in _SCHAEFER} | {f"4s{n + 56}" for n in _SCHAEFER}
    return tuple(sorted(tables | derived))


def builtin_table(name: str) -> pd.DataFrame:
    """Return the table of a built-in parcellation, in the columns of `Parcellation.load`."""
    if name.startswith("4s"):
        cortex = read_words(TABLES / f"schaefer{int(name[2:]) - 56}.tsv")
        frame = pd.concat([cortex, read_words(TABLES / "_4s-subcortex.tsv")], ignore_index=True)
        index = np.arange(1, len(frame) + 1)
        return frame.assign(space=frame["space"][0], index=index).fillna("")
    if name.startswith("schaefer") and name.endswith("-17n"):
        return _in_17_network_order(read_words(TABLES / f"{name.removesuffix('-17n')}.tsv"))
    return read_words(TABLES / f"{name}.tsv")


def _in_17_network_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Return Schaefer's 17-network edition: the same parcels, by its names, order and networks."""
    order = frame["index_17network"].astype(int)
    frame = frame.iloc[np.argsort(order)].reset_index(drop=True)
    names = frame["alias"].str.split("|")  # the short 7-network name, then both 17-network names
    return frame.assign(
        label=names.str[1],
        network=names.str[1].str.split("_").str[2],
        alias=names.str[2] + "|" + frame["label"] + "|" + names.str[0],
        index=np.arange(1, len(frame) + 1),
    )
