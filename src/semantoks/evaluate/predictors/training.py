"""`FineTuned`: the training loop of fine-tuning, which classifier and regressor share."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from semantoks.arrays import Rows
from semantoks.data.seen import after_fine_tuning
from semantoks.data.splits import hold_out, without
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.features.crops import even_crops, sources
from semantoks.evaluate.features.inputs import Signals
from semantoks.evaluate.features.transformer import SignalEstimator
from semantoks.evaluate.predictors.lora import add_low_rank, merge_low_rank
from semantoks.evaluate.predictors.progress import TuningCheckpoint
from semantoks.evaluate.predictors.tuning import Head, Train, Tuning, TuningPrecision
from semantoks.model.crops import Source, cut
from semantoks.model.encoder import Encoder
from semantoks.model.pretrained import load_pretrained
from semantoks.model.weights import weights_hash

#: Held while one model is trained: stochastic depth draws from the generator of the process.
_ALONE = threading.Lock()


@dataclass(frozen=True, eq=False)
class _Part:
    """Recordings to train on, what is to be predicted of them, and who is held out of training."""

    recordings: list[Source]
    target: Tensor
    weight: Tensor
    train: Rows
    held: Rows


class FineTuned(SignalEstimator):
    """Base of `FineTuner` and `FineTunerRegressor`: training, and the outputs of the head.

    Parameters
    ----------
    model, tr, train, head, epochs, lr, batch_size, layer_decay, weight_decay, clip_norm
        See `FineTuner`.
    frozen_epochs, lora_rank, lora_alpha, patience, validation, precision, n_crops, checkpoint
        See `FineTuner`.
    seed, device
        See `FineTuner`.
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
        n_crops: int = 8,
        checkpoint: str | Path | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.model = model
        self.tr = tr
        self.train = train
        self.head = head
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.frozen_epochs = frozen_epochs
        self.lora_rank = lora_rank
        self.lora_alpha = lora_alpha
        self.patience = patience
        self.validation = validation
        self.precision = precision
        self.n_crops = n_crops
        self.checkpoint = checkpoint
        self.seed = seed
        self.device = device

    def _fit(
        self,
        X: Signals,
        target: Tensor,
        n_outputs: int,
        weight: NDArray[np.float64],
        classes: NDArray[Any] | None,
        groups: ArrayLike | None,
        held_out: Sequence[Rows] | None,
    ) -> None:
        """Fit encoder and head to `target`; every row counts by its weight."""
        tuning = Tuning(**{f.name: getattr(self, f.name) for f in fields(Tuning)})
        tuning.check(self.train)
        encoder = self.model if isinstance(self.model, Encoder) else load_pretrained(self.model)
        self.n_features_in_ = len(encoder.channels)
        recordings = list(sources(encoder, X, self.tr))
        if len(recordings) != len(target):
            raise InputError(
                f"there are {len(recordings)} recordings and {len(target)} labels", field="y"
            )
        train, held = self._divide(X, target if classes is not None else None, groups, held_out)
        rows = torch.from_numpy(weight).float()
        part = _Part(recordings, target.to(self.device), rows.to(self.device), train, held)
        self.encoder_ = copy.deepcopy(encoder).to(self.device).requires_grad_(self.train != "head")
        fit = self._settings(encoder, part, classes) if self.checkpoint is not None else {}
        cuda = [torch.device(self.device)] if torch.device(self.device).type == "cuda" else []
        with _ALONE, torch.random.fork_rng(cuda):
            torch.manual_seed(self.seed)
            head = _head(self.head, 2 * self.encoder_.config.width, n_outputs)
            self.head_ = head.to(self.device)
            if self.train == "lora":
                add_low_rank(self.encoder_, self.lora_rank, self.lora_alpha)
            self._loop(part, fit)
        merge_low_rank(self.encoder_)
        if self.train != "head":
            store = X if isinstance(X, RecordingStore) else None
            self.encoder_.pretraining = after_fine_tuning(encoder.pretraining, store)
        self.encoder_.eval().requires_grad_(False)
        self.head_.eval().requires_grad_(False)

    def _divide(
        self,
        X: Signals,
        codes: Tensor | None,
        groups: ArrayLike | None,
        held_out: Sequence[Rows] | None,
    ) -> tuple[Rows, Rows]:
        """Return the rows to train on, and those on whose loss training stops."""
        everyone = np.arange(len(X))
        if self.patience is None:
            return everyone, everyone[:0]
        subjects = everyone.astype(str)
        if isinstance(X, RecordingStore):
            subjects = X.table["subject"].to_numpy(str)
        labels = None if codes is None else codes.numpy()
        if held_out is not None:
            if len(held_out) != 1:
                rule = "training stops on one part"
                raise InputError(rule, field="held_out", value=f"{len(held_out)} parts")
            held = np.sort(held_out[0])
            train = np.setdiff1d(everyone, held)
        else:
            whole = subjects if groups is None else np.asarray(groups)
            train, held = hold_out(whole, labels, self.validation, seed=self.seed)
        train = without(subjects, train, held)  # e.g. a person scanned at two sites
        if not len(train) or (labels is not None and set(labels[train]) != set(labels)):
            raise InputError(
                "holding people out leaves no training data of some class",
                field="patience",
                value=self.patience,
                fix="Train without early stopping, or leave the class out",
            )
        return train, held

    def _settings(
        self, encoder: Encoder, part: _Part, classes: NDArray[Any] | None
    ) -> dict[str, Any]:
        """Return what the weights depend on, as plain values."""
        digest = sha256()
        for recording in part.recordings:
            digest.update(recording.signal.tobytes() + recording.absent.tobytes())
        arrays = (part.target.cpu().numpy(), part.weight.cpu().numpy(), part.train, part.held)
        names = ("y", "weights of rows", "rows trained on", "rows held out")
        elsewhere = ("model", "class_weight", "checkpoint", "device", "n_crops")
        return {
            **{k: v for k, v in self.get_params(deep=False).items() if k not in elsewhere},
            "n_crops": self.n_crops if self.patience is not None else None,
            "model": weights_hash(encoder),
            "recordings": digest.hexdigest(),
            "classes": None if classes is None else [str(c) for c in classes],
            **{n: sha256(a.tobytes()).hexdigest() for n, a in zip(names, arrays, strict=True)},
        }

    # -- training ----------------------------------------------------------------------------------

    def _loop(self, part: _Part, fit: dict[str, Any]) -> None:
        """Train epoch by epoch, resuming from the checkpoint if there is one."""
        optimizer = torch.optim.AdamW(
            layer_groups(self.encoder_, self.head_, self.lr, self.layer_decay),
            weight_decay=self.weight_decay,
        )
        peaks = [group["lr"] for group in optimizer.param_groups]
        model = nn.ModuleDict({"encoder": self.encoder_, "head": self.head_})
        progress = TuningCheckpoint(model, optimizer)
        file = None if self.checkpoint is None else Path(self.checkpoint)
        if file is not None and file.exists():
            progress.load(file, fit)
        history = progress.history
        while len(history) < self.epochs and not self._stops(history):
            loss = self._epoch(part, len(history), progress, peaks)
            history.append({"epoch": len(history) + 1, "loss": loss})
            if len(part.held):
                history[-1]["validation_loss"] = self._validation_loss(part)
                if _best(history) == len(history):
                    progress.keep()
            if file is not None:
                progress.save(file, fit)
        self.history_, self.best_epoch_ = history, _best(history)
        if progress.best:
            progress.restore()

    def _stops(self, history: list[dict[str, float]]) -> bool:
        """Say whether the loss on the people held out has not fallen for `patience` epochs."""
        if self.patience is None or not history:
            return False
        frozen = self.frozen_epochs if self.train == "frozen-then-full" else 0
        return len(history) - max(_best(history), frozen) >= self.patience

    def _epoch(
        self, part: _Part, epoch: int, progress: TuningCheckpoint, peaks: list[float]
    ) -> float:
        """Train on one random crop of every recording; return the mean loss."""
        optimizer, parameters = progress.optimizer, [*progress.parameters.values()]
        rng = np.random.default_rng([self.seed, epoch])
        torch.manual_seed(int(rng.integers(2**63)))
        moves = self.train != "head"
        if self.train == "frozen-then-full":
            moves = epoch >= self.frozen_epochs
            self.encoder_.requires_grad_(moves)
        self.encoder_.train(moves)
        self.head_.train()
        n_batches = -(-len(part.train) // self.batch_size)
        total = 0.0
        for i, rows in enumerate(np.array_split(rng.permutation(part.train), n_batches)):
            falling = 0.5 * (1 + math.cos(math.pi * (epoch + i / n_batches) / self.epochs))
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * falling
            out = self._outputs([part.recordings[row] for row in rows], rng)
            loss = _weighted(self._losses(out, part.target[rows]), part.weight[rows])
            self._check_finite(loss, part, rows)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        optimizer.zero_grad()
        return total / len(part.train)

    def _check_finite(self, loss: Tensor, part: _Part, rows: Rows) -> None:
        if not torch.isfinite(loss):
            names = ", ".join(part.recordings[row].name for row in rows[:5])
            raise InputError("the loss is not finite", field="recordings", value=names)

    def _outputs(self, recordings: list[Source], rng: np.random.Generator) -> Tensor:
        """Return the head's outputs of one random crop per recording."""
        length = self.encoder_.config.view_length
        pairs = [
            cut(self.encoder_, r, rng.integers(0, max(len(r.signal) - length, 0) + 1, size=1))
            for r in recordings
        ]
        views, missing = (torch.cat(parts).to(self.device) for parts in zip(*pairs, strict=True))
        kind, low = views.device.type, self.precision == "bfloat16"
        # Every weight is used once a step: a cache would only hold copies of them.
        with torch.autocast(kind, torch.bfloat16, enabled=low, cache_enabled=False):
            return self._head_of(views, missing).float()

    def _head_of(self, views: Tensor, missing: Tensor) -> Tensor:
        encoded = self.encoder_(views, missing if missing.any() else None)
        out: Tensor = self.head_(encoded.cls_avg)
        return out

    @torch.inference_mode()
    def _average_output(self, recording: Source) -> Tensor:
        """Return the head's outputs averaged over evenly spaced crops, (n_outputs,)."""
        crops = even_crops(self.encoder_, recording, self.n_crops)
        views, missing = (t.to(self.device) for t in crops)
        return self._head_of(views, missing).mean(dim=0)

    def _validation_loss(self, part: _Part) -> float:
        self.encoder_.eval()
        self.head_.eval()
        out = torch.stack([self._average_output(part.recordings[row]) for row in part.held])
        loss = _weighted(self._losses(out, part.target[part.held]), part.weight[part.held])
        self._check_finite(loss, part, part.held)
        return float(loss)

    def _losses(self, out: Tensor, target: Tensor) -> Tensor:
        """Return the loss of every row."""
        raise NotImplementedError

    def _average_outputs(self, X: Signals) -> NDArray[np.float64]:
        """Return the head's outputs of every recording, (n, n_outputs)."""
        check_is_fitted(self)
        found = [self._average_output(source) for source in sources(self.encoder_, X, self.tr)]
        return torch.stack(found).double().cpu().numpy()


def _weighted(losses: Tensor, weight: Tensor) -> Tensor:
    return (losses * weight).sum() / weight.sum()


def _best(history: list[dict[str, float]]) -> int:
    """Return the epoch with the smallest loss on the people held out; without them the last."""
    losses = [facts["validation_loss"] for facts in history if "validation_loss" in facts]
    return 1 + int(np.argmin(losses)) if losses else len(history)


def _head(kind: str, width: int, n_outputs: int) -> nn.Module:
    if kind == "linear":
        return nn.Linear(width, n_outputs)
    hidden = width // 2
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, n_outputs))


def layer_groups(encoder: Encoder, head: nn.Module, lr: float, decay: float) -> list[Any]:
    """Return AdamW groups of what is trained; the learning rate falls by `decay` per layer.

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
        if not parameter.requires_grad:
            continue
        part, _, rest = name.partition(".")
        if part == "blocks":
            distance = depth - int(rest.partition(".")[0])
        else:
            distance = 1 if part == "norm" else depth + 1
        members.setdefault(distance, []).append(parameter)
    return [{"params": p, "lr": lr * decay**distance} for distance, p in sorted(members.items())]
