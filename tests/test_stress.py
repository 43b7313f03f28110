"""A small part of ``make stress``: what is broken on purpose is survived."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "stress.py"


@pytest.mark.clone
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_nothing_is_lost():
    some = ["--kills", "4", "--writes", "7", "--disks", "1", "--signals", "1", "--epochs", "2"]
    suites = ["kill", "write", "disk", "signal", "damage"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--only", *suites, *some], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:-1]]
    counts = {name: (int(injected), int(lost)) for name, injected, _, lost, _ in rows}
    assert counts == {
        "kill": (4, 0),
        "write": (7, 0),
        "disk": (3, 0),
        "signal": (1, 0),
        "damage": (counts["damage"][0], 0),
    }
    assert counts["damage"][0] > 50
