"""Which ROI is which: names, orders and networks."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantoks.atlas.builtin import TABLES
from semantoks.atlas.networks import NETWORK_ORDER, YEO_17, canonical_network
from semantoks.atlas.parcellation import Parcellation, recognise
from semantoks.errors import InputError


def small(**changes) -> Parcellation:
    fields = {
        "name": "small",
        "labels": ("a1", "b1", "a2", "c1", "b2"),
        "networks": ("Default", "mine", "Default", "Vis", "mine"),
        "aliases": (("x",), ("y",), ("z",), (), ("w",)),
    }
    return Parcellation(**fields | changes)


def order_17() -> np.ndarray:
    table = pd.read_csv(TABLES / "schaefer400.tsv", sep="\t")
    return np.argsort(table["index_17network"].to_numpy())


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("schaefer400", [61, 77, 46, 47, 26, 52, 91]),
        ("semantoks457", [61, 77, 46, 47, 26, 52, 91, 50, 7]),
        ("cc200", [30, 22, 20, 20, 10, 21, 40, 19, 18]),
        ("aal116", [14, 13, 4, 7, 11, 10, 17, 14, 26]),
    ],
)
def test_builtin_networks_have_the_published_sizes(name, counts):
    parcellation = Parcellation.load(name)
    assert [len(rois) for rois in parcellation.network_indices] == counts
    assert parcellation.network_names == NETWORK_ORDER[: len(counts)]
    assert sorted(np.concatenate(parcellation.network_indices)) == list(range(sum(counts)))
    assert parcellation.coordinates.shape == (sum(counts), 3)
    assert np.isfinite(parcellation.coordinates).all()
    # Left is negative in MNI space: a table shifted by a row would break this.
    left = [label.endswith("_L") or "_LH_" in label for label in parcellation.labels]
    if any(left):
        assert (parcellation.coordinates[left, 0] < 0).all()


def test_available_names_all_editions():
    names = set(Parcellation.available())
    assert {"aal116", "cc200", "cc400", "gordon333", "tian-s4", "semantoks457-17n"} <= names
    for n in range(100, 1001, 100):
        assert {f"schaefer{n}", f"schaefer{n}-17n", f"4s{n + 56}"} <= names
    assert not any(name.startswith("_") for name in names)


@pytest.mark.parametrize("name", Parcellation.available())
def test_every_built_in_loads_with_networks_of_the_method(name):
    atlas = Parcellation.load(name)
    number = int("".join(filter(str.isdigit, name.replace("-17n", "").removeprefix("4s"))))
    expected = {"tian-s1": 16, "tian-s2": 32, "tian-s3": 50, "tian-s4": 54, "cc400": 392}
    assert len(atlas) == expected.get(name, number)
    assert {canonical_network(network) for network in atlas.networks} <= set(NETWORK_ORDER)
    assert len(atlas.index) == len(atlas)


def test_the_17_network_edition_is_the_same_parcels_in_another_order():
    seven, seventeen = Parcellation.load("schaefer300"), Parcellation.load("schaefer300-17n")
    assert seventeen.labels != seven.labels
    columns = seven.columns_of(seventeen.labels)
    np.testing.assert_array_equal(seven.coordinates, seventeen.coordinates[columns])
    assert all(name.startswith("17Networks_") for name in seventeen.labels)
    assert set(seventeen.networks) == set(YEO_17)


def test_the_cortex_of_a_4s_atlas_goes_by_name():
    cortex, whole = Parcellation.load("schaefer400"), Parcellation.load("4s456")
    names = [
        names[0] if names else label
        for label, names in zip(whole.labels, whole.aliases, strict=True)
    ]
    with pytest.raises(InputError, match=r"456 ROIs where schaefer400 has 400.*names of 4s456"):
        cortex.columns_of(names)
    np.testing.assert_array_equal(cortex.columns_of(names, extra=True), np.arange(400))
    turned = names[::-1]
    np.testing.assert_array_equal(cortex.columns_of(turned, extra=True), 455 - np.arange(400))


def test_parts_of_another_edition_are_not_taken_for_this_one():
    atlas, larger = Parcellation.load("schaefer100"), Parcellation.load("schaefer400")
    with pytest.raises(InputError, match="another edition"):
        atlas.columns_of(larger.labels, extra=True, absent=True)
    with pytest.raises(InputError, match=r"has all ROIs of schaefer100|not ROIs of schaefer400"):
        larger.columns_of(atlas.labels, extra=True, absent=True)
    with pytest.raises(InputError, match="has no ROI of"):
        atlas.columns_of(Parcellation.load("cc200").labels, extra=True, absent=True)


def test_absent_rois_have_no_column():
    atlas = Parcellation.load("tian-s2")
    names = [name for i, name in enumerate(atlas.labels) if i not in (3, 17)]
    with pytest.raises(InputError, match="has 30 ROIs where tian-s2 has 32"):
        atlas.columns_of(names)
    columns = atlas.columns_of(names, absent=True)
    assert np.flatnonzero(columns < 0).tolist() == [3, 17]
    assert [names[c] for c in columns if c >= 0] == names


def test_17_networks_are_those_of_the_official_names_in_the_published_order():
    parcellation = Parcellation.load("semantoks457-17n")
    assert parcellation.labels == Parcellation.load("semantoks457").labels
    assert parcellation.network_names == (*YEO_17, "Subcortical", "Cerebellar")
    sizes = [24, 23, 39, 31, 27, 25, 34, 17, 11, 13, 24, 25, 12, 34, 32, 13, 16, 50, 7]
    assert [len(rois) for rois in parcellation.network_indices] == sizes
    for network, aliases in zip(parcellation.networks[:400], parcellation.aliases, strict=False):
        assert aliases[1].split("_")[2] == network
    assert recognise(parcellation.labels) == "semantoks457"


def test_457_begins_with_schaefer_400():
    assert Parcellation.load("semantoks457").labels[:400] == Parcellation.load("schaefer400").labels


def test_network_of_a_schaefer_parcel_is_in_its_name():
    parcellation = Parcellation.load("schaefer400")
    for label, network in zip(parcellation.labels, parcellation.networks, strict=True):
        assert label.split("_")[2] == network


@given(st.permutations(range(5)))
@settings(max_examples=30, deadline=None)
def test_columns_of_any_order_lead_back(order):
    parcellation = small()
    names = [parcellation.labels[i] for i in order]
    columns = parcellation.columns_of(names)
    assert [names[column] for column in columns] == list(parcellation.labels)


@pytest.mark.parametrize("scheme", [0, 1, 2])
def test_17_network_order_is_reordered_by_name(scheme):
    parcellation, order = Parcellation.load("schaefer400"), order_17()
    names = [parcellation.aliases[i][scheme] for i in order]
    signal = order[None, :] * 1.0  # every column holds the index of its ROI
    assert (signal[:, parcellation.columns_of(names)] == np.arange(400)).all()
    assert not (order == np.arange(400)).all()


def test_recognise_says_which_names_these_are():
    parcellation, order = Parcellation.load("schaefer400"), order_17()
    names = [parcellation.aliases[i][1] for i in order]
    assert names[0] == "17Networks_LH_VisCent_ExStr_1"
    assert recognise(names) == "schaefer400 in 17-network order"
    assert recognise(parcellation.labels) == "schaefer400"
    assert recognise(names[::-1]) == "schaefer400 in another order"
    assert recognise(names[:-1]) is None
    assert recognise([f"#{i}" for i in range(1, 201)]) == "cc200"


def test_names_of_another_atlas_are_recognised_in_the_message():
    schaefer = Parcellation.load("schaefer400")
    names = [schaefer.aliases[i][1] for i in order_17()]
    with pytest.raises(InputError, match=r"has 400 ROIs where semantoks457 has 457.*17-network"):
        Parcellation.load("semantoks457").columns_of(names, source="sub-7.tsv")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a1", "b1", "a2", "c1"], r"f\.tsv: ROI names: has 4 ROIs where small has 5"),
        (["a1", "b1", "a2", "c1", "q"], r"1 of 5 names are not ROIs of small: 'q'"),
        (["a1", "b1", "a2", "c1", "a1"], r"names 1 ROIs more than once: a1"),
        (["a1", "b1", "a2", "c1", "x"], r"more than once: a1"),
        (["x", "b1", "a2", "c1", "b2"], r"mixes several naming schemes of small"),
        (["1", "2", "3", "4", "5"], r"numbers the columns instead of naming them"),
        (["0", "1", "2", "3", "4"], r"an order is never guessed"),
    ],
)
def test_wrong_names_are_refused(names, message):
    with pytest.raises(InputError, match=message):
        small().columns_of(names, source="f.tsv")


def test_a_scheme_falls_back_on_the_label():
    assert list(small().columns_of(["w", "c1", "x", "z", "y"])) == [2, 4, 3, 1, 0]


def test_networks_come_in_the_order_of_the_method_then_others():
    assert small().network_names == ("Vis", "Default", "mine")
    assert [list(rois) for rois in small().network_indices] == [[3], [0, 2], [1, 4]]


def test_equality_is_by_labels_and_networks():
    assert small() == small(name="another", aliases=())
    assert hash(small()) == hash(small(name="another"))
    assert small() != small(networks=("Default", "mine", "Default", "Vis", "Vis"))
    assert small() != small(labels=("b1", "a1", "a2", "c1", "b2"))


def test_hash_changes_with_the_order_only():
    swapped = small(labels=("b1", "a1", "a2", "c1", "b2"))
    assert small().hash == small(networks=("Vis",) * 5).hash != swapped.hash
    assert len(small().hash) == 64


def test_coordinates_are_read_only_and_unknown_by_default():
    assert np.isnan(small().coordinates).all()
    with pytest.raises(ValueError, match="read-only"):
        small().coordinates[0, 0] = 1


def test_table_round_trip(tmp_path):
    parcellation = small(coordinates=np.arange(15.0).reshape(5, 3), space="mine")
    parcellation.save(tmp_path / "small.tsv")
    again = Parcellation.load(tmp_path / "small.tsv")
    assert again == parcellation
    assert (again.name, again.space, again.aliases) == ("small", "mine", parcellation.aliases)
    assert (again.coordinates == parcellation.coordinates).all()
    assert list(pd.read_csv(tmp_path / "small.tsv", sep="\t")["label"]) == list(again.labels)


def test_table_needs_only_labels_and_networks(tmp_path):
    (tmp_path / "own.tsv").write_text("label\tnetwork\nNA\tVis\n1\tCont\n", encoding="utf-8")
    own = Parcellation.load(tmp_path / "own.tsv")
    assert own.labels == ("NA", "1")
    assert own.network_names == ("Vis", "Cont")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label\nA\n", r"own\.tsv: columns = \['label'\]: has no column 'network'"),
        (
            "label\tnetwork\nA\tVis\nA\tVis\n",
            r"own\.tsv: label = 'A': stands for two ROIs, 1 and 2",
        ),
        ("label\tnetwork\nA\tVis\nB\t\n", r"network = '': every ROI needs a network.*row 2"),
        ("label\tnetwork\tx\nA\tVis\t3\n", r"coordinates need all of x, y and z"),
        ("label\tnetwork\tx\ty\tz\nA\tVis\t3\tq\t1\n", r"must be numbers, in millimetres"),
        ("label\tnetwork\n", r"at least one"),
        ("label\tnetwork\talias\nA\tVis\tB\nB\tVis\t\n", r"'B': stands for two ROIs, 1 and 2"),
        ("label\tnetwork\tspace\nA\tVis\tp\nB\tVis\tq\n", r"must be in one space"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    (tmp_path / "own.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        Parcellation.load(tmp_path / "own.tsv")


def test_unknown_parcellation_names_the_nearest_three():
    with pytest.raises(
        InputError, match=r"neither a built-in.*Did you mean 'schaefer400'"
    ) as error:
        Parcellation.load("shaefer400")
    assert str(error.value).count("'") == 2 * 4, "the wrong name and three others"
    with pytest.raises(InputError, match=r"Did you mean '\S+', '\S+' or '\S+'\?"):
        Parcellation.load("nothing like it")


def test_select_by_labels_keeps_the_order_asked_for():
    chosen = small(coordinates=np.arange(15.0).reshape(5, 3)).select(["b2", "z", "c1"])
    assert chosen.labels == ("b2", "a2", "c1")
    assert chosen.networks == ("mine", "Default", "Vis")
    assert (chosen.coordinates[:, 0] == [12, 6, 9]).all()
    assert chosen.name == "small-3"


def test_select_by_networks_keeps_the_present_order():
    chosen = small().select(networks=["mine", "Vis"], name="part")
    assert chosen.labels == ("b1", "c1", "b2")
    assert chosen.name == "part"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"networks": ["Viz"]}, r"'Viz': is no network of small. Did you mean 'Vis'"),
        ({"labels": ["a1", "q1"]}, r"1 of 2 names are not ROIs of small"),
        ({"labels": ["a1", "x"]}, r"more than once: a1"),
        ({}, "either labels or networks"),
        ({"labels": ["a1"], "networks": ["Vis"]}, "either labels or networks"),
        ({"labels": []}, "at least one"),
    ],
)
def test_select_refuses_what_is_not_there(arguments, message):
    with pytest.raises(InputError, match=message):
        small().select(**arguments)


def test_yeo_17_networks_have_a_canonical_one():
    names = Parcellation.load("semantoks457-17n").network_names
    assert {canonical_network(name) for name in names} == set(NETWORK_ORDER)
    assert canonical_network("ContC") == "Cont"
    assert canonical_network("TempPar") == "Default"
    assert canonical_network("my own") == "my own"
