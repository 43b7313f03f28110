"""Engines of the `Embedder`: the same embeddings, one recording at a time."""

from __future__ import annotations

import gc
import os
import pickle
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from semantoks import Embedder
from semantoks.errors import InputError
from semantoks.model import engines
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.tokenizers.branches import DenseBranch, SeparableBranch


@pytest.fixture(scope="module")
def encoder(parcellation, preprocessing) -> Encoder:
    config = EncoderConfig(width=32, depth=2, head_width=8, patch_length=6, n_patches=4)
    return Encoder.random(config, parcellation, preprocessing, seed=1).eval()


@pytest.fixture(scope="module")
def signals() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    # The second one is shorter than a view: one crop, its last patch masked.
    return [rng.standard_normal((n, 11)).cumsum(axis=0) for n in (61, 19, 47)]


def available(name: str) -> str:
    for package in engines._PACKAGES.get(name, ()):
        pytest.importorskip(package)
    return name


ENGINES = pytest.mark.parametrize("name", ["torch", "onnx", "openvino"])


@ENGINES
@pytest.mark.parametrize(("precision", "distance"), [("float32", 1e-9), ("low", 1e-3)])
def test_every_engine_gives_the_same_embeddings_alone_or_together(
    encoder, signals, name, precision, distance
):
    options = {"tr": 2.0, "n_crops": 3}
    expected = Embedder(encoder, **options).fit_transform(signals)
    embedder = Embedder(encoder, engine=available(name), precision=precision, **options)
    found = embedder.fit_transform(signals)
    assert embedder.engine_ == name
    assert found.shape == expected.shape == (3, 64)
    for a, b in zip(found, expected, strict=True):
        assert 1 - engines.cosine(a, b) < distance
    assert np.array_equal(found, expected) == ((name, precision) == ("torch", "float32"))
    for i in (2, 0, 1):
        np.testing.assert_array_equal(embedder.transform([signals[i]])[0], found[i])


def test_signals_find_their_stack_after_engines_have_come_and_gone(encoder):
    available("openvino")
    asked = []
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    made = [engines.make_engine("openvino", encoder, 3, "float32", "cpu") for _ in range(2)]
    while made:  # the first one first
        made.pop(0)
        gc.collect()
    os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)
    assert asked == [signal.SIGTERM]


def test_int8_products_are_close_and_every_crop_is_alone(encoder, monkeypatch):
    available("openvino")
    views = torch.randn(5, 11, 24, generator=torch.Generator().manual_seed(2))
    missing = torch.zeros(5, encoder.n_networks, 4, dtype=torch.bool)

    def engine(precision):
        run = engines.make_engine("openvino", encoder, 5, precision, "cpu")
        return lambda *crops: next(run([crops]))

    exact, bfloat16 = engine("float32")(views, missing), engine("low")(views, missing)
    monkeypatch.setattr(engines, "_INT8_FROM", 8)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    low = engine("low")
    found = low(views, missing)
    assert not np.array_equal(found, bfloat16), "other arithmetic"
    for one, expected in zip(found, exact, strict=True):
        assert 0 < 1 - engines.cosine(one, expected) < 1e-3
    others = views.flip(0) * 100
    others[2] = views[2]
    np.testing.assert_array_equal(low(others, missing)[2], found[2])


@ENGINES
def test_recordings_come_out_in_their_order_and_are_read_as_they_are_needed(encoder, name):
    views = torch.randn(9, 2, 11, 24, generator=torch.Generator().manual_seed(5))
    missing = torch.zeros(2, encoder.n_networks, 4, dtype=torch.bool)
    run = engines.make_engine(available(name), encoder, 2, "float32", "cpu")
    alone = [next(run([(one, missing)])) for one in views]
    read = []

    def recordings():
        for i, one in enumerate(views):
            read.append(i)
            yield one, missing

    found = run(recordings())
    np.testing.assert_array_equal(next(found), alone[0])
    assert len(read) <= torch.get_num_threads() + 1
    np.testing.assert_array_equal(list(found), alone[1:])

    def broken():
        yield from list(recordings())[:3]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(run(broken()))
    with pytest.raises(Exception, match=r"11 ROIs|Expected: 11|get_shape"):
        list(run([(views[0][:, :3], missing)]))
    np.testing.assert_array_equal(list(run(recordings())), alone, "and it still works")


@pytest.mark.parametrize("name", ["onnx", "openvino"])
@pytest.mark.parametrize(
    "changes",
    [
        {"granularity": "rois"},
        {"granularity": "one", "pooling": "max"},
        {
            "pooling": "attention",
            "branches": (
                SeparableBranch(kernel_length=4),
                DenseBranch(kernel_length=5, dilation=2),
            ),
        },
    ],
)
def test_every_tokenizer_can_be_exported(encoder, name, changes):
    config = replace(encoder.config, **changes)
    other = Encoder.random(config, encoder.channels, encoder.preprocessing, seed=4).eval()
    views = torch.randn(3, 11, 24, generator=torch.Generator().manual_seed(6))
    missing = torch.zeros(3, other.n_networks, 4, dtype=torch.bool)
    missing[1, 0, 2:] = True
    for precision, distance in (("float32", 1e-9), ("low", 1e-3)):
        run = engines.make_engine(available(name), other, 3, precision, "cpu")
        expected = next(
            engines.make_engine("torch", other, 3, "float32", "cpu")([(views, missing)])
        )
        for found, crop in zip(next(run([(views, missing)])), expected, strict=True):
            assert 1 - engines.cosine(found, crop) < distance


def test_building_engines_leaves_the_encoder_as_it_was(encoder, signals):
    expected = Embedder(encoder, tr=2.0, n_crops=3).fit_transform(signals)
    for name in ("onnx", "openvino"):
        Embedder(encoder, tr=2.0, n_crops=3, engine=available(name)).fit_transform(signals)
        found = Embedder(encoder, tr=2.0, n_crops=3).fit_transform(signals)
        np.testing.assert_array_equal(found, expected)


def test_an_engine_is_built_again_after_a_pickle(encoder, signals):
    embedder = Embedder(encoder, tr=2.0, n_crops=3, precision="low").fit(signals)
    again = pickle.loads(pickle.dumps(embedder))
    np.testing.assert_array_equal(again.transform(signals), embedder.transform(signals))


def test_the_cls_token_is_the_second_half(encoder, signals):
    whole = Embedder(encoder, tr=2.0, n_crops=3).fit_transform(signals)
    cls = Embedder(encoder, tr=2.0, n_crops=3, parts=("cls",)).fit_transform(signals)
    np.testing.assert_array_equal(cls, whole[:, 32:])


def test_auto_takes_the_fastest_that_is_close_enough(encoder, monkeypatch):
    shape = (3, 64)
    rng = np.random.default_rng(0)
    exact = rng.standard_normal(shape).astype(np.float32)
    outputs = {"torch": exact, "onnx": exact + 1e-4, "openvino": exact + 1.0}
    seconds = {"torch": 3.0, "onnx": 2.0, "openvino": 1.0}
    monkeypatch.setattr(engines, "_installed", lambda _: True)
    monkeypatch.setattr(engines, "make_engine", lambda name, *_: lambda _: iter([outputs[name]]))
    monkeypatch.setattr(
        engines,
        "_timed",
        lambda engine, _: next(
            (seconds[n], o) for n, o in outputs.items() if next(engine([])) is o
        ),
    )

    def choice(n: int) -> str:
        return engines.fastest_engine(encoder, 3, "low", "cpu", n)[0]

    assert choice(19) == "torch", "57 s of work: nothing is built"
    assert choice(20) == "onnx", "OpenVINO is faster but too far from float32"
    monkeypatch.setitem(outputs, "openvino", exact)
    monkeypatch.setattr(engines, "_installed", lambda name: name != "onnx")
    monkeypatch.setitem(outputs, "openvino", exact + 1e-5)
    assert choice(20) == "openvino"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "tpu"}, "engine = 'tpu': must be one of torch, onnx, openvino, auto"),
        ({"precision": "int4"}, "must be one of float32, low"),
        ({"engine": "onnx", "device": "meta"}, "runs on the CPU only"),
    ],
)
def test_what_cannot_be_is_refused(encoder, signals, options, message, monkeypatch):
    monkeypatch.setattr(Encoder, "to", lambda self, _: self)
    with pytest.raises(InputError, match=message):
        Embedder(encoder, tr=2.0, **options).fit(signals)


def test_a_missing_package_is_named(encoder, signals, monkeypatch):
    monkeypatch.setattr(engines, "_installed", lambda _: False)
    with pytest.raises(InputError, match=r"needs the packages onnx, .*semantoks\[onnx\]"):
        Embedder(encoder, tr=2.0, engine="onnx").fit(signals)
    chosen = Embedder(encoder, tr=2.0, engine="auto", n_crops=3).fit(signals)
    assert chosen.engine_ == "torch"


def test_no_engine_reports_its_use_to_anybody(encoder, signals, monkeypatch):
    telemetry = pytest.importorskip("openvino_telemetry")
    available("openvino")

    def reported(*_, **__):
        raise AssertionError("telemetry")

    monkeypatch.setattr(telemetry.Telemetry, "init", reported)
    Embedder(encoder, tr=2.0, n_crops=3, engine="openvino").fit_transform(signals)
