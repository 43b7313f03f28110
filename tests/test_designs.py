from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from semantoks.data.designs import (
    AcrossStores,
    FixedSplit,
    GroupedKFold,
    LeaveOneSiteOut,
    SmallSamples,
    design_for,
)
from semantoks.data.store import write_store
from semantoks.errors import InputError


@pytest.fixture
def table():
    """46 recordings of 40 people in 20 families at 5 sites."""
    people = np.r_[np.arange(40), np.arange(6)]
    return pd.DataFrame(
        {
            "subject": [f"p{i:02}" for i in people],
            "family": [f"f{i // 2:02}" for i in people],
            "site": [f"s{i // 2 % 5}" for i in people],
            "y": np.array(["a", "b", "b"])[people % 3],
            "part": np.array(["train", "test", "train", "validation"])[people % 4],
        }
    )


def assert_apart(table, folds, *columns):
    for fold in folds:
        for column in ("subject", *columns):
            values = table[column].to_numpy(str)
            assert not set(values[fold.train]) & set(values[fold.test])


@pytest.mark.parametrize("group", ["subject", "family", "site"])
@pytest.mark.parametrize("stratified", [True, False])
def test_repeated_folds_keep_groups_whole_and_test_everybody_once_each(table, group, stratified):
    design = GroupedKFold(group=group, n_folds=4, n_repeats=3, stratified=stratified)
    folds = design.folds(table, table["y"].to_numpy(), seed=5)
    assert len(folds) == 12
    assert_apart(table, folds, group)
    for repeat in range(3):
        tested = np.concatenate([f.test for f in folds if f.repeat == repeat])
        assert sorted(tested) == list(range(46))
    first = [set(f.test) for f in folds if f.repeat == 0]
    assert any(set(f.test) not in first for f in folds if f.repeat == 1)
    assert "repeated 3 times" in design.sentence()


def test_stratified_folds_have_the_classes_of_all(table):
    y = table["y"].to_numpy()
    folds = GroupedKFold(n_folds=4).folds(table, y, seed=1)
    of_people = table.groupby("subject")["y"].agg(lambda classes: classes.value_counts().idxmax())
    for name in ("a", "b"):
        n = [(of_people[table["subject"].iloc[f.test].unique()] == name).sum() for f in folds]
        assert max(n) - min(n) <= 2  # a tie is of either class


@pytest.mark.parametrize("seed", [0, 3])
def test_folds_have_the_classes_of_every_site(seed):
    """Noise behind an offset of sites scores at chance only where no fold lacks a class of one."""
    rng = np.random.default_rng(seed)
    site = rng.integers(0, 5, 173)
    y = np.where(rng.random(173) < 0.2 + 0.15 * site, "a", "b")
    people = {"subject": [f"p{i}" for i in range(173)], "site": [f"s{i}" for i in site]}
    table = pd.DataFrame(people)
    folds = GroupedKFold(n_folds=4).folds(table, y, seed=seed)
    assert sorted(np.concatenate([f.test for f in folds])) == list(range(173))
    for code in range(5):
        for of_class in "ab":
            n = [int(((site == code) & (y == of_class))[f.test].sum()) for f in folds]
            assert max(n) - min(n) <= 1


def test_somebody_in_two_groups_trains_in_no_fold_that_tests_one_of_them(table):
    table.loc[44, "site"] = "s3"  # p04, whose home is s2
    folds = GroupedKFold(group="site", n_folds=5).folds(table, None, seed=0)
    assert_apart(table, folds)
    assert sum(len(f.train) for f in folds) == 46 * 4 - 2


def test_fixed_parts(table):
    (fold,) = FixedSplit(column="part").folds(table, None, seed=0)
    part = table["part"].to_numpy()
    assert set(part[fold.test]) == {"test"}
    assert set(part[fold.train]) == {"train", "validation"}
    assert set(part[fold.validation]) == {"validation"}
    assert_apart(table, [fold])
    two = table.replace({"part": {"validation": None}})
    assert FixedSplit(column="part").folds(two, None, seed=0)[0].validation is None
    torn = table.assign(part=np.where(table.index == 43, "train", table["part"]))
    with pytest.raises(InputError, match=r"subject 'p03' is in 2 parts"):
        FixedSplit(column="part").folds(torn, None, seed=0)
    with pytest.raises(InputError, match=r"part = 'exam': no recording has this value"):
        FixedSplit(column="part", test="exam").folds(table, None, seed=0)
    with pytest.raises(InputError, match=r"parts: the store has no such column\. Did you mean 'p"):
        FixedSplit(column="parts").folds(table, None, seed=0)


def test_few_people_are_drawn_inside_the_training_part(table):
    y = table["y"].to_numpy()
    subjects = table["subject"].to_numpy(str)
    folds = LeaveOneSiteOut().folds(table, None, seed=0)
    curve = SmallSamples(n_subjects=(9, 15), n_draws=2)
    drawn = list(curve.draws(folds, subjects, y, seed=3))
    assert [size for size, _ in drawn] == [9] * 10 + [15] * 10
    for (size, small), fold in zip(drawn, folds * 4, strict=True):
        assert set(small.train) <= set(fold.train)
        np.testing.assert_array_equal(small.test, fold.test)
        assert len(set(subjects[small.train])) == size
        first = np.unique(subjects[small.train], return_index=True)[1]
        assert abs((y[small.train][first] == "a").sum() - size / 3) <= 1.2
    assert {small.repeat for _, small in drawn} == {0, 1}
    fewest = min(len(set(subjects[f.train])) for f in folds)
    shares = SmallSamples(n_subjects=(0.25, 0.5, 9), n_draws=1).draws(folds, subjects, y, seed=3)
    expected = [round(0.25 * fewest), round(0.5 * fewest), 9]
    assert [*dict.fromkeys(size for size, _ in shares)] == [*dict.fromkeys(expected)]
    again = curve.draw(folds[2], subjects, y, 9, 1, seed=3)
    np.testing.assert_array_equal(again.train, drawn[7][1].train)
    with pytest.raises(InputError, match=r"n_subjects = 33: the training part of fold s0 has 32"):
        curve.draw(folds[0], subjects, y, 33, 0, seed=0)
    with pytest.raises(InputError, match="a class with fewer than 2 training subjects"):
        curve.draw(folds[0], subjects, y, 4, 0, seed=0)


def test_two_stores_share_nobody(store, recordings, parcellation, preprocessing, tmp_path):
    others = [dataclasses.replace(r, subject=f"x{r.subject}") for r in recordings[:9]]
    other = write_store(tmp_path / "other", others, parcellation, preprocessing)
    both = pd.concat([other.table, store.table], ignore_index=True)
    (fold,) = AcrossStores(train=other).folds(both, None, seed=0)
    np.testing.assert_array_equal(fold.train, np.arange(9))
    np.testing.assert_array_equal(fold.test, np.arange(9, 22))
    kept = both.drop(index=[2, 15])  # recordings without a label
    (fold,) = AcrossStores(train=other).folds(kept, None, seed=0)
    assert (len(fold.train), len(fold.test)) == (8, 12)
    twice = pd.concat([store.table, store.table], ignore_index=True)
    with pytest.raises(InputError, match=r"10 subjects are in both stores"):
        AcrossStores(train=store).folds(twice, None, seed=0)


def test_designs_by_name(store):
    assert design_for("subject") == GroupedKFold()
    assert design_for("family", n_folds=3, n_repeats=4) == GroupedKFold(
        group="family", n_folds=3, n_repeats=4
    )
    assert design_for("site", ["a", "b"]) == LeaveOneSiteOut(test_sites=("a", "b"))
    assert "(a, b)" in design_for("site", ["a", "b"]).sentence()
    assert design_for("site", n_repeats=2) == GroupedKFold(group="site", n_repeats=2)
    assert design_for("subject", split="part") == FixedSplit(column="part")
    across = design_for("site", train=store)
    assert (type(across), across.group) == (AcrossStores, "site")
    with pytest.raises(InputError, match="one site left out"):
        design_for("subject", ["a"])
    with pytest.raises(InputError, match="two designs"):
        design_for("subject", split="part", train=store)


def test_designs_that_cannot_be(table):
    with pytest.raises(InputError, match=r"n_repeats = 0: must be at least 1"):
        GroupedKFold(n_repeats=0).folds(table, None, seed=0)
    with pytest.raises(InputError, match=r"n_folds = 6: there are only 5 groups by site"):
        GroupedKFold(group="site", n_folds=6).folds(table, None, seed=0)
    with pytest.raises(InputError, match=r"famly: the store has no such column"):
        GroupedKFold(group="famly").folds(table, None, seed=0)
    table.loc[3, "family"] = None
    with pytest.raises(InputError, match=r"1 of 46 recordings have no family"):
        GroupedKFold(group="family").folds(table, None, seed=0)
