"""From `config.inverse.operator` to what is measured of an example.

`config.inverse.operator.name` is a row of `OPERATORS`, with the arguments of its function as
settings, or a class of one's own by its path, "package.module:Class", whose objects map one example
to its measurement. Operators act on model values.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sde_lib import check_name, inverse

from ..data.images import read_image
from ..errors import RunError
from .array_setting import read_array
from .objects import make, naming
from .walk_settings import settings_of

PLACE = "config.inverse.operator"
IMAGES = (".png", ".jpg", ".jpeg")
PROBES = (-1.0, 0.0, 1.0)  # values of constant examples
ROUNDING = 1e-4  # by which an operator may miss them


class Measured(NamedTuple):
    """An operator, and what its measurements look like."""

    operator: Callable[[Array], Array]  # of one example
    example: tuple[int, ...]  # the shape that it takes
    shape: tuple[int, ...]  # the shape of a measurement
    keeps_values: bool  # constant examples come out as they are: measurements are values of data
    keeps_places: bool = False  # measurements are some of the entries of an example, as they are


def make_operator(section: Any, example: tuple[int, ...]) -> Measured:
    """Return the operator of a section `{name, **settings}`.

    Args:
        section: `config.inverse.operator`.
        example: the shape of one example.

    Raises:
        ValueError: no such operator, a setting that it does not have, or one that cannot measure
            such an example.
        RunError: a file that cannot be used.
    """
    settings = {key: value for key, value in section.items() if value is not None}
    name = settings["name"]
    with naming(PLACE):
        if ":" in name:
            operator = make(inverse, settings, Callable)  # pyright: ignore[reportArgumentType]
        else:
            check_name("operator", name, OPERATORS)
            settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
            operator = OPERATORS[name](example, **settings_of(OPERATORS[name], settings))
        return measured_by(operator, example)


def measured_by(operator: Callable[[Array], Array], example: tuple[int, ...]) -> Measured:
    """Return an operator with what its measurements look like.

    Raises:
        ValueError: it cannot measure one example, or what it gives is no array of real numbers.
    """
    try:
        result = jax.eval_shape(operator, jax.ShapeDtypeStruct(example, jnp.float32))
    except ValueError:
        raise
    except Exception as error:  # whatever a user's operator comes up with
        raise ValueError(
            f"{operator!r:.80} cannot measure one example of shape {example}: "
            f"{type(error).__name__}: {error}; it maps one example, without a batch axis"
        ) from error
    if not isinstance(result, jax.ShapeDtypeStruct) or result.dtype != jnp.float32:
        raise ValueError(
            f"{operator!r:.80} should map a float32 example to one float32 array, got {result}"
        )
    return Measured(
        operator=operator,
        example=example,
        shape=result.shape,
        keeps_values=_keeps_values(operator, example),
        keeps_places=isinstance(operator, inverse.Mask),
    )


def _keeps_values(operator: Callable[[Array], Array], example: tuple[int, ...]) -> bool:
    """Tell whether an operator gives back the value of constant examples.

    Averages do, and any affine map of values passes through them: they may be measured in the
    values of the data. What other operators give has a scale of its own.
    """
    errors = [jnp.max(jnp.abs(operator(jnp.full(example, value)) - value)) for value in PROBES]
    return max(map(float, errors)) < ROUNDING


def _mask(shape: tuple[int, ...], mask: str = "") -> inverse.Mask:
    """Keep what a file says, white or true; by default all but the middle, or the first half."""
    if not mask:
        values = np.zeros(shape, bool)
        if len(shape) == 3:
            values[:] = True
            rows, columns = (slice(size // 4, size - size // 4) for size in shape[:2])
            values[rows, columns] = False
        else:
            values[: max(1, shape[0] // 2)] = True
        return inverse.Mask(values)
    setting = f"{PLACE}.mask={mask}"
    return inverse.Mask(_broadcast(setting, _mask_of(setting, mask), shape))


def _diagonal(shape: tuple[int, ...], weights: str) -> inverse.Diagonal:
    """Multiply by the weights in a file."""
    setting = f"{PLACE}.weights={weights}"
    values = _numbers(setting, weights, "weights")
    return inverse.Diagonal(jnp.asarray(_broadcast(setting, values, shape), jnp.float32))


def _grey(shape: tuple[int, ...], weights: tuple[float, ...] | None = None) -> inverse.Grey:
    """Average the channels."""
    return inverse.Grey(weights=weights)


def _pool(shape: tuple[int, ...], factor: int = 2) -> inverse.Pool:
    """Average over squares of pixels."""
    return inverse.Pool(factor=factor)


def _blur(
    shape: tuple[int, ...],
    std: float = 1.0,
    radius: int | None = None,
    kernel: str = "",
    boundary: str = "reflect",
) -> inverse.Blur:
    """Filter with a Gaussian of `std` pixels, or with the kernel in a file."""
    if not kernel:
        return inverse.Blur.gaussian(std, radius, boundary)
    values = _numbers(f"{PLACE}.kernel={kernel}", kernel, "kernel")
    return inverse.Blur(kernel=jnp.asarray(values, jnp.float32), boundary=boundary)


def _projection(shape: tuple[int, ...], matrix: str) -> inverse.Projection:
    """Multiply by the matrix in a file, (measurements, entries of an example)."""
    setting = f"{PLACE}.matrix={matrix}"
    values = _numbers(setting, matrix, "matrix")
    size = int(np.prod(shape))
    if values.ndim != 2 or values.shape[1] != size:
        raise RunError(
            f"{setting} holds an array of shape {values.shape}, expected (measurements, {size}), "
            f"one column for each entry of an example of shape {shape}"
        )
    return inverse.Projection(jnp.asarray(values, jnp.float32))


def _fourier(shape: tuple[int, ...], mask: str) -> inverse.Fourier:
    """Keep the frequencies that a file says."""
    return inverse.Fourier(_mask_of(f"{PLACE}.mask={mask}", mask))


OPERATORS: dict[str, Callable[..., Any]] = {
    "Mask": _mask,
    "Diagonal": _diagonal,
    "Grey": _grey,
    "Pool": _pool,
    "Blur": _blur,
    "Projection": _projection,
    "Fourier": _fourier,
}


def _mask_of(setting: str, file: str) -> np.ndarray:
    """Return the mask in a file: an image whose bright half is measured, or an array."""
    path = Path(file).expanduser()
    if path.suffix.lower() in IMAGES and path.is_file():
        return read_image(path, setting, channels=1)[..., 0] >= 128
    return _numbers(setting, file, "mask")


def _numbers(setting: str, file: str, name: str) -> np.ndarray:
    """Return the array of finite numbers in a file."""
    values = read_array(setting, Path(file).expanduser(), (name,))
    if values.dtype.kind not in "fiub" or not values.size or not np.isfinite(values).all():
        raise RunError(
            f"{setting} holds {values.dtype} of shape {values.shape}, expected finite numbers"
        )
    return values


def _broadcast(setting: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of the shape of an example; an image (height, width) holds for all channels.

    Raises:
        RunError: it has another shape.
    """
    if values.shape == shape[:2] and len(shape) == 3:
        values = values[..., None]
    if values.ndim != len(shape) or values.shape[:-1] != shape[:-1]:
        fits = False
    else:
        fits = values.shape[-1] in (1, shape[-1]) if len(shape) == 3 else values.shape == shape
    if not fits:
        raise RunError(
            f"{setting} holds an array of shape {values.shape}, expected that of an example, {shape}"
        )
    return np.broadcast_to(values, shape)
