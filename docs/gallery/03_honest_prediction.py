"""
Honest prediction, and how to read its report
=============================================

A score says little alone. This tutorial predicts at sites that were never seen, next to controls,
and reads the result: verdicts, intervals, alarms, and what else could explain the score.
"""

# %%
# The question
# ------------
# A :class:`~semantoks.Plan` states targets, design and controls before any result is seen. Here:
# diagnosis and age, every site left out once, with the confounds as a further control.

from pathlib import Path
from tempfile import mkdtemp

from semantoks import Plan, Target, evaluate_store, prepare_store
from semantoks.data.designs import LeaveOneSiteOut

work = Path(mkdtemp())
prepare_store("abide-sample", work / "store")
plan = Plan(
    targets=(Target("diagnosis"), Target("age")),
    design=LeaveOneSiteOut(),
    baselines=("confounds",),
)

# %%
# The answer
# ----------
# Without a model the baselines are compared with connectivity; with ``models=["connectome-base"]``
# (half a minute more) the model stands in the same table, beside the same encoder with random
# weights. The folder holds every number as Parquet, and ``report.html``.

found = evaluate_store(
    work / "store",
    work / "result",
    models=(),
    plan=plan,
    parts=("alarms",),
    say=lambda _: None,
)
scores = found.comparison.scores
columns = ["target", "model", "metric", "value", "ci_low", "ci_high"]
scores.loc[scores["metric"].isin(["AUROC", "MAE gain"]), columns].round(3)

# %%
# How to read it
# --------------
# - **AUROC within sites** compares people of one site only: a model that knows the site gains
#   nothing. **MAE gain** is in years over the mean of the training part: above zero, something is
#   predicted.
# - **The interval** is over sites, the unit of the question "at a site never seen". It counts every
#   site as tested and as trained on.
# - **Differences** are paired. A verdict appears only where the adjusted p-value allows it;
#   ``detectable`` is the difference that this design would have found with a probability of 80 %.

differences = found.comparison.differences
shown = ["target", "model", "against", "value", "ci_low", "ci_high", "detectable", "verdict"]
differences[shown].round(3).head(6)

# %%
# The picture
# -----------
# Scores with their intervals; the line is chance.

from semantoks.evaluate.compare.roles import role
from semantoks.figures.runs import score_intervals

rows = scores[(scores["target"] == "diagnosis") & (scores["metric"] == "AUROC")]
figure = score_intervals(rows.assign(role=rows["model"].map(role)), (0.5, "chance"))

# %%
# Alarms
# ------
# Leaks, warnings and notices come first in the report. Here age follows the site: a model that
# knows the site could predict age over all people. Within sites it gains nothing by that.

for alarm in found.parts["alarms"].facts["alarms"]:
    print(f"{alarm['severity']}: {alarm['what']} ({', '.join(alarm['found'])})")

# %%
# The methods paragraph
# ---------------------
# It is generated from what was computed, and says no more.

import textwrap

from semantoks.report.methods import methods_paragraph

print(textwrap.fill(methods_paragraph(found), 80))

# %%
# :doc:`/evaluation` has every part of the report and what each number assumes.
