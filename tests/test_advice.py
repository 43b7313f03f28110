"""No advice without a test that follows it: a new ``fix=`` needs an `advised` block somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from advice import given, told

#: Where errors are about what people have: their files, tables, folders and options.
COVERED = ("text.py", "tables.py", "atlas", "data", "commands", "workflow")
TOLD = {pair for file in Path(__file__).parent.glob("test_*.py") for pair in told(file)}


@pytest.mark.parametrize("advice", given(*COVERED), ids=lambda a: f"{a.place}: {a.words[0][:40]}")
def test_all_advice_is_followed_by_a_test(advice):
    assert any(advice.is_told_by(*pair) for pair in TOLD), (
        f"nothing follows the advice {advice.words} of {advice.place}: add a test with "
        f"advised({advice.place!r}, {advice.words[0]!r})"
    )
