"""The recordings that come with the package or the repository, and those that people can fetch."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from semantoks import datasets
from semantoks.atlas.parcellation import Parcellation
from semantoks.data.signal import Preprocessing
from semantoks.data.store import write_store
from semantoks.errors import InputError

pytestmark = pytest.mark.clone


@pytest.fixture(scope="module")
def stages():
    return datasets.load_stages()


@pytest.fixture(scope="module")
def sample():
    return datasets.load_abide_sample()


def test_stages_is_what_it_says(stages):
    assert len(stages) == 92
    assert len({recording.subject for recording in stages}) == 55
    assert {recording.signal.shape for recording in stages} == {(234, 400)}
    assert {recording.tr for recording in stages} == {2.0}
    assert stages[0].id == "sub-001_ses-1_task-rest"
    assert stages[0].roi_names == Parcellation.load("schaefer400").labels
    assert stages[0].phenotypes["arm"] == "placebo"
    assert {recording.phenotypes["arm"] for recording in stages} == {"placebo", "medication", None}
    description = json.loads((datasets.RECORDINGS / "stages" / "description.json").read_text())
    assert "ASSUMED" in description["tr"]


def test_abide_sample_is_what_it_says(sample):
    assert len(sample) == len({recording.subject for recording in sample}) == 202
    sites = [recording.site for recording in sample]
    assert {site: sites.count(site) for site in set(sites)} == (
        dict.fromkeys(datasets.ABIDE_SAMPLE_SITES, 29) | {"LEUVEN_2": 28}
    )
    assert {recording.signal.shape[1] for recording in sample} == {200}
    assert sample[0].roi_names == Parcellation.load("cc200").labels
    people = pd.DataFrame([dict(recording.phenotypes) for recording in sample])
    assert people["diagnosis"].value_counts().to_dict() == {"control": 109, "autism": 93}
    assert people["sex"].value_counts().to_dict() == {"male": 136, "female": 66}
    assert people["eyes"].isin(["open", "closed"]).all()
    assert people["age"].between(6, 40).all()
    assert people["fiq"].dropna().between(40, 150).all()  # codes such as -9999 are gone
    for site in datasets.ABIDE_SAMPLE_SITES:
        here = people[np.array(sites) == site]
        assert here.groupby("diagnosis").size().min() >= 11
        assert set(here["sex"]) == {"male", "female"}


def test_trs_of_the_sample_agree_with_its_sites(sample):
    assert {(recording.site, recording.tr) for recording in sample} == {
        ("KKI", 2.5),
        ("LEUVEN_2", 1.6667),
        ("PITT", 1.5),
        ("SDSU", 2.0),
        ("STANFORD", 2.0),
        ("UCLA_1", 3.0),
        ("YALE", 2.0),
    }


@pytest.mark.parametrize("name", ["stages", "abide-sample"])
def test_folders_carry_licence_attribution_and_data_dictionary(name):
    folder = datasets.RECORDINGS / name
    description = json.loads((folder / "description.json").read_text())
    licence = (folder / "LICENSE").read_text()
    assert {"Apache-2.0": "Apache License", "CC BY-NC-SA 3.0": "by-nc-sa/3.0"}[
        description["licence"]
    ] in licence
    assert "Changed here" in (folder / "ATTRIBUTION.md").read_text()
    columns = pd.read_csv(folder / "participants.tsv", sep="\t").columns
    assert list(json.loads((folder / "participants.json").read_text())) == list(columns)
    assert description["quantisation"]["largest_change_of_a_correlation"] < 0.01


def test_all_recordings_together_stay_small():
    files = [path for path in datasets.RECORDINGS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 15e6


def test_known_values_of_one_recording(stages):
    # The quantised integers are data: a change of packing must not change a value.
    digest = hashlib.sha256(np.ascontiguousarray(stages[17].signal).tobytes()).hexdigest()
    assert digest[:16] == "34bb3429cec3126f"


@pytest.mark.parametrize(("name", "atlas"), [("stages", "schaefer400"), ("abide-sample", "cc200")])
def test_samples_make_a_store(name, atlas, tmp_path, request):
    recordings = request.getfixturevalue({"stages": "stages"}.get(name, "sample"))[::29]
    store = write_store(tmp_path / "s", recordings, Parcellation.load(atlas), Preprocessing())
    assert len(store) == len(recordings) >= 4
    assert np.allclose(store.signal(2).std(axis=0), 1, atol=2e-3)


def test_real_signals_look_like_brains(stages):
    # Homologous parcels of the two hemispheres go together: names and columns fit.
    atlas = Parcellation.load("schaefer400")
    signal = np.concatenate([Preprocessing().apply(x.signal, x.tr) for x in stages[:10]])
    correlation = np.corrcoef(signal.T)
    pairs = [
        (i, atlas.labels.index(label.replace("_LH_", "_RH_")))
        for i, label in enumerate(atlas.labels)
        if "_LH_Vis_" in label and label.replace("_LH_", "_RH_") in atlas.labels
    ]
    left, right = np.transpose(pairs)
    assert correlation[left, right].mean() > 0.4
    networks = np.array(atlas.networks)
    within = networks[:, None] == networks
    off = ~np.eye(400, dtype=bool)
    # 0.153; with the columns shifted by one ROI 0.144, by twenty 0.092.
    assert correlation[within & off].mean() - correlation[~within].mean() > 0.15


def test_recordings_can_live_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("SEMANTOKS_RECORDINGS", str(tmp_path))
    with pytest.raises(InputError, match=r"stages: the recordings are not here.*SEMANTOKS_RECORD"):
        datasets.load_stages()
    monkeypatch.setenv("SEMANTOKS_RECORDINGS", str(datasets.RECORDINGS))
    assert len(datasets.load_stages()) == 92


def test_datasets_are_listed():
    assert set(datasets.DATASETS) == {"stages", "abide-sample", "abide"}
    for name in ("stages", "abide-sample"):
        sample = datasets.DATASETS[name]
        parcellation = Parcellation.load(sample.parcellation)
        first = sample.load()[0]
        assert parcellation.columns_of(first.roi_names).tolist() == list(
            range(len(parcellation))
        ), name


# -- fetching ABIDE: nilearn's own fetcher runs, only its download is replaced -------------------

PEOPLE = """,SUB_ID,SITE_ID,FILE_ID,DX_GROUP,AGE_AT_SCAN,SEX,FIQ,EYE_STATUS_AT_SCAN,func_mean_fd,\
qc_rater_1,qc_func_rater_2,qc_func_rater_3,qc_notes_rater_1
1,50002,PITT,no_filename,1,16.77,1,103,1,0.11,OK,OK,OK,
2,50642,CMU,CMU_a_0050642,1,33.0,1,103,2,0.387847,OK,maybe,OK,"quiet, still"
3,50663,CMU,CMU_b_0050663,2,22.0,2,-9999,2,0.25,maybe,OK,OK,
4,51000,NYU,NYU_0051000,2,9.123,2,,1,0.125,OK,OK,fail,
5,51001,NYU,NYU_0051001,2,11.5,2,99.5,1,0.5,OK,,OK,
"""


@pytest.fixture
def mirror(monkeypatch):
    """Stands in for the download: writes the files that the mirror holds, at nilearn's paths."""
    asked: list[str] = []

    def fetch_files(folder, files, **_):
        paths = []
        for name, url, _options in files:
            asked.append(url)
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".csv"):
                path.write_text(PEOPLE)
            else:
                columns, codes = (116, aal_codes()) if "aal" in name else (200, range(1, 201))
                rng = np.random.default_rng(len(name))
                signal = rng.standard_normal((31, columns))
                if "0050663" in name:
                    signal[:, 4] = 0
                header = "\t".join(f"#{code}" for code in codes)
                np.savetxt(path, signal, header=header, comments="", delimiter="\t")
            paths.append(str(path))
        return paths

    monkeypatch.setattr("nilearn.datasets.func.fetch_files", fetch_files)
    return asked


def aal_codes():
    atlas = Parcellation.load("aal116")
    return [aliases[0].removeprefix("#") for aliases in atlas.aliases]


def test_fetched_abide_is_in_words(mirror, tmp_path):
    first, second, third = datasets.fetch_abide(tmp_path, verbose=0)
    assert all("cpac/nofilt_noglobal/rois_cc200" in url for url in mirror if url.endswith(".1D"))
    assert (first.id, first.site, first.tr, first.mean_fd) == (
        ("sub-0050642_task-rest", "CMU", 2.0, 0.387847)
    )
    assert first.phenotypes == {
        "diagnosis": "autism",
        "sex": "male",
        "age": 33.0,
        "eyes": "closed",
        "fiq": 103.0,
    }
    assert (second.tr, second.phenotypes["fiq"], second.missing_rois) == (1.5, None, ("#5",))
    # A rater who said nothing has not said "fail"; the person whom one failed is left out.
    assert (third.subject, third.phenotypes["sex"]) == ("0051001", "female")
    assert first.roi_names[:2] == ("#1", "#2")
    assert first.missing_rois == ()


def test_fetched_abide_makes_a_store(mirror, tmp_path):
    for parcellation, n_rois in (("cc200", 200), ("aal116", 116)):
        store = write_store(
            tmp_path / parcellation,
            datasets.fetch_abide(tmp_path, parcellation=parcellation, verbose=0),
            Parcellation.load(parcellation),
            Preprocessing(low_hz=None),
            missing_rois="mark",
        )
        assert store.raw(0).shape[1] == n_rois
        assert len(store.table["missing_rois"][1]) == 1
    assert {url.rsplit("_", 1)[1] for url in mirror if url.endswith(".1D")} == {
        "cc200.1D",
        "aal.1D",
    }


@pytest.mark.usefixtures("mirror")
def test_fetching_some_sites(tmp_path):
    (only,) = datasets.fetch_abide(tmp_path, sites=["NYU"], verbose=0)
    assert only.site == "NYU"
    with pytest.raises(InputError, match=r"sites = 'NUY': is no site. Did you mean 'NYU'"):
        datasets.fetch_abide(tmp_path, sites=["NUY"])
    with pytest.raises(InputError, match=r"'cc2000': has no time series.*Did you mean 'cc200'"):
        datasets.fetch_abide(tmp_path, parcellation="cc2000")


@pytest.mark.usefixtures("mirror")
def test_a_fetched_file_with_another_number_of_names_is_refused(tmp_path, monkeypatch):
    datasets.fetch_abide(tmp_path, verbose=0)
    (path,) = tmp_path.rglob("NYU_0051001_rois_cc200.1D")
    kept = path.read_text().split("\n", 1)

    def shortened(folder, files, **_):
        paths = [Path(folder, name) for name, _url, _options in files]
        path.write_text("\n".join(["\t".join(kept[0].split()[:-1]), kept[1]]))
        return list(map(str, paths))

    monkeypatch.setattr("nilearn.datasets.func.fetch_files", shortened)
    with pytest.raises(InputError, match=r"NYU_0051001.*\(31, 200\): has 199 ROI names"):
        datasets.fetch_abide(tmp_path, verbose=0)


def test_every_site_of_abide_has_a_tr():
    people = pd.DataFrame({"SUB_ID": 1, "FILE_ID": ["CMU_a_1", "Leuven_1_2", "MaxMun_c_3"]})
    people["SITE_ID"] = ["CMU", "LEUVEN_1", "MAX_MUN"]
    for column in ("DX_GROUP", "SEX", "AGE_AT_SCAN", "func_mean_fd", "EYE_STATUS_AT_SCAN", "FIQ"):
        people[column] = 1
    assert list(datasets.abide_people(people)["tr"]) == [2.0, 1.6667, 3.0]
