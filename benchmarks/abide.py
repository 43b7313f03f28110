"""Second-order models against connectivity on ABIDE: unseen sites, few labels, short scans.

    semantoks prepare abide stores/abide --missing-rois mark
    python -m benchmarks.abide stores/abide abide-results                 # pretrains 12 models
    python -m benchmarks.abide stores/abide abide-results --included      # the model in the box

1. The sites are divided into four groups of similar size. For every group, models are pretrained
   without labels and without the sites of the group, as `runs/connectome-base.yaml` does, with
   three seeds. Five draws of random weights have the same fitted tokenizers.
2. Every site is left out once (`evaluate_probes`). The models that have not seen it give the
   features of training people and tested people (`Inductive`); seeds and draws are replicates.
3. Verdicts are over sites. Those against connectivity are one family of a setting (Holm), those
   against spectral connectivity (R^0.5), and those against random weights, are two more.

Of few labels there are three draws. Features are kept in the folder, so that a rerun resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks import Embedder, RecordingStore, RunConfig, Trainer, load_pretrained
from semantoks.data.designs import LeaveOneSiteOut, SmallSamples
from semantoks.data.splits import Fold
from semantoks.datasets import ABIDE_SAMPLE_SITES
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.compare.models import Inductive
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.roles import CONNECTIVITY, RANDOM, SPECTRAL, role
from semantoks.evaluate.compare.scoring import adjusted
from semantoks.evaluate.compare.targets import Target
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.spectral_connectivity import SpectralConnectivityBaseline
from semantoks.evaluate.features.tangent import TangentBaseline
from semantoks.figures.scores import sample_sizes
from semantoks.model.encoder import Encoder
from semantoks.model.readout import part_sizes

Values = NDArray[np.float32]
Sites = tuple[str, ...]

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
PARTS = ("mean", "cls", "tokens", "spectral")


@dataclass(frozen=True, kw_only=True)
class FewPeople(LeaveOneSiteOut):
    """Leave one site out, fitted to a share of the others' people; draws are repetitions.

    Parameters
    ----------
    share : float
    """

    share: float

    def folds(self, table: pd.DataFrame, labels: NDArray[Any] | None, seed: int) -> list[Fold]:
        """Return the folds of every draw."""
        whole = super().folds(table, labels, seed)
        few = SmallSamples(n_subjects=(self.share,), n_draws=N_DRAWS)
        return [fold for _, fold in few.draws(whole, table["subject"].to_numpy(str), labels, seed)]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How much there is to learn from: of labels, and of every scan.

    Parameters
    ----------
    share : float
        Of the training people.
    scan : str
        Name of a stretch of `SCANS`.
    """

    share: float = 1.0
    scan: str = "whole"


#: Volumes of a recording of some length at some TR.
SCANS: dict[str, Callable[[NDArray[np.intp], float], NDArray[np.intp]]] = {
    "whole": lambda length, tr: length,  # noqa: ARG005
    "half": lambda length, tr: length // 2,  # noqa: ARG005
    "two-minutes": lambda length, tr: np.minimum(length, round(120 / tr)),
}
SETTINGS = {
    "all labels": Setting(),
    "50 % of the training people": Setting(share=0.5),
    "25 % of the training people": Setting(share=0.25),
    "10 % of the training people": Setting(share=0.1),
    "first half of every scan": Setting(scan="half"),
    "first two minutes of every scan": Setting(scan="two-minutes"),
}


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


def beginnings(store: RecordingStore, scan: str) -> RecordingStore:
    """Return the first part of every recording, as a store."""
    length = SCANS[scan](store.table["length"].to_numpy(), store.tr)
    events = pd.DataFrame({"id": store.table["id"], "onset": store.table["offset"]})
    return store.trials(events.assign(duration=length * store.tr))


def rotated(X: Values) -> Values:
    """Return the same distances in as many numbers as people: nothing that a ridge sees is lost."""
    if X.shape[1] <= len(X):
        return X
    centred = X - X.mean(axis=0)
    values, axes = np.linalg.eigh((centred @ centred.T).astype(np.float64))
    return np.asarray(axes * np.sqrt(values.clip(min=0.0)), np.float32)


@dataclass(frozen=True)
class Kept:
    """Features in a folder: read if they are there, else made and written."""

    folder: Path

    def get(self, name: str, make: Callable[[], dict[str, Values]]) -> dict[str, Values]:
        """Return features by their names."""
        file = self.folder / f"{name}.npz"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            found = make()
            with file.with_suffix(".part").open("wb") as stream:
                np.savez(stream, **found)
            file.with_suffix(".part").rename(file)
        with np.load(file) as found:
            return dict(found)


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


def described(first: RecordingStore) -> dict[str, Values]:
    """Return the baselines that learn nothing."""
    found = {
        CONNECTIVITY: ConnectivityBaseline(),
        SPECTRAL: SpectralConnectivityBaseline(),
        "spectral": SpectralConnectivityBaseline("log", 2 / 3),
    }
    return {name: rotated(one.fit_transform(first)) for name, one in found.items()}


def models_of(
    first: RecordingStore, models: Mapping[Sites, list[Encoder]], kept: Kept, *, random: bool
) -> dict[str, Any]:
    """Return the baselines, the readouts of the models, and those of random weights."""
    found: dict[str, Any] = {**kept.get("baselines", partial(described, first))}
    found["tangent space"] = TangentBaseline()
    encoders = {"": models}
    if random:
        draws = {
            g: [each[0].with_random_weights(n) for n in range(N_RANDOM)]
            for g, each in models.items()
        }
        encoders[RANDOM] = draws
    for kind, of_groups in encoders.items():
        values = {
            unseen: [
                kept.get(
                    f"{kind or 'model'}-without-{unseen[0]}-{n}", partial(readouts, one, first)
                )
                for n, one in enumerate(each)
            ]
            for unseen, each in of_groups.items()
        }
        for name in READOUTS:
            replicates = zip(*values.values(), strict=True)
            found[f"{kind} ({name})" if kind else name] = [
                Inductive({g: v[name] for g, v in zip(values, one, strict=True)})
                for one in replicates
            ]
    return found


def compare(
    first: RecordingStore, models: Mapping[str, Any], setting: Setting, tested: Sites
) -> ProbeResult:
    """Evaluate every model where one site is left out at a time."""
    whole = setting.share == 1
    design = (
        LeaveOneSiteOut(test_sites=tested)
        if whole
        else FewPeople(test_sites=tested, share=setting.share)
    )
    against = [CONNECTIVITY, SPECTRAL, *(name for name in models if role(name) == "random")]
    return evaluate_probes(first, models, TARGETS, design=design, against=against, metric=("r",))


# -- tables ----------------------------------------------------------------------------------------


def decided(result: ProbeResult) -> pd.DataFrame:
    """Return the differences that are asked for, adjusted for their number, and the scores."""
    tested = result.differences[result.differences["p_value"].notna()]
    own = tested["against"] == [f"{RANDOM} ({model})" for model in tested["model"]]
    asks = ~tested["model"].map(role).isin(("random", "connectivity"))
    asked = tested[own | (asks & tested["against"].isin((CONNECTIVITY, SPECTRAL)))]
    asked = asked.assign(against=asked["against"].where(~own.loc[asked.index], RANDOM))
    return adjusted(result.scores, asked.reset_index(drop=True))[1]


def score_rows(result: ProbeResult) -> pd.DataFrame:
    """Return the deciding score of every model and target."""
    scores = result.scores
    return scores[scores["metric"].isin(("AUROC", "r"))].drop_duplicates(["target", "model"])


def cell(row: pd.Series) -> str:
    """Return a difference with its interval and its verdict."""
    sign = {"better": " **better**", "worse": " **worse**"}.get(row["verdict"], "")
    return f"{row['value']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]{sign}"


def markdown(result: ProbeResult) -> Iterator[str]:
    """Yield the table of a setting: scores, and differences to each reference."""
    scores, gaps = score_rows(result), decided(result)
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


def answers(results: Mapping[str, ProbeResult]) -> Iterator[str]:
    """Yield "better than connectivity: yes or no" per setting, features and target."""
    targets = [target.name for target in TARGETS]
    words = {"better": "yes", "worse": "no (worse)"}
    yield "| setting | features | " + " | ".join(targets) + " |"
    yield "|---" * (len(targets) + 2) + "|"
    for setting, result in results.items():
        gaps = decided(result)
        rows = gaps[gaps["against"] == CONNECTIVITY].set_index(["model", "target"])["verdict"]
        for model in ("tangent space", SPECTRAL, "spectral", *READOUTS):
            found = " | ".join(words.get(rows[model, t], "no") for t in targets)
            yield f"| {setting} | {model} | {found} |"


def draw_curves(results: Mapping[str, ProbeResult], store: RecordingStore, out: Path) -> None:
    """Draw every target against the number of training people, and against the scans' length."""
    shown = (CONNECTIVITY, SPECTRAL, "mean + cls", "spectral + tokens")
    for target in (target.name for target in TARGETS):
        people, minutes = [], []
        for name, result in results.items():
            setting, rows = SETTINGS[name], score_rows(result)
            rows = rows[(rows["target"] == target) & rows["model"].isin(shown)]
            if setting.scan == "whole":
                n = np.median([fold["n_train"] for fold in result.meta["targets"][target]["folds"]])
                people.append(rows.assign(n_train=round(n)))
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
                for seed in range(N_SEEDS)
            ]
            for i, group in enumerate(groups)
        }
    results = {}
    for name, setting in SETTINGS.items():
        folder = out / name.replace(" ", "-").replace("%", "percent")
        if not folder.exists():
            first = beginnings(store, setting.scan)
            kept = Kept(out / "features" / setting.scan)
            models = models_of(first, encoders, kept, random=name == "all labels")
            tested = tuple(site for group in groups for site in group)
            compare(first, models, setting, tested).save(folder)
        results[name] = ProbeResult.load(folder)
        print(name, *markdown(results[name]), sep="\n", flush=True)
    lines = ["## Better than connectivity?", "", *answers(results)]
    for name, result in results.items():
        lines += ["", f"## {name[0].upper()}{name[1:]}", "", *markdown(result)]
    (out / "tables.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw_curves(results, store, out)


if __name__ == "__main__":
    main()
