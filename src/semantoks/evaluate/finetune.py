"""Fine-tuning the whole encoder with a head, as scikit-learn estimators.

Source: Brain-Semantoks (ICLR 2026), evaluation protocol: AdamW 1e-4, cosine, 50 epochs, batch 16,
layer-wise decay of the learning rate 0.9, gradient clipped to 1, weight decay 0.05, a linear or
MLP head on ``cls_avg``.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from semantoks.errors import InputError
from semantoks.evaluate.crops import Source, cut, sources
from semantoks.evaluate.inputs import Signals
from semantoks.model.encoder import Encoder
from semantoks.model.pretrained import load_pretrained
from semantoks.views.crops import evenly_spaced_starts


class _FineTuned(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share: the training loop and the outputs of the head."""

    def __init__(
        self,
        model: str | Path | Encoder,
        *,
        tr: float | None = None,
        head: Literal["linear", "mlp"] = "linear",
        epochs: int = 50,
        lr: float = 1e-4,
        batch_size: int = 16,
        layer_decay: float = 0.9,
        weight_decay: float = 0.05,
        clip_norm: float = 1.0,
        n_crops: int = 8,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.model = model
        self.tr = tr
        self.head = head
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.n_crops = n_crops
        self.seed = seed
        self.device = device

    def _train(self, X: Signals, target: Tensor, n_outputs: int, loss: Any) -> None:
        """Fit encoder and head to `target`, one random crop per recording and epoch."""
        if self.head not in ("linear", "mlp"):
            raise InputError("must be linear or mlp", field="head", value=self.head)
        encoder = self.model if isinstance(self.model, Encoder) else load_pretrained(self.model)
        self.encoder_ = copy.deepcopy(encoder).requires_grad_(True).to(self.device)
        recordings = list(sources(self.encoder_, X, self.tr))
        if len(recordings) != len(target):
            raise InputError(
                f"there are {len(recordings)} recordings and {len(target)} labels", field="y"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.head_ = _head(self.head, 2 * self.encoder_.config.width, n_outputs)
            self.head_.to(self.device)
            self._loop(recordings, target.to(self.device), loss)
        self.encoder_.eval()
        self.head_.eval()

    def _loop(self, recordings: list[Source], target: Tensor, loss: Any) -> None:
        rng = np.random.default_rng(self.seed)
        optimizer = torch.optim.AdamW(
            layer_groups(self.encoder_, self.head_, self.lr, self.layer_decay),
            weight_decay=self.weight_decay,
        )
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        peaks = [group["lr"] for group in optimizer.param_groups]
        n_batches = -(-len(recordings) // self.batch_size)
        self.encoder_.train()
        self.head_.train()
        for step in range(self.epochs * n_batches):
            if step % n_batches == 0:
                batches = np.array_split(rng.permutation(len(recordings)), n_batches)
            rows = batches[step % n_batches]
            falling = 0.5 * (1 + math.cos(math.pi * step / (self.epochs * n_batches)))
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * falling
            value = loss(self._outputs([recordings[i] for i in rows], rng), target[rows])
            if not torch.isfinite(value):
                names = ", ".join(recordings[i].name for i in rows[:5])
                raise InputError("the loss is not finite", field="recordings", value=names)
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)
            optimizer.step()

    def _outputs(self, recordings: list[Source], rng: np.random.Generator) -> Tensor:
        """Return the head's outputs of one random crop per recording."""
        length = self.encoder_.config.view_length
        pairs = [
            cut(self.encoder_, r, rng.integers(0, max(len(r.signal) - length, 0) + 1, size=1))
            for r in recordings
        ]
        views, missing = (torch.cat(parts).to(self.device) for parts in zip(*pairs, strict=True))
        out: Tensor = self.head_(self.encoder_(views, missing if missing.any() else None).cls_avg)
        return out

    @torch.inference_mode()
    def _average_outputs(self, X: Signals) -> NDArray[np.float64]:
        """Return the head's outputs averaged over evenly spaced crops, (n, n_outputs)."""
        check_is_fitted(self)
        rows = []
        for source in sources(self.encoder_, X, self.tr):
            length = self.encoder_.config.view_length
            starts = evenly_spaced_starts(len(source.signal), length, self.n_crops)
            views, missing = (t.to(self.device) for t in cut(self.encoder_, source, starts))
            out = self.head_(self.encoder_(views, missing if missing.any() else None).cls_avg)
            rows.append(out.mean(dim=0).double().cpu().numpy())
        return np.stack(rows)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags


class FineTuner(ClassifierMixin, _FineTuned):  # type: ignore[misc]
    """Classifier: the encoder and a head, fine-tuned with cross-entropy.

    Parameters
    ----------
    model : path or Encoder
        Pretrained run, checkpoint or model; it is copied, never changed.
    tr : float, optional
        TR of signals given as arrays, seconds.
    head : {"linear", "mlp"}
        Head on ``cls_avg``.
    epochs, lr, batch_size, layer_decay, weight_decay, clip_norm
        AdamW with a cosine to 0; the learning rate of a layer is `layer_decay` times that of the
        layer above it. One random crop per recording and epoch.
    n_crops : int
        Evenly spaced crops whose outputs are averaged in prediction.
    seed : int
    device : str

    Attributes
    ----------
    encoder_ : Encoder
    head_ : torch module
    """

    def fit(self, X: Signals, y: ArrayLike, groups: object = None) -> Self:  # noqa: ARG002
        """Fine-tune on recordings and their classes.

        Parameters
        ----------
        X : RecordingStore, list of arrays (n_times, n_rois), or array (n, n_times, n_rois)
        y : array of shape (n,)
        groups : ignored
        """
        self.classes_, codes = np.unique(np.asarray(y), return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError("needs at least 2 classes", field="y", value=self.classes_.tolist())
        self._train(X, torch.from_numpy(codes), len(self.classes_), F.cross_entropy)
        return self

    def predict_proba(self, X: Signals) -> NDArray[np.float64]:
        """Return the probabilities of the classes, (n, n_classes)."""
        return np.asarray(softmax(self._average_outputs(X), axis=1))

    def predict(self, X: Signals) -> NDArray[Any]:
        """Return the most probable class of every recording."""
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])


class FineTunerRegressor(RegressorMixin, _FineTuned):  # type: ignore[misc]
    """Regressor: the encoder and a head, fine-tuned with an L1 loss.

    Parameters
    ----------
    model : path or Encoder
        Pretrained run, checkpoint or model; it is copied, never changed.
    tr : float, optional
        TR of signals given as arrays, seconds.
    head : {"linear", "mlp"}
        Head on ``cls_avg``.
    epochs, lr, batch_size, layer_decay, weight_decay, clip_norm
        AdamW with a cosine to 0; the learning rate of a layer is `layer_decay` times that of the
        layer above it. One random crop per recording and epoch.
    n_crops : int
        Evenly spaced crops whose outputs are averaged in prediction.
    seed : int
    device : str

    Attributes
    ----------
    encoder_ : Encoder
    head_ : torch module
    """

    def fit(self, X: Signals, y: ArrayLike, groups: object = None) -> Self:  # noqa: ARG002
        """Fine-tune on recordings and their values, standardised by those given here.

        Parameters
        ----------
        X : RecordingStore, list of arrays (n_times, n_rois), or array (n, n_times, n_rois)
        y : array of shape (n,)
        groups : ignored
        """
        values = np.asarray(y, np.float64)
        if not np.isfinite(values).all():
            raise InputError("holds values that are not finite", field="y")
        self.mean_, self.scale_ = float(values.mean()), float(values.std()) or 1.0
        target = torch.from_numpy((values - self.mean_) / self.scale_).float()
        self._train(X, target[:, None], 1, F.l1_loss)
        return self

    def predict(self, X: Signals) -> NDArray[np.float64]:
        """Return the predictions, (n,)."""
        return self._average_outputs(X)[:, 0] * self.scale_ + self.mean_


def _head(kind: str, width: int, n_outputs: int) -> nn.Module:
    if kind == "linear":
        return nn.Linear(width, n_outputs)
    hidden = width // 2
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, n_outputs))


def layer_groups(encoder: Encoder, head: nn.Module, lr: float, decay: float) -> list[Any]:
    """Return AdamW groups whose learning rate falls by `decay` per layer below the head.

    Parameters
    ----------
    encoder : Encoder
    head : torch module
    lr : float
        Learning rate of the head.
    decay : float
        The uppermost block has ``lr * decay``, the lowest layer, with tokenizer, positions and
        special tokens, ``lr * decay ** (depth + 1)``.
    """
    depth = encoder.config.depth
    members: dict[int, list[nn.Parameter]] = {0: list(head.parameters())}
    for name, parameter in encoder.named_parameters():
        part, _, rest = name.partition(".")
        if part == "blocks":
            distance = depth - int(rest.partition(".")[0])
        else:
            distance = 1 if part == "norm" else depth + 1
        members.setdefault(distance, []).append(parameter)
    return [{"params": p, "lr": lr * decay**distance} for distance, p in sorted(members.items())]
