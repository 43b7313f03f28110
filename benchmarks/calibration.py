"""Known-answer simulations of the verdicts: false-verdict rates, coverage and power.

Every row of the grid is a design, a kind of target and a nuisance. Two models of pure noise are
compared by the package's own folds, probe and tests: every verdict is false, the true difference
is 0, and the true score is that of chance, or, of numbers, what the fitted models gain on average
over new truths. With something planted, one model holds a signal and the other holds noise, or both
hold the same signal: the true scores are their means over seeds.

    python benchmarks/calibration.py docs/results/calibration.md --seeds 200 --jobs 2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy import special
from scipy.stats import binom

from semantoks.data.designs import Design, GroupedKFold, LeaveOneSiteOut
from semantoks.evaluate.compare.cohort import Cohort
from semantoks.evaluate.compare.evaluation import Probe, outcomes_of
from semantoks.evaluate.compare.prediction import make_task, predict
from semantoks.evaluate.compare.scoring import Outcomes, adjusted, score_models
from semantoks.evaluate.compare.targets import Target
from semantoks.evaluate.stats.kinds import Kind
from semantoks.evaluate.stats.metrics import METRICS

CHANCE, CONTROL, MODEL = "chance", "connectivity", "model"

#: Sites, people per site and design of every row of the grid.
DESIGNS: dict[str, tuple[int, int, Design]] = {
    "5 folds over people": (8, 25, GroupedKFold()),
    "5 folds, repeated 3 times": (8, 25, GroupedKFold(n_repeats=3)),
    "5 folds over families": (8, 25, GroupedKFold(group="family")),
    "8 sites left out": (8, 25, LeaveOneSiteOut()),
    "20 unequal sites left out": (20, 20, LeaveOneSiteOut()),
}
TARGETS: tuple[str, ...] = ("two classes", "three classes", "number")
NUISANCES = (
    "nothing",
    "site offset in the features",
    "classes unequal over sites, with a site offset",
    "site means of the target differ",
    "several recordings per person",
)
Planted = Literal["nothing", "one model", "both models"]


@dataclass(frozen=True)
class Row:
    """A row of the grid.

    Parameters
    ----------
    design, target, nuisance : str
    planted : {"nothing", "one model", "both models"}
    """

    design: str
    target: str
    nuisance: str
    planted: Planted = "nothing"


def grid() -> list[Row]:
    """Return every row: nothing planted under every nuisance, then planted signals."""
    rows = [
        Row(design, target, nuisance)
        for design in DESIGNS
        for target in TARGETS
        for nuisance in NUISANCES
        if not (nuisance.startswith("classes") and target == "number")
        and not (nuisance.startswith("site means") and target != "number")
    ]
    for planted in ("one model", "both models"):
        rows += [Row(d, t, "nothing", planted) for d in DESIGNS for t in TARGETS]
    return rows


N_FEATURES, SIGNAL = 24, 0.45


def simulate(row: Row, seed: int) -> dict[str, float]:
    """Simulate one study and return what the package says of it.

    Returns
    -------
    dict
        score, score_low, score_high, gap, gap_low, gap_high, decided (1 for better or worse),
        better, detectable, and, with nothing planted, true_score.
    """
    rng = np.random.default_rng([seed, *row.design.encode(), *row.target.encode()])
    n_sites, n_people, design = DESIGNS[row.design]
    sizes = np.full(n_sites, n_people)
    if "unequal" in row.design:  # from 8 to 60 people, as in consortia
        sizes = np.round(np.geomspace(0.4, 3.0, n_sites) * n_people).astype(int)
    site = np.repeat(np.arange(n_sites), sizes)
    n = len(site)
    y, kind, middle = _target(row, site, rng)
    family = site * 1000 + rng.integers(0, 8, n) if "families" in row.design else np.arange(n)
    offset = rng.standard_normal((2, n_sites, N_FEATURES)) * ("offset" in row.nuisance)
    times = rng.integers(1, 5, n) if row.nuisance.startswith("several") else np.ones(n, int)
    of = np.repeat(np.arange(n), times)
    table = pd.DataFrame(
        {
            "id": [f"r{i}" for i in range(len(of))],
            "subject": [f"p{i}" for i in of],
            "site": [f"s{i}" for i in site[of]],
            "family": [f"f{i}" for i in family[of]],
        }
    )
    z = pd.factorize(y, sort=True)[0] if kind == "classification" else (y - y.mean()) / y.std()
    features = {}
    for i, model in enumerate((MODEL, CONTROL)):
        X = rng.standard_normal((n, N_FEATURES)) + offset[i, site]
        if "families" in row.design:
            X += rng.standard_normal((family.max() + 1, N_FEATURES))[family]
        if row.planted == "both models" or (row.planted == "one model" and model == MODEL):
            X[:, 0] += SIGNAL * (z - z.mean()) * (2 if kind == "classification" else 1)
        X = X[of] + 0.7 * rng.standard_normal((len(of), N_FEATURES)) * (len(of) > n)
        features[model] = X.astype(np.float32)
    found, outcomes = _judge(table, features, y[of], kind, design, seed)
    if row.planted == "nothing" and kind == "classification":
        found["true_score"] = 0.5
    elif row.planted == "nothing":
        people = [int(name[1:]) for name in outcomes.subjects]
        found["true_score"] = _true_gain(row, middle[people], outcomes)
    return found


def _true_gain(row: Row, middle: np.ndarray, outcomes: Outcomes) -> float:
    """Return what the fitted models gain over the training mean on average, of new truths.

    A person's truth is normal; of a site that is left out, its mean is drawn anew as well.
    """
    sd = WITHIN
    if "left out" in row.design:
        sd = float(np.hypot(WITHIN, APART * row.nuisance.startswith("site means")))
        middle = np.full_like(middle, MEAN)

    def error(model: str) -> float:
        d = middle - outcomes.predicted[model]
        near = sd * np.sqrt(2 / np.pi) * np.exp(-np.square(d / sd) / 2)
        folded = near + d * special.erf(d / sd / np.sqrt(2))
        return float(folded.mean())

    return error(CHANCE) - error(MODEL)


MEAN, WITHIN, APART = 30.0, 4.0, 6.0  # of a number: its mean, its SDs within and between sites


def _target(
    row: Row, site: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, Kind, np.ndarray]:
    """Return truths, their kind, and of numbers what they scatter around."""
    n, n_sites = len(site), int(site.max()) + 1
    if row.target == "number":
        apart = APART * rng.standard_normal(n_sites) * row.nuisance.startswith("site means")
        middle = MEAN + apart[site]
        return middle + WITHIN * rng.standard_normal(n), "regression", middle
    k = 2 if row.target.startswith("two") else 3
    share = np.full((n_sites, k), 1.0 / k)
    if row.nuisance.startswith("classes"):
        share = rng.dirichlet(np.full(k, 2.0), n_sites) * 0.7 + 0.3 / k
    codes = (rng.random(n)[:, None] > share.cumsum(axis=1)[site]).sum(axis=1).clip(0, k - 1)
    return np.array([f"c{code}" for code in codes]), "classification", np.zeros(n)


def _judge(
    table: pd.DataFrame,
    features: dict[str, np.ndarray],
    y: np.ndarray,
    kind: Kind,
    design: Design,
    seed: int,
) -> tuple[dict[str, float], Outcomes]:
    cohort = Cohort((), table)
    label = (np.arange(len(table)), y, kind)
    task = make_task(cohort, Target("y", kind), label, design, None, "subject", seed)
    models = {**features, CHANCE: np.zeros((len(table), 1), np.float32)}
    probe = partial(Probe().make, seed=seed)
    parts = [
        part.rows.assign(replicate=0)
        for name, model in models.items()
        for part in predict(cohort, name, model, [task], probe, 1)
    ]
    outcomes = outcomes_of(pd.concat(parts, ignore_index=True), task)
    first = dict([next(iter(METRICS[kind].items()))])
    told = score_models(outcomes, [CONTROL], CHANCE, first, verdict=not task.counted.why_not)
    scores, gaps = adjusted(*map(pd.DataFrame, told))
    score = scores.set_index("model").loc[MODEL]
    gap = gaps.set_index("model").loc[MODEL]
    found = {
        "score": score["value"],
        "score_low": score["ci_low"],
        "score_high": score["ci_high"],
        "gap": gap["value"],
        "gap_low": gap["ci_low"],
        "gap_high": gap["ci_high"],
        "decided": float(gap["verdict"] in ("better", "worse")),
        "better": float(gap["verdict"] == "better"),
        "detectable": gap["detectable"],
    }
    return found, outcomes


def summarise(row: Row, found: pd.DataFrame) -> dict[str, Any]:
    """Return the rates of one row, and whether they are as they should be.

    False verdicts must lie within the 99 % binomial interval of 5 %, coverage of the intervals
    between 92 and 98 %, up to the same interval around these bounds.
    """
    n = len(found)
    high = binom.ppf(0.995, n, 0.05) / n
    true_gap = 0.0 if row.planted != "one model" else float(found["gap"].mean())
    true_score = found["true_score"] if "true_score" in found else float(found["score"].mean())
    covers = (found["gap_low"] <= true_gap) & (true_gap <= found["gap_high"])
    of_score = (found["score_low"] <= true_score) & (true_score <= found["score_high"])
    least, most = binom.ppf(0.005, n, 0.92) / n, binom.ppf(0.995, n, 0.98) / n
    rate = float(found["decided"].mean())
    passes = bool(
        least <= covers.mean() <= most
        and least <= of_score.mean() <= most
        and (row.planted == "one model" or rate <= high)
    )
    return {
        "design": row.design,
        "target": row.target,
        "nuisance": row.nuisance,
        "planted in": row.planted,
        "seeds": str(n),
        "false verdicts": rate if row.planted != "one model" else np.nan,
        "power": float(found["better"].mean()) if row.planted == "one model" else np.nan,
        "coverage, difference": float(covers.mean()),
        "coverage, score": float(of_score.mean()),
        "mean difference": float(found["gap"].mean()),
        "detectable": float(found["detectable"].mean()),
        "passes": "yes" if passes else "NO",
    }


def run(rows: list[Row], n_seeds: int, n_jobs: int) -> Iterator[dict[str, Any]]:
    """Yield the summary of every row."""
    with Parallel(n_jobs=n_jobs) as parallel:
        for row in rows:
            found = parallel(delayed(simulate)(row, seed) for seed in range(n_seeds))
            yield summarise(row, pd.DataFrame(found))


def _cells(summary: dict[str, Any]) -> list[str]:
    """Return a row of the table; what does not apply is a dash."""
    return [
        v if isinstance(v, str) else "-" if np.isnan(v) else f"{v:.3f}" for v in summary.values()
    ]


def _kept(file: Path, n_seeds: int) -> dict[Row, dict[str, Any]]:
    """Return the rows of earlier runs that hold as many seeds or more, each as of most seeds."""
    if not file.exists():
        return {}
    table = pd.read_csv(file).sort_values("seeds", kind="stable").astype({"seeds": str})
    return {
        Row(was["design"], was["target"], was["nuisance"], was["planted in"]): was
        for was in table.to_dict("records")
        if int(was["seeds"]) >= n_seeds
    }


def main() -> None:
    """Run the grid and write its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="Markdown file to write")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="rows whose text holds this")
    parser.add_argument("--resume", action="store_true", help="keep the rows of OUT.csv")
    options = parser.parse_args()
    start = time.time()
    rows = [row for row in grid() if options.only in str(row)]
    kept = options.out.with_suffix(".csv")
    done = _kept(kept, options.seeds) if options.resume else {}
    left = [row for row in rows if row not in done]
    for row, summary in zip(left, run(left, options.seeds, options.jobs), strict=True):
        done[row] = summary
        pd.DataFrame(list(done.values())).to_csv(kept, index=False)
        print(" | ".join(_cells(summary)), flush=True)
    minutes = (time.time() - start) / 60
    told = [done[row] for row in rows]
    table = pd.DataFrame(told)
    failed = int((table["passes"] != "yes").sum())
    text = (__doc__.split("\n\n    python")[0] + "\n").split("\n", 2)
    lines = [[*table.columns], ["---"] * table.shape[1], *map(_cells, told)]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    cost = "" if options.resume else f", {minutes:.0f} minutes"
    options.out.write_text(
        f"# Calibration of the verdicts\n\n{text[0]}\n{text[2]}\n"
        f"{len(table)} rows{cost}; {failed} fail. A row passes if false verdicts are compatible "
        "with 5 % and the coverage of both intervals with 92 to 98 %, each within the "
        "99 % interval of\nthe number of seeds.\n\n"
        f"{body}\n",
        encoding="utf-8",
    )
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
