"""The shape of the package: imports point upstream, and what is public is documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import semantoks

PACKAGE = Path(semantoks.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Data flows down this list, imports point up it.
ORDER = [
    "versions",
    "__init__",
    "errors",
    "files",
    "arrays",
    "flags",
    "config",
    "text",
    "tables",
    "atlas",
    "data",
    "datasets",
    "views",
    "model",
    "objectives",
    "train",
    "evaluate",
    "explain",
    "figures",
    "assess",
    "report",
    "workflow",
    "commands",
    "__main__",
]
# The rooms of a folder, in the same sense.
ROOMS = {"evaluate": ["stats", "features", "predictors", "compare", "checks"]}


def stage(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: absolute imports only"
            if node.module == "semantoks":
                found |= {f"semantoks.{alias.name}" for alias in node.names}
            else:
                found.add(str(node.module))
    return {name for name in found if name.split(".")[0] == "semantoks" and "." in name}


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_imports_point_upstream(file):
    here = stage(name_of(file))
    for target in imports(file):
        there = stage(target)
        if there == "__version__":
            continue
        if here == there:
            rooms = ROOMS.get(here)
            if rooms:
                mine, theirs = (rooms.index(m.split(".")[2]) for m in (name_of(file), target))
                assert theirs <= mine, f"{name_of(file)} imports {target}"
            continue
        assert ORDER.index(there) < ORDER.index(here), f"{name_of(file)} imports {target}"


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_what_is_public_is_documented(file):
    module = importlib.import_module(name_of(file)) if file.stem != "__main__" else None
    if module is None:
        return
    assert module.__doc__, f"{module.__name__} has no docstring"
    for name, thing in vars(module).items():
        mine = getattr(thing, "__module__", None) == module.__name__
        if name.startswith("_") or not mine or not callable(thing):
            continue
        doc = inspect.getdoc(thing) or ""
        assert doc, f"{module.__name__}.{name} has no docstring"
        assert not doc.startswith(f"{name}("), f"{module.__name__}.{name}: a generated docstring"


@pytest.mark.parametrize("name", sorted(set(semantoks.__all__) - {"__version__"}))
def test_every_public_name_can_be_imported(name):
    assert getattr(semantoks, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = semantoks.nothing


ROOT = PACKAGE.parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.clone
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documents_import_what_exists_by_its_public_name(page):
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("semantoks"):
                module = importlib.import_module(str(node.module))
                for name in (alias.name for alias in node.names):
                    assert hasattr(module, name), f"{node.module} has no {name}"
                    if node.module != "semantoks":
                        assert name not in semantoks.__all__, f"from semantoks import {name}"
    for path in re.findall(r"`(semantoks(?:\.\w+)+)", text):
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name) or importlib.import_module(path)
        assert module == "semantoks" or name not in semantoks.__all__, f"{path}: semantoks.{name}"


def test_public_names_are_imported_on_first_use():
    code = "import sys, semantoks; print([m for m in sys.modules if m.startswith('semantoks.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['semantoks.versions']"


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_only_one_module_moves_files_and_refuses_to_overwrite(file):
    if file.name == "files.py":
        return
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert "exists already" not in node.value, "use `semantoks.files`"
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        called = node.func.attr
        # Path.rename and Path.replace take one thing; a text's takes two, a column is a subscript.
        moves = called in ("rename", "replace") and len(node.args) == 1 and not node.keywords
        moves = moves and not isinstance(node.func.value, ast.Subscript)
        of_os = ast.unparse(node.func).startswith(("os.", "shutil."))
        assert not moves, f"{file}:{node.lineno}: use `semantoks.files`"
        assert not (of_os and called in ("replace", "rename", "fsync", "link", "move"))


def test_no_two_public_types_have_one_name():
    """Neither classes nor aliases; those of commands are named after options."""
    places: dict[str, list[str]] = {}
    for file in MODULES:
        if stage(name_of(file)) == "commands":
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [node.name] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.Assign) and "TypeVar" not in ast.unparse(node.value):
                names = [ast.unparse(target) for target in node.targets]
            for name in names:
                if name[0].isupper() and not name.isupper():
                    places.setdefault(name, []).append(name_of(file))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_files_have_400_lines_at_most(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400


KIND_NAMES = ("SelfDistillation", "VICReg", "student", "teacher", "loss_cls", "network_weight")
#: The authors' files hold a student and a teacher; the public names are listed once.
KIND_FILES = ("model/authors", "model/pretrained.py", "__init__.py", "stats/significance.py")


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_only_objectives_know_their_kinds(file):
    place = file.relative_to(PACKAGE).as_posix()
    if place.startswith(("objectives/", *KIND_FILES)) or place.endswith(KIND_FILES):
        return
    tree = ast.parse(file.read_text(encoding="utf-8"))
    words = {getattr(node, key, None) for node in ast.walk(tree) for key in ("id", "attr", "name")}
    words |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert not words & set(KIND_NAMES)


def test_help_needs_no_heavy_import():
    code = (
        "import sys; from semantoks.commands.main import app; from click.testing import CliRunner\n"
        "result = CliRunner().invoke(app, ['--help']); assert 'pretrain' in result.output\n"
        "heavy = {'torch', 'numpy', 'pandas', 'sklearn', 'nilearn', 'pydantic', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_functions_are_short(file):
    """At most 80 lines, without the docstring."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            size = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                size -= node.body[0].end_lineno - node.body[0].lineno + 1
            assert size <= 80, f"{node.name}: {size} lines"
