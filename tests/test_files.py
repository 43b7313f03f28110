"""Whole writes and refusals: a kill, a full disk, two writers, a place that cannot be written."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from semantoks.errors import InputError, StoreError
from semantoks.files import (
    refuse_existing,
    remove_folder,
    remove_partial,
    staged_file,
    staged_folder,
    write_file,
)

OLD, NEW = b"old " * 7, b"new " * 11


def visible(folder: Path) -> dict[str, bytes]:
    """Everything under a folder that has a name of its own."""
    files = (p for p in folder.rglob("*") if p.is_file() and ".partial-" not in str(p))
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def write(path: Path, *, folder: bool, overwrite: bool = False) -> None:
    if folder:
        with staged_folder(path, kind=StoreError) as made:
            (made / "deep").mkdir()
            (made / "deep" / "one").write_bytes(NEW)
            (made / "two").write_bytes(NEW)
    else:
        write_file(path, NEW, overwrite=overwrite, kind=StoreError)


WHOLE = {True: {"x/deep/one": NEW, "x/two": NEW}, False: {"x": NEW}}


@pytest.mark.parametrize("folder", [True, False])
def test_what_is_written_is_whole(tmp_path, folder):
    write(tmp_path / "new" / "x", folder=folder)
    assert visible(tmp_path / "new") == WHOLE[folder]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x"]


def test_text_keeps_its_line_ends(tmp_path):
    write_file(tmp_path / "x", "ä\r\nb\n")
    assert (tmp_path / "x").read_bytes() == b"\xc3\xa4\r\nb\n"


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_files import write
nth = int(sys.argv[2])
calls = 0
def wrap(module, name):
    real = getattr(module, name)
    def dying(*args, **kwargs):
        global calls
        calls += 1
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(module, name, dying)
for module, name in ((os, "fsync"), (os, "link"), (os, "open"), (Path, "replace"),
                     (Path, "rename"), (Path, "write_bytes"), (Path, "unlink"), (Path, "mkdir")):
    wrap(module, name)
write(Path(sys.argv[1]) / "x", folder=sys.argv[3] == "folder", overwrite=sys.argv[3] == "old")
"""


@pytest.mark.parametrize("what", ["folder", "new", "old"])
def test_a_kill_leaves_the_old_or_the_new(tmp_path, what):
    """At every operation in turn, by SIGKILL."""
    code = KILLED.format(tests=str(Path(__file__).parent))
    seen = []
    for nth in range(1, 40):
        place = tmp_path / str(nth)
        place.mkdir()
        before = {"x": OLD} if what == "old" else {}
        for name, content in before.items():
            (place / name).write_bytes(content)
        command = [sys.executable, "-c", code, str(place), str(nth), what]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        after = visible(place)
        assert after in (before, WHOLE[what == "folder"])
        seen.append(after == before)
        if done.returncode == 0:
            break
    assert nth > 4
    assert seen == sorted(seen, reverse=True), "the old up to one moment, the new from then on"
    assert seen[0]
    assert not seen[-1]


@pytest.mark.parametrize("folder", [True, False])
def test_a_full_disk_leaves_what_was_there(tmp_path, folder):
    """A real limit: the file grows beyond what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(NEW) - 3, hard))
    try:
        with pytest.raises(StoreError, match=r"x: cannot be written \(File too large\).*unharmed"):
            write(tmp_path / "x", folder=folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("nth", [1, 2])
def test_a_device_that_fills_while_it_syncs(tmp_path, monkeypatch, nth):
    (tmp_path / "x").write_bytes(OLD)
    real, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        write(tmp_path / "x", folder=False, overwrite=True)
    assert visible(tmp_path) in ({"x": OLD}, {"x": NEW})
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize("links", [True, False])
def test_the_second_writer_gives_up(tmp_path, monkeypatch, folder, links):
    if not links:

        def none(*_):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", none)
    path = tmp_path / "x"
    first = staged_folder(path) if folder else staged_file(path)
    second = staged_folder(path) if folder else staged_file(path)
    own = first.__enter__()
    (own / "mine" if folder else own).write_bytes(OLD)
    with second as theirs:
        (theirs / "mine" if folder else theirs).write_bytes(NEW)
    with pytest.raises(InputError, match=r"x: was written by another process meanwhile"):
        first.__exit__(None, None, None)
    assert visible(tmp_path) == {"x/mine" if folder else "x": NEW}
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_two_writers_of_one_file_leave_one_whole(tmp_path):
    path = tmp_path / "x"
    with staged_file(path, overwrite=True) as one, staged_file(path, overwrite=True) as two:
        one.write_bytes(OLD)
        two.write_bytes(NEW)
    assert visible(tmp_path) == {"x": OLD}, "the outer one ended last"


@pytest.mark.parametrize("folder", [True, False])
def test_a_place_that_cannot_be_written_is_named(tmp_path, folder):
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(
        StoreError, match=r"file/x: cannot be written \(Not a directory\)"
    ) as caught:
        write(tmp_path / "file" / "x", folder=folder)
    assert caught.value.file == tmp_path / "file" / "x"
    assert visible(tmp_path) == {"file": OLD}


@contextmanager
def unprivileged():
    """Be somebody without rights; root may write everywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_folder_without_permission_is_named():
    folder = Path(tempfile.mkdtemp())  # its parents may be passed by everybody
    (folder / "closed").mkdir(mode=0o000)
    folder.chmod(0o555)
    try:
        with unprivileged():
            with pytest.raises(InputError, match=r"x: cannot be written \(Permission denied\)"):
                write_file(folder / "x", NEW)
            with pytest.raises(InputError, match=r"x: cannot be written \(Permission denied\)"):
                write_file(folder / "closed" / "x", NEW)
            with pytest.raises(InputError, match=r"closed: exists already and is not overwritten"):
                write(folder / "closed", folder=True)
    finally:
        folder.chmod(0o700)
        shutil.rmtree(folder)


def test_what_exists_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(OLD)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_bytes(OLD)
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    before = visible(tmp_path)
    for name, folder in [("x", False), ("x", True), ("full", False), ("full", True)]:
        with pytest.raises(StoreError, match=f"{name}: exists already and is not overwritten"):
            write(tmp_path / name, folder=folder)
    for name in ("empty", "dangling"):
        with pytest.raises(InputError, match="exists already"):
            refuse_existing(tmp_path / name)
    assert visible(tmp_path) == before
    refuse_existing(tmp_path / "empty", folder=True)
    write(tmp_path / "empty", folder=True)
    assert (tmp_path / "empty" / "two").read_bytes() == NEW


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(OLD)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link", folder=False, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == NEW


def test_another_error_passes_and_leaves_nothing(tmp_path):
    def fail():
        with staged_folder(tmp_path / "x") as made:
            (made / "half").write_bytes(NEW)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_goes_at_once_and_leftovers_with_it(tmp_path):
    write(tmp_path / "x", folder=True)
    (tmp_path / ".partial-1234abcd-y").mkdir()
    (tmp_path / ".partial-1234abcd-z").write_bytes(OLD)
    (tmp_path / ".hidden").write_bytes(OLD)
    remove_folder(tmp_path / "x")
    remove_partial(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".hidden"]
