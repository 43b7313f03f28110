from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantoks.data.splits import grouped_folds, leave_one_site_out
from semantoks.errors import InputError

quick = settings(max_examples=40, deadline=None)


@st.composite
def cohorts(draw):
    """A table of recordings of subjects, some of them scanned several times and at two sites."""
    n_subjects = draw(st.integers(6, 25))
    rows = []
    for subject in range(n_subjects):
        home = draw(st.integers(0, 3))
        for session in range(draw(st.integers(1, 3))):
            site = (home + draw(st.integers(0, 1)) * (session == 2)) % 4
            rows.append({"subject": f"s{subject}", "site": f"site{site}", "y": f"c{subject % 2}"})
    order = draw(st.permutations(range(len(rows))))
    return pd.DataFrame([rows[i] for i in order])


@quick
@given(table=cohorts(), n_folds=st.integers(2, 3), seed=st.integers(0, 9), stratify=st.booleans())
def test_folds_over_subjects_are_disjoint_and_cover(table, n_folds, seed, stratify):
    labels = table["y"] if stratify else None
    folds = grouped_folds(table, n_folds, labels=labels, seed=seed)
    assert len(folds) == n_folds
    tested = np.concatenate([fold.test for fold in folds])
    assert sorted(tested) == list(range(len(table)))
    subjects = table["subject"].to_numpy()
    for fold in folds:
        assert sorted([*fold.train, *fold.test]) == list(range(len(table)))
        assert not set(subjects[fold.train]) & set(subjects[fold.test])
        if stratify:
            assert set(table["y"].iloc[fold.train]) == {"c0", "c1"}
    again = grouped_folds(table, n_folds, labels=labels, seed=seed)
    assert all(np.array_equal(a.test, b.test) for a, b in zip(folds, again, strict=True))


@quick
@given(table=cohorts())
def test_a_site_left_out_is_unseen_with_all_its_people(table):
    known = sorted(set(table["site"]))
    if len(known) < 2:
        with pytest.raises(InputError, match="at least 2 sites"):
            leave_one_site_out(table)
        return
    folds = leave_one_site_out(table)
    assert [fold.name for fold in folds] == known
    for fold in folds:
        assert set(table["site"].iloc[fold.test]) == {fold.name}
        assert (table["site"] == fold.name).sum() == len(fold.test)
        assert fold.name not in set(table["site"].iloc[fold.train])
        assert not set(table["subject"].iloc[fold.train]) & set(table["subject"].iloc[fold.test])
    some = leave_one_site_out(table, test_sites=known[:1])
    assert [fold.name for fold in some] == known[:1]
    np.testing.assert_array_equal(some[0].train, folds[0].train)


def test_what_cannot_be_divided_is_refused():
    table = pd.DataFrame({"subject": list("aabcd"), "site": ["x", "x", "y", "y", None]})
    with pytest.raises(InputError, match=r"1 of 5 recordings have no site"):
        leave_one_site_out(table)
    with pytest.raises(InputError, match=r"test_sites = 'z': is no site\. Known: x, y"):
        leave_one_site_out(table.iloc[:4], test_sites=["z"])
    with pytest.raises(InputError, match=r"n_folds = 5: there are only 4 subjects"):
        grouped_folds(table, 5, seed=0)
    labels = ["p", "p", "q", "q", "q"]
    with pytest.raises(InputError, match=r"class 'p' has 1 subjects, fewer than the folds"):
        grouped_folds(table, 2, labels=labels, seed=0)
    with pytest.raises(InputError, match="needs at least 2"):
        grouped_folds(table, 1, seed=0)
