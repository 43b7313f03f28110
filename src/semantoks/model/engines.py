"""Inference engines: PyTorch, ONNX Runtime or OpenVINO, in float32 or lower precision.

An engine maps the crops of recordings to their embeddings, every recording on its own, so that no
other can change a result. PyTorch is always there; the others are extras, ``pip install
"semantoks[onnx]"`` and ``pip install "semantoks[openvino]"``: they keep every core busy with a
recording of its own, which wastes less than all cores on one.
"""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from itertools import starmap
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from semantoks.errors import InputError
from semantoks.model.encoder import Encoder, mean_of
from semantoks.model.readout import CLS_AVG, check_parts, read_parts

EngineName = Literal["torch", "onnx", "openvino"]
Precision = Literal["float32", "low"]
#: A recording's crops and what is missing in them: (K, C, T) float32, (K, N, P) bool, on the CPU
Crops = tuple[Tensor, Tensor]
#: Maps recordings to their embeddings in order, float32 (K, 2 D) each unless parts are chosen
Engine = Callable[[Iterable[Crops]], Iterator[NDArray[np.float32]]]
_One = Callable[[Tensor, Tensor], NDArray[np.float32]]

#: A lower precision is used by "auto" only if a recording's embedding keeps this cosine to float32.
SMALLEST_COSINE = 0.9999
_WORTH_BUILDING = 60.0  # seconds of work with PyTorch
_INT8_FROM = 512  # inputs and outputs
_GELU_MIN = -0.17  # rounded down: GELU is nowhere lower
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}


def make_engine(
    name: EngineName,
    encoder: Encoder,
    n_crops: int,
    precision: Precision,
    device: str,
    parts: Sequence[str] = CLS_AVG,
) -> Engine:
    """Build an engine.

    Parameters
    ----------
    name : {"torch", "onnx", "openvino"}
    encoder : Encoder
        In evaluation mode, on `device`.
    n_crops : int
        Crops per recording, at most.
    precision : {"float32", "low"}
        Low is bfloat16 in PyTorch, int8 products in ONNX Runtime, and in OpenVINO bfloat16 with
        int8 products where they are large and the processor has no matrix unit (AMX).
    device : str
        ONNX Runtime and OpenVINO run on the CPU.
    parts : sequence of str
        Parts of the embedding, see `semantoks.model.readout`; other parts than the default, and
        models that read whole recordings, run in PyTorch in float32.

    Raises
    ------
    InputError
        If the engine's packages are not installed, or it does not run on the device or this model.
    """
    check_parts(encoder, parts)
    plain = encoder.tokenizer.whole or tuple(parts) != CLS_AVG
    if plain and (name != "torch" or precision != "float32"):
        raise InputError(
            "cannot embed whole recordings or other parts than mean and cls",
            field="engine, precision",
            value=(name, precision),
            fix="Use torch in float32",
        )
    if name == "torch":
        return partial(starmap, _torch(encoder, precision, device, parts))
    if torch.device(device).type != "cpu":
        raise InputError("runs on the CPU only", field="engine", value=name, fix="Use torch")
    if not _installed(name):
        raise InputError(
            f"needs the packages {', '.join(_PACKAGES[name])}",
            field="engine",
            value=name,
            fix=f'Install them with `pip install "semantoks[{name}]"`, or use torch',
        )
    build = _onnx if name == "onnx" else _openvino
    return partial(_side_by_side, _whole_batches(build(encoder, n_crops, precision), n_crops))


def fastest_engine(
    encoder: Encoder,
    n_crops: int,
    precision: Precision,
    device: str,
    n_recordings: int,
    parts: Sequence[str] = CLS_AVG,
) -> tuple[EngineName, Engine]:
    """Measure every installed engine once on white noise and return the fastest.

    PyTorch does small jobs, for which nothing is worth building, and what only it can. An engine
    whose embedding of a recording has a cosine below `SMALLEST_COSINE` to that in float32 is
    excluded.
    """
    plain = make_engine("torch", encoder, n_crops, precision, device, parts)
    if encoder.tokenizer.whole or tuple(parts) != CLS_AVG:
        return "torch", plain
    shape = (n_crops, len(encoder.channels), encoder.config.view_length)
    views = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    missing = torch.zeros(n_crops, encoder.n_networks, encoder.config.n_patches, dtype=torch.bool)
    seconds, _ = _timed(plain, (views, missing))
    if torch.device(device).type != "cpu" or seconds * n_recordings < _WORTH_BUILDING:
        return "torch", plain
    expected = next(make_engine("torch", encoder, n_crops, "float32", device)([(views, missing)]))
    best: tuple[float, EngineName, Engine] = (seconds, "torch", plain)
    others: tuple[EngineName, ...] = ("onnx", "openvino")
    for name in others:
        if _installed(name):
            engine = make_engine(name, encoder, n_crops, precision, device)
            seconds, found = _timed(engine, (views, missing))
            if cosine(found.mean(axis=0), expected.mean(axis=0)) >= SMALLEST_COSINE:
                best = min(best, (seconds, name, engine), key=lambda one: one[0])
    return best[1], best[2]


def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return the cosine similarity of two vectors, computed in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def _timed(engine: Engine, crops: Crops) -> tuple[float, NDArray[np.float32]]:
    """Return the shortest time per recording of three runs after a first one, and what comes out.

    Every run has a recording for each core.
    """
    many = [crops] * torch.get_num_threads()
    out, *_ = engine(many)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        deque(engine(many), maxlen=0)
        seconds.append(time.perf_counter() - start)
    return min(seconds) / len(many), out


def _installed(name: str) -> bool:
    return all(find_spec(package) is not None for package in _PACKAGES[name])


def _torch(
    encoder: Encoder, precision: Precision, device: str, parts: Sequence[str] = CLS_AVG
) -> _One:
    dtype = torch.float32
    if precision == "low":
        dtype = torch.bfloat16
        encoder = copy.deepcopy(encoder).to(dtype)

    @torch.inference_mode()
    def run(views: Tensor, missing: Tensor) -> NDArray[np.float32]:
        mask = missing.to(device) if missing.any() else None
        found = read_parts(encoder, views.to(device, dtype), mask, parts)
        values: NDArray[np.float32] = found.float().cpu().numpy()
        return values

    return run


class _Exported(nn.Module):
    """The encoder as one function of two tensors, without anything that depends on their values."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.tokenizer = encoder.tokenizer.folded()

    def forward(self, views: Tensor, missing: Tensor) -> Tensor:
        encoder = self.encoder
        sequence = encoder.assemble(self.tokenizer(views), missing)
        seen = encoder.seen(sequence)
        for block in encoder.blocks:
            sequence = block(sequence, None, seen)
        sequence = encoder.norm(sequence)
        mean = mean_of(sequence[:, 1:], encoder.left_out(missing))
        return torch.cat([mean, sequence[:, 0]], dim=-1)


def _examples(encoder: Encoder, n_crops: int) -> tuple[Tensor, Tensor]:
    config = encoder.config
    return (
        torch.zeros(n_crops, len(encoder.channels), config.view_length),
        torch.zeros(n_crops, encoder.n_networks, config.n_patches, dtype=torch.bool),
    )


def _side_by_side(run: _One, many: Iterable[Crops]) -> Iterator[NDArray[np.float32]]:
    """Yield what `run` makes of every recording, in their order, one recording per core at once."""
    n_threads = torch.get_num_threads()
    waiting: deque[Future[NDArray[np.float32]]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        for crops in many:
            waiting.append(pool.submit(run, *crops))
            if len(waiting) > n_threads:  # one more is ready for the first core that is free
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _whole_batches(run: _One, n_crops: int) -> _One:
    """Fill up a recording with fewer crops, since a built engine takes `n_crops` of them."""

    def padded(views: Tensor, missing: Tensor) -> NDArray[np.float32]:
        k = len(views)
        if k < n_crops:
            places = torch.arange(n_crops) % k
            views, missing = views[places], missing[places]
        return run(views, missing)[:k]

    return padded


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' own messages and warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _onnx(encoder: Encoder, n_crops: int, precision: Precision) -> _One:
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory() as folder, _quiet(), torch.no_grad():
        file = Path(folder) / "encoder.onnx"
        torch.onnx.export(
            _Exported(encoder).eval(),
            _examples(encoder, n_crops),
            file,
            dynamo=True,
            input_names=["views", "missing"],
            output_names=["embedding"],
            verbose=False,
        )
        if precision == "low":
            small = Path(folder) / "int8.onnx"
            quantize_dynamic(
                file,
                small,
                weight_type=QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=["MatMul", "Gemm"],
            )
            file = small
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(views: Tensor, missing: Tensor) -> NDArray[np.float32]:
        inputs = {"views": views.numpy(), "missing": missing.numpy()}
        return np.asarray(session.run(None, inputs)[0], np.float32)

    return run


def _openvino(encoder: Encoder, n_crops: int, precision: Precision) -> _One:
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with _quiet(), torch.no_grad():
        # What `openvino.convert_model` does, which would report the use of it to its makers.
        traced = TorchScriptPythonDecoder(
            _Exported(encoder).eval(), example_input=_examples(encoder, n_crops)
        )
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(traced))
        shapes = [list(example.shape) for example in _examples(encoder, n_crops)]
        model.reshape({i: openvino.PartialShape(shape) for i, shape in enumerate(shapes)})
    n_threads = torch.get_num_threads()
    options: dict[str, Any] = {"NUM_STREAMS": n_threads, "INFERENCE_NUM_THREADS": n_threads}
    if precision == "float32":  # the default is what the processor does best
        options["INFERENCE_PRECISION_HINT"] = "f32"
    elif not torch.cpu._is_amx_tile_supported():
        _int8_products(model)
    compiled = _openvino_core().compile_model(model, "CPU", options)
    free: SimpleQueue[Any] = SimpleQueue()
    for _ in range(n_threads):
        free.put(compiled.create_infer_request())

    def run(views: Tensor, missing: Tensor) -> NDArray[np.float32]:
        request = free.get()
        try:
            return np.array(request.infer([views.numpy(), missing.numpy()])[0], np.float32)
        finally:
            free.put(request)

    return run


@cache
def _openvino_core() -> Any:
    """Return this process's only core, which is kept.

    Each core sets a stack for signals and removes it when it is deleted: with several cores,
    the next Ctrl-C could kill the process.
    """
    import openvino

    return openvino.Core()


def _int8_products(model: Any) -> None:
    """Compute an OpenVINO model's large products in int8: a scale per output, and one per row.

    A row is scaled by its own largest value while the model runs: nothing is clipped, and no other
    crop changes a result. Small products lose more precision by it than they gain time.
    """
    from openvino import opset13 as op

    def constant(value: Any) -> Any:
        return op.constant(np.asarray(value, np.float32))

    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        tokens, weights = node.input_value(0), node.input_value(1).get_node()
        if len(tokens.get_partial_shape()) != 3 or weights.get_type_name() != "Constant":
            continue
        values, how = np.asarray(weights.get_data(), np.float32), node.get_attributes()
        values = values if how["transpose_b"] else values.T
        if min(values.shape) < _INT8_FROM:
            continue
        highest = np.abs(values).max(axis=1, keepdims=True)
        scale = np.where(highest > 0, highest / 127, 1.0)
        small = op.convert(op.constant(np.rint(values / scale).astype(np.int8)), "f32")
        row_axis = op.constant(np.array([-1]))
        if tokens.get_node().get_type_name() == "Gelu":
            row = op.maximum(op.reduce_max(tokens, row_axis, keep_dims=True), constant(-_GELU_MIN))
            # OpenVINO leaves in float32 all that reaches the output without a product in between:
            # the residual stream, and through this scale the MLP as well, were it not a product.
            # Above 1, so that bfloat16 does not round the scale below the largest value.
            row = op.matmul(row, constant([[1 + 2**-7]]), False, False)
        else:
            largest = op.reduce_max(op.abs(tokens), row_axis, keep_dims=True)
            row = op.maximum(largest, constant(1e-30))
        ends = constant(-1.0), constant(1.0)
        rounded = op.fake_quantize(op.divide(tokens, row), *ends, *ends, levels=255)
        product = op.matmul(rounded, op.multiply(small, constant(scale)), False, True)
        restored = op.multiply(product, row)
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(restored.output(0))
