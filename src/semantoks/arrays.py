"""Names for kinds of arrays that several modules speak of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = NDArray[np.intp]  # positions in a table or an array
Signal = NDArray[np.floating]  # (n_times, n_rois)
