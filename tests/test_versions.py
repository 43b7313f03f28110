"""Dependencies that are missing or too old."""

from __future__ import annotations

from importlib import metadata

import pytest

from semantoks import versions

NEEDED = ["torch>=2.6", "click >= 8.1", "numpy>=1.26", "onnx>=1.17; extra == 'onnx'"]


@pytest.fixture
def installed(monkeypatch):
    """Return the versions that are installed, to be changed; the package needs `NEEDED`."""
    found = {"torch": "2.6.0+cu124", "click": "8.1", "numpy": "2.5.5"}

    def version(name):
        if name not in found:
            raise metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(metadata, "requires", lambda _: NEEDED)
    monkeypatch.setattr(metadata, "version", version)
    return found


@pytest.mark.parametrize("torch", ["2.6.0+cu124", "2.6", "2.10.0", "3.0.0a1"])
def test_new_enough_packages_pass_and_extras_may_be_missing(installed, torch):
    installed["torch"] = torch
    versions.check_dependencies()


def test_old_and_missing_packages_are_all_named(installed):
    installed["click"] = "8.0.4"
    del installed["numpy"]
    with pytest.raises(ImportError) as caught:
        versions.check_dependencies()
    assert str(caught.value) == (
        "semantoks needs click>=8.1, numpy>=1.26, but click is 8.0.4, numpy is missing. "
        'Install with `pip install "click>=8.1" "numpy>=1.26"`'
    )


def test_an_old_torch_comes_with_the_way_to_a_build_for_cpus(installed):
    installed["torch"] = "2.5.1+cpu"
    with pytest.raises(
        ImportError, match=r"torch is 2\.5\.1\+cpu.*choose .CPU. at pytorch\.org/get-started"
    ):
        versions.check_dependencies()


def test_without_metadata_there_is_nothing_to_compare(monkeypatch):
    def requires(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    versions.check_dependencies()


def test_the_metadata_can_be_read():
    """Every dependency is stated as a name and its lowest version."""
    needed = metadata.requires("semantoks")
    plain = [requirement for requirement in needed if "extra ==" not in requirement]
    assert len(plain) > 10
    for requirement in plain:
        name, _, least = requirement.partition(">=")
        assert versions._numbers(metadata.version(name)) >= versions._numbers(least) > ()
