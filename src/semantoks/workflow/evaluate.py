"""`evaluate_store`: from a store and models to an evaluation and its report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from glob import glob, has_magic
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semantoks.assess.assessment import Assessment, assess
from semantoks.assess.plan import Plan
from semantoks.config import parse, read_yaml
from semantoks.data.designs import AcrossStores
from semantoks.data.mixture import StoreMixture
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.features.given import read_features
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
    features: Sequence[str | Path] = (),
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
        Runs, checkpoints or models; without any, only the baselines are compared. ``NAME=PATTERN``
        names a model; several paths that fit the pattern are replicates, pretraining runs of one
        configuration.
    features : sequence of path
        Tables of what other models make of the recordings, see `read_features`; ``NAME=FILE`` names
        the model, else it has the name of the file.
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
        Two models have one name, no path fits a pattern, replicates are of several configurations,
        the folder holds something else, or the comparison cannot be made.

    See Also
    --------
    Plan : The question.
    Assessment : The answer.
    """
    recordings = RecordingStore(store)
    named = _named([str(model) for model in models])
    encoders = {name: _replicates(name, paths) for name, paths in named.items()}
    paths = [path for each in named.values() for path in each]
    seen = {s.fingerprint: s for s in (*plan.pretraining, *_pretraining_stores(paths))}
    design = plan.design
    stores = [design.train, recordings] if isinstance(design, AcrossStores) else [recordings]
    given: dict[str, NDArray[np.float32]] = {}
    for text in map(str, features):
        name, _, file = text.rpartition("=")
        name = name or Path(file).stem
        if name in given:
            fix = "Name it: --features NAME=FILE"
            raise InputError("has the name of another", field="features", value=text, fix=fix)
        given[name] = np.concatenate([read_features(Path(file), store) for store in stores])
    assessment = assess(
        recordings,
        out,
        encoders,
        replace(plan, pretraining=tuple(seen.values())),
        features=given,
        parts=parts,
        device=str(pick_device(device)),
        n_jobs=n_jobs,
        say=say,
    )
    page = Path(out) / REPORT
    page.unlink(missing_ok=True)
    write_report(page, results=[out])
    return assessment


def _named(models: Sequence[str]) -> dict[str, list[str]]:
    """Return the paths of every model by its name."""
    named: dict[str, list[str]] = {}
    for text in models:
        name, equals, pattern = text.partition("=")
        if not equals or Path(text).exists():
            name, found = Path(text).name, [text]
        else:
            found = sorted(glob(pattern))  # noqa: PTH207 - patterns may be absolute
            found = found or ([] if has_magic(pattern) else [pattern])
        if not found:
            raise InputError(
                "must fit a folder",
                field="models",
                value=text,
                fix="Put quotes around NAME=PATTERN, and give the path from here",
            )
        if name in named:
            raise InputError(
                "another model of this comparison has the same name",
                field="models",
                value=text,
                fix="Name it: --model NAME=PATH",
            )
        named[name] = found
    return named


def _replicates(name: str, paths: Sequence[str]) -> list[Encoder]:
    """Load the replicates of a model, all of one configuration."""
    encoders = [load_pretrained(path) for path in paths]
    first = encoders[0]
    for path, one in zip(paths[1:], encoders[1:], strict=True):
        if (one.config, one.preprocessing) != (first.config, first.preprocessing):
            raise InputError(
                f"the replicates of {name} must be runs of one configuration, as {paths[0]}",
                field="models",
                value=path,
                fix="Give models of other configurations another name",
            )
    return encoders


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
