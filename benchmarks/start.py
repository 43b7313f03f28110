"""Cold start: `import semantoks`, and `semantoks embed` of one recording with the small model.

python -m benchmarks.start
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.common import Line, encoder_for, show
from semantoks.data.recording import Recording
from semantoks.data.store import write_store
from semantoks.model.pretrained import save_model
from semantoks.objectives.distillation import SelfDistillation
from semantoks.train.run import RunConfig

IMPORT_GOAL, EMBED_GOAL, REPEATS = 0.2, 5.0, 5


def seconds(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def prepare(folder: Path) -> tuple[Path, Path]:
    """Write a small model and a store of one recording of noise."""
    config = RunConfig.preset("small")
    encoder = encoder_for(config)
    model = folder / "model"
    model.mkdir()
    torch.manual_seed(0)
    method = SelfDistillation(encoder, config.objective)
    weights = {k: v for k, v in method.state_dict().items() if ".mask_head." not in k}
    save_model(model, weights, encoder)
    rng = np.random.default_rng(0)
    recording = Recording(
        signal=rng.standard_normal((240, len(encoder.channels)), dtype=np.float32),
        roi_names=encoder.channels.labels,
        tr=2.0,
        subject="one",
        source="noise",
    )
    write_store(folder / "store", [recording], encoder.channels, encoder.preprocessing)
    return model, folder / "store"


def main() -> None:
    bare = statistics.median(seconds("-c", "pass") for _ in range(REPEATS))
    loaded = statistics.median(seconds("-c", "import semantoks") for _ in range(REPEATS))
    with TemporaryDirectory() as name:
        model, store = prepare(Path(name))
        command = ["-m", "semantoks", "embed", str(model), str(store)]
        embed = statistics.median(
            seconds(*command, str(Path(name) / f"{i}.csv"), "--device", "cpu")
            for i in range(REPEATS)
        )
    show(
        [
            Line(
                "import semantoks, interpreter's start left out",
                f"< {IMPORT_GOAL} s",
                f"{loaded - bare:.3f} s",
                None,
                loaded - bare < IMPORT_GOAL,
            ),
            Line(
                "semantoks embed, one recording, small model, whole command",
                f"< {EMBED_GOAL:g} s",
                f"{embed:.2f} s",
                None,
                embed < EMBED_GOAL,
            ),
        ]
    )


if __name__ == "__main__":
    main()
