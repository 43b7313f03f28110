"""`Trainer`: pretraining, one step after another.

A step: draw the views of a batch -> student and teacher -> loss -> clipped AdamW step -> the
teacher follows. Everything random is a function of (seed, step), and a checkpoint holds
everything else, so that a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT, SIGTERM, getsignal, signal
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

import numpy as np
import torch

from semantoks.errors import ConfigError, InputError
from semantoks.model.encoder import Encoder
from semantoks.objectives.distillation import Losses, SelfDistillation
from semantoks.objectives.terms import effective_rank, mean_cosine
from semantoks.train import schedules
from semantoks.train.checkpoint import load_checkpoint, save_checkpoint
from semantoks.train.run import RunConfig
from semantoks.train.setup import (
    METRICS,
    check_run_folder,
    forget_metrics_after,
    open_run,
    pick_device,
    pretraining_record,
    training_recordings,
)
from semantoks.views.batch import ViewBatch
from semantoks.views.loader import ViewLoader

Metrics = dict[str, float]
Reporter = Callable[[Metrics], None]


class Trainer:
    """Pretrain an encoder on the recordings of a store.

    Parameters
    ----------
    config : RunConfig
    run : path
        Folder of the run: config.yaml, metrics.jsonl, environment.json, checkpoints/.
    resume : bool
        Continue the run in that folder from its newest checkpoint.
    reporter : callable, optional
        Called with the metrics of every logged step.

    Attributes
    ----------
    n_steps : int
        Steps of the whole run.
    step : int
        Steps done.

    Raises
    ------
    ConfigError
        If the folder already holds a run (or, with `resume`, none, or one with another
        configuration), or the store and the configuration do not fit.
    """

    def __init__(
        self,
        config: RunConfig,
        run: str | Path,
        *,
        resume: bool = False,
        reporter: Reporter | None = None,
    ) -> None:
        self.config, self.run = config, Path(run)
        self._reporter = reporter
        self._device = pick_device(config.train.device)
        store = training_recordings(config)
        check_run_folder(self.run, config, resume)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            encoder = Encoder(config.encoder, store.parcellation, store.preprocessing)
            self.method = SelfDistillation(encoder, config.objective).to(self._device)
        self.method.student.encoder.checkpoint = config.train.checkpoint_activations
        self._loader = ViewLoader(
            store,
            encoder.network_rois,
            patch_length=config.encoder.patch_length,
            n_patches=config.encoder.n_patches,
            batch_size=config.optim.batch_size,
            crops=config.views.crops,
            augmentation=config.views.augment,
            masks=config.views.masks,
            canonical_groups=encoder.canonical_groups,
            seed=config.seed,
            device=self._device,
        )
        self._ids = store.table["id"].to_numpy(str)
        self._trained = [p for p in self.method.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._trained,
            betas=(config.optim.beta1, config.optim.beta2),
            fused=self._device.type in ("cpu", "cuda"),
        )
        self.n_steps = config.optim.epochs * self._loader.steps_per_epoch
        self.step = (load_checkpoint(self.run, self.method, self._optimizer) or 0) if resume else 0
        encoder.pretraining = pretraining_record(store, config)
        open_run(self.run, config, self._device)
        if resume:
            forget_metrics_after(self.run / METRICS, self.step)

    def fit(self) -> Path:
        """Train to the end, or until Ctrl-C or SIGTERM, and leave a checkpoint.

        Returns
        -------
        Path
            The last checkpoint's folder. `step` < `n_steps` if the run was stopped.

        Raises
        ------
        InputError
            If a loss is not finite: the weights stay as they were, the recordings are named.
        CheckpointError
            If a checkpoint cannot be written.
        """
        per_epoch = self._loader.steps_per_epoch
        saved = -1
        clock = _Clock()
        with _stop_requests() as stopped, self._logs() as log:
            while self.step < self.n_steps and not stopped():
                batch = self._loader.batch(self.step)
                losses = self._losses(batch)
                self._check_finite(losses)
                grad_norm = self._update(losses)
                self.step += 1
                clock.tick(batch.views.shape[1])
                if self.step % self.config.train.log_every == 0 or self.step == self.n_steps:
                    log(self._metrics(losses, grad_norm, clock))
                if self.step % (self.config.train.checkpoint_epochs * per_epoch) == 0:
                    saved = self._save()
        if saved != self.step:
            self._save()
        return self.run / "checkpoints" / f"step-{self.step:08d}"

    def _losses(self, batch: ViewBatch) -> Losses:
        objective = self.config.objective
        weight = schedules.network_weight(
            self.step / self._loader.steps_per_epoch,
            objective.network_weight,
            objective.network_decay,
            objective.network_epochs,
        )
        self.method.train()
        use_bfloat16 = self.config.train.precision == "bfloat16"
        # Stochastic depth draws from the global generator: a function of the step, too, and
        # nobody else's numbers change.
        with (
            torch.random.fork_rng([self._device] if self._device.type == "cuda" else []),
            # Every weight is used once a step: a cache would only hold copies of them.
            torch.autocast(
                self._device.type, torch.bfloat16, enabled=use_bfloat16, cache_enabled=False
            ),
        ):
            seed = np.random.default_rng([self.config.seed, self.step]).integers(2**63)
            torch.manual_seed(int(seed))
            losses: Losses = self.method(batch, weight)
        return losses

    def _check_finite(self, losses: Losses) -> None:
        if not torch.isfinite(losses.total):
            recordings = self._ids[self._loader.recordings(self.step)]
            raise InputError(
                f"the loss is not finite at step {self.step}; the weights were not changed",
                file=self.run,
                field="recordings of the batch",
                value=", ".join(recordings[:8]) + (" ..." if len(recordings) > 8 else ""),
                fix="Check these recordings, or lower optim.base_lr",
            )

    def _update(self, losses: Losses) -> float:
        """One optimiser step, and the teacher follows; return the gradient's norm."""
        optim = self.config.optim
        group = self._optimizer.param_groups[0]
        group["lr"] = schedules.learning_rate(self.step, self._loader.steps_per_epoch, optim)
        group["weight_decay"] = schedules.weight_decay(self.step, self.n_steps, optim)
        losses.total.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._trained, optim.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()  # now, so that the next forward pass has the memory
        self.method.update_teacher(schedules.teacher_momentum(self.step, self.n_steps, optim))
        return float(norm)

    def _metrics(self, losses: Losses, grad_norm: float, clock: _Clock) -> Metrics:
        group = self._optimizer.param_groups[0]
        optim = self.config.optim
        return {
            "step": self.step,
            "n_steps": self.n_steps,
            "epoch": round(self.step / self._loader.steps_per_epoch, 4),
            "loss": float(losses.total.detach()),
            "loss_cls": float(losses.cls.detach()),
            "loss_network": float(losses.network.detach()),
            "loss_mask": float(losses.mask.detach()),
            "lr": group["lr"],
            "weight_decay": group["weight_decay"],
            "teacher_momentum": schedules.teacher_momentum(self.step - 1, self.n_steps, optim),
            "grad_norm": grad_norm,
            "effective_rank": effective_rank(losses.embeddings),
            "mean_cosine": mean_cosine(losses.embeddings),
            "recordings_per_s": clock.rate(),
            "seconds": clock.seconds(),
            "seconds_left": clock.per_step() * (self.n_steps - self.step),
        }

    def _save(self) -> int:
        keep = self.config.train.keep_checkpoints
        save_checkpoint(self.run, self.step, self.method, self._optimizer, keep)
        return self.step

    @contextmanager
    def _logs(self) -> Iterator[Reporter]:
        """Give a function that writes metrics to every log."""
        board: Any = None
        if self.config.train.tensorboard:
            board = _summary_writer(self.run)
        with (self.run / METRICS).open("a", encoding="utf-8") as lines:

            def log(metrics: Metrics) -> None:
                lines.write(json.dumps(metrics) + "\n")
                lines.flush()
                if board is not None:
                    for name in metrics.keys() - {"step", "n_steps"}:
                        board.add_scalar(name, metrics[name], metrics["step"])
                if self._reporter is not None:
                    self._reporter(metrics)

            yield log
        if board is not None:
            board.close()


class _Clock:
    """Wall time of this process's part of the run and the recordings per second of late."""

    def __init__(self) -> None:
        self._start = self._mark = time.perf_counter()
        self._count = self._steps = 0

    def tick(self, n: int) -> None:
        self._count += n
        self._steps += 1

    def rate(self) -> float:
        now = time.perf_counter()
        rate = self._count / max(now - self._mark, 1e-9)
        self._mark, self._count = now, 0
        return rate

    def per_step(self) -> float:
        return self.seconds() / self._steps

    def seconds(self) -> float:
        return time.perf_counter() - self._start


def _summary_writer(run: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "TensorBoard is not installed",
            field="train.tensorboard",
            value=True,
            fix='Install it with `pip install "semantoks[tensorboard]"`',
        ) from None
    return SummaryWriter(run / "tensorboard")


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request that is honoured after the step."""
    requests: list[int] = []
    if current_thread() is not main_thread():  # only the main thread may handle signals
        yield lambda: False
        return
    previous = {number: getsignal(number) for number in (SIGINT, SIGTERM)}

    def ask(number: int, _: FrameType | None) -> None:
        if requests:
            raise KeyboardInterrupt
        requests.append(number)

    for number in previous:
        signal(number, ask)
    try:
        yield lambda: bool(requests)
    finally:
        for number, handler in previous.items():
            signal(number, handler)
