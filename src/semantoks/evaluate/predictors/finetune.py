"""Fine-tuning an encoder with a head, as scikit-learn estimators.

Source: Brain-Semantoks (ICLR 2026), evaluation protocol: AdamW 1e-4, cosine, 50 epochs, batch 16,
layer-wise decay of the learning rate 0.9, gradient clipped to 1, weight decay 0.05, a linear or
MLP head on ``cls_avg``. Everything is trained there (``train="full"``), without early stopping;
that is the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.class_weight import compute_sample_weight
from torch import Tensor

from semantoks.arrays import Rows
from semantoks.errors import InputError
from semantoks.evaluate.features.inputs import Signals
from semantoks.evaluate.predictors.base import class_labels
from semantoks.evaluate.predictors.probe import ClassWeight
from semantoks.evaluate.predictors.training import FineTuned
from semantoks.evaluate.predictors.tuning import Head, Train, Tuning, TuningPrecision
from semantoks.evaluate.stats.kinds import Kind
from semantoks.model.encoder import Encoder


class FineTuner(ClassifierMixin, FineTuned):  # type: ignore[misc]
    """Classifier: an encoder and a head, fine-tuned with cross-entropy.

    Parameters
    ----------
    model : path or Encoder
        Pretrained run, checkpoint or model; it is copied, never changed.
    tr : float, optional
        TR of signals given as arrays, seconds.
    train : {"full", "frozen-then-full", "lora", "head"}
        What is trained: encoder and head; the head alone for the first `frozen_epochs`, then both;
        low-rank updates of the linear maps of attention and MLP, and the head (see
        `semantoks.evaluate.predictors.lora`); the head alone.
    head : {"linear", "mlp"}
        Head on ``cls_avg``.
    epochs, lr, batch_size, layer_decay, weight_decay, clip_norm
        AdamW with a cosine to 0; the learning rate of a layer is `layer_decay` times that of the
        layer above it. One random crop per recording and epoch.
    frozen_epochs, lora_rank, lora_alpha
        See `train`.
    patience : int, optional
        Early stopping: training ends after this many epochs without a smaller loss on people held
        out, and the weights of the best epoch are taken. Without it, all recordings are trained
        on for all epochs.
    validation : float
        Share of the groups that early stopping holds out, the classes spread evenly.
    precision : {"float32", "bfloat16"}
        Arithmetic of training; weights and predictions are float32.
    class_weight : {"balanced"}, mapping of class to float, or None
        Weights of the rows in the loss, as in `LinearProbe`.
    n_crops : int
        Evenly spaced crops whose outputs are averaged in prediction.
    checkpoint : path, optional
        File (.safetensors) of this one fit, written after every epoch: an interrupted fit
        resumes from it and ends with the same weights.
    seed : int
    device : str

    Attributes
    ----------
    encoder_ : Encoder
        An ordinary one: low-rank updates are added to its weights, and the recordings it was
        fine-tuned on to its record of what it has seen.
    n_features_in_ : int
        Number of ROIs of the encoder.
    head_ : torch module
    history_ : list of dict
        Of every epoch: epoch, loss and, with early stopping, validation_loss.
    best_epoch_ : int
        The epoch whose weights these are.
    classes_ : ndarray

    See Also
    --------
    LinearProbe : The frozen encoder's control.

    References
    ----------
    Brain-Semantoks, ICLR 2026, evaluation protocol. Low-rank updates: Hu et al., ICLR 2022.

    Examples
    --------
    >>> from semantoks import FineTuner
    >>> tuner = FineTuner("connectome-base", tr=2.0, train="lora", epochs=30, patience=5)
    >>> tuner.get_params()["lora_rank"]
    8
    """

    def __init__(
        self,
        model: str | Path | Encoder,
        *,
        tr: float | None = None,
        train: Train = "full",
        head: Head = "linear",
        epochs: int = 50,
        lr: float = 1e-4,
        batch_size: int = 16,
        layer_decay: float = 0.9,
        weight_decay: float = 0.05,
        clip_norm: float = 1.0,
        frozen_epochs: int = 5,
        lora_rank: int = 8,
        lora_alpha: float = 16.0,
        patience: int | None = None,
        validation: float = 0.2,
        precision: TuningPrecision = "float32",
        class_weight: ClassWeight = None,
        n_crops: int = 8,
        checkpoint: str | Path | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        super().__init__(
            model,
            tr=tr,
            train=train,
            head=head,
            epochs=epochs,
            lr=lr,
            batch_size=batch_size,
            layer_decay=layer_decay,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            frozen_epochs=frozen_epochs,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            patience=patience,
            validation=validation,
            precision=precision,
            n_crops=n_crops,
            checkpoint=checkpoint,
            seed=seed,
            device=device,
        )
        self.class_weight = class_weight

    def fit(
        self,
        X: Signals,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        held_out: Sequence[Rows] | None = None,
    ) -> Self:
        """Fine-tune on recordings and their classes.

        Parameters
        ----------
        X : RecordingStore, list of arrays (n_times, n_rois), or array (n, n_times, n_rois)
        y : array of shape (n,)
        groups : array of shape (n,), optional
            What early stopping keeps together; the subjects of a store by default. A subject of a
            store is never on both sides.
        held_out : sequence of one int array, optional
            Rows on which early stopping looks, instead of a part made here. Without early stopping
            they are trained on.

        Raises
        ------
        InputError
            If a parameter is illegal, `y` holds numbers instead of classes (see `class_labels`),
            the recordings do not fit the encoder, the loss is not finite, or people cannot be held
            out.
        CheckpointError
            If `checkpoint` is damaged, cannot be written, or is of another fit.
        """
        labels = class_labels(y)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError("needs at least 2 classes", field="y", value=self.classes_.tolist())
        weight = np.asarray(compute_sample_weight(self.class_weight, labels), np.float64)
        target, n = torch.from_numpy(codes), len(self.classes_)
        self._fit(X, target, n, weight, self.classes_, groups, held_out)
        return self

    def _losses(self, out: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(out, target, reduction="none")

    def predict_proba(self, X: Signals) -> NDArray[np.float64]:
        """Return the probabilities of the classes, (n, n_classes)."""
        return np.asarray(softmax(self._average_outputs(X), axis=1))

    def predict(self, X: Signals) -> NDArray[Any]:
        """Return the most probable class of every recording."""
        codes = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[codes])


class FineTunerRegressor(RegressorMixin, FineTuned):  # type: ignore[misc]
    """Regressor: an encoder and a head, fine-tuned with an L1 loss.

    Parameters
    ----------
    model, tr, train, head, epochs, lr, batch_size, layer_decay, weight_decay, clip_norm
        See `FineTuner`.
    frozen_epochs, lora_rank, lora_alpha, patience, validation, precision, n_crops, checkpoint
        See `FineTuner`.
    seed, device
        See `FineTuner`.

    Attributes
    ----------
    encoder_, head_, history_, best_epoch_
        See `FineTuner`.
    mean_, scale_ : float
        What values were standardised by.

    See Also
    --------
    FineTuner : The classifier.
    """

    def fit(
        self,
        X: Signals,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        held_out: Sequence[Rows] | None = None,
    ) -> Self:
        """Fine-tune on recordings and their values, standardised by those given here.

        Parameters
        ----------
        X, groups, held_out
            See `FineTuner.fit`; groups are not spread by their values.
        y : array of shape (n,)

        Raises
        ------
        InputError, CheckpointError
            See `FineTuner.fit`; and if a value is not finite.
        """
        values = np.asarray(y, np.float64)
        if not np.isfinite(values).all():
            raise InputError("holds values that are not finite", field="y")
        self.mean_, self.scale_ = float(values.mean()), float(values.std()) or 1.0
        target = torch.from_numpy((values - self.mean_) / self.scale_).float()
        self._fit(X, target, 1, np.ones(len(values)), None, groups, held_out)
        return self

    def _losses(self, out: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(out[:, 0], target, reduction="none")

    def predict(self, X: Signals) -> NDArray[np.float64]:
        """Return the predictions, (n,)."""
        return self._average_outputs(X)[:, 0] * self.scale_ + self.mean_


def make_tuner(
    kind: Kind,
    model: Encoder,
    train: Train,
    tuning: Tuning,
    *,
    class_weight: ClassWeight,
    n_crops: int,
    seed: int,
    device: str,
) -> FineTuner | FineTunerRegressor:
    """Return an estimator for a kind of target.

    Raises
    ------
    InputError
        If `train` does not go with the settings.
    """
    tuning.check(train)
    settings: dict[str, Any] = {**asdict(tuning), "train": train}
    settings |= {"n_crops": n_crops, "seed": seed, "device": device}
    if kind == "regression":
        return FineTunerRegressor(model, **settings)
    return FineTuner(model, class_weight=class_weight, **settings)
