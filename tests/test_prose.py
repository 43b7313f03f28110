"""The package speaks plain English: phrases that readers stumble over stay out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import semantoks

PACKAGE = Path(semantoks.__file__).parent
ROOT = PACKAGE.parents[1]

# Phrase -> what to write instead. See "Prose" in CONTRIBUTING.md.
BANNED = {
    r"\b(is|are|was|were) said\b": "name the actor: the run reports, the page lists",
    r"\bsaid (probability|and done)\b": "predicted probability",
    r"\b(nobody|no one|somebody|everybody|whoever)\b": "name who: no subject, the reader",
    r"\b(goes|go|going|gone|went) on\b(?! to\b)": "resume, continue",
    r"\bputs? .{0,30}\btogether\b": "merge, join, combine",
    r"\bnot told apart\b": "distinguished; no significant difference",
    r"(?<!new\)), say,": "e.g. before the example",
    r"\bcounts? not\b": "does not count",
    r"\b(classes|sites) unseen\b": "classes that training did not see",
    r"\bso it is\b": "state the fact",
    r"\bhand(s|ed)? (it |them )?on\b": "pass on, return, share",
    r"\bis (there|not there)\b(?! a)": "exists, is present, is missing",
    r"\bas it should be\b": "say what must hold",
    r"\b(of|for) late\b": "recent",
    r"\btakes? note\b": "record",
    r"\b(is|are) (theirs|ours|whose)\b": "name the owner",
    r"\bone's own\b": "your own",
    r"\bwho is shown when\b": "order of subjects in an epoch",
    r"\bwhere a [a-z-]+ stands\b": "progress, state",
    r"\bsays? which\b": "lists, names",
    r"\bhas to be\b": "must be",
    r"\bhave to be\b": "must be",
}


def texts() -> list[Path]:
    files = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.html")]
    if (ROOT / "README.md").is_file():  # a clone, not a wheel
        files += [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
        files += [*(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.py")]
    return sorted(files)


@pytest.mark.parametrize("file", texts(), ids=lambda p: p.name)
def test_prose_holds_no_banned_phrase(file):
    text = re.sub(r"\s+", " ", file.read_text(encoding="utf-8"))
    found = [
        f"...{text[max(m.start() - 40, 0) : m.end() + 30]}... -> {instead}"
        for phrase, instead in BANNED.items()
        for m in re.finditer(phrase, text, flags=re.IGNORECASE)
    ]
    assert not found, "\n".join(found)


def test_the_phrases_are_found():
    """A few that stood in the package once, over a line break too."""
    for text in (
        "a collapse is said",
        "Rerun: it goes\non where it was",
        "classes unseen count not",
    ):
        folded = re.sub(r"\s+", " ", text)
        assert any(re.search(phrase, folded, flags=re.IGNORECASE) for phrase in BANNED), text
    assert not any(re.search(phrase, "A run resumes from its checkpoint.") for phrase in BANNED)
