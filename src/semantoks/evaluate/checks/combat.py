"""`ComBat`: features without the shift and the scale of their site, learned in the fold."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from semantoks.arrays import Array
from semantoks.errors import InputError
from semantoks.evaluate.checks.confounds import Coding, as_frame
from semantoks.evaluate.predictors.base import FLOATS

_CHANGE = 1e-8  # of the empirical Bayes estimates between the last two rounds
_ROUNDS = 1000


class ComBat(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Remove the shift and the scale that a batch (site, scanner) gives to every feature.

    Location and scale of every batch and feature are shrunk towards the batch's own mean over
    features by parametric empirical Bayes. Source: Johnson, Li and Rabinovic 2007, Biostatistics
    8:118, section 3; equal to ``neuroCombat`` on the rows fitted on, except that the iteration runs
    until it stands still.

    Parameters
    ----------
    unseen : {"refuse", "keep", "adapt"}
        What happens to rows of a batch without a row in the training part, as every left-out site
        is. "keep": they stay as they are, since nothing is known of their batch. "adapt": location
        and scale are estimated from the rows that `transform` is given, all of them together and
        without any label; a score then holds where several people of the new site come at once.

    Attributes
    ----------
    batches_ : ndarray of str
        Batches of the training part, sorted.
    grand_mean_, pooled_std_ : ndarray of shape (n_features,)
        Mean over batches weighted by their size; residual standard deviation within batches.
    coef_ : ndarray of shape (n_covariate_columns, n_features)
    gamma_, delta_ : ndarray of shape (n_batches, n_features)
        Shift and variance of every batch, of standardised features.

    Notes
    -----
    Covariates are kept: what they explain is neither removed nor attributed to batches. Never
    give the target as a covariate; the test part would be told its own answer.
    """

    def __init__(self, *, unseen: Literal["refuse", "keep", "adapt"] = "refuse") -> None:
        self.unseen = unseen

    def fit(
        self,
        X: ArrayLike,
        y: object = None,  # noqa: ARG002 - scikit-learn's contract
        *,
        batch: ArrayLike,
        covariates: pd.DataFrame | ArrayLike | None = None,
    ) -> Self:
        """Estimate the effects of the batches.

        Parameters
        ----------
        X : array of shape (n, n_features)
            At least 2 features.
        batch : array of shape (n,)
            Site or scanner of every row.
        covariates : DataFrame or array of shape (n, n_columns), optional
            What to keep: numbers as they are, text and truth values as categories.

        Raises
        ------
        InputError
            A batch has one row only, there is one feature, values are missing, or the covariates
            cannot be told from the batches.
        """
        if self.unseen not in ("refuse", "keep", "adapt"):
            raise InputError("must be refuse, keep or adapt", field="unseen", value=self.unseen)
        X = np.asarray(validate_data(self, X, dtype=np.float64, ensure_min_samples=2))
        labels = _batches(batch, len(X))
        self.batches_, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
        _check_batches(self.batches_, counts, X.shape[1])
        self.coding_ = Coding.learn(_covariates(covariates, len(X)), "covariates")
        kept = self.coding_.apply(_covariates(covariates, len(X)), "covariates")
        member = (codes[:, None] == np.arange(len(counts))).astype(np.float64)
        _check_separable(member, kept)
        fitted = np.linalg.lstsq(np.hstack([member, kept]), X, rcond=None)[0]
        self.grand_mean_ = counts / len(X) @ fitted[: len(counts)]
        self.coef_ = fitted[len(counts) :]
        residual = X - member @ fitted[: len(counts)] - kept @ self.coef_
        std = np.sqrt(np.square(residual).mean(axis=0))
        # Rounding leaves a constant feature a residual; it has no scale and stays what it is.
        flat = std <= 1e-10 * np.abs(X).max(axis=0)
        self.pooled_std_ = np.where(flat, 0.0, std)
        Z = self._standardise(X, kept)
        self.gamma_ = np.empty((len(counts), X.shape[1]))
        self.delta_ = np.empty_like(self.gamma_)
        for i in range(len(counts)):
            self.gamma_[i], self.delta_[i] = self._effects(Z[codes == i])
        return self

    def transform(
        self,
        X: ArrayLike,
        *,
        batch: ArrayLike,
        covariates: pd.DataFrame | ArrayLike | None = None,
    ) -> NDArray[np.floating]:
        """Remove the effects of the batches.

        Parameters
        ----------
        X : array of shape (n, n_features)
        batch : array of shape (n,)
        covariates : DataFrame or array of shape (n, n_columns), optional
            The columns that were fitted on.

        Returns
        -------
        ndarray of shape (n, n_features)
            float32 for float32, else float64; computed in float64.

        Raises
        ------
        InputError
            A batch was not in the training part and `unseen` is "refuse", or has one row only and
            `unseen` is "adapt"; columns or values of the covariates are missing.
        """
        check_is_fitted(self)
        given = np.asarray(validate_data(self, X, dtype=FLOATS, reset=False))
        X = given.astype(np.float64)
        labels = _batches(batch, len(X))
        kept = self.coding_.apply(_covariates(covariates, len(X)), "covariates")
        Z, out = self._standardise(X, kept), X.copy()
        base = self.grand_mean_ + kept @ self.coef_
        varies = self.pooled_std_ > 0
        known = {name: i for i, name in enumerate(self.batches_)}
        self._check_unseen(labels)
        for name in np.unique(labels):
            rows = np.flatnonzero(labels == name)
            if name in known:
                gamma, delta = self.gamma_[known[name]], self.delta_[known[name]]
            elif self.unseen == "keep":
                continue
            else:
                gamma, delta = self._effects(Z[rows])
            clean = base[rows] + (Z[rows] - gamma) / np.sqrt(delta) * self.pooled_std_
            out[rows] = np.where(varies, clean, X[rows])
        return np.asarray(out, given.dtype)

    def fit_transform(
        self,
        X: ArrayLike,
        y: object = None,
        *,
        batch: ArrayLike,
        covariates: pd.DataFrame | ArrayLike | None = None,
    ) -> NDArray[np.floating]:
        """Fit on the rows and return them without the effects of their batches."""
        fitted = self.fit(X, y, batch=batch, covariates=covariates)
        return fitted.transform(X, batch=batch, covariates=covariates)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _standardise(self, X: Array, kept: Array) -> Array:
        std = np.where(self.pooled_std_ > 0, self.pooled_std_, 1.0)
        Z: Array = (X - self.grand_mean_ - kept @ self.coef_) / std
        return np.where(self.pooled_std_ > 0, Z, 0.0)

    def _effects(self, Z: Array) -> tuple[Array, Array]:
        """Return shift and variance of a batch; features that do not vary have none."""
        gamma, delta = np.zeros(Z.shape[1]), np.ones(Z.shape[1])
        varies = self.pooled_std_ > 0
        if varies.sum() > 1:
            gamma[varies], delta[varies] = shrunken_effects(Z[:, varies])
        return gamma, delta

    def _check_unseen(self, labels: NDArray[np.str_]) -> None:
        names, counts = np.unique(labels, return_counts=True)
        new = ~np.isin(names, self.batches_)
        if new.any() and self.unseen == "refuse":
            raise InputError(
                "have no row in the training part, so that their effect is unknown",
                field="batch",
                value=names[new].tolist(),
                fix="Test within the sites trained on, or choose unseen='keep' or 'adapt'",
            )
        if self.unseen == "adapt" and (new & (counts < 2)).any():
            raise InputError(
                "have one row only: their variance is unknown",
                field="batch",
                value=names[new & (counts < 2)].tolist(),
                fix="Leave the rows out, or choose unseen='keep'",
            )


def shrunken_effects(Z: Array) -> tuple[Array, Array]:
    """Return the empirical Bayes estimates of a batch's shift and variance.

    The priors are a normal over the shifts and an inverse gamma over the variances of all features
    of the batch, by the method of moments; the two conditional posterior means are iterated.

    Parameters
    ----------
    Z : array of shape (n, n_features)
        Standardised features of the batch's rows.

    Returns
    -------
    gamma, delta : ndarray of shape (n_features,)

    Raises
    ------
    InputError
        The iteration does not settle.
    """
    n = len(Z)
    shift, variance = Z.mean(axis=0), Z.var(axis=0, ddof=1)
    centre, spread = shift.mean(), shift.var(ddof=1)
    mean, s2 = variance.mean(), variance.var(ddof=1)
    gamma, delta, within = shift, variance, variance * (n - 1)
    for _ in range(_ROUNDS):
        new_gamma = (n * spread * shift + delta * centre) / (n * spread + delta)
        squares = within + n * np.square(shift - new_gamma)
        # The posterior mean of the paper, both sides times s2: it holds for equal variances too.
        new_delta = (s2 * squares / 2 + mean * (s2 + mean**2)) / (s2 * n / 2 + s2 + mean**2)
        change = max(
            np.abs(new_gamma - gamma).max(), np.abs(new_delta / delta.clip(1e-12) - 1).max()
        )
        gamma, delta = new_gamma, new_delta
        if change < _CHANGE:
            return gamma, delta
    raise InputError("does not settle: the batch's features do not vary", field="batch", value=n)


def _batches(batch: ArrayLike, n_rows: int) -> NDArray[np.str_]:
    values = pd.Series(np.asarray(batch, dtype=object).ravel())
    if len(values) != n_rows or values.isna().any():
        raise InputError(
            f"needs a value for each of the {n_rows} rows of X",
            field="batch",
            value=f"{len(values)} values, {int(values.isna().sum())} of them missing",
        )
    return values.astype(str).to_numpy(str)


def _covariates(values: pd.DataFrame | ArrayLike | None, n_rows: int) -> pd.DataFrame:
    if values is None:
        return pd.DataFrame(index=range(n_rows))
    return as_frame(values, n_rows, "covariates")


def _check_batches(names: NDArray[np.str_], counts: NDArray[np.intp], n_features: int) -> None:
    if (counts < 2).any():
        raise InputError(
            "have one row only in the training part: their variance is unknown",
            field="batch",
            value=names[counts < 2].tolist(),
            fix="Leave these batches out, or merge them with others of the same scanner",
        )
    if n_features < 2:
        rule = "must be at least 2: empirical Bayes borrows from other features"
        raise InputError(rule, field="n_features", value=n_features)


def _check_separable(member: Array, kept: Array) -> None:
    rank = np.linalg.matrix_rank
    if kept.size and rank(np.hstack([member, kept])) < member.shape[1] + rank(kept):
        raise InputError(
            "cannot be separated from the batches: some combination of them is constant in a batch",
            field="covariates",
            fix="Leave out the covariate that does not vary within batches",
        )
