"""`semantoks info`, `check`, `strip`: what lies on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from semantoks.commands.options import Argument, command
from semantoks.commands.output import show
from semantoks.flags import Flag


@command
def info(
    path: Annotated[str, Argument("PATH", "A store, a run, a model, or a parcellation.")],
) -> None:
    """Describe a store, a run, a model or a parcellation."""
    from semantoks.report.tables import listing
    from semantoks.workflow.describe import describe_path

    found = describe_path(path)
    show(found.facts, listing(found.lines))


@command
def explore(
    store: Annotated[Path, Argument("STORE", "Recording store.")],
    model: Annotated[
        str | None,
        Flag(
            metavar="MODEL",
            panel="Model",
            help="Map the embeddings of this model, and the importance of its networks; by default "
            "functional connectivity",
        ),
    ] = None,
    results: Annotated[
        tuple[Path, ...],
        Flag(metavar="FOLDER", help="Show this evaluation, too (repeatable)."),
    ] = (),
    port: Annotated[int, Flag(metavar="N", help="Listen here; 0 takes a free port.")] = 0,
) -> None:
    """Look at recordings, embeddings and results in a browser.

    Prints an address with a secret, which works on this computer only, until Ctrl-C.
    """
    from contextlib import suppress

    from semantoks.workflow.explore import ExplorerServer

    with ExplorerServer(store, model=model, results=results, port=port) as server:
        show({"url": server.url}, f"Open {server.url} (Ctrl-C ends it)")
        with suppress(KeyboardInterrupt):
            server.serve_forever()


@command
def check(path: Annotated[Path, Argument("PATH", "A store, or a run.")]) -> None:
    """Compare the files of a store or a run with checksums."""
    from semantoks.errors import StoreError
    from semantoks.workflow.describe import check_path

    problems = check_path(path)
    whole = f"{path}: every file is as it was written"
    show({"path": path, "problems": problems}, "\n".join(problems) or whole)
    if problems:
        raise StoreError(
            f"has {len(problems)} problem{'s' if len(problems) > 1 else ''}",
            file=path,
            fix="Restore these files from a copy, or make them again",
        )


@command
def strip(
    store: Annotated[Path, Argument("STORE", "Recording store.")],
    out: Annotated[Path, Argument("NEW", "Folder of the new store.")],
    salt: Annotated[
        str | None,
        Flag(
            metavar="SECRET",
            panel="Phenotypes",
            help="Make the pseudonyms from this secret; by default from a random one, discarded.",
        ),
    ] = None,
    drop: Annotated[
        tuple[str, ...],
        Flag(metavar="COLUMN", panel="Phenotypes", help="Leave out this column."),
    ] = (),
) -> None:
    """Copy a store with pseudonyms instead of subjects.

    Other columns are kept unless dropped: read the list that it prints before you share the copy.
    """
    from semantoks.data.integrity import strip_subjects

    made = strip_subjects(store, out, salt=salt, drop=drop)
    kept = ", ".join(made.phenotypes) or "none"
    facts = {"store": out, "n_recordings": len(made), "columns": [*made.phenotypes]}
    show(facts, f"{len(made)} recordings: {out}; columns that are still there: {kept}")
