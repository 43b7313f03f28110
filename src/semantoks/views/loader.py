"""`ViewLoader`: batches of views as a pure function of the step, so that resuming is exact."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semantoks.atlas.channels import TokenRows
from semantoks.data.mixture import Recordings
from semantoks.errors import InputError
from semantoks.views.augment import AugmentConfig, BatchRows, augment
from semantoks.views.batch import ViewBatch
from semantoks.views.crops import CropConfig, CropGroup, IntArray, ViewPlan, draw_group, draw_halves
from semantoks.views.epochs import WeightedEpochs
from semantoks.views.masks import MaskConfig, draw_masks

_TWO_VIEWS = ViewPlan()
_ORDER, _CROPS, _DEVICE = range(3)  # independent random streams


@dataclass(frozen=True)
class _Crops:
    """Crops of one group as they are read.

    (B,) or (V, B) recordings, (V, B) starts and lengths, (V, B, T, C) signals.
    """

    recordings: IntArray
    starts: IntArray
    lengths: IntArray
    raw: Tensor
    rows: BatchRows


def missing_rows(
    store: Recordings, rows: TokenRows, place: Sequence[int], n_channels: int
) -> NDArray[np.bool_]:
    """Return which rows of the token grid have no data, shape (n_recordings, N).

    Parameters
    ----------
    store : RecordingStore or StoreMixture
    rows : TokenRows
        Of the model.
    place : sequence of int
        Channel of the model of every ROI of the store; the other channels have no data.
    n_channels : int
        Channels of the model C.
    """
    # Nearly all recordings lack the same ROIs, or none.
    kinds: dict[tuple[str, ...], int] = {}
    kind = [kinds.setdefault(m, len(kinds)) for m in store.table["missing_rois"]]
    absent = np.ones((len(kinds), n_channels), dtype=bool)
    for lacking, gone in zip(kinds, absent, strict=True):
        gone[place] = np.isin(store.parcellation.labels, list(lacking))
    return rows.missing(absent)[kind]


class ViewLoader:
    """Augmented, masked views of a batch of recordings, for any step of a run.

    An epoch shows every subject once, with a random one of its recordings, in batches whose
    sizes differ by one at most. With weights every store of a mixture has its share instead.

    Parameters
    ----------
    store : RecordingStore or StoreMixture
    rows : TokenRows
        Of the model: what every row of the token grid reads, and for masks which rows belong
        together.
    patch_length, n_patches : int
        A view has ``patch_length * n_patches`` time points, unless the plan says otherwise.
    batch_size : int
        Recordings per step, at most.
    crops : CropConfig
    augmentation : AugmentConfig
    masks : MaskConfig
    plan : ViewPlan
        Number and lengths of the views.
    weights : sequence of float, optional
        One per store of a mixture, see `semantoks.views.epochs.WeightedEpochs`.
    seed : int
    device : torch device
        Augmentation runs there.
    process, n_processes : int
        Of several processes, each gets its part of every batch. Random numbers are drawn for the
        whole batch, so that the parts together are what one process would see.

    Raises
    ------
    InputError
        If the store is empty or holds one subject only, or a batch has fewer recordings than there
        are processes.
    """

    def __init__(
        self,
        store: Recordings,
        rows: TokenRows,
        *,
        patch_length: int,
        n_patches: int,
        batch_size: int,
        crops: CropConfig,
        augmentation: AugmentConfig,
        masks: MaskConfig,
        plan: ViewPlan = _TWO_VIEWS,
        weights: Sequence[float] | None = None,
        seed: int,
        device: torch.device,
        process: int = 0,
        n_processes: int = 1,
    ) -> None:
        subjects, subject_of = np.unique(store.table["subject"].to_numpy(str), return_inverse=True)
        if len(subjects) < 2:
            raise InputError(
                "pretraining compares recordings of different people: at least 2 subjects",
                file=store.path,
                field="subjects",
                value=len(subjects),
            )
        self._groups = None
        if masks.canonical:
            self._groups = torch.from_numpy(rows.groups).to(device)
        n_rows = len(set(rows.groups)) if masks.canonical else len(rows)
        for group in plan.groups:
            masks.check_grid(n_rows, group.n_patches or n_patches)
        self._plan = plan
        self._store, self._seed, self._device = store, seed, device
        self._patch_length, self._n_patches = patch_length, n_patches
        self._crops, self._augmentation, self._masks = crops, augmentation, masks
        self._lengths = store.table["length"].to_numpy(np.int64)
        self._subject_of = subject_of
        self._by_subject = np.argsort(subject_of, kind="stable")
        self._counts = np.bincount(subject_of)
        self._first = np.cumsum(self._counts) - self._counts
        n_rois = len(store.parcellation)
        self._missing_networks = missing_rows(store, rows, range(n_rois), n_rois)
        self._reader = ThreadPoolExecutor(1)
        self._next: dict[int, Future[list[_Crops]]] = {}
        self.n_subjects = len(subjects)
        self.steps_per_epoch = -(-self.n_subjects // batch_size)
        self._epochs: WeightedEpochs | None = None
        if weights is not None:
            stores = store.table["store"].to_numpy(np.int64)[self._by_subject[self._first]]
            self._epochs = WeightedEpochs(stores, weights, self.steps_per_epoch)
        self._process, self._n_processes = process, n_processes
        if self.n_subjects // self.steps_per_epoch < n_processes:
            raise InputError(
                f"every one of the {n_processes} processes needs a recording of every batch",
                field="optim.batch_size",
                value=batch_size,
                fix="Use fewer processes or larger batches",
            )

    def _rng(self, stream: int, number: int, group: int = 0) -> np.random.Generator:
        key = [self._seed, stream, number]
        return np.random.default_rng([*key, group] if group else key)

    def recordings(self, step: int) -> IntArray:
        """Return the rows of the store's table that step `step` shows, shape (B,)."""
        epoch, place = divmod(step, self.steps_per_epoch)
        rng = self._rng(_ORDER, epoch)
        if self._epochs is None:
            subjects = rng.permutation(self.n_subjects)
            pick = (self._first + rng.integers(0, self._counts))[subjects]
        else:
            subjects = self._epochs.draw(rng)
            pick = self._first[subjects] + rng.integers(0, self._counts[subjects])
        batch = np.array_split(pick, self.steps_per_epoch)[place]
        return np.asarray(self._by_subject[batch], np.int64)

    def part(self, n_recordings: int) -> slice:
        """Return which recordings of a batch this process gets."""
        ends = [len(p) for p in np.array_split(np.arange(n_recordings), self._n_processes)]
        start = sum(ends[: self._process])
        return slice(start, start + ends[self._process])

    def whole(self) -> ViewLoader:
        """Return a loader of whole batches: what every process sees alike."""
        loader = copy(self)
        loader._process, loader._n_processes, loader._next = 0, 1, {}
        return loader

    def batch(self, step: int) -> ViewBatch:
        """Return this process's part of the views and masks of step `step`.

        The next step's crops are read meanwhile.
        """
        ready = self._next.pop(step, None)
        groups = self._read(step) if ready is None else ready.result()
        self._next = {step + 1: self._reader.submit(self._read, step + 1)}
        first, *more = (self._views(step, i, crops) for i, crops in enumerate(groups))
        return replace(first, more=tuple(more))

    def _views(self, step: int, number: int, crops: _Crops) -> ViewBatch:
        """Return the views of one group of crops."""
        generator = torch.Generator(self._device)
        generator.manual_seed(int(self._rng(_DEVICE, step, number).integers(2**63)))
        # The one transposition of the package: time-major on disk, ROI-major in the model.
        x = crops.raw.to(self._device, non_blocking=True).transpose(2, 3)
        x = x.to(torch.float32, memory_format=torch.contiguous_format)
        clean = x.clone() if self._plan.clean else None
        shape = x.shape
        x = augment(x.flatten(0, 1), self._augmentation, generator, crops.rows)
        n_networks = self._missing_networks.shape[1]
        grid = (shape[0], shape[1], n_networks, shape[3] // self._patch_length)
        masks = draw_masks(
            crops.rows.total, n_networks, grid[3], self._masks, generator, self._groups
        )
        return ViewBatch(
            views=x.view(shape),
            masks=None if masks is None else crops.rows.of(masks).view(grid),
            missing=self._missing(crops, grid),
            clean=clean,
            recordings=torch.from_numpy(crops.recordings),
            subjects=torch.from_numpy(self._subject_of[np.atleast_2d(crops.recordings)[0]]),
            starts=torch.from_numpy(np.ascontiguousarray(crops.starts)),
            lengths=torch.from_numpy(np.ascontiguousarray(crops.lengths)),
        )

    def _read(self, step: int) -> list[_Crops]:
        """Return this process's recordings of a step, where their views start, and the views."""
        recordings = self.recordings(step)
        return [
            self._crop(recordings, group, self._rng(_CROPS, step, i))
            for i, group in enumerate(self._plan.groups)
        ]

    def _crop(self, recordings: IntArray, group: CropGroup, rng: np.random.Generator) -> _Crops:
        length = self._patch_length * (group.n_patches or self._n_patches)
        part = self.part(len(recordings))
        if group.across:
            recordings = self._across(recordings, group.n_views, rng)
        recorded = self._lengths[recordings]
        if group.halves:
            starts, lengths = draw_halves(recorded, length, rng)
        else:
            starts = draw_group(group, recorded, length, self._crops, rng)
            lengths = np.minimum(recorded - starts, length)
        places = np.arange(starts.size).reshape(starts.shape)[:, part]
        rows = BatchRows(places.flatten(), starts.size)
        recordings, starts, lengths = recordings[..., part], starts[:, part], lengths[:, part]
        signals = self._gather(recordings, starts, length)
        if group.halves:
            signals[np.arange(length) >= lengths[:, :, None]] = 0
        raw = torch.from_numpy(signals)
        raw = raw.pin_memory() if self._device.type == "cuda" else raw
        return _Crops(recordings, starts, lengths, raw, rows)

    def _across(self, first: IntArray, n_views: int, rng: np.random.Generator) -> IntArray:
        """Return recordings of the same subjects, shape (V, B): all different while they last."""
        found = np.empty((n_views, len(first)), np.int64)
        for column, recording in enumerate(first):
            subject = self._subject_of[recording]
            own = self._by_subject[self._first[subject] :][: self._counts[subject]]
            others = rng.permutation(own[own != recording])
            found[:, column] = np.resize([recording, *others], n_views)
        return found

    def _gather(self, recordings: IntArray, starts: IntArray, length: int) -> NDArray[np.float16]:
        """Return the signals of crops, shape (V, B, T, C)."""
        if recordings.ndim == 1:
            return self._store.gather(recordings, starts, length)
        views = zip(recordings, starts[:, None], strict=True)
        return np.concatenate([self._store.gather(*view, length) for view in views])

    def _missing(self, crops: _Crops, grid: tuple[int, int, int, int]) -> Tensor | None:
        """Return which tokens have no data at all, or None when all have."""
        patch = np.arange(grid[3]) * self._patch_length
        past_end = patch >= crops.lengths[:, :, None]
        networks = self._missing_networks[np.broadcast_to(crops.recordings, crops.starts.shape)]
        if not past_end.any() and not networks.any():
            return None
        missing = np.broadcast_to(past_end[:, :, None] | networks[..., None], grid)
        return torch.from_numpy(missing.copy()).to(self._device)
