"""`Parcellation`: the ROIs of an atlas, with their names, order, networks and places."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.atlas.builtin import TABLES, builtin_names, builtin_table
from semantoks.atlas.channels import Channels
from semantoks.errors import InputError, listed, nearest
from semantoks.tables import read_words
from semantoks.text import has_decimal_commas

_SCHAEFER_NAME = re.compile(
    r"(7Networks_|17Networks_)?[LR]H_(Vis|SomMot|DorsAttn|SalVentAttn|Limbic|Cont|Default|TempPar)"
)


@dataclass(frozen=True, kw_only=True)
class Parcellation(Channels):
    """Names, order, networks and places of the ROIs of an atlas.

    Two are equal when they have the same labels, with the same networks, in the same order.

    Parameters
    ----------
    name : str
        Name of the parcellation.
    labels : tuple of str, length n_rois
        Name of every ROI, in order.
    networks : tuple of str, length n_rois
        Functional network of every ROI.
    coordinates : ndarray of shape (n_rois, 3), optional
        Centroids in millimetres, read-only float64; NaN where unknown, as all are by default.
    space : str
        Space of the coordinates, e.g. ``MNI152NLin6Asym``.
    aliases : tuple of tuple of str, length n_rois, optional
        Other names of every ROI; the k-th alias of all ROIs together is one naming scheme (a ROI
        without a k-th alias goes by its label in that scheme).
    index : tuple of int, length n_rois, optional
        Value of every ROI in the atlas's image.

    Raises
    ------
    InputError
        Lengths differ, a label or network is empty, or a name stands for two ROIs.

    Examples
    --------
    >>> from semantoks import Parcellation
    >>> atlas = Parcellation.load("schaefer100")
    >>> len(atlas), atlas.labels[0], atlas.network_names[:3]
    (100, '7Networks_LH_Vis_1', ('Vis', 'SomMot', 'DorsAttn'))
    """

    name: str = field(compare=False)
    labels: tuple[str, ...]
    networks: tuple[str, ...]
    coordinates: NDArray[np.float64] = field(
        compare=False, repr=False, default_factory=lambda: np.empty((0, 3))
    )
    space: str = field(compare=False, default="unknown")
    aliases: tuple[tuple[str, ...], ...] = field(compare=False, repr=False, default=())
    index: tuple[int, ...] = field(compare=False, repr=False, default=())

    def __post_init__(self) -> None:
        n = len(self.labels)
        known = len(self.coordinates) > 0
        coordinates = np.array(self.coordinates if known else np.full((n, 3), np.nan), np.float64)
        coordinates.setflags(write=False)
        object.__setattr__(self, "coordinates", coordinates)
        object.__setattr__(self, "aliases", tuple(self.aliases) or ((),) * n)
        lengths = (len(self.networks), len(self.aliases), len(coordinates))
        if n == 0 or set(lengths) != {n} or coordinates.shape != (n, 3):
            rule = "labels, networks, aliases and coordinates need one entry per ROI, at least one"
            raise InputError(rule, file=self.name, field="labels", value=f"{n} labels, {lengths}")
        for what, values in (("label", self.labels), ("network", self.networks)):
            if not all(isinstance(value, str) and value for value in values):
                empty = next(i for i, v in enumerate(values) if not (isinstance(v, str) and v))
                rule = f"every ROI needs a {what}, as text (row {empty + 1} has none)"
                raise InputError(rule, file=self.name, field=what, value=values[empty])
        if self.index and (
            len(self.index) != n or len(set(self.index)) != n or min(self.index) < 1
        ):
            rule = "every ROI needs one value of the image, above 0 and its own"
            raise InputError(rule, file=self.name, field="index")
        _ = self._lookup  # refuses names that stand for two ROIs

    # -- loading and saving ------------------------------------------------------------------------

    @staticmethod
    def available() -> tuple[str, ...]:
        """Names of the built-in parcellations."""
        return builtin_names()

    @classmethod
    def load(cls, name_or_path: str | Path) -> Parcellation:
        """Load a built-in parcellation by name, or one of your own from a table.

        Parameters
        ----------
        name_or_path : str or path
            A name from `available`, or a table (`semantoks.tables`) with the columns ``label`` and
            ``network``, and optionally ``x``, ``y``, ``z`` (millimetres), ``space`` (one for all),
            ``alias`` (other names of the ROI, separated by ``|``) and ``index`` (values in the
            atlas's image).

        Raises
        ------
        InputError
            Unknown name, no such file, or the table breaks a rule (named with its row).
        """
        if str(name_or_path) in builtin_names():
            return _builtin(str(name_or_path))
        path = Path(name_or_path)
        if not path.is_file():
            raise InputError(
                "is neither a built-in parcellation nor a file",
                field="parcellation",
                value=str(name_or_path),
                fix=nearest(str(name_or_path), builtin_names(), n=3),
            )
        frame = read_words(path)
        for axis in {*"xyz"} & {*frame.columns}:
            if has_decimal_commas([*frame[axis]]):
                frame[axis] = frame[axis].str.replace(",", ".")
        return cls.from_frame(frame, name=path.stem, source=path)

    @classmethod
    def from_frame(
        cls, frame: pd.DataFrame, *, name: str, source: str | Path = "table"
    ) -> Parcellation:
        """Make a parcellation from a table with the columns that `load` describes."""
        for column in ("label", "network"):
            if column not in frame.columns:
                rule = f"has no column {column!r}"
                fix = "Give a table with the columns label and network"
                raise InputError(rule, file=source, field="columns", value=[*frame], fix=fix)
        spaces = set(frame["space"]) if "space" in frame.columns else {"unknown"}
        if len(spaces) > 1:
            rule = "all coordinates must be in one space"
            raise InputError(rule, file=source, field="space", value=sorted(map(str, spaces)))
        aliases: tuple[tuple[str, ...], ...] = ()
        if "alias" in frame.columns:
            aliases = tuple(tuple(filter(None, cell.split("|"))) for cell in frame["alias"])
        coordinates = _coordinates(frame, source)
        index: tuple[int, ...] = ()
        if "index" in frame.columns:
            try:
                index = tuple(frame["index"].astype(int))
            except ValueError as error:
                rule = f"must be whole numbers ({error})"
                raise InputError(rule, file=source, field="index") from None
        try:
            return cls(
                name=name,
                labels=tuple(frame["label"]),
                networks=tuple(frame["network"]),
                coordinates=coordinates,
                space=spaces.pop(),
                aliases=aliases,
                index=index,
            )
        except InputError as error:  # the same, naming the file
            raise InputError(
                error.rule, file=source, field=error.field, value=error.value
            ) from None

    def to_frame(self) -> pd.DataFrame:
        """Return the table that `load` reads: label, network, x, y, z, space, alias (, index)."""
        frame = super().to_frame().assign(alias=["|".join(names) for names in self.aliases])
        return frame.assign(index=self.index) if self.index else frame

    # -- what is in it -----------------------------------------------------------------------------

    @property
    def groups(self) -> tuple[str, ...]:
        """Functional network of every ROI: what a model groups its channels by."""
        return self.networks

    @property
    def network_names(self) -> tuple[str, ...]:
        """Networks present: those of the method in its order, then others by first appearance."""
        return self.group_names

    @property
    def network_indices(self) -> tuple[NDArray[np.int64], ...]:
        """ROI indices of every network, in the order of `network_names`."""
        return self.group_indices

    @cached_property
    def _lookup(self) -> dict[str, int]:
        """Index of the ROI of every name."""
        names: dict[str, int] = {}
        for index, (label, aliases) in enumerate(zip(self.labels, self.aliases, strict=True)):
            for name in (label, *aliases):
                if names.setdefault(name, index) != index:
                    rule = f"stands for two ROIs, {names[name] + 1} and {index + 1}"
                    raise InputError(rule, file=self.name, field="label", value=name)
        return names

    @cached_property
    def _schemes(self) -> tuple[tuple[str, ...], ...]:
        """Every naming scheme as a full list: the labels, then each place of the aliases."""
        places = range(max(map(len, self.aliases)))
        rows = list(zip(self.labels, self.aliases, strict=True))
        return self.labels, *(tuple(a[k] if k < len(a) else b for b, a in rows) for k in places)

    # -- selecting and ordering, by name -----------------------------------------------------------

    def select(
        self,
        labels: Sequence[str] | None = None,
        *,
        networks: Iterable[str] | None = None,
        name: str | None = None,
    ) -> Parcellation:
        """Return the parcellation of some of the ROIs.

        Parameters
        ----------
        labels : sequence of str, optional
            Names of the ROIs to keep, in the order wanted.
        networks : iterable of str, optional
            Keep the ROIs of these networks, in the present order. Give either this or `labels`.
        name : str, optional
            Name of the result; by default the present name with the number of ROIs kept.

        Raises
        ------
        InputError
            A name or network is unknown, or given twice; nothing is kept; both or none are given.
        """
        if (labels is None) == (networks is None):
            raise InputError("give either labels or networks", field="labels, networks")
        if labels is not None:
            indices = self.indices_of(labels, "labels")
        else:
            wanted = list(networks or ())
            for network in wanted:
                if network not in self.network_names:
                    fix = nearest(network, self.network_names)
                    rule = f"is no network of {self.name}"
                    raise InputError(rule, field="networks", value=network, fix=fix)
            indices = [i for i, network in enumerate(self.networks) if network in wanted]
        return Parcellation(
            name=name or f"{self.name}-{len(indices)}",
            labels=tuple(self.labels[i] for i in indices),
            networks=tuple(self.networks[i] for i in indices),
            coordinates=self.coordinates[indices],
            space=self.space,
            aliases=tuple(self.aliases[i] for i in indices),
            index=tuple(self.index[i] for i in indices) if self.index else (),
        )

    def has(self, name: str) -> bool:
        """Return whether a name is that of a ROI: its label, or one of its aliases."""
        return name in self._lookup

    def columns_of(
        self,
        roi_names: Sequence[str],
        *,
        source: str | Path = "recording",
        extra: bool = False,
        absent: bool = False,
    ) -> NDArray[np.intp]:
        """Return which column holds which ROI: ``signal[:, columns]`` is in the present order.

        Parameters
        ----------
        roi_names : sequence of str
            Name of every column, in any order, in one naming scheme (labels or one of the aliases).
        source : str or path
            Where the names come from, for messages.
        extra : bool
            Allow columns that are no ROI of this parcellation (e.g. the subcortex of a 4S atlas).
        absent : bool
            Allow ROIs without a column.

        Returns
        -------
        ndarray of int, shape (n_rois,)
            Column of every ROI; -1 for one without.

        Raises
        ------
        InputError
            The names are not those of this parcellation: another number, unknown, missing
            or repeated names, bare numbers, names of several schemes mixed, or names that are all
            those of another parcellation.
        """
        names = tuple(roi_names)
        if len(names) != len(self) and not (extra or absent):
            raise self._misfit(
                f"has {len(names)} ROIs where {self.name} has {len(self)}", names, source
            )
        known = tuple(name for name in names if name in self._lookup) if extra else names
        indices = self.indices_of(known, source)
        if len(indices) < len(self) and not absent:
            lost = [name for i, name in enumerate(self.labels) if i not in set(indices)]
            rule = f"has no column for {len(lost)} ROIs of {self.name}: {', '.join(lost[:3])}"
            raise self._misfit(rule, names, source)
        if len(indices) != len(names) or len(indices) != len(self):
            self._refuse_confusion(names, known, source)
        if not any(set(known) <= set(scheme) for scheme in self._schemes):
            rule = f"mixes several naming schemes of {self.name}"
            example = [name for name in known if name not in self.labels][:3]
            fix = "Name all columns in one scheme"
            raise InputError(rule, file=source, field="ROI names", value=example, fix=fix)
        columns = np.full(len(self), -1, dtype=np.intp)
        columns[indices] = [i for i, name in enumerate(names) if name in self._lookup]
        return columns

    def _refuse_confusion(
        self, names: tuple[str, ...], known: tuple[str, ...], source: str | Path
    ) -> None:
        """Refuse a part of the names of another atlas that happen to be names of this one too.

        Schaefer's parcels are numbered within their network: ``LH_Vis_1`` is another place in the
        edition of 100 parcels than in that of 400.
        """
        if not known:
            raise self._misfit(f"has no ROI of {self.name}", names, source)
        parcels = sum(bool(_SCHAEFER_NAME.match(name)) for name in names)
        own = sum(bool(_SCHAEFER_NAME.match(name)) for name in self.labels)
        if parcels > own:
            rule = f"has {parcels} parcels of another edition of Schaefer's atlas, not {own}"
            raise self._misfit(rule, names, source)
        other = recognise(names)
        if len(known) < len(self) and other is not None:
            raise self._misfit(f"has all ROIs of {other}, not of {self.name}", names, source)

    def _misfit(self, rule: str, names: Sequence[str], source: str | Path) -> InputError:
        known = recognise(names)
        fix = f"Name every column as {self.name} does: {self.labels[0]}, ..., {self.labels[-1]}"
        if known is not None:
            fix = f"These are the names of {known}; choose that parcellation, or select its columns"
        elif all(name in self._lookup for name in names):
            fix = "Mark the others as missing (missing_rois, --missing-rois mark), or cut "
            fix += f"{self.name} to these ROIs with Parcellation.select"
        elif len({self._lookup[name] for name in names if name in self._lookup}) == len(self):
            others = [name for name in names if name not in self._lookup]
            fix = f"Drop the others (extra_rois, --extra-rois drop): {listed(others)}"
        elif 2 * sum(name in self._lookup for name in names) > len(names):
            fix += "; or drop the others and mark what is missing (--extra-rois drop "
            fix += "--missing-rois mark)"
        return InputError(rule, file=source, field="ROI names", fix=fix)


def recognise(roi_names: Sequence[str]) -> str | None:
    """Return the built-in parcellation to which a full list of names belongs, and their order.

    Returns
    -------
    str or None
        E.g. ``"schaefer400 in 17-network order"``; None when no built-in one has these names.
    """
    for name in builtin_names():
        known = _builtin(name)
        if len(known) != len(roi_names):
            continue
        indices = [known._lookup.get(roi, -1) for roi in roi_names]
        if sorted(indices) != list(range(len(known))):
            continue
        if indices == list(range(len(known))):
            return name
        if f"{name}-17n" in builtin_names() and name.startswith("schaefer"):
            place = read_words(TABLES / f"{name}.tsv")["index_17network"].astype(int).to_numpy()
            if (np.diff(place[indices]) > 0).all():
                return f"{name} in 17-network order"
        return f"{name} in another order"
    return None


@cache
def _builtin(name: str) -> Parcellation:
    return Parcellation.from_frame(builtin_table(name), name=name, source=name)


def _coordinates(frame: pd.DataFrame, source: str | Path) -> NDArray[np.float64]:
    present = [axis for axis in "xyz" if axis in frame.columns]
    if not present:
        return np.empty((0, 3))
    if len(present) < 3:
        rule = "coordinates need all of x, y and z, in millimetres"
        raise InputError(rule, file=source, field="columns", value=present)
    try:  # an empty cell becomes NaN
        return np.asarray(frame[present].apply(pd.to_numeric), np.float64)
    except ValueError as error:
        rule = f"coordinates must be numbers, in millimetres ({error})"
        raise InputError(rule, file=source, field="x, y, z") from None
