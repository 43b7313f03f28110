"""Second-order models against connectivity on ABIDE: unseen sites, few labels, short scans.

    semantoks prepare abide stores/abide --missing-rois mark
    python -m benchmarks.abide stores/abide abide-results                 # pretrains 12 models
    python -m benchmarks.abide stores/abide abide-results --included      # the model in the box

1. The sites are divided into four groups of similar size. For every group, models are pretrained
   without labels and without the sites of the group, as `runs/connectome-base.yaml` does, with
   three seeds. Five draws of random weights have the same fitted tokenizers.
2. Every site is left out once, with the folds, the probe, the intervals and the verdicts of the
   package. The models that have not seen the site give the features of training and tested people
   (`Inductive`); seeds and draws are replicates.
3. Verdicts are over sites. Those against connectivity are one family of a setting (Holm), those
   against spectral connectivity (R^0.5), and those against random weights, are two more.

Of few labels there are three draws. Random weights and the tangent space, which is fitted in every
fold, are evaluated with all labels only. Features and predictions are kept in the folder, so that
rerunning the command resumes it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import joblib
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from semantoks import Embedder, RecordingStore, RunConfig, Trainer, load_pretrained
from semantoks.data.designs import Labels, LeaveOneSiteOut, SmallSamples
from semantoks.data.splits import Fold
from semantoks.datasets import ABIDE_SAMPLE_SITES
from semantoks.evaluate.compare.cohort import Cohort
from semantoks.evaluate.compare.evaluation import Probe, outcomes_of
from semantoks.evaluate.compare.models import Inductive
from semantoks.evaluate.compare.prediction import make_task, predict, replicates
from semantoks.evaluate.compare.roles import CHANCE, CONNECTIVITY, RANDOM, SPECTRAL, role
from semantoks.evaluate.compare.scoring import adjusted, score_models
from semantoks.evaluate.compare.targets import Target, target_values
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.crops import even_crops, sources
from semantoks.evaluate.features.spectral_connectivity import SpectralConnectivityBaseline
from semantoks.evaluate.features.tangent import TangentBaseline
from semantoks.evaluate.stats.metrics import ordered_metrics
from semantoks.figures.scores import sample_sizes
from semantoks.model.encoder import Encoder
from semantoks.model.readout import part_sizes
from semantoks.model.tokenizers.connectome import ConnectomeTokenizer

Values = NDArray[np.float32]
Sites = tuple[str, ...]
T = TypeVar("T")
Scan = Literal["whole", "half"] | float

N_GROUPS, N_SEEDS, N_RANDOM, N_DRAWS = 4, 3, 5, 3
TARGETS = (
    Target("diagnosis", "classification", "autism"),
    Target("sex", "classification", "female"),
    Target("age", "regression", transform="log"),
)
#: What of an embedding is evaluated. The last is what `Embedder` gives by default.
READOUTS = {
    "cls": ("cls",),
    "mean + cls": ("mean", "cls"),
    "tokens": ("tokens",),
    "spectral + tokens": ("spectral", "tokens"),
}
LEARNED = ("cls", "mean + cls", "tokens")
PARTS = ("mean", "cls", "tokens", "spectral")


@dataclass(frozen=True, kw_only=True)
class FewPeople(LeaveOneSiteOut):
    """Leave one site out, fitted to a share of the others' people; draws are repetitions.

    Parameters
    ----------
    share : float
    """

    share: float

    def folds(self, table: pd.DataFrame, labels: Labels, seed: int) -> list[Fold]:
        """Return the folds of every draw, the same for all targets."""
        whole = super().folds(table, labels, seed)
        few = SmallSamples(n_subjects=(self.share,), n_draws=N_DRAWS)
        return [fold for _, fold in few.draws(whole, table["subject"].to_numpy(str), None, seed)]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How much there is to learn from: of labels, and of every scan.

    Parameters
    ----------
    share : float
        Of the training people.
    scan : {"whole", "half"} or float
        How much of every recording, from its beginning: all, half of it, or so many seconds.
    """

    share: float = 1.0
    scan: Scan = "whole"


SETTINGS = {
    "all labels": Setting(),
    "25 % of the training people": Setting(share=0.25),
    "first half of every scan": Setting(scan="half"),
    "first two minutes of every scan": Setting(scan=120.0),
    "50 % of the training people": Setting(share=0.5),
    "10 % of the training people": Setting(share=0.1),
}


@dataclass(frozen=True, eq=False)
class Result:
    """What is known of a setting.

    Parameters
    ----------
    scores, differences : DataFrame
        Of AUROC or r; see `ProbeResult`.
    n_train : float
        People in a training part (median).
    """

    scores: pd.DataFrame
    differences: pd.DataFrame
    n_train: float


def groups_of(sites: NDArray[np.str_]) -> list[Sites]:
    """Divide the sites into groups of similar size, the largest dealt out first."""
    names, counts = np.unique(sites, return_counts=True)
    order = names[np.argsort(-counts, kind="stable")]
    return [tuple(str(s) for s in order[i::N_GROUPS]) for i in range(N_GROUPS)]


def pretrained(store: str, folder: Path, excluded: Sites, seed: int) -> Encoder:
    """Pretrain without some sites, or load what was pretrained."""
    data = {"store": store, "exclude_sites": [*excluded]}
    changes = {"data": data, "seed": seed, "train": {"precision": "float32"}}
    config = RunConfig.preset("connectome-base", changes)
    Trainer(config, folder, resume=(folder / "checkpoints").exists()).fit()
    return load_pretrained(folder)


def beginnings(store: RecordingStore, scan: Scan) -> RecordingStore:
    """Return the beginning of every recording, as a store; see `Setting`."""
    whole = store.table["length"].to_numpy()
    length = whole if scan == "whole" else whole // 2
    if isinstance(scan, float):
        length = np.minimum(whole, round(scan / store.tr))
    events = pd.DataFrame({"id": store.table["id"], "onset": store.table["offset"]})
    return store.trials(events.assign(duration=length * store.tr))


def rotated(X: Values) -> Values:
    """Return the same distances in as many numbers as people: nothing that a ridge sees is lost."""
    if X.shape[1] <= len(X):
        return X
    centred = X - X.mean(axis=0)
    values, axes = np.linalg.eigh((centred @ centred.T).astype(np.float64))
    return np.asarray(axes * np.sqrt(values.clip(min=0.0)), np.float32)


def kept(file: Path, make: Callable[[], T]) -> T:
    """Return what a file of the results holds; make it and write it first if there is none."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial_file = file.with_suffix(".part")
        joblib.dump(make(), partial_file)
        partial_file.rename(file)
    found: T = joblib.load(file)
    return found


def readouts(encoder: Encoder, store: RecordingStore) -> dict[str, Values]:
    """Return what is evaluated of the embeddings of a store."""
    both = Embedder(encoder, parts=PARTS).fit_transform(store)
    sizes = part_sizes(encoder)
    ends = np.cumsum([sizes[part] for part in PARTS])[:-1]
    found = dict(zip(PARTS, np.split(both, ends, axis=1), strict=True))
    return {
        name: rotated(np.hstack([found[part] for part in parts]))
        for name, parts in READOUTS.items()
    }


@torch.inference_mode()
def random_readouts(encoder: Encoder, first: RecordingStore) -> list[dict[str, Values]]:
    """Return the readouts of draws of random weights, whose tokens are of the same coordinates."""
    tokenizer = encoder.tokenizer
    assert isinstance(tokenizer, ConnectomeTokenizer)
    crops = [even_crops(encoder, source, 1) for source in sources(encoder, first, None)]
    mask = torch.cat([missing for _, missing in crops])
    coordinates = torch.cat([tokenizer.coordinates(tokenizer.centred(x)) for x, _ in crops])
    found = []
    for draw in (encoder.with_random_weights(n) for n in range(N_RANDOM)):
        assert isinstance(draw.tokenizer, ConnectomeTokenizer)
        sequence = draw.assemble(draw.tokenizer.tokens(coordinates), mask)
        for block in draw.blocks:
            sequence = block(sequence)
        cls, tokens = draw.norm(sequence)[:, 0], draw.norm(sequence)[:, 1:]
        parts = {"cls": cls, "mean": tokens.mean(dim=1), "tokens": tokens.flatten(1)}
        found.append(
            {
                name: rotated(torch.cat([parts[part] for part in READOUTS[name]], dim=1).numpy())
                for name in LEARNED
            }
        )
    return found


def described(first: RecordingStore) -> dict[str, Values]:
    """Return the baselines that learn nothing."""
    found = {
        CONNECTIVITY: ConnectivityBaseline(),
        SPECTRAL: SpectralConnectivityBaseline(),
        "spectral": SpectralConnectivityBaseline("log", 2 / 3),
    }
    return {name: rotated(one.fit_transform(first)) for name, one in found.items()}


def models_of(
    first: RecordingStore, models: Mapping[Sites, list[Encoder]], folder: Path, setting: Setting
) -> dict[str, Any]:
    """Return the baselines, the readouts of the models, and those of random weights."""
    found: dict[str, Any] = {**kept(folder / "baselines.pkl", partial(described, first))}
    values = {
        unseen: [
            kept(folder / f"model-{n}-without-{unseen[0]}.pkl", partial(readouts, one, first))
            for n, one in enumerate(each)
        ]
        for unseen, each in models.items()
    }
    found |= inductive("{}", values)
    if setting == Setting():
        drawn = {
            unseen: kept(
                folder / f"random-without-{unseen[0]}.pkl", partial(random_readouts, each[0], first)
            )
            for unseen, each in models.items()
        }
        found |= inductive(f"{RANDOM} ({{}})", drawn)
        found["tangent space"] = TangentBaseline()
    return found


def inductive(called: str, values: Mapping[Sites, list[dict[str, Values]]]) -> dict[str, Any]:
    """Return the replicates of every readout."""
    first = next(iter(values.values()))
    return {
        called.format(name): [
            Inductive({unseen: each[n][name] for unseen, each in values.items()})
            for n in range(len(first))
        ]
        for name in first[0]
    }


def compare(
    first: RecordingStore, models: Mapping[str, Any], setting: Setting, tested: Sites, folder: Path
) -> Result:
    """Evaluate every model where one site is left out at a time; predictions are kept."""
    design = LeaveOneSiteOut(test_sites=tested)
    if setting.share < 1:
        design = FewPeople(test_sites=tested, share=setting.share)
    cohort = Cohort.of(first, design)
    tasks = [
        make_task(cohort, t, target_values(cohort, t, "refuse"), design, None, "subject", 0)
        for t in TARGETS
    ]

    def rows_of(name: str, one: Any) -> pd.DataFrame:
        found = predict(cohort, name, one, tasks, partial(Probe().make, seed=0), 1)
        return pd.concat([part.rows for part in found], ignore_index=True)

    parts = [
        kept(folder / f"{name}-{n}.pkl", partial(rows_of, name, one)).assign(replicate=n)
        for name, model in {**models, CHANCE: np.zeros((len(cohort), 1), np.float32)}.items()
        for n, one in enumerate(replicates(model))
    ]
    rows = pd.concat(parts, ignore_index=True)
    against = [CONNECTIVITY, SPECTRAL, *(name for name in models if role(name) == "random")]
    scores, gaps = [], []
    for task in tasks:
        metric = dict([next(iter(ordered_metrics(task.kind, ("r",)).items()))])
        both = score_models(outcomes_of(rows, task), against, CHANCE, metric)
        for found, new in zip((scores, gaps), both, strict=True):
            found += [{"target": task.target.name, **row} for row in new]
    n_train = float(np.median([len(fold.train) for fold in tasks[0].folds]))
    return Result(*adjusted(pd.DataFrame(scores), asked(pd.DataFrame(gaps))), n_train)


def asked(gaps: pd.DataFrame) -> pd.DataFrame:
    """Return the differences that are asked for: to baselines, and to the own random weights."""
    own = gaps["against"] == [f"{RANDOM} ({model})" for model in gaps["model"]]
    asks = ~gaps["model"].map(role).isin(("random", "connectivity", "chance"))
    rows = gaps[own | (asks & gaps["against"].isin((CONNECTIVITY, SPECTRAL)))]
    return rows.assign(against=rows["against"].where(~own[rows.index], RANDOM)).reset_index(
        drop=True
    )


# -- tables ----------------------------------------------------------------------------------------


def cell(row: pd.Series) -> str:
    """Return a difference with its interval and its verdict."""
    sign = {"better": " **better**", "worse": " **worse**"}.get(row["verdict"], "")
    return f"{row['value']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]{sign}"


def markdown(result: Result) -> Iterator[str]:
    """Yield the table of a setting: scores, and differences to each reference."""
    scores, gaps = result.scores, result.differences
    targets = [target.name for target in TARGETS]
    value = scores.set_index(["model", "target"])["value"]
    models = [m for m in scores["model"].unique() if m != "chance"]
    yield "| | " + " | ".join(f"{t}, {'r' if 'age' in t else 'AUROC'}" for t in targets) + " |"
    yield "|---" * (len(targets) + 1) + "|"
    for model in models:
        yield f"| {model} | " + " | ".join(f"{value[model, t]:.3f}" for t in targets) + " |"
    for against in (CONNECTIVITY, SPECTRAL, RANDOM):
        rows = gaps[gaps["against"] == against].set_index(["model", "target"])
        named = [m for m in models if m in rows.index.get_level_values(0)]
        if not named:
            continue
        yield from ("", f"Minus {against}:", "")
        yield "| | " + " | ".join(targets) + " |"
        yield "|---" * (len(targets) + 1) + "|"
        for model in named:
            yield f"| {model} | " + " | ".join(cell(rows.loc[(model, t)]) for t in targets) + " |"


def answers(results: Mapping[str, Result]) -> Iterator[str]:
    """Yield "better than connectivity: yes or no" per setting, features and target."""
    targets = [target.name for target in TARGETS]
    words = {"better": "yes", "worse": "no (worse)"}
    yield "| setting | features | " + " | ".join(targets) + " |"
    yield "|---" * (len(targets) + 2) + "|"
    for setting, result in results.items():
        gaps = result.differences
        rows = gaps[gaps["against"] == CONNECTIVITY].set_index(["model", "target"])["verdict"]
        for model in (SPECTRAL, "spectral", *READOUTS):
            found = " | ".join(words.get(rows[model, t], "no") for t in targets)
            yield f"| {setting} | {model} | {found} |"


def draw_curves(results: Mapping[str, Result], store: RecordingStore, out: Path) -> None:
    """Draw every target against the number of training people, and against the scans' length."""
    shown = (CONNECTIVITY, SPECTRAL, "mean + cls", "spectral + tokens")
    for target in (target.name for target in TARGETS):
        people, minutes = [], []
        for name, result in results.items():
            setting, rows = SETTINGS[name], result.scores
            rows = rows[(rows["target"] == target) & rows["model"].isin(shown)]
            if setting.scan == "whole":
                people.append(rows.assign(n_train=round(result.n_train)))
            if setting.share == 1:
                length = beginnings(store, setting.scan).table["length"].median() * store.tr
                minutes.append(rows.assign(minutes=round(length / 60, 1)))
        file = f"{target.replace(' ', '-')}.png"
        sample_sizes(pd.concat(people)).savefig(out / f"labels-{file}", dpi=160)
        figure = sample_sizes(pd.concat(minutes), of="minutes", label="minutes per scan (median)")
        figure.savefig(out / f"minutes-{file}", dpi=160)


def main() -> None:
    """Pretrain, embed, compare, and write tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store")
    parser.add_argument("out", type=Path)
    help_ = "test the model that comes with the package on the seven sites that it has not seen"
    parser.add_argument("--included", action="store_true", help=help_)
    parser.add_argument("--seeds", type=int, default=N_SEEDS, help="pretrain with so many seeds")
    given = parser.parse_args()
    store, out = RecordingStore(given.store), given.out / ("included" if given.included else "own")
    if given.included:
        groups = [ABIDE_SAMPLE_SITES]
        encoders = {groups[0]: [load_pretrained()]}
    else:
        groups = groups_of(store.table["site"].to_numpy(str))
        encoders = {
            group: [
                pretrained(given.store, out / f"group-{i}-seed-{seed}", group, seed)
                for seed in range(given.seeds)
            ]
            for i, group in enumerate(groups)
        }
    results = {}
    for name, setting in SETTINGS.items():
        folder = out / name.replace(" ", "-").replace("%", "percent")
        first = beginnings(store, setting.scan)
        models = models_of(first, encoders, out / "features" / str(setting.scan), setting)
        tested = tuple(site for group in groups for site in group)
        results[name] = compare(first, models, setting, tested, folder)
        print(name, *markdown(results[name]), sep="\n", flush=True)
    lines = ["## Better than connectivity?", "", *answers(results)]
    for name, result in results.items():
        lines += ["", f"## {name[0].upper()}{name[1:]}", "", *markdown(result)]
    (out / "tables.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw_curves(results, store, out)


if __name__ == "__main__":
    main()
