"""The tests with the oldest and the newest dependencies, on every Python: `make versions`.

Each cell is a fresh environment with the built wheel, in a scratch folder that is removed after it.
Results are kept as JSON, so that cells can be run one by one, and docs/results/versions.md is made
of all that there are. Needs uv, which installs the Pythons that it does not find.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "results" / "versions.md"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SETS = {"oldest": "lowest-direct", "newest": "highest"}
SHOWN = ("torch", "numpy", "pandas", "scikit-learn", "nilearn", "matplotlib", "pytest")


class CellError(Exception):
    """A cell that cannot be run here."""


def sh(*words: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        raise CellError((done.stderr or done.stdout).strip())
    return done.stdout


def run(python: str, which: str, tests: list[str], wheel: Path, scratch: Path, torch: str) -> dict:
    """Install a cell, run its tests, and return what is to be recorded."""
    cell = scratch / f"{python}-{which}"
    shutil.rmtree(cell, ignore_errors=True)
    start = time.monotonic()
    try:
        try:
            sh("uv", "venv", "--quiet", "--python", python, cell / "env")
        except CellError:
            raise CellError("no such Python on this machine, nor could uv fetch one") from None
        build = ["--torch-backend", torch] if torch else []
        sh(
            *("uv", "pip", "install", "--quiet", "--python", cell / "env", *build),
            *("--only-binary", ":all:", "--resolution", SETS[which]),
            *("--requirements", ROOT / "pyproject.toml", "--extra", "test"),
        )
        # Apart: to a resolution of the lowest, only what the command names itself is direct.
        sh("uv", "pip", "install", "--quiet", "--python", cell / "env", "--no-deps", wheel)
        program = cell / "env" / "bin" / "python"
        installed = json.loads(sh("uv", "pip", "list", "--format", "json", "--python", program))
        versions = {x["name"]: x["version"] for x in installed}
        check_oldest(which, versions)
        shutil.copytree(ROOT / "tests", cell / "tests")  # apart from the clone
        done = subprocess.run(
            [program, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
            cwd=cell / "tests",
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        )
        (scratch / f"{cell.name}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        counts = re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", done.stdout.strip()[-400:])
        result = {"counts": {word: int(n) for n, word in counts}, "code": done.returncode}
    except CellError as error:
        return {"python": python, "set": which, "absent": str(error).splitlines()[-1]}
    finally:
        shutil.rmtree(cell, ignore_errors=True)
    versions = {name: versions[name] for name in SHOWN}
    seconds = round(time.monotonic() - start)
    return {"python": python, "set": which, "versions": versions, "seconds": seconds,
            "tests": tests, **result}  # fmt: skip


def check_oldest(which: str, versions: dict[str, str]) -> None:
    """Raise if the cell of the oldest packages is not at the minimum of pure Python ones.

    Others may be newer: the minimum has no wheel for every Python.
    """
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name in ("click", "nilearn", "nibabel", "pytest"):
        [least] = set(re.findall(rf'"{name}>=([\d.]+)"', text))
        if which == "oldest" and not f"{versions[name]}.".startswith(f"{least}."):
            raise RuntimeError(f"the oldest {name} should be {least}, and {versions[name]} is here")


def page(results: list[dict]) -> str:
    lines = ["# Versions", "", "`make versions`: the tests against the built wheel.", ""]
    lines += [f"| Python | dependencies | {' | '.join(SHOWN)} | tests |"]
    lines += ["|" + "---|" * (len(SHOWN) + 3)]
    for one in sorted(results, key=lambda r: (PYTHONS.index(r["python"]), r["set"] == "newest")):
        if "absent" in one:
            cells, what = ["-"] * len(SHOWN), f"not run: {one['absent']}"
        else:
            cells = [one["versions"].get(name, "-") for name in SHOWN]
            files = f"{len(one['tests'])} files: " if one["tests"] else ""
            what = files + ", ".join(f"{n} {word}" for word, n in one["counts"].items())
        lines += [f"| {one['python']} | {one['set']} | {' | '.join(cells)} | {what} |"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scratch", type=Path, help="folder for environments and results")
    parser.add_argument("--python", action="append", choices=PYTHONS, help="(repeatable)")
    parser.add_argument("--set", action="append", choices=SETS, help="(repeatable)")
    parser.add_argument("--tests", nargs="*", default=[], help="files in tests/; default: all")
    parser.add_argument("--torch-backend", default="", help="cpu: torch from PyTorch's own index")
    options = parser.parse_args()
    scratch = options.scratch.resolve()
    (scratch / "results").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(scratch / "dist", ignore_errors=True)
    sh("uv", "build", "--quiet", "--wheel", "--out-dir", scratch / "dist")
    [wheel] = (scratch / "dist").glob("*.whl")
    failed = False
    for python in options.python or PYTHONS:
        for which in options.set or SETS:
            found = run(python, which, options.tests, wheel, scratch, options.torch_backend)
            text = json.dumps(found, indent=1)
            (scratch / "results" / f"{python}-{which}.json").write_text(text, encoding="utf-8")
            print(text, flush=True)
            failed |= bool(found.get("code"))
    files = sorted((scratch / "results").glob("*.json"))
    PAGE.write_text(page([json.loads(f.read_text(encoding="utf-8")) for f in files]))
    if failed:
        raise SystemExit(f"some tests failed: see the logs in {scratch}")


if __name__ == "__main__":
    main()
