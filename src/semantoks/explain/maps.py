"""Values of ROIs as images and surfaces, weights of connections as connectomes, for nilearn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from semantoks.arrays import Array
from semantoks.errors import InputError
from semantoks.evaluate.features.maskers import region_names


def roi_image(values: ArrayLike, labels: Sequence[str], masker: Any) -> Any:
    """Return an image, or a surface, in which every region has the value of its ROI.

    Parameters
    ----------
    values : array of shape (n_rois,)
        E.g. the importance of every ROI's network (`semantoks.figures.brain.roi_values`).
    labels : sequence of str
        Name of the ROI of every value, in any order.
    masker : NiftiLabelsMasker or SurfaceLabelsMasker
        Of nilearn, fitted, with the names of its regions: each must be a ROI.

    Returns
    -------
    Nifti1Image or SurfaceImage
        What ``masker.inverse_transform`` returns; NaN values are 0 there.

    Raises
    ------
    InputError
        If values and labels differ in number, or the masker has a region without a value.
    """
    numbers = np.asarray(values, np.float64)
    if numbers.shape != (len(labels),):
        rule = f"must be one number for each of the {len(labels)} labels"
        raise InputError(rule, field="values.shape", value=numbers.shape)
    place = {label: i for i, label in enumerate(labels)}
    names = region_names(masker)
    unknown = [name for name in names if name not in place]
    if unknown:
        rule = f"{len(unknown)} of its regions are no ROI with a value"
        raise InputError(rule, field="masker", value=unknown[:3])
    ordered = np.nan_to_num(numbers[[place[name] for name in names]])
    if hasattr(masker, "labels_img_") and hasattr(masker.labels_img_, "mesh"):
        return masker.inverse_transform(ordered[None])
    return masker.inverse_transform(ordered)


def connectome_matrix(weights: ArrayLike, names: Sequence[str], labels: Sequence[str]) -> Array:
    """Return weights of connections as a symmetric matrix, for nilearn's connectome plots.

    Parameters
    ----------
    weights : array of shape (n_features,)
        E.g. ``probe.coef_[0]``.
    names : sequence of str
        ``get_feature_names_out()`` of the transformer before it: ``A~B`` for the connection of two
        ROIs. Other features have no place in the matrix and are left out.
    labels : sequence of str
        Names and order of the ROIs.

    Returns
    -------
    ndarray of shape (n_rois, n_rois)
        0 where no feature stands for the connection.

    Raises
    ------
    InputError
        If weights and names differ in number, no feature is a connection, or one names an unknown
        ROI.

    Notes
    -----
    Weights of a linear model are no activation patterns: a large one may cancel noise of other
    connections (Haufe et al. 2014, NeuroImage 87:96).

    Examples
    --------
    >>> connectome_matrix([0.5, -1.0], ["a~b", "a~c"], ["a", "b", "c"]).tolist()
    [[0.0, 0.5, -1.0], [0.5, 0.0, 0.0], [-1.0, 0.0, 0.0]]

    ``nilearn.plotting.view_connectome(matrix, parcellation.coordinates, edge_threshold="99%")``
    """
    numbers = np.asarray(weights, np.float64)
    if numbers.shape != (len(names),):
        rule = f"must be one number for each of the {len(names)} names"
        raise InputError(rule, field="weights.shape", value=numbers.shape)
    place = {label: i for i, label in enumerate(labels)}
    pairs = [(i, str(name).split("~")) for i, name in enumerate(names) if "~" in str(name)]
    if not pairs:
        rule = "must hold connections of two ROIs, A~B"
        raise InputError(rule, field="names", value=[*names][:3])
    matrix = np.zeros((len(labels), len(labels)))
    for i, ends in pairs:
        if len(ends) != 2 or not all(end in place for end in ends):
            rule = "must be a connection of two of the ROIs"
            raise InputError(rule, field=f"names[{i}]", value=str(names[i]))
        one, two = (place[end] for end in ends)
        matrix[one, two] = matrix[two, one] = numbers[i]
    return matrix
