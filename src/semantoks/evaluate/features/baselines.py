"""Baselines: the models without pretraining that results are compared with, in one table.

The table imports nothing heavy, so that the command line can name and describe its entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pkgutil import resolve_name
from typing import Any

from semantoks.errors import InputError, nearest


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A way to describe recordings without a pretrained model.

    Parameters
    ----------
    option : str
        Its name on the command line: no spaces.
    help : str
        What it is, in one line.
    methods : str
        What it is, as the methods paragraph lists it.
    detail : str
        What the methods paragraph adds in parentheses.
    reference : str
        Authors and year, for the methods paragraph.
    make : callable
        Returns the transformer, unfitted.
    """

    option: str
    help: str
    methods: str
    detail: str = ""
    reference: str = ""
    make: Callable[[], Any]

    def sentence(self) -> str:
        """Return the entry in a list of the methods paragraph."""
        inside = "; ".join(text for text in (self.detail, self.reference) if text)
        return f"{self.methods} ({inside})" if inside else self.methods


def _late(path: str, *arguments: Any) -> Any:
    """Make an estimator of this folder, importing its module only now."""
    return resolve_name(f"semantoks.evaluate.features.{path}")(*arguments)


#: Exponents of the correlation matrix that inner folds choose from; 1 leaves it as it is.
EXPONENTS = (0.35, 0.5, 0.7, 1.0)
#: The baselines by the names under which results show them. The name "connectivity" is fixed: every
#: model is compared with it.
BASELINES: dict[str, Baseline] = {
    "connectivity": Baseline(
        option="fc",
        help="Fisher-z transformed Pearson correlations of all pairs of ROIs.",
        methods="functional connectivity",
        detail="Fisher-z transformed Pearson correlations of all pairs of regions",
        reference="Biswal et al., 1995",
        make=partial(_late, "connectivity:ConnectivityBaseline"),
    ),
    "shrunk connectivity": Baseline(
        option="shrunk-fc",
        help="Correlations after Ledoit-Wolf shrinkage.",
        methods="connectivity after Ledoit-Wolf shrinkage",
        reference="Ledoit and Wolf, 2004",
        make=partial(_late, "connectivity:ConnectivityBaseline", "ledoit-wolf"),
    ),
    "partial correlation": Baseline(
        option="partial",
        help="Partial correlations after Ledoit-Wolf shrinkage.",
        methods="partial correlations after Ledoit-Wolf shrinkage",
        reference="Varoquaux et al., 2010",
        make=partial(_late, "connectivity:ConnectivityBaseline", "partial"),
    ),
    "spectral connectivity": Baseline(
        option="spectral-fc",
        help="Square root of the correlation matrix, by its eigenvalues.",
        methods="spectral connectivity",
        detail="square root of the correlation matrix",
        reference="Li et al., 2017",
        make=partial(_late, "spectral_connectivity:SpectralConnectivityBaseline"),
    ),
    "tuned spectral connectivity": Baseline(
        option="spectral-tuned",
        help="A power of the correlation matrix, chosen in the inner folds of every fold.",
        methods="spectral connectivity, its exponent chosen in inner folds",
        detail="0.35, 0.5, 0.7 or 1",
        reference="Li et al., 2017",
        make=partial(
            _late, "spectral_connectivity:SpectralConnectivityBaseline", "power", EXPONENTS
        ),
    ),
    "tangent space": Baseline(
        option="tangent",
        help="Covariances in the tangent space at the training part's mean.",
        methods="tangent-space connectivity",
        detail="reference fitted in the training part",
        reference="Varoquaux et al., 2010",
        make=partial(_late, "tangent:TangentBaseline"),
    ),
    "augmented covariance": Baseline(
        option="lags",
        help="Tangent space of covariances of signals and their delayed copies.",
        methods="augmented covariances",
        detail="time lags; reference fitted in the training part",
        reference="Carrara and Papadopoulo, 2024",
        make=partial(_late, "tangent:AugmentedCovarianceBaseline"),
    ),
    "network amplitude": Baseline(
        option="amplitude",
        help="Amplitude of the mean signal of every network.",
        methods="the amplitude of fluctuations of network means",
        make=partial(_late, "spectral:AmplitudeBaseline"),
    ),
    "spectrum": Baseline(
        option="spectrum",
        help="Relative amplitude of every ROI in frequency bands (fALFF).",
        methods="the relative amplitude of fluctuations in frequency bands",
        reference="Zou et al., 2008",
        make=partial(_late, "spectral:SpectralBaseline"),
    ),
    "confounds": Baseline(
        option="confounds",
        help="Age, sex, site, motion and TR alone, without any signal.",
        methods="confounds alone",
        detail="age, sex, site, motion and TR as far as known, without the target",
        make=partial(_late, "covariates:ConfoundsBaseline"),
    ),
}


def baseline_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return baselines, given by their names or their command-line names, each once and in order.

    Raises
    ------
    InputError
        If there is no such baseline.
    """
    full = {baseline.option: name for name, baseline in BASELINES.items()}
    full |= {name: name for name in BASELINES}
    for name in names:
        if name not in full:
            rule = "is not a baseline"
            raise InputError(rule, field="baselines", value=name, fix=nearest(name, full))
    return tuple(dict.fromkeys(full[name] for name in names))


def make_baselines(names: Sequence[str]) -> dict[str, Any]:
    """Return the baselines of these names, unfitted.

    Raises
    ------
    InputError
        If there is no such baseline.
    """
    return {name: BASELINES[name].make() for name in baseline_names(names)}
