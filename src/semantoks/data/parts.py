"""What is done of every recording so far: one file per recording, each written by rename."""

from __future__ import annotations

import io
import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semantoks.data.layout import FORMAT_VERSION
from semantoks.data.shards import open_partial, write_part
from semantoks.data.sources.items import Item


class Parts:
    """The folder of what is done so far.

    Parameters
    ----------
    folder : Path
    settings : dict
        Plain values; a folder that was begun with others is refused.

    Raises
    ------
    StoreError
        The folder was begun with other settings, or cannot be written.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        # Parts of another format lack arrays that this one stores.
        open_partial(folder, {**settings, "store format": FORMAT_VERSION})

    def place(self, item: Item) -> Path:
        """Return the file of a recording."""
        return self.folder / f"{sha256(item.id.encode()).hexdigest()[:24]}.npz"

    def done(self, item: Item) -> bool:
        """Return whether the recording was encoded from the files as they are now."""
        note = self.note(item)
        return note is not None and note["signature"] == item.signature()

    def note(self, item: Item) -> dict[str, Any] | None:
        """Return what was noted of a recording, its signals not read; None if nothing was."""
        path = self.place(item)
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as content:
            note: dict[str, Any] = json.loads(str(content["note"]))
        return note

    def array(self, item: Item, name: str) -> NDArray[Any]:
        """Return one of the arrays of a recording: ``signal``, ``kept`` or ``profile``."""
        with np.load(self.place(item), allow_pickle=False) as content:
            array: NDArray[Any] = content[name]
        return array

    def save(self, item: Item, note: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Keep what was made of a recording, or why nothing was."""
        stream = io.BytesIO()
        text = json.dumps({**note, "signature": item.signature()}, default=_plain)
        np.savez(stream, allow_pickle=False, note=np.array(text), **arrays)
        write_part(self.place(item), stream.getvalue())

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no plain value")
