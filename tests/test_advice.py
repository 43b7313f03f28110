"""No advice without a test that follows it: a new ``fix=`` needs an `advised` block somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from advice import PACKAGE, given, told

HERE = Path(__file__).parent
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
GIVEN = given("*.py", *ROOMS)
TOLD = {pair for file in HERE.glob("test_*.py") for pair in told(file)}
#: Advice from before every room was covered that no test follows yet; nothing may be added.
OPEN = (HERE / "advice_open.txt").read_text(encoding="utf-8").splitlines()


def followed(advice):
    return any(advice.is_told_by(*pair) for pair in TOLD)


def line(advice):
    return f"{advice.place}: {' ... '.join(advice.words)}"


@pytest.mark.parametrize("advice", GIVEN, ids=lambda a: f"{a.place}: {a.words[0][:40]}")
def test_all_advice_is_followed_by_a_test(advice):
    assert followed(advice) or line(advice) in OPEN, (
        f"nothing follows the advice {advice.words} of {advice.place}: add a test with "
        f"advised({advice.place!r}, {advice.words[0]!r})"
    )


def test_the_list_of_open_advice_only_shrinks():
    still = {line(advice) for advice in GIVEN if not followed(advice)}
    assert sorted(still & {*OPEN}) == OPEN, "remove what is followed, or gone, from advice_open.txt"
    assert len(OPEN) <= 60
