"""Errors name what is at fault: the file, or this package."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from semantoks.data.encode import StoreSpec
from semantoks.data.prepare import prepare
from semantoks.data.signal import Preprocessing, zscore
from semantoks.data.sources.items import Item
from semantoks.errors import OWN_FAULT, InputError, entry, readable


def test_what_a_parser_raises_becomes_an_error_about_the_file(tmp_path):
    file = tmp_path / "a.json"
    damaged = pytest.raises(InputError, match=r"a\.json: is damaged.*Expecting.*Fetch it again")
    with damaged, readable(file, fix="Fetch it again"):
        json.loads("")
    gone = pytest.raises(InputError, match=r"a\.json: cannot be read \(No such file")
    with gone, readable(file):
        file.read_text()


MISTAKES = [TypeError, AttributeError, KeyError, IndexError]


@pytest.mark.parametrize("error", MISTAKES)
def test_a_library_is_believed_only_where_it_is_known_to_raise_mistakes(tmp_path, error):
    """This frame is not in the package: it stands for a parser's."""
    known = pytest.raises(InputError, match="is damaged")
    with known, readable(tmp_path / "b.nii", known=(error,)):
        raise error("dims")
    with pytest.raises(error), readable(tmp_path / "b.nii"):
        raise error("dims")


def test_a_mistake_of_ours_is_not_blamed_on_the_file(tmp_path):
    with pytest.raises(TypeError), readable(tmp_path / "c.npy", known=(TypeError,)):
        zscore(np.array([object()]))


def test_entries_of_json_are_looked_up_with_a_reason():
    assert entry({"a": {"b": 7}}, "a", "b") == 7
    for content in ({"a": {}}, {"a": [1]}, [], None):
        with pytest.raises(ValueError, match=r"no entry 'b'|no entry 'a'"):
            entry(content, "a", "b")


def test_prepare_tells_its_own_faults_from_broken_files(tmp_path, parcellation, recordings):
    """A recording whose signal is no array makes the package itself stumble."""

    def raises(error):
        raise error

    errors = [KeyError("header"), ValueError("shapes"), PermissionError(13, "denied")]
    items = [
        Item("sub-1", (), lambda: recordings[0]),
        Item("sub-2", (), lambda: None),  # type: ignore[arg-type,return-value]
        *(Item(f"sub-{i}", (), partial(raises, e)) for i, e in enumerate(errors, start=3)),
    ]
    spec = StoreSpec(parcellation=parcellation, preprocessing=Preprocessing())
    table = prepare(items, tmp_path / "store", spec).quality.set_index("id")
    assert list(table["status"]) == ["stored", *["failed"] * 4]
    assert OWN_FAULT in table.loc["sub-2", "reason"]
    assert "encode.py" in table.loc["sub-2", "reason"]
    for id_ in ("sub-3", "sub-4"):
        assert f"{OWN_FAULT} (" in table.loc[id_, "reason"]
        assert "data/prepare.py, line" in table.loc[id_, "reason"]
    assert table.loc["sub-5", "reason"].startswith("sub-5: cannot be read (PermissionError")
