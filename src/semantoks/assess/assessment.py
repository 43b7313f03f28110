"""`assess`: evaluate models on a store into one folder; `Assessment` reads it.

Every part is a folder that appears whole or not at all. Asking the same question again computes
only the parts that are missing, which resumes an evaluation that was interrupted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks import __version__
from semantoks.assess.cache import StoredEmbedder, StoredTuner
from semantoks.assess.parts.base import Found, Work
from semantoks.assess.parts.table import PARTS, chosen_parts
from semantoks.assess.plan import Plan
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError, entry, readable
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.compare.models import SideBySide
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.roles import CONNECTIVITY, RANDOM, SPECTRAL, joint_name, role
from semantoks.evaluate.features.baselines import BASELINES, make_baselines
from semantoks.evaluate.features.embed import Embedder
from semantoks.evaluate.features.given import features_hash
from semantoks.evaluate.predictors.finetune import make_tuner
from semantoks.evaluate.predictors.tuning import Train, tuned_name
from semantoks.evaluate.stats.kinds import Kind
from semantoks.files import refuse_existing, remove_partial, staged_folder, write_file
from semantoks.model.encoder import Encoder
from semantoks.model.weights import weights_hash

SETTINGS, COMPARISON = "settings.json", "comparison"
_FACTS = "part.json"

Say = Callable[[str], None]
_Encoders = Mapping[str, Sequence[Encoder]]  # the replicates of every model


@dataclass(frozen=True, eq=False)
class Assessment:
    """The results of an evaluation.

    Parameters
    ----------
    comparison : ProbeResult
        Scores, intervals and tests of all models and controls.
    parts : dict of str to Found
        Results of the parts, by the names of `semantoks.assess.parts.table.PARTS`.
    why_not : dict of str to str
        Parts that this store cannot answer, with the reason.
    settings : dict
        The plan, the store, the models; empty for a result that came without them.

    See Also
    --------
    evaluate_store : Makes one.
    """

    comparison: ProbeResult
    parts: Mapping[str, Found]
    why_not: Mapping[str, str]
    settings: Mapping[str, Any]

    @classmethod
    def load(cls, folder: str | Path) -> Assessment:
        """Read the folder of an assessment, or that of a `ProbeResult` alone.

        Raises
        ------
        InputError
            If the folder holds no whole result.
        """
        path = Path(folder)
        if not (path / SETTINGS).exists():
            return cls(ProbeResult.load(path), {}, {}, {})
        comparison = ProbeResult.load(path / COMPARISON)
        parts: dict[str, Found] = {}
        why_not: dict[str, str] = {}
        for part in PARTS:
            if not (path / part).exists():
                continue
            found = _read(path / part)
            if found.facts["why_not"]:
                why_not[part] = found.facts["why_not"]
            else:
                parts[part] = found
        settings = _json(path / SETTINGS)
        return cls(comparison, parts, why_not, settings)


def assess(
    store: RecordingStore,
    out: str | Path,
    models: Mapping[str, Encoder | Sequence[Encoder]],
    plan: Plan,
    *,
    features: Mapping[str, NDArray[np.float32]] | None = None,
    parts: Collection[str] | None = None,
    device: str = "cpu",
    n_jobs: int = 1,
    say: Say = print,
) -> Assessment:
    """Compare models with their controls, and test other explanations of their scores.

    Every model is compared with draws of random weights of the same encoder, with functional
    connectivity and with chance, on the same folds. Fine-tuned models are rows of the comparison;
    the other parts evaluate the models without fine-tuning, and of replicates and draws the first.

    Parameters
    ----------
    store : RecordingStore
    out : path
        Folder of the assessment; new, or one that answers the same question.
    models : mapping of str to Encoder, or to a sequence of them
        A sequence holds replicates: pretraining runs of one configuration with several seeds.
    plan : Plan
    features : mapping of str to array of shape (n_recordings, n_features), optional
        What other models make of the recordings, by their names: rows of the comparison.
    parts : collection of str, optional
        Names of `semantoks.assess.parts.table.PARTS` to compute beyond the comparison; all of them
        by default.
    device : str
        Device of the encoders.
    n_jobs : int
        Folds computed at the same time.
    say : callable
        Called with lines of progress.

    Returns
    -------
    Assessment

    Raises
    ------
    InputError
        The folder answers another question, a part is unknown, or the comparison cannot be made.
    """
    chosen = chosen_parts(parts)
    plan.check_columns(store)
    _check_names([*models, *(features or ())])
    folder = Path(out)
    encoders = {n: [m] if isinstance(m, Encoder) else [*m] for n, m in models.items()}
    embedders, random = _transformers(store, folder, encoders, plan, device)
    fixed = make_baselines([CONNECTIVITY])
    given = {name: [array] for name, array in (features or {}).items()}
    joint = _side_by_side({**embedders, **given}, plan.beside)
    compared = {**embedders, **given, **_fine_tuned(folder, encoders, plan, device), **joint}
    controls = {**random, **fixed}
    settings = _settings(store, encoders, plan)
    if features:
        settings["features"] = {name: features_hash(array) for name, array in features.items()}
    _claim(folder, settings)
    remove_partial(folder)

    def compare(new: Path) -> None:
        _compare(store, compared, controls, plan, n_jobs).save(new)

    _part(folder / COMPARISON, compare, say)
    comparison = ProbeResult.load(folder / COMPARISON)
    work = Work(
        store=store,
        plan=plan,
        trained={name: each[0] for name, each in embedders.items()},
        controls={**{name: each[0] for name, each in random.items()}, **fixed},
        comparison=comparison,
        n_jobs=n_jobs,
    )
    for part in chosen:
        _part(folder / part, partial(_compute, part, work, say=say), say)
    return Assessment.load(folder)


def _check_names(names: Sequence[str]) -> None:
    """Refuse two models of one name, or one with the name of a control."""
    for name in names:
        taken = name in BASELINES or role(name) != "model"
        if taken or names.count(name) > 1:
            what = "a control or a baseline" if taken else "another model"
            fix = "Name it: --model NAME=PATH, --features NAME=FILE"
            raise InputError(f"is the name of {what}", field="models", value=name, fix=fix)


# -- what is compared ------------------------------------------------------------------------------


def _transformers(
    store: RecordingStore, folder: Path, models: _Encoders, plan: Plan, device: str
) -> tuple[dict[str, list[StoredEmbedder]], dict[str, list[StoredEmbedder]]]:
    """Return the replicates of the models as embedders, and draws of random weights."""
    embedders: dict[str, list[StoredEmbedder]] = {}
    draws: dict[str, list[StoredEmbedder]] = {}

    def embedder(encoder: Encoder, name: str) -> StoredEmbedder:
        plain = Embedder(encoder, n_crops=plan.n_crops, parts=plan.parts or None, device=device)
        return StoredEmbedder(plain, folder / "embeddings" / f"{name}.npz", store.fingerprint)

    for i, (name, each) in enumerate(models.items()):
        random = RANDOM if len(models) == 1 else f"{RANDOM} ({name})"
        embedders[name] = [embedder(one, f"model{i}-{j}") for j, one in enumerate(each)]
        draws[random] = [
            embedder(each[0].with_random_weights(plan.seed + j), f"random{i}-{j}")
            for j in range(plan.n_random)
        ]
    return embedders, draws


def _side_by_side(
    models: Mapping[str, Sequence[Any]], baselines: Sequence[str]
) -> dict[str, list[SideBySide]]:
    """Return every model side by side with every baseline."""
    return {
        joint_name(name, baseline): [SideBySide({name: one, baseline: made}) for one in each]
        for baseline, made in make_baselines(baselines).items()
        for name, each in models.items()
    }


def _fine_tuned(
    folder: Path, models: _Encoders, plan: Plan, device: str
) -> dict[str, list[dict[Kind, StoredTuner]]]:
    """Return every model, fine-tuned in every way that is asked for, by kind of target."""
    if plan.finetune and not models:
        raise InputError(
            "there is no model to fine-tune",
            field="finetune",
            value=plan.finetune[0],
            fix="Give a model",
        )
    tuned = {}
    for name, each in models.items():
        for train in dict.fromkeys(plan.finetune):
            called = tuned_name(name, train)
            if called in models:
                rule, fix = "is the name of a fine-tuned model", "Name it: --model NAME=PATH"
                raise InputError(rule, field="models", value=called, fix=fix)
            tuned[called] = [_tuners(folder, one, train, plan, device) for one in each]
    return tuned


def _tuners(
    folder: Path, encoder: Encoder, train: Train, plan: Plan, device: str
) -> dict[Kind, StoredTuner]:
    """Return a model to be fine-tuned, by kind of target."""
    tuners: dict[Kind, StoredTuner] = {}
    for kind in get_args(Kind):
        tuner = make_tuner(
            kind,
            encoder,
            train,
            plan.tuning,
            class_weight="balanced",
            n_crops=plan.n_crops,
            seed=plan.seed,
            device=device,
        )
        tuners[kind] = StoredTuner(tuner, folder / "tuning")
    return tuners


def _compare(
    store: RecordingStore,
    models: Mapping[str, Any],
    controls: Mapping[str, Any],
    plan: Plan,
    n_jobs: int,
) -> ProbeResult:
    names = dict.fromkeys((SPECTRAL, *plan.baselines, *plan.beside))
    extra = make_baselines([name for name in names if name != CONNECTIVITY])
    return evaluate_probes(
        store,
        {**models, **controls, **extra},
        plan.targets,
        design=plan.design,
        curve=plan.curve,
        minutes=plan.minutes,
        probe=plan.probe,
        missing=plan.missing,
        against=[*dict.fromkeys((*controls, SPECTRAL, *plan.beside))],
        seed=plan.seed,
        metric=plan.metric,
        n_jobs=n_jobs,
    )


# -- the folder ------------------------------------------------------------------------------------


def _settings(store: RecordingStore, models: _Encoders, plan: Plan) -> dict[str, Any]:
    return {
        "semantoks": __version__,
        "store": {"name": store.path.name, "fingerprint": store.fingerprint},
        "preprocessing": asdict(store.preprocessing),
        "models": {name: [*map(weights_hash, each)] for name, each in models.items()},
        **plan.settings(),
    }


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Write the question into a new folder, or check that the folder answers this one.

    A folder without a comparison answers nothing yet, and may be asked anything.
    """
    file = folder / SETTINGS
    plain = json.loads(json.dumps(settings))
    if file.exists() and (folder / COMPARISON).exists():
        held = _json(file)
        other = sorted(k for k in held.keys() | plain.keys() if held.get(k) != plain.get(k))
        if other:
            raise InputError(
                f"answers another question: {', '.join(other)} differ",
                file=folder,
                field=other[0],
                value=plain.get(other[0]),
                fix="Choose another folder, or delete it",
            )
        return
    if not file.exists():
        refuse_existing(folder, folder=True)
    write_file(file, json.dumps(plain, indent=1), overwrite=True)


def _part(folder: Path, make: Callable[[Path], None], say: Say) -> None:
    """Have the folder of a part made, unless it exists."""
    if folder.exists():
        say(f"{folder.name}: already computed")
        return
    say(f"{folder.name} ...")
    start = time.perf_counter()
    make(folder)
    say(f"{folder.name}: {time.perf_counter() - start:.0f} s")


def _compute(part: str, work: Work, folder: Path, say: Say) -> None:
    """Compute a part and write its folder; where the store cannot answer it, the reason."""
    try:
        found, why_not = PARTS[part].load().compute(work), ""
    except InputError as error:
        found, why_not = Found(), str(error)
        say(f"{part}: not computed: {why_not}")
    facts = {**found.facts, "why_not": why_not, "tables": [*found.tables]}
    with staged_folder(folder) as staged:
        for name, table in found.tables.items():
            table.to_parquet(staged / f"{name}.parquet", index=False)
        (staged / _FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")


def _read(folder: Path) -> Found:
    facts = _json(folder / _FACTS)
    with readable(folder):
        names = entry(facts, "tables")
        return Found({n: pd.read_parquet(folder / f"{n}.parquet") for n in names}, facts)


def _json(file: Path) -> dict[str, Any]:
    with readable(file):
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("must be a mapping")
    return content
