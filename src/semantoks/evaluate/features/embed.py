"""`Embedder`: recordings to embeddings, as a scikit-learn transformer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from semantoks.errors import InputError
from semantoks.evaluate.features.crops import even_crops, sources
from semantoks.evaluate.features.inputs import Signals
from semantoks.evaluate.features.transformer import SignalTransformer, pair_names
from semantoks.model.encoder import Encoder
from semantoks.model.engines import EngineName, Precision, fastest_engine, make_engine
from semantoks.model.pretrained import DEFAULT_MODEL, load_pretrained
from semantoks.model.readout import CLS_AVG, check_parts, default_parts, part_sizes


class Embedder(SignalTransformer):
    """Embed recordings with a frozen encoder.

    A recording becomes evenly spaced crops, each of the length of a view; their embeddings are
    averaged. A second-order model ("connectome") reads the whole recording at once instead. Every
    recording is encoded on its own, so that no batch-mate can change its result.

    Parameters
    ----------
    model : path, str or Encoder
        Run, checkpoint or model folder (its teacher), or an encoder, which is never changed; by
        default the model that comes with the package, a second-order model of CC200 signals
        ("connectome-base").
    tr : float, optional
        TR of signals given as arrays, seconds; a store states its own.
    n_crops : int
        Evenly spaced crops per recording (paper, evaluation protocol: 8).
    parts : sequence of str, optional
        Parts of the embedding, side by side in this order: "mean" (over tokens) and "cls" of D
        numbers each, "tokens" of N P D, and of a second-order model "spectral", its input, of
        C (C + 1) / 2. By default mean and cls; of a second-order model spectral and tokens. See
        `semantoks.model.readout`.
    device : str
        Device of the encoder.
    engine : {"torch", "onnx", "openvino", "auto"}
        What runs the encoder, see `semantoks.model.engines`. "auto" measures the installed ones
        once, if there is enough to do, and takes the fastest; which one that is may differ from
        machine to machine, and with it the last digits.
    precision : {"float32", "low"}
        Arithmetic. Low is bfloat16, or int8 products in ONNX Runtime and OpenVINO: several times
        faster, with a cosine of about 0.9999 to float32.

    Attributes
    ----------
    encoder_ : Encoder
    engine_ : str
        The engine in use.
    parts_ : tuple of str
        Parts of the embedding.
    n_features_in_ : int
        Number of ROIs of the encoder.

    See Also
    --------
    ConnectivityBaseline : The control of every model.
    LinearProbe : Predicts from embeddings.

    Examples
    --------
    >>> import numpy as np
    >>> from semantoks import Embedder
    >>> signals = [np.random.default_rng(i).standard_normal((120, 200)) for i in range(2)]
    >>> Embedder(tr=2.0, parts=("mean", "cls")).fit_transform(signals).shape
    (2, 512)
    """

    stateless: ClassVar[bool] = True  # every recording is encoded on its own

    def __init__(
        self,
        model: str | Path | Encoder = DEFAULT_MODEL,
        *,
        tr: float | None = None,
        n_crops: int = 8,
        parts: Sequence[str] | None = None,
        device: str = "cpu",
        engine: EngineName | Literal["auto"] = "torch",
        precision: Precision = "float32",
    ) -> None:
        self.model = model
        self.tr = tr
        self.n_crops = n_crops
        self.parts = parts
        self.device = device
        self.engine = engine
        self.precision = precision

    def fit(self, X: Signals, y: object = None) -> Self:  # noqa: ARG002 - scikit-learn's contract
        """Load the encoder and build its engine; nothing is learned from `X`.

        Raises
        ------
        InputError
            If a parameter is illegal, or the engine's packages are not installed.
        CheckpointError
            If the model cannot be loaded.
        """
        if self.n_crops < 1:
            raise InputError("must be at least 1", field="n_crops", value=self.n_crops)
        for name, known in (
            ("engine", (*get_args(EngineName), "auto")),
            ("precision", get_args(Precision)),
        ):
            if getattr(self, name) not in known:
                rule = f"must be one of {', '.join(known)}"
                raise InputError(rule, field=name, value=getattr(self, name))
        encoder = self.model if isinstance(self.model, Encoder) else load_pretrained(self.model)
        self.encoder_ = _for_inference(encoder, self.device)
        self.parts_ = default_parts(self.encoder_) if self.parts is None else tuple(self.parts)
        check_parts(self.encoder_, self.parts if self.parts is not None else self.parts_)
        self.n_features_in_ = len(self.encoder_.channels)
        settings = (self.encoder_, self.n_crops, self.precision, self.device)
        self.engine_: EngineName
        if self.engine == "auto":
            self.engine_, self._run = fastest_engine(
                *settings, n_recordings=len(X), parts=self.parts_
            )
        else:
            self.engine_ = self.engine
            self._run = make_engine(self.engine, *settings, self.parts_)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the built engine, which no pickle can hold; it is built again on first use."""
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_run"}

    def transform(self, X: Signals) -> NDArray[np.float32]:
        """Embed.

        Parameters
        ----------
        X : RecordingStore, list of arrays (n_times, n_rois), or array (n, n_times, n_rois)
            ROIs of arrays in the order of the encoder's parcellation; arrays are detrended,
            filtered, resampled and z-scored as the encoder's training data were. A store is
            reordered by name, and must have been preprocessed in that way.

        Returns
        -------
        ndarray of float32, shape (n_recordings, sum of the sizes of the parts)

        Raises
        ------
        InputError
            If the ROIs, the TR or the preprocessing do not fit, a signal holds NaN, or a
            recording is shorter than one patch.
        """
        return np.stack([crops.mean(axis=0) for crops in self.crop_features(X)])

    def crop_features(self, X: Signals) -> list[NDArray[np.float32]]:
        """Embed every crop on its own.

        Parameters
        ----------
        X : as in `transform`

        Returns
        -------
        list of ndarray of float32, shape (n_crops, sum of the sizes of the parts)
            One per recording; a recording with no room for `n_crops` has fewer.
        """
        check_is_fitted(self)
        if not hasattr(self, "_run"):
            settings = (self.n_crops, self.precision, self.device, self.parts_)
            self._run = make_engine(self.engine_, self.encoder_, *settings)
        encoder = self.encoder_
        each = (even_crops(encoder, one, self.n_crops) for one in sources(encoder, X, self.tr))
        return list(self._run(each))

    def _output_names(self, rois: list[str]) -> list[str]:  # noqa: ARG002 - the encoder's
        sizes = part_sizes(self.encoder_)
        if self.parts_ == CLS_AVG:
            return [f"e{i:04d}" for i in range(2 * sizes["cls"])]
        names = {part: [f"{part}{i:04d}" for i in range(sizes[part])] for part in self.parts_}
        if "spectral" in names:
            names["spectral"] = pair_names(self.encoder_.channels.labels, diagonal=True)
        return [name for part in self.parts_ for name in names[part]]


def _for_inference(encoder: Encoder, device: str) -> Encoder:
    """Return the encoder itself if it is on the device and evaluates, else a copy that does."""
    here = encoder.cls_token.device == torch.empty(0, device=device).device
    return encoder if here and not encoder.training else copy.deepcopy(encoder).eval().to(device)
