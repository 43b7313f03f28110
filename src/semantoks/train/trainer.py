"""`Trainer`: pretraining, one step after another.

A step: draw the views of a batch -> the objective's losses -> clipped AdamW step -> what follows
the trained module follows. Everything random is a function of (seed, step), and a checkpoint holds
everything else, so that a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from semantoks.data.seen import SeenData
from semantoks.errors import InputError
from semantoks.model.encoder import Encoder
from semantoks.model.readout import measure_spread
from semantoks.model.tokenizers.connectome import ConnectomeTokenizer
from semantoks.objectives import schedules
from semantoks.objectives.objective import Losses, Moment
from semantoks.objectives.registry import make_objective
from semantoks.objectives.terms.monitors import effective_rank, mean_cosine
from semantoks.train.checkpoint import load_checkpoint, save_checkpoint
from semantoks.train.distributed import (
    agree,
    any_process,
    gather_rows,
    is_main,
    local_device,
    n_processes,
    process_number,
    wait_for_all,
)
from semantoks.train.gradient import Gradient
from semantoks.train.guard import BatchGuard, CollapseGuard
from semantoks.train.logs import TERM, Metrics, Reporter, RunLogs
from semantoks.train.memory import keep_few_kernels, reuse_freed_memory
from semantoks.train.monitor import FixedBatch
from semantoks.train.run import RunConfig
from semantoks.train.setup import (
    EVENTS,
    METRICS,
    check_compiler,
    check_run_folder,
    forget_metrics_after,
    open_run,
    pick_device,
    pick_precision,
    training_recordings,
)
from semantoks.train.stop import stop_requests
from semantoks.views.batch import ViewBatch
from semantoks.views.loader import ViewLoader

__all__ = ["Metrics", "Reporter", "Trainer"]

_FITTED_ON = 2000  # crops, at most, for what is fitted before the first step


class Trainer:
    """Pretrain an encoder on the recordings of a store, or of several.

    In a process group (see `semantoks.train.distributed`) every process computes its part of each
    batch, and one of them writes.

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
        self._device = pick_device(local_device(config.train.device))
        self._precision = pick_precision(config.train.precision, self._device)
        store, compared = training_recordings(config)
        check_run_folder(self.run, config, resume)
        wait_for_all()

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            encoder = Encoder(config.encoder, store.parcellation, store.preprocessing)
            self.objective = make_objective(encoder, config.objective)
        self.objective.to(self._device, torch.float64 if self._wide else torch.float32)
        encoder.checkpoint = config.train.checkpoint_activations
        if config.train.compile:
            check_compiler(self._device)
            for role in self.objective.roles:
                self.objective.encoder(role).compile_blocks()
        reuse_freed_memory()
        if config.train.checkpoint_activations:
            keep_few_kernels()
        self._loader = ViewLoader(
            store,
            encoder.rows,
            patch_length=config.encoder.patch_length,
            n_patches=config.encoder.n_patches,
            batch_size=config.optim.batch_size,
            crops=config.views.crops,
            augmentation=config.views.augment,
            masks=config.views.masks,
            plan=self.objective.views,
            weights=config.data.weights,
            seed=config.seed,
            device=self._device,
            process=process_number(),
            n_processes=n_processes(),
        )
        self._guard = BatchGuard(
            self.run, store.table["id"].to_numpy(str), skip=config.train.on_nan == "skip"
        )
        self._collapse = CollapseGuard(config.train.collapse_rank)
        self._fixed = None
        if config.train.keep_best and is_main():
            self._fixed = FixedBatch(compared, encoder, seed=config.seed, device=self._device)
        self._trained = [p for p in self.objective.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._trained,
            betas=(config.optim.beta1, config.optim.beta2),
            fused=self._device.type in ("cpu", "cuda"),
        )
        self.n_steps = config.optim.epochs * self._loader.steps_per_epoch
        self.step = (
            (load_checkpoint(self.run, self.objective, self._optimizer) or 0) if resume else 0
        )
        agree(self.step, self._device, self.run)
        if self.step == 0 and encoder.is_fitted_first:
            crops = [views for views, _ in self._first_epoch(_FITTED_ON)]
            self.objective.fit(torch.cat(crops)[:_FITTED_ON])
        self._followed: dict[str, float] = {}
        self._saved, self._saved_at = self.step or -1, time.monotonic()
        self._gradient = Gradient(self.objective, config.train.accumulate)
        encoder.pretraining = SeenData.of(store, epochs=config.optim.epochs)
        if is_main():
            open_run(self.run, config, self._device, self._precision)
            if resume:
                forget_metrics_after(self.run / METRICS, self.step)
                forget_metrics_after(self.run / EVENTS, self.step)

    @property
    def _wide(self) -> bool:
        return self._precision == "float64"

    def fit(self) -> Path:
        """Train to the end, or until Ctrl-C, SIGTERM or SIGUSR1, and leave a checkpoint.

        Returns
        -------
        Path
            The last checkpoint's folder. `step` < `n_steps` if the run was stopped.

        Raises
        ------
        InputError
            If a loss or a gradient is not finite (see ``train.on_nan``) or a recording cannot be
            read: the weights stay as they were and are saved, the recordings are named.
        CheckpointError
            If a checkpoint cannot be written.
        """
        train, per_epoch = self.config.train, self._loader.steps_per_epoch
        clock = _Clock()
        with (
            stop_requests() as stopped,
            RunLogs(
                self.run,
                tensorboard=train.tensorboard,
                reporter=self._reporter,
                write=is_main(),
            ) as logs,
        ):
            while self.step < self.n_steps and not any_process(stopped(), self._device):
                losses, grad_norm = self._step(logs)
                clock.tick(len(self._loader.recordings(self.step - 1)))
                last = self.step == self.n_steps
                if losses is not None and (last or self.step % train.log_every == 0):
                    embeddings = gather_rows(losses.embeddings)
                    rank = effective_rank(embeddings)
                    self._collapse.look(self.step, rank, embeddings, logs)
                    logs.metrics(self._metrics(losses, embeddings, rank, grad_norm, clock))
                if self.step % (train.checkpoint_epochs * per_epoch) == 0 or self._overdue():
                    self._save()
        self._save()
        wait_for_all()
        return self.run / "checkpoints" / f"step-{self.step:08d}"

    def flops_per_step(self) -> float:
        """Count the floating-point operations of a step: products of the learner and the teacher.

        Forward and backward, on batches in the middle of the run, with and without masks, weighted
        by how often either comes. In float32, whose products are PyTorch's own; nothing is learned.
        """
        masks = self.config.views.masks
        frequency = masks.frequency if masks.kind != "none" else 0.0
        shares = {True: frequency, False: 1 - frequency}
        found = {masked: 0.0 for masked, share in shares.items() if share == 0}
        moment = Moment(self.n_steps // 2, self.n_steps, self._loader.steps_per_epoch)
        step = 0
        while len(found) < 2:
            batch, step = self._loader.batch(step), step + 1
            masked = batch.masks is not None
            if masked in found:
                continue
            plan = self.objective.train().plan(batch, moment)
            with FlopCounterMode(display=False) as counter:
                self._gradient.losses(batch, plan, self._context)[1]()
            self._optimizer.zero_grad()
            found[masked] = counter.get_total_flops()
        return sum(shares[masked] * flops for masked, flops in found.items())

    def _first_epoch(self, enough: float = math.inf) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield views of the first epoch, (B, C, T), and their tokens without data; all or enough.

        Of whole batches, on every process: what is fitted to them must not differ.
        """
        loader, step = self._loader.whole(), 0
        while step < loader.steps_per_epoch and enough > 0:
            batch, step = loader.batch(step), step + 1
            enough -= batch.views.shape[0] * batch.views.shape[1]
            missing = None if batch.missing is None else batch.missing.flatten(0, 1)
            yield batch.views.flatten(0, 1), missing

    def _step(self, logs: RunLogs) -> tuple[Losses | None, float]:
        """Take one step, or save the weights that it could not be taken from."""
        try:
            found = self._learn(self._batch(), logs)
        except InputError:  # raised before the optimiser touches anything
            if all(bool(p.isfinite().all()) for p in self._trained):
                self._save()
            raise
        self.step += 1
        return found

    def _batch(self) -> ViewBatch:
        batch = self._loader.batch(self.step)
        return batch.double() if self._wide else batch

    def _learn(self, batch: ViewBatch, logs: RunLogs) -> tuple[Losses | None, float]:
        """Take one step; return the losses, None if it was skipped, and the gradient's norm."""
        self.objective.train()
        plan = self.objective.plan(batch, self._moment)
        losses, backward = self._gradient.losses(batch, plan, self._context)
        backward()
        norm = torch.nn.utils.clip_grad_norm_(self._trained, self.config.optim.clip_norm)
        # The one wait for a GPU; before the gradient it would leave the GPU idle.
        loss, size = torch.stack([losses.total.detach().to(norm), norm]).tolist()
        usable = math.isfinite(loss) and math.isfinite(size)
        if usable:
            self._update()
        self._optimizer.zero_grad()  # now, so that the next forward pass has the memory
        if usable:
            self._guard.passed()
            return losses, size
        what = "gradient" if math.isfinite(loss) else "loss"
        self._guard.refuse(what, self.step, batch, losses, logs)
        return None, size

    @contextmanager
    def _context(self, part: int) -> Iterator[None]:
        """Arithmetic and random numbers of one part of this process's batch."""
        # Stochastic depth draws from the global generator: a function of the step, too, and
        # no other draws change.
        with (
            torch.random.fork_rng([self._device] if self._device.type == "cuda" else []),
            self._arithmetic(),
        ):
            key = [self.config.seed, self.step]
            if part or process_number():
                key += [process_number(), part]
            torch.manual_seed(int(np.random.default_rng(key).integers(2**63)))
            yield

    def _arithmetic(self) -> torch.autocast:
        use_bfloat16 = self._precision == "bfloat16"
        # Every weight is used once a step: a cache would only hold copies of them.
        return torch.autocast(
            self._device.type, torch.bfloat16, enabled=use_bfloat16, cache_enabled=False
        )

    @property
    def _moment(self) -> Moment:
        return Moment(self.step, self.n_steps, self._loader.steps_per_epoch)

    def _update(self) -> None:
        """One optimiser step, and what the objective does after it."""
        optim, per_epoch = self.config.optim, self._loader.steps_per_epoch
        group = self._optimizer.param_groups[0]
        group["lr"] = schedules.learning_rate(
            self.step, per_epoch, optim, batch_size=self._loader.n_subjects / per_epoch
        )
        group["weight_decay"] = schedules.weight_decay(self.step, self.n_steps, optim)
        self._optimizer.step()
        self._followed = self.objective.after_step(self._moment, optim)

    def _metrics(
        self, losses: Losses, embeddings: Tensor, rank: float, grad_norm: float, clock: _Clock
    ) -> Metrics:
        group = self._optimizer.param_groups[0]
        return {
            "step": self.step,
            "n_steps": self.n_steps,
            "epoch": round(self.step / self._loader.steps_per_epoch, 4),
            "loss": float(losses.total.detach()),
            **{f"{TERM}{name}": float(term.detach()) for name, term in losses.terms.items()},
            "lr": group["lr"],
            "weight_decay": group["weight_decay"],
            **self._followed,
            "grad_norm": grad_norm,
            "effective_rank": rank,
            "mean_cosine": mean_cosine(embeddings),
            "recordings_per_s": clock.rate(),
            "seconds": clock.seconds(),
            "seconds_left": clock.per_step() * (self.n_steps - self.step),
        }

    def _overdue(self) -> bool:
        """Return whether the last checkpoint is too old."""
        minutes = self.config.train.checkpoint_minutes
        return minutes > 0 and time.monotonic() - self._saved_at > 60 * minutes

    def _save(self) -> None:
        """Write a checkpoint, unless there is one of this step."""
        if not is_main() or self._saved == self.step:
            return
        self._saved, self._saved_at = self.step, time.monotonic()
        encoder = self.objective.encoder()
        if self.step == self.n_steps and isinstance(encoder.tokenizer, ConnectomeTokenizer):
            measure_spread(encoder, self._first_epoch())
        rank = None
        if self._fixed is not None:
            with self._arithmetic(), ExitStack() as stack:
                if self.config.train.compile:  # not once more, for another size and mode
                    stack.enter_context(torch.compiler.set_stance("force_eager"))
                rank = self._fixed.effective_rank(self.objective.encoder(self.objective.roles[0]))
        save_checkpoint(
            self.run,
            self.step,
            self.objective,
            self._optimizer,
            keep=self.config.train.keep_checkpoints,
            effective_rank=rank,
            keep_best=self.config.train.keep_best,
        )


class _Clock:
    """Wall time of this process's part of the run and its recent recordings per second."""

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
