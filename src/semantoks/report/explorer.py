"""`Explorer`: the pages of `semantoks explore`, made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from sklearn.decomposition import PCA

from semantoks import __version__
from semantoks.arrays import Array, Rows
from semantoks.assess.assessment import Assessment
from semantoks.assess.parts.base import Found
from semantoks.assess.parts.importance import QUESTION
from semantoks.assess.parts.section import Section
from semantoks.data.prepare import QUALITY
from semantoks.data.quality import METRICS
from semantoks.data.store import RecordingStore
from semantoks.figures.picture import Picture
from semantoks.figures.style import INK, PALETTE, SOFT, UNKNOWN, panel_axes
from semantoks.report.evaluation import evaluation_section
from semantoks.report.page import template

PER_PAGE = 100
_NEIGHBOURS = 8
_COMPONENTS = 50  # in which neighbours are near
_WIDTH, _HEIGHT, _EDGE = 720, 520, 16  # of the map, pixels
_STEPS = 5  # colours of a number, in its legend
_INTERNAL = ("shard", "start")  # where the signal lies in the store
_LISTED = ["id", "subject", "session", "site", "minutes", "mean_fd"]


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Features of recordings, in two dimensions to look at and in more to find neighbours.

    Parameters
    ----------
    name : str
        What the features are.
    rows : int array of shape (n,)
        Places of the recordings in the store.
    components : ndarray of shape (n, at most 50)
        Principal components.
    shares : tuple of float
        Shares of the variance of the first two.
    """

    name: str
    rows: Rows
    components: Array
    shares: tuple[float, ...]

    @classmethod
    def of(cls, name: str, rows: Rows, features: ArrayLike) -> FeatureMap:
        """Return the map of features of shape (n, n_features), of 3 recordings at least."""
        X = np.asarray(features, np.float64)
        pca = PCA(min(_COMPONENTS, len(X) - 1, X.shape[1]), random_state=0)
        components = pca.fit_transform(X)
        return cls(name, rows, components, tuple(pca.explained_variance_ratio_[:2]))

    def neighbours(self, recording: int) -> list[tuple[int, float]]:
        """Return the nearest recordings and their distances, over the median distance.

        Raises
        ------
        LookupError
            If the recording is not on the map.
        """
        (place,) = np.flatnonzero(self.rows == recording) if recording in self.rows else (None,)
        if place is None:
            raise LookupError(recording)
        distance = np.linalg.norm(self.components - self.components[place], axis=1)
        order = [i for i in np.argsort(distance, kind="stable") if i != place]
        unit = float(np.median(distance[order])) or 1.0
        return [(int(self.rows[i]), float(distance[i] / unit)) for i in order[:_NEIGHBOURS]]


class Explorer:
    """Pages about a store, the features of its recordings, a model, and results.

    Parameters
    ----------
    store : RecordingStore
    features : callable
        Returns the `FeatureMap`; called when a page first needs it.
    importance : callable
        Returns the importance of networks, or None without a model; called likewise.
    results : mapping of str to Assessment
    base : str
        What every link begins with.
    """

    def __init__(
        self,
        store: RecordingStore,
        features: Callable[[], FeatureMap],
        importance: Callable[[], Found | None],
        results: Mapping[str, Assessment],
        *,
        base: str = "/",
    ) -> None:
        self.store, self.results, self.base = store, results, base
        self._features, self._importance = features, importance

    @cached_property
    def table(self) -> pd.DataFrame:
        """The index of the store with minutes and, where it was measured, quality."""
        table = self.store.table.reset_index(drop=True)
        table["minutes"] = table["length"] * self.store.tr / 60
        file = self.store.path / QUALITY
        if file.is_file():
            quality = pd.read_parquet(file).drop_duplicates("id").set_index("id")
            new = [name for name in METRICS if name in quality and name not in table]
            table = table.join(quality[new], on="id")
        return table

    @cached_property
    def features(self) -> FeatureMap:
        """The map of the recordings."""
        return self._features()

    @cached_property
    def networks(self) -> Section | None:
        """The importance of networks."""
        found = self._importance()
        return None if found is None else QUESTION.show(found)

    def page(self, path: str, query: Mapping[str, str]) -> str:
        """Return a page as HTML.

        Parameters
        ----------
        path : str
            "" (recordings), "recording/3", "map", "importance", or "results/0".
        query : mapping of str to str
            Choices of the reader: find, sort, page; colour, recording.

        Raises
        ------
        LookupError
            If there is no such page.
        """
        view, _, place = path.partition("/")
        views = {"": self._recordings, "map": self._map, "importance": self._networks}
        if view in views and not place:
            facts = views[view](query)
        elif view == "recording":
            facts = self._recording(_whole(place, len(self.table)))
        elif view == "results":
            facts = self._result(_whole(place, len(self.results)))
        else:
            raise LookupError(path)
        return self._render(view or "recordings", **facts)

    def error(self, text: str) -> str:
        """Return a page that says what went wrong."""
        return self._render("error", title="Not shown", text=text)

    def _render(self, view: str, **facts: Any) -> str:
        html: str = template("explore.html").render(
            view=view,
            name=self.store.path.name,
            version=__version__,
            base=self.base,
            n=len(self.table),
            results=[*self.results],
            link=self._link,
            **facts,
        )
        return html

    def _link(self, path: str, **query: object) -> str:
        given = {key: value for key, value in query.items() if value not in (None, "")}
        return self.base + path + (f"?{urlencode(given)}" if given else "")

    # -- recordings --------------------------------------------------------------------------------

    def _recordings(self, query: Mapping[str, str]) -> dict[str, Any]:
        table, find = self.table, query.get("find", "").strip()
        sort = query.get("sort", "")
        if find:
            words = table.select_dtypes(exclude="number").astype(str)
            found = words.apply(lambda c: c.str.contains(find, case=False, regex=False))
            table = table[found.any(axis=1)]
        if sort.lstrip("-") in table:
            table = table.sort_values(
                sort.lstrip("-"), ascending=not sort.startswith("-"), kind="stable"
            )
        n_pages = max(1, -(-len(table) // PER_PAGE))
        page = min(int(query["page"]) if query.get("page", "").isdecimal() else 1, n_pages)
        shown = table.iloc[(page - 1) * PER_PAGE : max(page, 1) * PER_PAGE]
        wanted = dict.fromkeys([*_LISTED, *METRICS])
        columns = [name for name in wanted if name in table and table[name].notna().any()]
        return {
            "title": "Recordings",
            "find": find,
            "sort": sort,
            "page": page,
            "n_pages": n_pages,
            "n_found": len(table),
            "columns": columns,
            "rows": [
                (i, [_text(value) for value in row])
                for i, row in zip(shown.index, shown[columns].to_numpy(object), strict=True)
            ],
        }

    def _recording(self, i: int) -> dict[str, Any]:
        row = self.table.iloc[i]
        return {
            "title": str(row["id"]),
            "i": i,
            "facts": {
                str(name): _text(value)
                for name, value in row.items()
                if _known(value) and name not in _INTERNAL
            },
            "carpet": self._carpet(i),
            "neighbours": self._neighbours(i),
            "shown_by": self.features.name,
        }

    def _carpet(self, i: int) -> Picture:
        parcellation = self.store.parcellation
        signal = self.store.signal(i)
        order = np.concatenate(parcellation.network_indices)
        sizes = [len(rois) for rois in parcellation.network_indices]
        figure = Figure(figsize=(8.2, 4.2), layout="constrained")
        axes = panel_axes(figure)
        axes.grid(visible=False)
        extent = (0.0, len(signal) * self.store.tr / 60, float(len(order)), 0.0)
        axes.imshow(signal[:, order].T, cmap="gray", aspect="auto", extent=extent, vmin=-3, vmax=3,
                    interpolation="nearest")  # fmt: skip
        ends = np.cumsum(sizes)
        axes.hlines(ends[:-1], *extent[:2], color=PALETTE[1], lw=0.6)
        axes.set_yticks(ends - np.array(sizes) / 2, parcellation.network_names, fontsize=7)
        axes.set_xlabel("minutes", fontsize=9, color=SOFT)
        axes.tick_params(labelcolor=INK)
        name = self.table["id"].iloc[i]
        return Picture(figure, f"Carpet plot of {name}: ROIs by network over time")

    def _neighbours(self, i: int) -> list[tuple[int, str, str, str]] | None:
        """Return place, id, subject and distance; None where the map does not have it."""
        try:
            found = self.features.neighbours(i)
        except LookupError:
            return None
        return [
            (j, str(self.table["id"].iloc[j]), str(self.table["subject"].iloc[j]), f"{d:.2f}")
            for j, d in found
        ]

    # -- the map -----------------------------------------------------------------------------------

    def _map(self, query: Mapping[str, str]) -> dict[str, Any]:
        space = self.features
        table = self.table.iloc[space.rows]
        columns = [c for c in self.table if c != "id" and table[c].map(_text).nunique() > 1]
        usual = next((name for name in ("site", "sex") if name in columns), columns[0])
        colour = query.get("colour", usual)
        colour = colour if colour in columns else usual
        colours, legend = colours_of(table[colour])
        chosen = query.get("recording", "")
        i = _whole(chosen, len(self.table)) if chosen else None
        near = [] if i is None else self._neighbours(i) or []
        places = space.components[:, :2]
        places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
        low, high = places.min(axis=0), places.max(axis=0)
        scale = np.array([_WIDTH - 2 * _EDGE, 2 * _EDGE - _HEIGHT]) / np.where(
            high > low, high - low, 1
        )
        xy = (places - low) * scale + [_EDGE, _HEIGHT - _EDGE]
        marks = {j: "near" for j, *_ in near} | ({} if i is None else {i: "chosen"})
        dots = [
            {"i": int(row), "x": f"{x:.1f}", "y": f"{y:.1f}", "fill": fill,
             "mark": marks.get(int(row), ""), "label": f"{name}: {_text(value)}"}
            for row, (x, y), fill, name, value in zip(
                space.rows, xy, colours, table["id"], table[colour], strict=True)
        ]  # fmt: skip
        return {
            "title": "Map",
            "space": space,
            "size": (_WIDTH, _HEIGHT),
            "columns": columns,
            "colour": colour,
            "legend": legend,
            "dots": sorted(dots, key=lambda dot: bool(dot["mark"])),  # marked ones on top
            "chosen": None if i is None else self._recording(i),
        }

    # -- models and results ------------------------------------------------------------------------

    def _networks(self, _: Mapping[str, str]) -> dict[str, Any]:
        sections = [] if self.networks is None else [self.networks]
        sections += [
            QUESTION.show(result.parts["importance"])
            for result in self.results.values()
            if "importance" in result.parts
        ]
        return {"title": "Importance of networks", "sections": sections}

    def _result(self, k: int) -> dict[str, Any]:
        name, result = [*self.results.items()][k]
        return {"title": f"Results: {name}", "result": evaluation_section(name, result)}


def colours_of(values: pd.Series) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the colour of every value, and the legend.

    Parameters
    ----------
    values : Series
        Numbers are coloured by five quantiles, if they are more than eight; other values by their
        seven most frequent categories and the rest.

    Returns
    -------
    colours : list of str
    legend : list of (colour, label)
    """
    known = values.notna()
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > len(PALETTE):
        numbers = values.astype("float64").to_numpy()
        edges = np.unique(np.quantile(numbers[known], np.linspace(0, 1, _STEPS + 1)))
        shades = [to_hex(colormaps["viridis"](s)) for s in np.linspace(0.05, 0.9, len(edges) - 1)]
        codes = np.searchsorted(edges[1:-1], numbers, side="right")
        ends = zip(shades, pairwise(edges), strict=True)
        legend = [(shade, f"{a:.4g} to {b:.4g}") for shade, (a, b) in ends]
        colours = [shades[c] if k else UNKNOWN for c, k in zip(codes, known, strict=True)]
    else:
        text = values[known].map(_text)
        most = [*text.value_counts().index]
        named = most if len(most) <= len(PALETTE) else most[: len(PALETTE) - 1]
        shade = dict(zip(named, PALETTE, strict=False))
        rest = PALETTE[-1]
        colours = [
            shade.get(_text(v), rest) if k else UNKNOWN for v, k in zip(values, known, strict=True)
        ]
        legend = [(shade[name], name) for name in named]
        if len(most) > len(named):
            legend.append((rest, f"{len(most) - len(named)} others"))
    if not known.all():
        legend.append((UNKNOWN, "unknown"))
    return colours, legend


def _whole(text: str, below: int) -> int:
    if not text.isdecimal() or int(text) >= below:
        raise LookupError(text)
    return int(text)


def _known(value: Any) -> bool:
    if value is None or value is pd.NA or value is pd.NaT:
        return False
    return not (isinstance(value, float) and np.isnan(value))


def _text(value: object) -> str:
    if not _known(value):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
