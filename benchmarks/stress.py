"""Break it on purpose, and count: ``python benchmarks/stress.py`` (``make stress``).

1. kill     A tiny training is killed (SIGKILL) at random moments, several times per run, and
            resumed until it ends: the weights must be those of an undisturbed run, bit for bit.
2. write    The same, at every single operation of writing a checkpoint: each file cut in half, each
            rename not done or just done, each removal half done.
3. disk     The disk is full at every single file of a checkpoint, and with a real limit on the
            size of files.
4. signal   SIGTERM and SIGUSR1 at random moments: saved, and nothing lost.
5. damage   One bit of every file of a store and of a checkpoint is flipped, files are deleted:
            all found, nothing read.
6. elastic  torchrun with two processes, one of them killed: started again by itself, the same
            weights as undisturbed.
7. two      Two processes equal one (tests/test_distributed.py).
8. fuzz     Damaged files for every reader (tests/test_fuzz.py).

A fault is survived if the run ends with the right weights or the damage is refused by name, and
lost otherwise. Exit code 1 if anything is lost.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.integrity import check_store
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import write_store
from semantoks.errors import CheckpointError, SemantoksError
from semantoks.model.pretrained import newest_checkpoint
from semantoks.train import checkpoint as checkpoints
from semantoks.train.checkpoint import check_checkpoints
from semantoks.train.run import RunConfig
from semantoks.train.trainer import Trainer

ROOT = Path(__file__).parents[1]
KILLED = -signal.SIGKILL


@dataclass
class Count:
    """Faults injected and survived by one suite."""

    injected: int = 0
    survived: int = 0

    def add(self, good: bool, what: str) -> None:
        self.injected += 1
        self.survived += good
        if not good:
            print(f"  LOST: {what}", flush=True)


def tiny(folder: Path, epochs: int) -> RunConfig:
    """Write a store of random walks and return a run of some seconds on it."""
    rng = np.random.default_rng(0)
    networks = ["Vis"] * 3 + ["Limbic"] * 4 + ["Default"] * 5
    labels = tuple(f"{name}-{i}" for i, name in enumerate(networks))
    atlas = Parcellation(name="stress", labels=labels, networks=tuple(networks))
    walks = [rng.standard_normal((50 + i, len(labels))).cumsum(axis=0) for i in range(11)]
    write_store(
        folder / "store",
        (
            Recording(signal=walk, roi_names=labels, tr=2.0, subject=f"person{i}")
            for i, walk in enumerate(walks)
        ),
        atlas,
        Preprocessing(tr=2.0),
        shard_rows=200,
    )
    return RunConfig.preset(
        "paper",
        {
            "data": {"store": str(folder / "store")},
            "encoder": {
                "width": 16,
                "depth": 2,
                "head_width": 8,
                "patch_length": 6,
                "n_patches": 4,
                "drop_path": 0.2,
            },
            "objective": {"projection_hidden": 12, "projection_width": 9, "network_epochs": 2.0},
            "optim": {"epochs": epochs, "batch_size": 4, "warmup_epochs": 1.0, "base_lr": 0.05},
            "train": {"log_every": 2, "checkpoint_epochs": 1, "device": "cpu"},
        },
    )


# -- one run in a process of its own ---------------------------------------------------------------


def go_on(config: RunConfig, run: Path) -> None:
    """Start the run or continue it, as ``semantoks pretrain --auto-resume``."""
    Trainer(config, run, resume=(run / "config.yaml").exists()).fit()


def forked(work: Callable[[], None]) -> int:
    """Begin to do something in a copy of this process; return its id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except SemantoksError as error:
        print(f"    {error}", flush=True)
        os._exit(2)
    except BaseException as error:
        print(f"    {type(error).__name__}: {error}", flush=True)
        os._exit(3)
    os._exit(0)


def ended(child: int) -> int:
    """Wait for a process; return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def final(run: Path) -> dict[str, torch.Tensor]:
    """Return the weights and the optimiser's state at the end of a run."""
    folder = newest_checkpoint(run)
    assert folder is not None
    files = (folder / "model.safetensors", folder / "optimizer.safetensors")
    # Copies: the loaded tensors lie in the files, which the suite `damage` changes.
    return {k: v.clone() for file in files for k, v in load_file(file).items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    """Return whether all tensors are equal, bit for bit."""
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def whole(run: Path) -> bool:
    """Return whether the folder holds no damaged checkpoint."""
    return not check_checkpoints(run)


class Scene:
    """A folder, a run, and what it ends with undisturbed."""

    def __init__(self, folder: Path, epochs: int) -> None:
        self.folder, self.config = folder, tiny(folder, epochs)
        start = time.perf_counter()
        assert ended(forked(lambda: go_on(self.config, folder / "undisturbed"))) == 0
        self.seconds = time.perf_counter() - start
        self.expected = final(folder / "undisturbed")
        self._runs = 0

    def run(self) -> Path:
        """Return a folder for another run."""
        self._runs += 1
        return self.folder / f"run-{self._runs}"

    def finish(self, run: Path) -> bool:
        """Continue a run undisturbed; return whether it ends as it should. Remove it."""
        code = ended(forked(lambda: go_on(self.config, run)))
        good = code == 0 and whole(run) and same(self.expected, final(run))
        if good:
            shutil.rmtree(run)
        return good


# -- suites ----------------------------------------------------------------------------------------


def kill(scene: Scene, n: int, seed: int) -> Count:
    """Kill a run at random moments, up to four times each."""
    count, rng = Count(), random.Random(seed)
    while count.injected < n:
        run, moments = scene.run(), []
        for _ in range(min(rng.randint(1, 4), n - count.injected)):
            child = forked(lambda run=run: go_on(scene.config, run))
            moment = rng.uniform(0, scene.seconds)
            time.sleep(moment)
            os.kill(child, signal.SIGKILL)
            if ended(child) == KILLED:
                moments.append(moment)
        good = scene.finish(run)
        for moment in moments:
            count.add(good, f"{run.name}, killed after {moment:.3f} s")
    return count


def dying_at(operation: int, half: bool) -> None:
    """Make this process die at its n-th operation on a checkpoint's files.

    half: the operation is done half (a file), or done (a rename) before the end.
    """
    done = 0

    def step(after: Callable[[], None]) -> None:
        nonlocal done
        done += 1
        if done == operation:
            if half:
                after()
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap_save(save: Callable[..., None]) -> Callable[..., None]:
        def dying(tensors: dict[str, torch.Tensor], file: Path, *rest: object) -> None:
            def torn() -> None:
                save(tensors, file, *rest)
                os.truncate(file, file.stat().st_size // 2)

            step(torn)
            save(tensors, file, *rest)

        return dying

    def wrap_method(name: str) -> None:
        original = getattr(Path, name)

        def dying(self: Path, *arguments: object, **named: object) -> object:
            if "checkpoints" in self.parts:

                def torn() -> None:
                    original(self, *arguments, **named)
                    if name == "write_text":
                        os.truncate(self, self.stat().st_size // 2)

                step(torn)
            return original(self, *arguments, **named)

        setattr(Path, name, dying)

    def wrap_remove() -> None:
        original = shutil.rmtree

        def dying(path: Path, *arguments: object, **named: object) -> None:
            step(lambda: next(Path(path).iterdir()).unlink() if Path(path).exists() else None)
            original(path, *arguments, **named)

        shutil.rmtree = dying  # type: ignore[assignment]

    from semantoks.model import pretrained

    checkpoints.save_file = wrap_save(checkpoints.save_file)  # type: ignore[assignment]
    pretrained.save_file = wrap_save(pretrained.save_file)  # type: ignore[assignment]
    for name in ("mkdir", "rename", "write_text"):
        wrap_method(name)
    wrap_remove()


def write(scene: Scene, n: int) -> Count:
    """Die at every operation of writing checkpoints, until a run gets through or n are done."""
    count = Count()
    for operation in range(1, 10_000):
        for half in (False, True):
            run = scene.run()

            def work(run: Path = run, operation: int = operation, half: bool = half) -> None:
                dying_at(operation, half)
                go_on(scene.config, run)

            if ended(forked(work)) != KILLED:
                shutil.rmtree(run)
                return count
            done = "half" if half else "not"
            count.add(scene.finish(run), f"{run.name}, operation {operation} {done} done")
            if count.injected >= n:
                return count
    return count


def disk(scene: Scene, n: int) -> Count:
    """Fill the disk at every file of the second checkpoint, then limit the size of files."""
    count = Count()

    def full_at(file_number: int) -> None:
        from semantoks.model import pretrained

        done = 0

        def wrap(save: Callable[..., None]) -> Callable[..., None]:
            def full(tensors: dict[str, torch.Tensor], file: Path, *rest: object) -> None:
                nonlocal done
                done += 1
                if done == file_number:
                    file.write_bytes(b"half")
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                save(tensors, file, *rest)

            return full

        checkpoints.save_file = wrap(checkpoints.save_file)  # type: ignore[assignment]
        pretrained.save_file = wrap(pretrained.save_file)  # type: ignore[assignment]

    for number in range(1, n + 1):
        run = scene.run()

        def work(run: Path = run, number: int = number) -> None:
            full_at(number)
            try:
                go_on(scene.config, run)
            except CheckpointError as error:
                os._exit(0 if "what was there before is unharmed" in str(error) else 4)

        refused = ended(forked(work)) == 0
        count.add(refused and whole(run) and scene.finish(run), f"{run.name}, full at {number}")
    for size in (1_000, 20_000):  # bytes: the header of a model does not fit, its weights do not
        run = scene.run()

        def limited(run: Path = run, size: int = size) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            trainer = Trainer(scene.config, run)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            try:
                trainer.fit()
            except CheckpointError as error:
                os._exit(0 if "what was there before is unharmed" in str(error) else 4)

        refused = ended(forked(limited)) == 0
        count.add(refused and whole(run) and scene.finish(run), f"{run.name}, {size} bytes")
    return count


def signals(scene: Scene, n: int, seed: int) -> Count:
    """Send what schedulers send; the run saves its place and resumes from there."""
    count, rng = Count(), random.Random(seed)
    while count.injected < n:
        run = scene.run()
        number = rng.choice([signal.SIGTERM, signal.SIGUSR1])
        child = forked(lambda run=run: go_on(scene.config, run))
        while not (run / "metrics.jsonl").exists():  # the training has begun
            time.sleep(0.01)
        time.sleep(rng.uniform(0, scene.seconds / 2))
        os.kill(child, number)
        good = ended(child) == 0 and whole(run) and newest_checkpoint(run) is not None
        count.add(good and scene.finish(run), f"{run.name}, {signal.Signals(number).name}")
    return count


def damages(folder: Path, seed: int) -> Iterator[tuple[Path, str]]:
    """Damage every file of a folder: bits flipped, cut short, deleted; and repair it again."""
    rng = random.Random(seed)
    for file in sorted(p for p in folder.iterdir() if p.is_file()):
        data = file.read_bytes()
        for _ in range(3):
            at, bit = rng.randrange(len(data)), rng.randrange(8)
            file.write_bytes(data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :])
            yield file, f"bit {bit} of byte {at} flipped"
        file.write_bytes(data[: len(data) // 2])
        yield file, "cut in half"
        file.unlink()
        yield file, "deleted"
        file.write_bytes(data)


def refused(check: Callable[[], list[str]]) -> bool:
    """Return whether damage is found and put into words."""
    try:
        return bool(check())
    except SemantoksError:
        return True


def damage(scene: Scene, seed: int) -> Count:
    """Damage a store and a checkpoint."""
    count = Count()
    store = scene.folder / "store"
    before = {file: file.read_bytes() for file in store.iterdir()}
    used = ("shards", "rois_sha256", "index_sha256", "format", "format_version", "preprocessing")
    for file, what in damages(store, seed):
        harmless = file.name == "store.json" and _same_json(file, before, used)
        found = refused(lambda: check_store(store)) or harmless
        count.add(found, f"{file.name}: {what}")
    run = scene.folder / "undisturbed"
    newest = newest_checkpoint(run)
    assert newest is not None
    data = {file: file.read_bytes() for file in newest.iterdir()}
    for file, what in damages(newest, seed):
        # Its value of the effective rank has no checksum: nothing but the choice of the best
        # checkpoint depends on it.
        harmless = file.name == "progress.json" and _same_json(file, data, ("step", "sha256"))
        found = refused(lambda: check_checkpoints(run)) or harmless
        count.add(found, f"{file.name}: {what}")
    return count


def _same_json(file: Path, before: dict[Path, bytes], keys: tuple[str, ...]) -> bool:
    """Return whether white space or a description changed, and nothing that is used."""
    try:
        old, new = json.loads(before[file]), json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    return all(old.get(k) == new.get(k) for k in keys)


def elastic(scene: Scene, n: int, seed: int) -> Count:
    """Kill one of two processes under torchrun."""
    count, rng = Count(), random.Random(seed)
    config = scene.folder / "elastic.yaml"
    config.write_text(scene.config.to_yaml(), encoding="utf-8")
    begin = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    begin += ["--max-restarts", "4", "--standalone", "-m", "semantoks", "pretrain"]
    end = ["--config", str(config), "optim.epochs=60", "encoder.drop_path=0"]
    expected: dict[str, torch.Tensor] = {}
    for number in range(n + 1):
        run = scene.run()
        log = (scene.folder / f"elastic-{number}.log").open("w")
        launcher = subprocess.Popen([*begin, str(run), *end], stdout=log, stderr=log)
        if number:
            while newest_checkpoint(run) is None and launcher.poll() is None:
                time.sleep(0.05)
            time.sleep(rng.uniform(0, 2.0))
            victims = _children(launcher.pid)
            if launcher.poll() is not None or not victims:
                raise RuntimeError("the run was over before anything could be killed")
            os.kill(rng.choice(victims), signal.SIGKILL)
        code = launcher.wait()
        log.close()
        if not number:
            assert code == 0, Path(log.name).read_text()
            expected = final(run)
        else:
            good = code == 0 and whole(run) and same(expected, final(run))
            count.add(good, f"{run.name}: see {log.name}")
    return count


def _children(parent: int) -> list[int]:
    out = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                out.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return out


def pytest_count(arguments: list[str], cases: int, environment: dict[str, str]) -> Count:
    """Run tests of the repository; every case counts, and all are lost if a test fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )
    if done.returncode:
        print(done.stdout[-4000:])
    return Count(cases, cases if done.returncode == 0 else 0)


def main() -> int:
    """Run the suites that are asked for; print and return what was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = ("kill", "write", "disk", "signal", "damage", "elastic", "two", "fuzz")
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    parser.add_argument("--kills", type=int, default=50, help="random kills")
    parser.add_argument("--writes", type=int, default=120, help="operations to die at, at most")
    parser.add_argument("--disks", type=int, default=8, help="files at which the disk is full")
    parser.add_argument("--signals", type=int, default=10)
    parser.add_argument("--elastic", type=int, default=3, help="processes killed under torchrun")
    parser.add_argument("--fuzz", type=int, default=2000, help="damaged files")
    parser.add_argument("--epochs", type=int, default=6, help="of the tiny training; 2 or more")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    warnings.simplefilter("ignore")  # collapse of a model of 16 units is no news
    lost = 0
    with tempfile.TemporaryDirectory() as name:
        scene = Scene(Path(name), given.epochs)
        suites: dict[str, Callable[[], Count]] = {
            "kill": lambda: kill(scene, given.kills, given.seed),
            "write": lambda: write(scene, given.writes),
            "disk": lambda: disk(scene, given.disks),
            "signal": lambda: signals(scene, given.signals, given.seed),
            "damage": lambda: damage(scene, given.seed),
            "elastic": lambda: elastic(scene, given.elastic, given.seed),
            "two": lambda: pytest_count(["tests/test_distributed.py"], 1, {}),
            "fuzz": lambda: pytest_count(
                ["tests/test_fuzz.py"], given.fuzz, {"SEMANTOKS_FUZZ": str(given.fuzz)}
            ),
        }
        print(f"{'suite':<10}{'injected':>10}{'survived':>10}{'lost':>6}{'seconds':>9}", flush=True)
        for suite in given.only:
            start = time.perf_counter()
            count = suites[suite]()
            missing = count.injected - count.survived
            lost += missing
            seconds = time.perf_counter() - start
            print(
                f"{suite:<10}{count.injected:>10}{count.survived:>10}{missing:>6}{seconds:>9.0f}",
                flush=True,
            )
    print("nothing lost" if not lost else f"{lost} lost")
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
