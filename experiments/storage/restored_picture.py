"""A picture of what was restored: a column for each observation, a row for each thing to see.

The rows are the observation, some samples, their mean, their standard deviation, where white is the
largest of the picture, and the truth where it is known.
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from samplers.inverse.conditioning import least_change

from ..data.codec import Codec
from .labelled_rows import labelled
from .pictures import picture, to_uint8

if TYPE_CHECKING:
    from ..run.operators import Measured
    from ..run.restoration import Restored, Task

SHOWN = 12  # observations at most
SAMPLES = 4  # of each at most


def restored_picture(
    task: "Task", restored: "Restored", truth: np.ndarray | None, codec: Codec
) -> np.ndarray:
    """Return what was restored as uint8 (height, width, 3).

    Args:
        task: the observations.
        restored: the samples.
        truth: (observations, ...), or None.
        codec: of the data.
    """
    if restored.x.ndim != 5:
        return picture(restored.x.reshape(-1, *restored.x.shape[2:]), codec)
    rows = {"observation": to_uint8(in_frame(task.measured, task.y), codec)}
    for number in range(min(SAMPLES, restored.x.shape[1])):
        rows[f"sample {number + 1}"] = to_uint8(restored.x[:, number], codec)
    rows["mean"] = to_uint8(restored.mean, codec)
    largest = max(float(restored.std.max()), 1e-12)
    rows[f"std, 0..{largest:.2g}"] = to_uint8_of_unit(restored.std / largest)
    if truth is not None:
        rows["truth"] = to_uint8(truth, codec)
    return labelled({name: images[:SHOWN] for name, images in rows.items()})


def in_frame(measured: "Measured", y: np.ndarray) -> np.ndarray:
    """Return observations as images of the shape of an example, in model values.

    Those of another shape are shown as the smallest example that they could be made of, what was
    not measured being grey.
    """
    if measured.shape == measured.example:
        return y
    zero = jnp.zeros(measured.example)

    def smallest(y: jax.Array) -> jax.Array:
        return least_change(measured.operator, y, zero, 0.0)

    return np.asarray(jax.vmap(smallest)(jnp.asarray(y)))


def to_uint8_of_unit(values: np.ndarray) -> np.ndarray:
    """Return values (batch, height, width, channels) from 0 to 1 as RGB uint8 images."""
    grey = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    if grey.shape[-1] == 3:
        return grey
    return np.repeat(grey[..., :1], 3, axis=-1)
