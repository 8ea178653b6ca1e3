r"""The size of the data, which grids, starts, ends, tolerances and first steps are measured in.

A process seen by data of standard deviation s is the process with :math:`s \alpha` in the place of
:math:`\alpha`, seen by data of unit size.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from sde_lib import SDE, in_float64

LATEST_END = 1e-3  # where VP and sub-VP are published to end (arXiv:2011.13456, appendix C)
END_LEVEL = 0.01  # noise over data at the end: denoising there loses 1e-4 of their variance
START_LEVEL = 200.0  # noise over data where a walk without signal at t = 1 may start


def data_sd(denoise: Any, sd: ArrayLike | None = None) -> Any:
    """Return the standard deviation of the data, all coordinates together.

    It is `sd` if that is given, else the denoiser's `sigma_data` if it has one, else 1.

    Args:
        denoise: any denoise function; a `Denoiser` and an `ExactDenoiser` know their data.
        sd: one number for all coordinates.

    Raises:
        ValueError: what is concrete is not one finite number above 0.
    """
    value: Any = getattr(denoise, "sigma_data", 1.0) if sd is None else sd
    if isinstance(value, Tracer):
        return value
    if np.ndim(value) or not 0 < float(value) < np.inf:
        raise ValueError(
            f"need one sd > 0, the standard deviation of the data over all coordinates, got {value}"
        )
    return value


def start_time(sde: SDE, sd: Any) -> float:
    """Return the time at which a walk in the signal-to-noise ratio starts from the prior.

    It is 1, or earlier where no signal is left at 1. There a state of pure noise is as good a start
    at noise level 200, or 200 times the data if they are larger than 1. Where noise grows instead,
    as in VE, it is not.
    """
    alpha = in_float64(sde.marginal, np.asarray(1.0))[0]
    if isinstance(alpha, Tracer) or isinstance(sd, Tracer) or np.all(alpha > 1e-3):
        return 1.0
    level = START_LEVEL * max(float(sd), 1.0)
    return float(in_float64(time_of_level, sde, level))


def end_time(sde: SDE, sd: Any) -> Any:
    """Return the time at which a walk to data of standard deviation `sd` ends.

    It is 1e-3, or earlier if noise is felt there, but not before t_min.
    """
    end = in_float64(_end_of_level, sde, END_LEVEL * (sd if isinstance(sd, Tracer) else float(sd)))
    return end if isinstance(end, Tracer) else float(end)


def time_of_level(sde: SDE, level: Any) -> Any:
    """Return the time at which the noise level sigma / alpha is `level`."""
    return sde.time_of_level(level)


def _end_of_level(sde: SDE, level: Any) -> Any:
    """Return the time of a noise level, kept between t_min and the latest end."""
    return jnp.maximum(jnp.minimum(sde.time_of_level(level), LATEST_END), sde.t_min)
