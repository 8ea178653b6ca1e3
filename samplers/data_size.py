r"""The size of the data, which grids, starts, ends, tolerances and first steps are measured in.

A process seen by data of standard deviation s is the process with :math:`s \alpha` in the place of :math:`\alpha`,
seen by data of unit size.
"""

from typing import Any

import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike


def data_sd(denoise: Any, sd: ArrayLike | None = None) -> ArrayLike:
    """Return the standard deviation of the data: `sd` if it is given, else the denoiser's `sigma_data` if it has one, else 1.

    Args:
        denoise: any denoise function; a `Denoiser` and an `ExactDenoiser` know their data.
        sd: one number for all coordinates.

    Raises:
        ValueError: what is concrete is not one finite number above 0.
    """
    value = getattr(denoise, "sigma_data", 1.0) if sd is None else sd
    if isinstance(value, Tracer):
        return value
    if np.ndim(value) or not 0 < value < np.inf:
        raise ValueError(
            f"need one sd > 0, the standard deviation of the data over all coordinates, got {value}"
        )
    return value
