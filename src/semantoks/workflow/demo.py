"""The demo: the whole way on the real recordings that come with the package."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from semantoks.assess.assessment import assess
from semantoks.assess.plan import Plan
from semantoks.data.designs import LeaveOneSiteOut
from semantoks.data.store import RecordingStore
from semantoks.evaluate.compare.targets import Target
from semantoks.files import refuse_existing
from semantoks.model.pretrained import DEFAULT_MODEL, load_pretrained
from semantoks.report.page import write_report
from semantoks.train.run import RunConfig
from semantoks.train.screen import TrainingScreen
from semantoks.train.trainer import Trainer
from semantoks.workflow.prepare import prepare_store

#: Sites that the demo tests on; pretraining never sees them.
TEST_SITES = ("KKI", "PITT", "STANFORD", "YALE")
TARGETS = ("diagnosis", "sex", "age")

#: The quick part; `semantoks evaluate` computes all of them.
PARTS = ("alarms",)

# The same arithmetic on every processor, so that its table is nearly the same, too.
_TRAIN = {"log_every": 6, "precision": "float32"}
#: Preset and changes by size.
SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("small", {"optim": {"epochs": 60, "batch_size": 32}, "train": _TRAIN}),
    "smallest": ("tiny", {"optim": {"epochs": 8}, "train": _TRAIN}),
}


def run_demo(out: str | Path, size: str, console: Console) -> tuple[Path, pd.DataFrame]:
    """Prepare the ABIDE sample, pretrain, embed, probe and report, beside the shipped model.

    Parameters
    ----------
    out : path
        New folder.
    size : {"default", "smallest"}
        A small model for some minutes, or a tiny one for some seconds.
    console : rich Console

    Returns
    -------
    Path, DataFrame
        The report, and the scores.

    Raises
    ------
    InputError
        If the folder exists and is not empty.
    """
    folder = Path(out)
    refuse_existing(folder, folder=True)
    abide = folder / "stores" / "abide-sample"
    with _stage(console, "Prepare a sample of real recordings"):
        prepare_store(abide.name, abide)
        store = RecordingStore(abide)
        people = store.table["subject"].nunique()
        console.print(
            f"  {abide.name}: {len(store)} recordings of {people} people, "
            f"{len(store.parcellation)} ROIs ({store.parcellation.name}), TR {store.tr:g} s"
        )
    preset, changes = SIZES[size]
    sites = {"data": {"store": str(abide), "exclude_sites": list(TEST_SITES)}}
    config = RunConfig.preset(preset, changes | sites)
    run = folder / "runs" / preset
    with _stage(console, f"Pretrain the {preset} model without labels, without the test sites"):
        with TrainingScreen(console) as screen:
            trainer = Trainer(config, run, reporter=screen)
            trainer.fit()
        if trainer.step < trainer.n_steps:
            raise KeyboardInterrupt
    with _stage(console, f"Predict {', '.join(TARGETS)} at sites that were never seen"):
        plan = Plan(
            targets=tuple(map(Target.parse, TARGETS)),
            design=LeaveOneSiteOut(test_sites=TEST_SITES),
        )
        found = assess(
            store,
            folder / "result",
            {preset: load_pretrained(run), DEFAULT_MODEL: load_pretrained()},
            plan,
            parts=PARTS,
            say=_silent,
        )
    page = folder / "report.html"
    with _stage(console, "Write the report"):
        write_report(page, runs=[run], results=[folder / "result"], stores=[abide])
    return page, found.comparison.scores


def _silent(_: str) -> None:
    pass


@contextmanager
def _stage(console: Console, title: str) -> Iterator[None]:
    console.print(f"[bold]{title}[/bold]")
    start = time.perf_counter()
    yield
    console.print(f"  [dim]{time.perf_counter() - start:.0f} s[/dim]")
