"""`evaluate_store`: from a store and models to an evaluation and its report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from semantoks.assess.assessment import Assessment, assess
from semantoks.assess.plan import Plan
from semantoks.config import parse, read_yaml
from semantoks.data.mixture import StoreMixture
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.model.encoder import Encoder
from semantoks.model.pretrained import load_pretrained
from semantoks.report.page import write_report
from semantoks.train.run import RunConfig
from semantoks.train.setup import CONFIG, pick_device, training_recordings

#: Name of the page in the folder of an evaluation.
REPORT = "report.html"


def evaluate_store(
    store: str | Path,
    out: str | Path,
    *,
    models: Sequence[str | Path],
    plan: Plan,
    parts: Collection[str] | None = None,
    device: str = "auto",
    n_jobs: int = 1,
    say: Callable[[str], None] = print,
) -> Assessment:
    """Evaluate models on a store, test other explanations of the scores, and write the report.

    Parameters
    ----------
    store : path
    out : path
        Folder of the evaluation: tables as Parquet, facts as JSON, and ``report.html``. Calling
        again with the same arguments resumes it.
    models : sequence of path
        Runs, checkpoints or models; without any, only the baselines are compared.
    plan : Plan
        Targets, design, baselines, tests. The stores of runs among the models, where they exist,
        count as stated in `Plan.pretraining`.
    parts, n_jobs, say
        See `assess`.
    device : str
        Device of the encoders; "auto" takes a GPU if there is one.

    Returns
    -------
    Assessment

    Raises
    ------
    InputError
        Two models have one name, the folder holds something else, or the comparison cannot be made.
    """
    recordings = RecordingStore(store)
    encoders: dict[str, Encoder] = {}
    for path in models:
        name = Path(path).name
        if name in encoders:
            raise InputError(
                "another model of this comparison has the same name",
                field="models",
                value=str(path),
                fix="Rename its folder",
            )
        encoders[name] = load_pretrained(path)
    seen = {s.fingerprint: s for s in (*plan.pretraining, *_pretraining_stores(models))}
    assessment = assess(
        recordings,
        out,
        encoders,
        replace(plan, pretraining=tuple(seen.values())),
        parts=parts,
        device=str(pick_device(device)),
        n_jobs=n_jobs,
        say=say,
    )
    page = Path(out) / REPORT
    page.unlink(missing_ok=True)
    write_report(page, results=[out])
    return assessment


def _pretraining_stores(models: Sequence[str | Path]) -> Iterator[RecordingStore]:
    """Yield what the runs among some models were pretrained on, where it exists."""
    for model in map(Path, models):
        files = [folder / CONFIG for folder in (model, *model.parents[:2])]  # a run, a checkpoint
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            continue
        try:
            recordings, _ = training_recordings(parse(RunConfig, read_yaml(file), file=file))
        except InputError:
            continue  # the alarms name the stores that could not be compared
        yield from recordings.stores if isinstance(recordings, StoreMixture) else (recordings,)
