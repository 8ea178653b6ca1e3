"""The noise of a measurement: of one size, of a size for each measured value, or correlated.

Methods are given white noise of standard deviation 1 or of one size: other noise is whitened
together with the operator and the measurement (`sde_lib.inverse.Whitened`). Everything is in model
values.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from sde_lib.inverse import Whitened
from sde_lib.inverse.measurement import check_std

from ..errors import RunError
from .array_setting import read_array

NAMES = ("noise", "cov", "std")  # of the array in an .npz file
SYMMETRIC = 1e-5  # by which a covariance may differ from its transpose, relative to its size


class Noise(NamedTuple):
    """The noise of one measurement."""

    std: float  # of a measured value, the largest if they differ
    cov: np.ndarray | None = None  # of a flattened measurement, or its diagonal; None: std^2

    @property
    def white_std(self) -> float:
        """The standard deviation after `whitened` and `white`."""
        return self.std if self.cov is None else 1.0

    def whitened(self, operator: Callable[[Array], Array]) -> Callable[[Array], Array]:
        """Return the operator whose noise is white."""
        return operator if self.cov is None else Whitened(operator, self.cov)

    def white(self, y: npt.ArrayLike) -> np.ndarray:
        """Return measurements (number, ...), or their misfits, whose noise is white."""
        y = np.asarray(y, np.float32)
        return y if self.cov is None else np.asarray(_whitening(self.cov).whiten(jnp.asarray(y)))

    def draw(self, key: Array, y: Array) -> Array:
        """Return measurements (number, ...) with noise."""
        z = jax.random.normal(key, y.shape, y.dtype)
        return y + (self.std * z if self.cov is None else _whitening(self.cov).noise(z))


def _whitening(cov: np.ndarray) -> Whitened:
    return Whitened(lambda x: x, cov)


def noise_of(values: npt.ArrayLike, shape: tuple[int, ...]) -> Noise:
    """Return the noise that an array stands for.

    Args:
        values: one standard deviation, one of each measured value, or the covariance matrix of a
            flattened measurement.
        shape: of one measurement.

    Raises:
        ValueError: it is none of these.
    """
    size = int(np.prod(shape))
    array = np.asarray(values, np.float64)
    if array.ndim == 0:
        check_std(values)
        return Noise(std=float(array))
    if array.shape in (shape, (size,)):
        check_std(array)
        return Noise(std=float(array.max()), cov=array.reshape(-1) ** 2)
    if array.shape != (size, size):
        raise ValueError(
            f"the noise is one standard deviation, one of each measured value, of shape {shape}, "
            f"or a covariance matrix of shape {(size, size)}, got shape {array.shape}"
        )
    if not np.abs(array - array.T).max() <= SYMMETRIC * np.abs(array).max():
        raise ValueError("the covariance matrix of the noise is not symmetric, or not finite")
    Whitened(lambda x: x, array)  # raises unless it is positive definite
    return Noise(std=float(np.sqrt(array.diagonal().max())), cov=array)


def read_noise(setting: Any, shape: tuple[int, ...]) -> Noise:
    """Return the noise of the section `config.inverse`; its `noise` goes before its `std`.

    Raises:
        RunError: a file that cannot be read, or holds something else.
        ValueError: a standard deviation that is not above 0.
    """
    if not setting.noise:
        return noise_of(setting.std, shape)
    place = f"config.inverse.noise={setting.noise}"
    values = read_array(place, Path(setting.noise).expanduser(), NAMES)
    if values.dtype.kind not in "fiu":
        raise RunError(f"{place} holds {values.dtype}, expected numbers")
    try:
        return noise_of(values, shape)
    except ValueError as error:
        raise RunError(f"{place}: {error}") from error
