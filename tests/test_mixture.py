"""Several stores in one training: crops at one TR, ROIs by name, people, shares, refusals."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from semantoks.atlas.channels import TokenRows
from semantoks.atlas.parcellation import Parcellation
from semantoks.commands.main import app
from semantoks.data.mixture import StoreMixture
from semantoks.data.recording import Recording, subject_key
from semantoks.data.seen import SeenData, SeenStore
from semantoks.data.signal import Preprocessing, resample
from semantoks.data.store import RecordingStore, write_store
from semantoks.errors import ConfigError, InputError
from semantoks.model.pretrained import load_pretrained
from semantoks.train.setup import training_recordings
from semantoks.train.trainer import Trainer
from semantoks.views.augment import AugmentConfig
from semantoks.views.crops import CropConfig
from semantoks.views.epochs import WeightedEpochs
from semantoks.views.loader import ViewLoader
from semantoks.views.masks import MaskConfig

FAST = 0.8  # s; the other store has 2 s
VIEW = 24  # time points


@pytest.fixture(scope="module")
def fast_recordings(parcellation) -> list[Recording]:
    """8 recordings of 7 people at a TR of 0.8 s, without Limbic, ROIs in another order."""
    rng = np.random.default_rng(11)
    kept = [i for i, network in enumerate(parcellation.networks) if network != "Limbic"]
    kept = [kept[i] for i in rng.permutation(len(kept))]
    out = []
    for i, n_times in enumerate((260, 131, 92, 61, 199, 171, 151, 143)):
        out.append(
            Recording(
                signal=rng.standard_normal((n_times, len(kept))).cumsum(axis=0),
                roi_names=tuple(parcellation.labels[k] for k in kept),
                tr=FAST,
                subject=f"p{min(i, 6):02}",
                run=str(i),
                site=("east", "south")[i % 2],
            )
        )
    return out


def fast_store(path, recordings, parcellation, **changes) -> RecordingStore:
    atlas = parcellation.select(recordings[0].roi_names)
    settings = {"tr": FAST, "low_hz": 0.01, "high_hz": 0.1, **changes}
    return write_store(path, recordings, atlas, Preprocessing(**settings), shard_rows=500)


@pytest.fixture(scope="module")
def fast(tmp_path_factory, fast_recordings, parcellation) -> RecordingStore:
    path = tmp_path_factory.mktemp("stores") / "fast"
    return fast_store(path, fast_recordings, parcellation)


@pytest.fixture
def mixture(store, fast) -> StoreMixture:
    return StoreMixture([store, fast])


def assert_as_stored(crop, expected):
    """Equal to half precision: float16 keeps 11 bits."""
    np.testing.assert_allclose(crop, expected, rtol=2**-11, atol=2e-5)


# -- one TR ----------------------------------------------------------------------------------------


def test_crops_of_another_tr_are_those_of_the_whole_recording_resampled(store, fast, mixture):
    assert len(mixture) == len(store) + len(fast)
    roi = [mixture.parcellation.labels.index(name) for name in fast.parcellation.labels]
    for i in range(len(fast)):
        whole = resample(fast.signal(i), FAST, 2.0)
        row = len(store) + i
        assert mixture.table["length"][row] == len(whole)
        # A start that is no multiple of 5 x 0.8 s begins up to one sample of the store earlier.
        starts = np.arange(0, max(len(whole) - VIEW, 0) + 1, 2)
        crops = mixture.gather([row], starts[:, None], VIEW)[:, 0]
        for start, crop in zip(starts, crops, strict=True):
            expected = whole[start : start + VIEW]
            assert_as_stored(crop[: len(expected), roi], expected)
            assert not crop[len(expected) :].any()
            others = np.setdiff1d(np.arange(11), roi)
            assert not crop[:, others].any()


@settings(max_examples=60, deadline=None)
@given(
    tr=st.sampled_from([0.5, 0.72, 0.8, 1.5, 2.2, 3.0]),
    n_times=st.integers(2, 400),
    start=st.integers(0, 60),
)
def test_any_place_of_any_length_is_on_the_store_s_grid(tr, n_times, start, store):
    """A start between two samples of the store is that of the last one before it."""
    x = np.random.default_rng(n_times).standard_normal((n_times, 11)).astype(np.float16)
    n_new = int((n_times - 1) * tr / 2.0 + 1e-6) + 1
    start %= n_new
    first = int(start * 2.0 / tr + 1e-6)
    # The same odd reflection, so long that its own ends are out of reach of the kernel, and that
    # the grid of the new TR passes through that sample.
    before = next(p for p in range(80, 200) if abs((first + p) * tr / 2.0 % 1 - 0.5) > 0.5 - 1e-9)
    wide = np.pad(x.astype(float), ((before, 200), (0, 0)), mode="reflect", reflect_type="odd")
    place = round((first + before) * tr / 2.0)
    expected = resample(wide, tr, 2.0)[place : place + VIEW]
    held = object.__new__(RecordingStore)
    held.__dict__.update(store.__dict__)
    held.path = store.path.with_name("other")
    held.preprocessing = replace(store.preprocessing, tr=tr)
    held._shards = [x]
    held.table = store.table.iloc[:1].assign(shard=0, start=0, length=n_times)
    mixture = StoreMixture([store, held])
    crop = mixture.gather([len(store)], [[start]], VIEW)[0, 0]
    n_valid = min(n_new - start, VIEW)
    size = abs(x.astype(float)).max()
    atol = 2e-5 * max(size, abs(expected).max())
    np.testing.assert_allclose(crop[:n_valid], expected[:n_valid], rtol=2**-11, atol=atol)
    assert not crop[n_valid:].any()


def test_a_mixture_reads_what_preparing_at_its_tr_would_have_stored(
    tmp_path, fast_recordings, parcellation, fast, mixture, store
):
    prepared = fast_store(tmp_path / "slow", fast_recordings, parcellation, tr=2.0)
    roi = [mixture.parcellation.labels.index(name) for name in fast.parcellation.labels]
    rows = np.arange(len(fast))
    there = prepared.gather(rows, np.zeros((1, 8), int), VIEW).astype(float)
    crops = mixture.gather(rows + len(store), np.zeros((1, 8), int), VIEW)[..., roi].astype(float)
    # Only the scale differs: the z-score was taken over the samples of the other TR.
    scale = (there * crops).sum(axis=(0, 2)) / (crops * crops).sum(axis=(0, 2))
    assert abs(there - crops * scale[:, None]).max() < 0.02 * abs(there).max()
    np.testing.assert_allclose(scale, 1, atol=0.06)


# -- which networks --------------------------------------------------------------------------------


def make_loader(recordings, *, batch_size=6, seed=0, **changes) -> ViewLoader:
    none = AugmentConfig(roi_dropout="none", time_dropout="none", amplitude="none", noise="none")
    return ViewLoader(
        recordings,
        TokenRows.by_group(recordings.parcellation),
        **{
            "patch_length": 6,
            "n_patches": 4,
            "batch_size": batch_size,
            "crops": CropConfig(),
            "augmentation": none,
            "masks": MaskConfig(frequency=1.0),
            "seed": seed,
            "device": torch.device("cpu"),
            **changes,
        },
    )


def test_networks_that_a_store_lacks_are_missing_tokens(mixture, store):
    loader = make_loader(mixture)
    batch, rows = loader.batch(0), loader.recordings(0)
    limbic = mixture.parcellation.network_names.index("Limbic")
    for place, row in enumerate(rows):
        gone = batch.missing[:, place]
        assert gone[:, limbic].all() == (row >= len(store))
        if mixture.table["length"][row] >= VIEW:
            others = [n for n in range(3) if n != limbic]
            assert not gone[:, others].any()


# -- who is shown when -----------------------------------------------------------------------------


def test_the_same_name_in_two_stores_is_two_people_each_shown_once(mixture):
    loader = make_loader(mixture)
    assert (loader.n_subjects, loader.steps_per_epoch) == (17, 3)
    shown = np.concatenate([loader.recordings(step) for step in range(3, 6)])
    people = mixture.table["subject"][shown]
    assert sorted(people) == sorted(set(mixture.table["subject"]))
    assert {"toy:p00", "fast:p00"} <= set(people)


def test_weights_are_shares_of_every_epoch_and_batch(mixture):
    loader = make_loader(mixture, weights=(1, 3))
    table = mixture.table
    seen = np.zeros(17)
    for epoch in range(40):
        batches = [loader.recordings(3 * epoch + k) for k in range(3)]
        assert sorted(map(len, batches)) == [5, 6, 6]
        for rows in batches:
            assert table["subject"][rows].is_unique
            assert (table["store"][rows] == 1).sum() in (4, 5)
        shown = np.concatenate(batches)
        assert (table["store"][shown] == 1).sum() == 13  # of 17, 7 people in it
        counts = table["subject"][shown].value_counts()
        assert set(counts[[s.startswith("fast") for s in counts.index]]) == {1, 2}
        seen += np.bincount(np.unique(table["subject"], return_inverse=True)[1][shown], None, 17)
    assert seen[:7].min() > 40  # fast: 13 places an epoch for 7 people
    np.testing.assert_allclose(seen[:7], 40 * 13 / 7, rtol=0.15)
    np.testing.assert_allclose(seen[7:], 40 * 4 / 10, rtol=0.6)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    weights=st.lists(st.floats(0.05, 20), min_size=4, max_size=4),
    steps=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_epochs_keep_their_promises(sizes, weights, steps, seed):
    group_of = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    weights = weights[: len(sizes)]
    steps = min(steps, len(group_of))
    try:
        epochs = WeightedEpochs(group_of, weights, steps)
    except ConfigError:
        return
    order = epochs.draw(np.random.default_rng(seed))
    assert len(order) == len(group_of)
    shares = len(order) * np.array(weights) / sum(weights)
    counts = np.bincount(group_of[order], minlength=len(sizes))
    assert (abs(counts - shares) < 1).all()
    for batch in np.array_split(order, steps):
        assert len(set(batch)) == len(batch)
        assert (abs(np.bincount(group_of[batch], None, len(sizes)) - shares / steps) < 2.5).all()
    for g, size in enumerate(sizes):
        shown = np.bincount(order[group_of[order] == g], minlength=len(group_of))
        shown = shown[group_of == g]
        assert (shown.max() - shown.min() <= 1) or counts[g] % size == 0


@pytest.mark.parametrize("weights", [None, (2, 1)])
def test_a_batch_is_a_function_of_the_step_whatever_the_number_of_processes(mixture, weights):
    loader = make_loader(mixture, weights=weights)
    whole = loader.batch(7)
    again = make_loader(mixture, weights=weights).batch(7)
    assert torch.equal(whole.views, again.views)
    assert whole.views.dtype == torch.float32
    for process in range(2):
        part = make_loader(mixture, weights=weights, process=process, n_processes=2)
        mine = part.part(whole.views.shape[1])
        assert torch.equal(part.batch(7).views, whole.views[:, mine])
        assert torch.equal(part.batch(7).missing, whole.missing[:, mine])
        assert torch.equal(part.whole().batch(7).views, whole.views)
        assert torch.equal(part.batch(8).views, loader.batch(8).views[:, mine])


def test_a_store_of_too_few_people_for_its_share_is_refused(mixture):
    with pytest.raises(ConfigError, match=r"weights.*store number 2, of 7 people.*no person comes"):
        make_loader(mixture, weights=(1, 9), batch_size=17)
    with pytest.raises(ConfigError, match=r"store number 1, of 10 people, 0 of 17 places"):
        make_loader(mixture, weights=(1, 999))


# -- a run -----------------------------------------------------------------------------------------


@pytest.fixture
def mixed_run(tiny_run, store, fast):
    def make(**changes):
        stores = {"store": [str(store.path), str(fast.path)]}
        return tiny_run(data=stores | changes.pop("data", {}), **changes)

    return make


def test_training_on_a_mixture_resumes_exactly_and_records_all_it_saw(
    mixed_run, tmp_path, store, fast
):
    config = mixed_run(data={"weights": [2, 1], "exclude_sites": ["west"]})
    through = Trainer(config, tmp_path / "through")
    through.fit()

    def stop(values):
        if values["step"] == 4:
            os.kill(os.getpid(), signal.SIGINT)

    part = Trainer(config, tmp_path / "part", reporter=stop)
    part.fit()
    assert part.step == 4 < part.n_steps
    Trainer(config, tmp_path / "part", resume=True).fit()
    one, two = (load_pretrained(tmp_path / name) for name in ("through", "part"))
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
    seen = one.pretraining
    kept = store.select((store.table["site"] != "west").to_numpy())
    names = {*kept.table["subject"], *fast.table["subject"]}
    assert seen.subjects == tuple(sorted(map(subject_key, names)))
    assert seen.n_subjects == kept.table["subject"].nunique() + fast.table["subject"].nunique()
    assert seen.n_recordings == len(kept) + len(fast)
    assert seen.sites == ("east", "north", "south")
    assert seen.stores == (
        SeenStore(name="toy", fingerprint=kept.fingerprint, data_sets=("toy",)),
        SeenStore(name="fast", fingerprint=fast.fingerprint, data_sets=("fast",)),
    )
    assert one.preprocessing == store.preprocessing


def test_sites_and_numbers_of_people_go_over_the_mixture(mixed_run):
    few = mixed_run(data={"n_subjects": 5})
    more = mixed_run(data={"n_subjects": 9})
    people = [set(training_recordings(c)[0].table["subject"]) for c in (few, more)]
    assert people[0] < people[1]
    assert list(map(len, people)) == [5, 9]
    kept, _ = training_recordings(mixed_run(data={"exclude_sites": ["toy:east", "south"]}))
    assert set(kept.table["site"]) == {"toy:north", "toy:west", "fast:east"}
    assert SeenData.of(kept).sites == ("east", "north", "west")
    alone, _ = training_recordings(mixed_run(data={"exclude_sites": ["fast:east", "south"]}))
    assert len(alone) == 13
    assert [s.name for s in SeenData.of(alone).stores] == ["toy"]
    make_loader(alone).batch(0)
    with pytest.raises(ConfigError, match="store number 2, of 0 people"):
        make_loader(alone, weights=(1, 1))
    with pytest.raises(ConfigError, match=r"east.*of several stores.*fast:east, toy:east"):
        training_recordings(mixed_run(data={"exclude_sites": ["east"]}))
    with pytest.raises(ConfigError, match=r"sud.*no site of .*toy or .*fast.*fast:south"):
        training_recordings(mixed_run(data={"exclude_sites": ["sud"]}))


def test_the_command_line_mixes_stores(mixed_run, tmp_path, store, fast):
    config = tmp_path / "run.yaml"
    config.write_text(mixed_run(optim__epochs=2).to_yaml())
    run = tmp_path / "run"
    arguments = ["pretrain", str(run), "--config", str(config), "data.weights=[1, 1]"]
    done = CliRunner().invoke(
        app, [*arguments, "--store", str(store.path), "--store", str(fast.path)]
    )
    assert done.exit_code == 0, done.output
    header = next((run / "checkpoints").glob("*/config.json")).read_text()
    assert [s["name"] for s in json.loads(header)["pretraining"]["stores"]] == ["toy", "fast"]
    described = CliRunner().invoke(app, ["info", str(run)])
    assert described.exit_code == 0, described.output
    assert "21 recordings" in described.output
    assert "17 people" in described.output


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": [1]}, "one number for each of the 2 stores"),
        ({"weights": [1, 0]}, "must be positive"),
        ({"store": [""]}, "names no recording store"),
        ({"store": "one", "weights": [1.0]}, "two at least"),
    ],
)
def test_weights_and_stores_that_contradict_are_refused(mixed_run, changes, message):
    with pytest.raises(ConfigError, match=message):
        training_recordings(mixed_run(data=changes))


def test_stores_that_do_not_fit_together_are_refused(
    tmp_path, store, fast, fast_recordings, parcellation
):
    with pytest.raises(InputError, match=r"toy.*another store of this mixture has the same name"):
        StoreMixture([store, RecordingStore(store.path)])
    other = fast_store(tmp_path / "band", fast_recordings, parcellation, high_hz=0.2)
    with pytest.raises(InputError, match=r"band.*preprocessed in another way than the first"):
        StoreMixture([store, other])
    wide = [
        fast_store(tmp_path / f"wide{tr:g}", fast_recordings, parcellation, tr=tr, high_hz=None)
        for tr in (2.0, FAST)
    ]
    with pytest.raises(InputError, match=r"wide0.8.*frequencies above 0.25 Hz"):
        StoreMixture(wide)
    assert len(StoreMixture(wide[:1])) == 8
    with pytest.raises(InputError, match="names are not ROIs of toy11-7"):
        StoreMixture([fast, store])


def renamed(recordings, path, atlas, **changes):
    """Write a store of the same signals in another parcellation."""
    changed = [replace(r, roi_names=atlas.labels) for r in recordings]
    return write_store(path, changed, atlas, Preprocessing(**{"tr": 2.0, **changes}))


def test_parcellations_that_contradict_are_refused(tmp_path, recordings, parcellation, store):
    labels, networks = parcellation.labels, list(parcellation.networks)
    strangers = Parcellation(
        name="other", labels=tuple(f"x{i}" for i in range(11)), networks=tuple(networks)
    )
    with pytest.raises(InputError, match="11 of 11 names are not ROIs of toy11"):
        StoreMixture([store, renamed(recordings, tmp_path / "strange", strangers)])
    swapped = [{"Vis": "Limbic", "Limbic": "Vis"}.get(n, n) for n in networks]
    other = Parcellation(name="swapped", labels=labels, networks=tuple(swapped))
    with pytest.raises(InputError, match=r"ROI \S+ belongs to \w+ here and to \w+ in toy11"):
        StoreMixture([store, renamed(recordings, tmp_path / "swapped", other)])
    part = parcellation.select(labels[1:])
    cut = [replace(r, signal=r.signal[:, 1:]) for r in recordings]
    with pytest.raises(InputError, match=r"has \d of the \d ROIs of the network .*, or absent"):
        StoreMixture([store, renamed(cut, tmp_path / "part", part)])
    here, there = np.full((2, 11, 3), 4.0)
    there[3] += 9
    two = [
        renamed(recordings, tmp_path / name, replace(parcellation, coordinates=c, space="MNI"))
        for name, c in (("here", here), ("there", there))
    ]
    with pytest.raises(InputError, match=rf"ROI {labels[3]} lies 16 mm from that of toy11"):
        StoreMixture(two)


def test_editions_of_an_atlas_that_share_names_are_refused(tmp_path):
    rng = np.random.default_rng(0)

    def made(name):
        atlas = Parcellation.load(name)
        signal = rng.standard_normal((41, len(atlas)))
        one = Recording(signal=signal, roi_names=atlas.labels, tr=2.0, subject="a")
        return write_store(tmp_path / name, [one], atlas, Preprocessing(low_hz=None, high_hz=None))

    paper, cortex, coarse = map(made, ("semantoks457", "schaefer400", "schaefer100"))
    mixture = StoreMixture([paper, cortex])
    assert [len(m) for m in mixture.table["missing_rois"]] == [0, 57]
    with pytest.raises(InputError, match=r"schaefer100.*ROIs of the network"):
        StoreMixture([paper, coarse])
