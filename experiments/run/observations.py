r"""Observations in files, as the model's numbers.

Where an operator keeps values, as averages do, a file holds values of the data, such as grey
levels, and the run's codec turns them into model values: :math:`k \mapsto (2 k + 1) / L - 1`. In an
image file black is the smallest value of the data and white the largest. What other operators
measure, such as the sums of a projection, has no such scale, so that an array holds model values.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..data.codec import Codec, GreyLevels
from ..data.images import read_image
from ..errors import RunError
from .array_setting import read_array
from .operators import IMAGES, Measured

NAMES = ("observation", "y")  # of the array in an .npz file
ARRAYS = (".npy", ".npz")
MANY_LEVELS = 16  # with as many grey levels, values from 0 to 1 are none of them
NOISES = 6.0  # standard deviations of the noise by which a value may miss its range


def read_observations(files: Any, measured: Measured, codec: Codec, std: float) -> np.ndarray:
    """Return the measurements that files hold, in model values, (number, *measured.shape).

    Args:
        files: their names, `config.inverse.observation`.
        measured: the operator.
        codec: of the data.
        std: of the noise, in model values.

    Raises:
        RunError: a file cannot be read, or does not fit the operator or the data.
    """
    parts = []
    for file in files:
        setting = f"config.inverse.observation={file}"
        path = Path(str(file)).expanduser()
        suffix = path.suffix.lower()
        if suffix in IMAGES:
            values = _from_image(setting, path, measured, codec)
        elif suffix in ARRAYS:
            values = _from_array(setting, path, measured, codec, std)
        else:
            raise RunError(
                f"{setting}: expected an image ({', '.join(IMAGES)}) or an array "
                f"({', '.join(ARRAYS)})"
            )
        y = _measurements(values, measured)
        if not np.isfinite(y).all():
            raise RunError(f"{setting} holds {y[~np.isfinite(y)][0]}, expected finite numbers")
        parts.append(y)
    return np.concatenate(parts)


def raw_values(x: Any, codec: Codec) -> np.ndarray:
    """Return the raw values, which need not be whole, whose expected model values are `x`."""
    zero, scale = _scale(codec)
    return (np.asarray(x, np.float64) - zero) / scale


def raw_spread(spread: Any, codec: Codec) -> np.ndarray:
    """Return differences of raw values that those of model values stand for."""
    return np.asarray(spread, np.float64) / _scale(codec)[1]


def check_model_values(y: np.ndarray, measured: Measured, codec: Codec, std: float) -> None:
    """Raise a ValueError if measurements are clearly no model values of images of grey levels."""
    if not measured.keeps_values or not isinstance(codec, GreyLevels):
        return
    largest = float(np.abs(y).max())
    if largest > 1 + NOISES * std:
        raise ValueError(
            f"y reaches {largest:.4g}, but the model's images reach from -1 to 1; give "
            "codec.expected(y) of grey levels y, codec being run.facts.codec of the loaded run"
        )


def _scale(codec: Codec) -> tuple[float, float]:
    """Return the model value of the raw value 0, and how much a model value grows by each."""
    zero, one = codec.expected(np.asarray([0.0, 1.0]))
    return float(zero), float(one - zero)


def _from_image(setting: str, path: Path, measured: Measured, codec: Codec) -> np.ndarray:
    """Return the model values (1, height, width, channels) that an image file shows."""
    shape = _frame(measured)
    if not path.is_file():
        raise RunError(f"{setting}: there is no such file")
    if not measured.keeps_values or len(shape) != 3 or shape[-1] not in (1, 3):
        raise RunError(
            f"{setting}: this operator measures numbers of shape {measured.shape}, which no image "
            "shows; give them in model values as an .npy file"
        )
    try:
        image = read_image(path, setting, channels=shape[-1])
    except ValueError as error:
        raise RunError(str(error)) from error
    if image.shape != shape:
        raise RunError(
            f"{setting} is an image of shape {image.shape}, expected {shape}; resample it, or "
            "check the operator"
        )
    brightness = image.astype(np.float64) / 255
    if isinstance(codec, GreyLevels):
        return codec.expected(brightness * (codec.levels - 1))[None]
    return (2 * brightness - 1)[None]


def _from_array(
    setting: str, path: Path, measured: Measured, codec: Codec, std: float
) -> np.ndarray:
    """Return the measurements that an array file holds, in model values, (number, ...)."""
    values = read_array(setting, path, NAMES)
    if values.dtype.kind not in "fiub" or not values.size:
        raise RunError(f"{setting} holds {values.dtype} of shape {values.shape}, expected numbers")
    batch = _as_batch(setting, values, measured)
    if not measured.keeps_values:
        return batch.astype(np.float64)
    if isinstance(codec, GreyLevels):
        _check_levels(setting, batch, codec, raw_spread(std, codec))
    return codec.expected(batch)


def _check_levels(setting: str, values: np.ndarray, codec: GreyLevels, std: Any) -> None:
    """Raise a RunError about numbers that were clearly not meant as grey levels."""
    seen = values[np.isfinite(values)].astype(np.float64)
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
    top = codec.levels - 1
    holds = f"{setting} holds values from {low:.4g} to {high:.4g}, expected grey levels 0..{top}"
    floats = values.dtype.kind == "f"
    if floats and codec.levels >= MANY_LEVELS and low >= -1 and 0 < high - low and high <= 1:
        raise RunError(
            f"{holds}; those from 0 to 1 are multiplied by {top}, and model values from -1 to 1 "
            f"become grey levels by (x + 1) * {codec.levels} / 2 - 0.5"
        )
    if low < -0.5 - NOISES * std or high > top + 0.5 + NOISES * std:
        raise RunError(f"{holds} with noise of {float(std):.3g} of them; rescale them")


def _as_batch(setting: str, values: np.ndarray, measured: Measured) -> np.ndarray:
    """Return an array as (number, ...), of the frame or of measurements.

    Raises:
        RunError: it has another shape.
    """
    expected = [_frame(measured), measured.shape]
    for shape in expected:
        if shape[-1:] == (1,) and len(shape) == 3 and values.shape[-2:] == shape[:2]:
            values = values[..., None]
        if values.shape == shape:
            return values[None]
        if values.shape[1:] == shape:
            return values
    of_one = " or ".join(map(str, dict.fromkeys(expected)))
    raise RunError(
        f"{setting} holds an array of shape {values.shape}, expected {of_one} for one observation, "
        f"or (number, {', '.join(map(str, expected[0]))}) for several"
    )


def _frame(measured: Measured) -> tuple[int, ...]:
    """Return the shape of an observation in a file: of a mask the whole example."""
    return measured.example if measured.keeps_places else measured.shape


def _measurements(values: np.ndarray, measured: Measured) -> np.ndarray:
    """Return measurements (number, *measured.shape) of values, which may be whole examples."""
    if values.shape[1:] != measured.shape:
        values = np.asarray(jax.vmap(measured.operator)(jnp.asarray(values, jnp.float32)))
    return values.astype(np.float32)
