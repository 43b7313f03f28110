"""`write_report`: one self-contained HTML page about runs, results and stores."""

from __future__ import annotations

import base64
import io
import platform
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from semantoks import __version__
from semantoks.assess.assessment import Assessment
from semantoks.data.store import RecordingStore
from semantoks.evaluate.compare.combine import combine
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.figures.picture import Picture
from semantoks.files import refuse_existing, write_file
from semantoks.report.cells import NUMERIC, cell, download, minus, number
from semantoks.report.combined import combined_section
from semantoks.report.evaluation import evaluation_section
from semantoks.report.sections import run_section, store_section

Paths = Sequence[str | Path]


def write_report(
    path: str | Path,
    *,
    runs: Paths = (),
    results: Paths = (),
    stores: Paths = (),
    together: bool = False,
) -> None:
    """Write one HTML page that needs nothing else: no network, no scripts.

    Parameters
    ----------
    path : path
        New file.
    runs : sequence of path
        Folders of pretraining runs: curves, collapse monitors, configuration, environment.
    results : sequence of path
        Folders of evaluations (`semantoks.workflow.evaluate.evaluate_store`), or of results alone.
    stores : sequence of path
        Recording stores: what they hold, and the embeddings of the runs that fit them.
    together : bool
        Summarise the results over data sets too; see `semantoks.evaluate.compare.combine.combine`.

    Raises
    ------
    InputError
        If the file exists, cannot be written, a folder is not what it should be, or results
        cannot be combined.
    """
    file = Path(path)
    refuse_existing(file)
    opened = [RecordingStore(store) for store in stores]
    shown = [(Path(result), Assessment.load(result)) for result in results]
    targets = list(
        dict.fromkeys(t for _, result in shown for t in result.comparison.meta["targets"])
    )
    combined = combine(_by_data_set(shown)) if together else []
    page = template("report.html").render(
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        python=platform.python_version(),
        combined=combined_section(combined) if combined else None,
        results=[evaluation_section(folder.name, result) for folder, result in shown],
        runs=[run_section(Path(run), opened, targets) for run in runs],
        stores=[store_section(store, targets) for store in opened],
    )
    write_file(file, page)


def _by_data_set(shown: Sequence[tuple[Path, Assessment]]) -> dict[str, ProbeResult]:
    """Return the results by the names of their data sets, or by folder where names coincide."""
    stores = [found.comparison.meta["store"]["name"] for _, found in shown]
    folders = [str(folder) for folder, _ in shown]
    names = stores if len(set(stores)) == len(stores) else folders
    return {name: found.comparison for name, (_, found) in zip(names, shown, strict=True)}


def template(name: str) -> Any:
    """Return one of the templates of this folder, everything from data escaped."""
    environment = Environment(
        loader=PackageLoader("semantoks.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "image": _image,
        "number": number,
        "cell": cell,
        "download": download,
        "minus": minus,
    }
    environment.globals |= {"NUMERIC": NUMERIC}
    return environment.get_template(name)


def _image(picture: Picture) -> Markup:
    """Return an ``<img>`` with the picture inside, sharp at every size and on paper."""
    stream = io.BytesIO()
    style: Any = {"svg.fonttype": "path", "svg.hashsalt": "semantoks"}  # the same bytes every time
    with mpl.rc_context(style), warnings.catch_warnings():
        # A name in a script that the figure's font lacks is drawn as boxes; the tables show it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        picture.figure.savefig(
            stream, format="svg", dpi=160, metadata={"Date": None}, transparent=True
        )
    data = base64.b64encode(stream.getvalue()).decode()
    width, height = (round(inches * 96) for inches in picture.figure.get_size_inches())
    return Markup(
        '<img alt="{}" width="{}" height="{}" src="data:image/svg+xml;base64,{}">'
    ).format(picture.alt, width, height, data)
