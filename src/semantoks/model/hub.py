"""Models on the Hugging Face hub: addresses, downloads of what is needed, sharing, model cards.

An address names the hub, so that a local path with a typo never becomes a network request:
``hf://owner/name``, ``hf://owner/name@revision``, ``hf://owner/name/folder/in/it``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self, cast

import yaml

from semantoks.errors import CheckpointError, InputError
from semantoks.files import staged_folder

if TYPE_CHECKING:
    from semantoks.model.encoder import Encoder

SCHEME = "hf://"
CARD = "README.md"
_NAME = r"[\w][\w.-]*"
_ADDRESS = re.compile(rf"hf://({_NAME}/{_NAME})(?:@([^/@]+))?(?:/(.+))?")
_OF_AUTHORS = ("*.pth", "*.yaml", "*.npz")
_ROLE = "encoder"  # of a shared model, which holds one copy


@dataclass(frozen=True, kw_only=True)
class HubAddress:
    """A model on the hub.

    Parameters
    ----------
    repository : str
        ``owner/name``.
    revision : str, optional
        Branch, tag or commit; ``main`` by default.
    subfolder : str, optional
        Folder in the repository.
    """

    repository: str
    revision: str | None = None
    subfolder: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the address that a text states.

        Raises
        ------
        CheckpointError
            If it is none.
        """
        found = _ADDRESS.fullmatch(text)
        if found is None or ".." in text:
            rule = f"must be {SCHEME}owner/name, with @revision and /folder if necessary"
            raise CheckpointError(rule, field="source", value=text)
        repository, revision, subfolder = found.groups()
        return cls(
            repository=repository,
            revision=revision,
            subfolder=None if subfolder is None else subfolder.strip("/"),
        )

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        folder = "" if self.subfolder is None else f"/{self.subfolder}"
        return f"{SCHEME}{self.repository}{revision}{folder}"

    def download(
        self, header: str, others: tuple[str, ...], check: Callable[[Path], object]
    ) -> Path:
        """Fetch a model and return its folder; offline, what the cache holds of it.

        Parameters
        ----------
        header : str
            File that every model folder holds, fetched first.
        others : tuple of str
            The other files of a model folder; no other is fetched.
        check : callable
            Called with the folder once it holds the header, before the weights are fetched.

        Returns
        -------
        Path
            Of a model folder; without a header, of what the authors publish.

        Raises
        ------
        CheckpointError
            If the model cannot be fetched.
        """
        with self._reached():
            try:
                file = Path(self._file(header, self.revision))
            except _client("errors").EntryNotFoundError as error:
                return self._of_authors(error)
        check(file.parent)
        # The commit of the header, so that all files are of one, whatever happens to the branch.
        commit = file.parents[len(Path(self.subfolder or "").parts)].name
        with self._reached():
            for name in others:
                self._file(name, commit)
        return file.parent

    def _of_authors(self, missing: Exception) -> Path:
        folder = "" if self.subfolder is None else f"{self.subfolder}/"
        patterns = [f"{folder}{pattern}" for pattern in _OF_AUTHORS]
        snapshot = _client().snapshot_download(
            self.repository, revision=self.revision, allow_patterns=patterns
        )
        found = Path(snapshot) / folder
        if not any(found.glob("*.pth")):
            raise missing
        return found

    def _file(self, name: str, revision: str | None) -> str:
        found = _client().hf_hub_download(
            self.repository, name, subfolder=self.subfolder, revision=revision
        )
        return str(found)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn what the hub, the network below it, or the disk raises into an error of ours."""
        _client()
        try:
            yield
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            rule = f"could not be fetched from the Hugging Face hub ({reason})"
            raise CheckpointError(rule, field="source", value=str(self)) from error


def _client(part: str = "") -> Any:
    try:
        return import_module(f"huggingface_hub.{part}".rstrip("."))
    except ImportError:
        raise InputError(
            "must be installed to reach the Hugging Face hub",
            field="huggingface_hub",
            fix="pip install semantoks[hub]",
        ) from None


class SharedModel:
    """Sharing of encoders: in folders, and on the Hugging Face hub."""

    def save_pretrained(self, folder: str | Path, *, license: str | None = None) -> Path:
        """Write a model folder with a model card: what `from_pretrained` reads.

        Parameters
        ----------
        folder : path
            New.
        license : str, optional
            Identifier of the licence for the card, e.g. "cc-by-4.0".

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        CheckpointError
            If the folder exists or cannot be written.

        See Also
        --------
        semantoks.model.pretrained.convert : from the command line, and in float16.
        """
        with staged_folder(folder, kind=CheckpointError) as made:
            _write(made, cast("Encoder", self), Path(folder).name, license)
        return Path(folder)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, subfolder: str | None = None
    ) -> Encoder:
        """Load an encoder for inference.

        Parameters
        ----------
        source : path or str
            What `semantoks.load_pretrained` takes, e.g. a folder, or ``hf://owner/name``.
        revision : str, optional
            Branch, tag or commit on the hub.
        subfolder : str, optional
            Folder in a repository of the hub.

        Returns
        -------
        Encoder
            See `semantoks.load_pretrained`.

        Raises
        ------
        CheckpointError
            If there is no model, or `revision` or `subfolder` is given for a local path.
        """
        from semantoks.model.pretrained import load_pretrained

        if revision is None and subfolder is None:
            return load_pretrained(source)
        repository = HubAddress.parse(str(source)).repository
        address = HubAddress(repository=repository, revision=revision, subfolder=subfolder)
        return load_pretrained(str(HubAddress.parse(str(address))))

    def push_to_hub(
        self,
        repository: str,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        license: str | None = None,
        private: bool = True,
        message: str = "Upload a model of semantoks",
        token: str | None = None,
    ) -> str:
        """Share the encoder on the Hugging Face hub, with a model card.

        What is uploaded holds the names of sites and stores, and hashed names of the subjects seen.

        Parameters
        ----------
        repository : str
            ``owner/name``; made if it does not exist.
        revision : str, optional
            Branch; made if it does not exist.
        subfolder : str, optional
            Folder in the repository.
        license : str, optional
            Identifier of the licence for the card, e.g. "cc-by-4.0".
        private : bool
            A repository that is made here is visible to its owner alone, until the owner decides
            otherwise on the hub.
        message : str
            Of the commit.
        token : str, optional
            By default the one that the client of the hub keeps.

        Returns
        -------
        str
            The address to load it from.

        Raises
        ------
        CheckpointError
            If the hub refuses it.
        """
        address = HubAddress(repository=repository, revision=revision, subfolder=subfolder)
        address = HubAddress.parse(str(address))
        hub = _client()
        with TemporaryDirectory() as there:
            _write(Path(there), cast("Encoder", self), str(address), license)
            try:
                api = hub.HfApi(token=token)
                api.create_repo(repository, private=private, exist_ok=True)
                if revision is not None:
                    api.create_branch(repository, branch=revision, exist_ok=True)
                api.upload_folder(
                    repo_id=repository,
                    folder_path=there,
                    path_in_repo=subfolder,
                    revision=revision,
                    commit_message=message,
                )
            except Exception as error:  # of the hub or of the network below it
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                rule = f"could not be uploaded to the Hugging Face hub ({reason})"
                raise CheckpointError(rule, field="repository", value=repository) from error
        return str(address)


def _write(folder: Path, encoder: Encoder, where: str, license: str | None) -> None:
    from semantoks.model.pretrained import WEIGHTS, save_model

    weights = {f"{_ROLE}.encoder.{k}": v.cpu() for k, v in encoder.state_dict().items()}
    save_model(folder, weights, encoder, roles=[_ROLE])
    digest = sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    card = model_card(encoder, where=where, digest=digest, license=license)
    (folder / CARD).write_text(card, encoding="utf-8")


def model_card(encoder: Encoder, *, where: str, digest: str, license: str | None = None) -> str:
    """Return the model card of an encoder, from its configuration and what its weights have seen.

    Parameters
    ----------
    encoder : Encoder
    where : str
        Folder or address that it is loaded from.
    digest : str
        SHA-256 of the file of the weights.
    license : str, optional
    """
    front: dict[str, Any] = {
        "library_name": "semantoks",
        "pipeline_tag": "feature-extraction",
        "tags": ["fMRI", "neuroimaging", "brain-dynamics"],
    }
    if license is not None:
        front["license"] = license
    rows = "\n".join(f"| {name} | {value} |" for name, value in _facts(encoder, digest).items())
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()}
---

# An encoder of parcellated fMRI

{_intended(encoder)}

```python
from semantoks import Embedder

embedder = Embedder("{where}", tr=2.0)  # the TR of your signals, seconds
embeddings = embedder.fit_transform(signals)  # a list of (n_times, {len(encoder.channels)} ROIs)
```

| | |
|---|---|
{rows}

Written by semantoks from the record of the run. Not for diagnosis. Add what only you know: the
licence and the ages of the training data, the scores of this file next to functional connectivity
and the same encoder with random weights, and what it is not good for.
"""


def _intended(encoder: Encoder) -> str:
    channels = encoder.channels
    return (
        f"Reads the BOLD signals of the {len(channels)} ROIs of `{channels.name}`, by name and in "
        f"the order of `rois.tsv`, and returns embeddings of recordings."
    )


def _facts(encoder: Encoder, digest: str) -> dict[str, str]:
    config, steps, seen = encoder.config, encoder.preprocessing, encoder.pretraining
    n_numbers = sum(value.numel() for value in encoder.state_dict().values())
    band = " to ".join("open" if hz is None else f"{hz:g}" for hz in (steps.low_hz, steps.high_hz))
    facts = {
        "parcellation": f"{encoder.channels.name}, {len(encoder.channels)} ROIs, "
        f"{encoder.n_networks} rows of tokens",
        "preprocessing": f"band {band} Hz, resampled to a TR of {steps.tr:g} s, "
        f"{'z-scored' if steps.zscore else 'not z-scored'}",
        "shortest recording": f"{encoder.shortest} volumes at that TR",
        "architecture": f"{config.granularity}; width {config.width}, {config.depth} blocks, views "
        f"of {config.n_patches} x {config.patch_length} volumes; {n_numbers:,} numbers",
    }
    if seen is None:
        facts["training data"] = "unknown, or none: random weights"
    else:
        facts["training data"] = (
            f"{_known(seen.n_recordings)} recordings of {_known(seen.n_subjects)} subjects"
            f"{', labels too (fine-tuned)' if seen.fine_tuned else ''}"
        )
        facts["data sets"] = ", ".join(seen.data_sets or ()) or "unknown"
        facts["sites"] = ", ".join(seen.sites or ()) or "unknown"
        facts["epochs"] = _known(seen.epochs)
    return facts | {"weights, SHA-256": f"`{digest}`"}


def _known(value: int | None) -> str:
    return "an unknown number of" if value is None else str(value)
