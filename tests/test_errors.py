"""Errors name what is at fault: the file, or this package."""

from __future__ import annotations

import json

import numpy as np
import pytest

from semantoks.data.encode import StoreSpec
from semantoks.data.prepare import prepare
from semantoks.data.signal import Preprocessing, zscore
from semantoks.data.sources.items import Item
from semantoks.errors import OWN_FAULT, InputError, entry, is_own_fault, readable


def test_what_a_parser_raises_becomes_an_error_about_the_file(tmp_path):
    file = tmp_path / "a.json"
    damaged = pytest.raises(InputError, match=r"a\.json: is damaged.*Expecting.*Fetch it again")
    with damaged, readable(file, fix="Fetch it again"):
        json.loads("")
    gone = pytest.raises(InputError, match=r"a\.json: cannot be read \(No such file")
    with gone, readable(file):
        file.read_text()


@pytest.mark.parametrize("error", [TypeError, AttributeError, KeyError, IndexError])
def test_a_library_may_raise_what_mistakes_raise(tmp_path, error):
    """This frame is not in the package: it stands for a parser's."""
    with pytest.raises(InputError, match="is damaged"), readable(tmp_path / "b.nii"):
        raise error("dims")


def test_a_mistake_of_ours_is_not_blamed_on_the_file(tmp_path):
    with pytest.raises(TypeError) as caught, readable(tmp_path / "c.npy"):
        zscore(np.array([object()]))
    assert is_own_fault(caught.value)
    assert not is_own_fault(ValueError("the file"))


def test_entries_of_json_are_looked_up_with_a_reason():
    assert entry({"a": {"b": 7}}, "a", "b") == 7
    for content in ({"a": {}}, {"a": [1]}, [], None):
        with pytest.raises(ValueError, match=r"no entry 'b'|no entry 'a'"):
            entry(content, "a", "b")


def test_prepare_tells_its_own_faults_from_broken_files(tmp_path, parcellation, recordings):
    """A recording whose signal is no array makes the package itself stumble."""

    def library():
        raise KeyError("header")

    items = [
        Item("sub-1", (), lambda: recordings[0]),
        Item("sub-2", (), lambda: None),  # type: ignore[arg-type,return-value]
        Item("sub-3", (), library),
    ]
    spec = StoreSpec(parcellation=parcellation, preprocessing=Preprocessing())
    table = prepare(items, tmp_path / "store", spec).quality.set_index("id")
    assert list(table["status"]) == ["stored", "failed", "failed"]
    assert OWN_FAULT in table.loc["sub-2", "reason"]
    assert "encode.py" in table.loc["sub-2", "reason"]
    assert table.loc["sub-3", "reason"] == "sub-3: cannot be read (KeyError: 'header')."
