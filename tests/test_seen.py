"""The record of what weights have seen, and its JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantoks.data.recording import person_key, subject_key
from semantoks.data.seen import (
    Overlap,
    SeenData,
    SeenStore,
    after_fine_tuning,
    data_sets,
    people_of,
)
from semantoks.errors import CheckpointError, ConfigError
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.pretrained import load_pretrained, save_model

RUN = {  # as version 0.1 wrote it
    "n_recordings": 5,
    "n_subjects": 3,
    "subjects": ["0a", "1b", "2c"],
    "sites": ["east", "west"],
    "stores": [{"name": "toy", "fingerprint": "ff01"}],
    "epochs": 7,
}
TUNED = {**{k: RUN[k] for k in ("n_recordings", "n_subjects", "subjects", "sites")}, "stores": [],
         "fine_tuned": True}  # fmt: skip
THEIRS = {"n_recordings": None, "n_subjects": None, "subjects": None, "sites": None,
          "epochs": None, "steps": None, "stores": [], "source": "x.pth"}  # fmt: skip


def test_the_json_of_a_run_is_the_one_of_older_versions():
    assert json.dumps(SeenData.from_json(RUN).to_json()) == json.dumps(RUN)


@pytest.mark.parametrize("older", [TUNED, THEIRS, {"subjects": None, "sites": ["east"]}])
def test_older_records_are_read(older):
    again = SeenData.from_json(older).to_json()
    assert {k: v for k, v in older.items() if again.get(k) != v} == {}


names = st.lists(st.text(max_size=4), max_size=5).map(tuple)


@given(
    st.builds(
        SeenData,
        n_recordings=st.none() | st.integers(0, 9),
        subjects=st.none() | names,
        people=st.none() | names,
        sites=st.none() | names,
        stores=st.lists(st.builds(SeenStore, name=st.text(), fingerprint=st.text())).map(tuple),
        steps=st.none() | st.integers(0, 9),
        source=st.none() | st.text(),
        fine_tuned=st.booleans(),
    )
)
def test_json_and_back(seen):
    assert SeenData.from_json(json.loads(json.dumps(seen.to_json()))) == seen


def test_what_is_in_a_store(store):
    some = store.select([1, 4, 5])
    seen = SeenData.of(some, epochs=2)
    subjects = set(some.table["subject"])
    assert seen.to_json() == {
        "n_recordings": 3,
        "n_subjects": len(subjects),
        "subjects": sorted(map(subject_key, subjects)),
        "people": sorted(person_key(store.path.name, s) for s in subjects),
        "sites": sorted(set(some.table["site"])),
        "stores": [
            {
                "name": store.path.name,
                "fingerprint": some.fingerprint,
                "data_sets": [store.path.name],
            }
        ],
        "epochs": 2,
    }
    assert seen.seen_among({*people_of(store), ("x", "stranger")}).people == _sorted(subjects)
    assert seen.sites_among(["moon", *seen.sites]) == list(seen.sites)
    assert SeenData().seen_among(people_of(store)) is SeenData().sites_among(["moon"]) is None


def _sorted(names):
    return tuple(sorted(set(names)))


def test_names_of_another_data_set_are_other_people(store):
    seen = SeenData.of(store.select([0, 1, 2, 3]))
    who = _sorted(store.table["subject"].iloc[:4])
    elsewhere = [("another", name) for name in store.table["subject"]]
    assert seen.seen_among(elsewhere) == Overlap(names=who)
    both = seen.seen_among([*elsewhere, (store.path.name, who[1])])
    assert both == Overlap(people=who[1:2], names=who)
    older = replace(seen, people=None)
    assert older.seen_among(people_of(store)) == Overlap(unstated=who)
    tuned = after_fine_tuning(older, store.select([8]))
    found = tuned.seen_among(people_of(store))
    assert found.people == _sorted(store.table["subject"].iloc[[8]])
    assert set(found.unstated) == set(who) - set(found.people)


def test_the_data_set_is_the_column_s_the_source_s_or_the_folder_s(store):
    view = store.select([0, 1, 2])
    assert set(data_sets(view)) == {store.path.name}
    view.header = {**store.header, "provenance": {"source": "ds42"}}
    assert set(data_sets(view)) == {"ds42"}
    view.header = {**store.header, "provenance": {"source": "fmriprep"}}
    assert set(data_sets(view)) == {store.path.name}, "of a pipeline there are many"
    view.table["dataset"] = ["one", None, "two"]
    assert data_sets(view).tolist() == ["one", store.path.name, "two"]
    assert {name for name, _ in people_of(view)} == {"one", store.path.name, "two"}
    assert SeenData.of(view).data_sets == _sorted(["one", store.path.name, "two"])


def test_fine_tuning_adds_to_what_was_seen(store):
    one, two = store.select([0, 1, 2]), store.select([2, 3])
    seen = after_fine_tuning(SeenData.of(one, epochs=4), two)
    both = {*one.table["subject"], *two.table["subject"]}
    assert seen.seen_among(people_of(store)).people == _sorted(both)
    assert (seen.n_recordings, seen.n_subjects, seen.epochs) == (5, len(both), 4)
    assert [s.fingerprint for s in seen.stores] == [one.fingerprint, two.fingerprint]
    assert seen.fine_tuned
    assert after_fine_tuning(None, two).subjects == SeenData.of(two).subjects
    for unknown in (after_fine_tuning(SeenData.of(one), None), after_fine_tuning(SeenData(), two)):
        assert unknown.subjects is unknown.sites is unknown.n_subjects is None
        assert unknown.fine_tuned


def test_a_model_folder_keeps_it_and_damage_is_found(store, tmp_path):
    config = EncoderConfig(width=8, depth=1, head_width=8, patch_length=6, n_patches=4)
    encoder = Encoder.random(config, store.parcellation, store.preprocessing, seed=0)
    encoder.pretraining = SeenData.from_json(RUN)
    weights = {f"teacher.encoder.{k}": v for k, v in encoder.state_dict().items()}
    save_model(tmp_path, weights, encoder)
    assert load_pretrained(tmp_path).pretraining == encoder.pretraining
    file = tmp_path / "config.json"
    header = json.loads(file.read_text())
    assert header["pretraining"] == RUN
    header["pretraining"]["sites"] = 3
    file.write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match=r"config\.json: is damaged: .*sites = 3"):
        load_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="unknown key subject"):
        SeenData.from_json({"subject": []})
