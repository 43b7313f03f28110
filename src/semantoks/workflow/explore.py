"""`semantoks explore`: a page about a store, served to this computer alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from secrets import compare_digest, token_urlsafe
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np
import pandas as pd

from semantoks.assess.assessment import Assessment
from semantoks.assess.parts.base import Found
from semantoks.assess.parts.importance import IMPORTANCE_RECORDINGS
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError, SemantoksError
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.embed import Embedder
from semantoks.explain.networks import occlusion
from semantoks.figures.brain import roi_values
from semantoks.model.pretrained import load_pretrained
from semantoks.report.explorer import Explorer, FeatureMap

HOST = "127.0.0.1"
MOST = 1000  # recordings on the map
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def make_explorer(
    store: str | Path,
    *,
    model: str | Path | None = None,
    results: Sequence[str | Path] = (),
    n_crops: int = 8,
    base: str = "/",
) -> Explorer:
    """Return the pages about a store.

    Parameters
    ----------
    store : path
    model : path or str, optional
        What `load_pretrained` takes: the map then shows its embeddings, and the importance of its
        networks is computed; without one it shows functional connectivity.
    results : sequence of path
        Folders of evaluations.
    n_crops : int
        Evenly spaced crops per recording.
    base : str
        What every link begins with.

    Raises
    ------
    InputError
        If a folder is not what it must be, or the store has fewer than 3 recordings.
    """
    recordings = RecordingStore(store)
    if len(recordings) < 3:
        rule = "must have 3 recordings at least"
        raise InputError(rule, file=recordings.path, field="n_recordings", value=len(recordings))
    encoder = None if model is None else load_pretrained(model)

    def features() -> FeatureMap:
        rows = np.linspace(0, len(recordings) - 1, min(MOST, len(recordings))).astype(np.intp)
        part = recordings.select(rows)
        if encoder is None:
            return FeatureMap.of(
                "functional connectivity", rows, ConnectivityBaseline().fit_transform(part)
            )
        found = Embedder(encoder, n_crops=n_crops).fit_transform(part)
        return FeatureMap.of(f"embeddings of {Path(str(model)).name}", rows, found)

    def importance() -> Found | None:
        if encoder is None:
            return None
        n = min(IMPORTANCE_RECORDINGS, len(recordings))
        part = recordings.select(np.linspace(0, len(recordings) - 1, n).astype(np.intp))
        summary = occlusion(encoder, part, n_crops=n_crops).summary(
            part.table["subject"].to_numpy(str)
        )
        name = Path(str(model)).name
        rois = pd.DataFrame(encoder.channels.coordinates, columns=["x", "y", "z"])
        rois["value"] = roi_values(encoder, summary, "without")
        tables = {"networks": summary.assign(model=name), "rois0": rois}
        return Found(tables, {"models": [name], "n_recordings": len(part)})

    loaded = {Path(folder).name: Assessment.load(folder) for folder in results}
    return Explorer(recordings, features, importance, loaded, base=base)


class ExplorerServer(ThreadingHTTPServer):
    """Serves an `Explorer` on 127.0.0.1, to those who know the address with its token.

    Parameters
    ----------
    store, model, results, n_crops
        See `make_explorer`.
    port : int
        0 takes a free one.
    """

    daemon_threads = True

    def __init__(
        self,
        store: str | Path,
        *,
        model: str | Path | None = None,
        results: Sequence[str | Path] = (),
        n_crops: int = 8,
        port: int = 0,
    ) -> None:
        self.token = token_urlsafe(16)
        self.explorer = make_explorer(
            store, model=model, results=results, n_crops=n_crops, base=f"/{self.token}/"
        )
        self.alone = threading.Lock()  # pages are made one at a time: they share what is computed
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            fix = "Leave it out, to take a free one"
            raise InputError(
                f"cannot be used ({error})", field="port", value=port, fix=fix
            ) from None

    @property
    def url(self) -> str:
        """The address to open."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: ExplorerServer

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        token, _, path = parts.path.removeprefix("/").partition("/")
        # Another name for this address, e.g. of a web page that rebinds its own, is refused.
        here = {f"{name}:{self.server.server_port}" for name in (HOST, "localhost")}
        known = compare_digest(token.encode(), self.server.token.encode())
        if not known or self.headers.get("Host") not in here:
            self._send(403, "The address is not that which `semantoks explore` printed.")
            return
        try:
            with self.server.alone:
                page = self.server.explorer.page(unquote(path), dict(parse_qsl(parts.query)))
            self._send(200, page)
        except LookupError:
            self._send(404, self.server.explorer.error("There is no such page."))
        except SemantoksError as error:
            self._send(500, self.server.explorer.error(str(error)))

    def _send(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep the terminal for what the command prints."""
