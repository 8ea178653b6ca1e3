r"""What EDM2's network is made of: operations that keep the expected magnitude of what passes.

Weights are used at unit length per output, :math:`\hat w = w / \|w\|`. A sum is
:math:`((1-t) a + t b) / \sqrt{(1-t)^2 + t^2}`. A concatenation weighs its parts by the square roots
of their widths. silu is divided by 0.596, its magnitude on normal input (Karras et al. 2024,
arXiv:2312.02696, appendix B).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from .resample import conv_of_upsampled, convolution


def unit(x: Array, axes: Sequence[int] | int) -> Array:
    """Scale `x` to root mean square 1 over `axes`, computed in float32."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    rms = jnp.sqrt(jnp.mean(wide**2, axes, keepdims=True) + 1e-20)  # its slope stays finite at zero
    return (wide / (1e-4 + rms)).astype(x.dtype)


def mp_silu(x: Array) -> Array:
    """Return silu(x) / 0.596."""
    return nnx.silu(x) / 0.596


def mp_sum(a: Array, b: Array, t: float) -> Array:
    """Return the sum of two states of unit magnitude and one shape, at unit magnitude (eq. 88).

    `t` is the weight of b, and 1 - t that of a.
    """
    magnitude = np.float32(np.hypot(1 - t, t)).astype(a.dtype)
    return ((1 - t) * a + t * b) / magnitude


def mp_cat(a: Array, b: Array, t: float) -> Array:
    """Concatenate two states, each contributing its share whatever its width (eq. 103).

    `t` is the share of b, and 1 - t that of a.
    """
    width_a = a.shape[-1]
    width_b = b.shape[-1]
    total = np.sqrt((width_a + width_b) / ((1 - t) ** 2 + t**2))
    weight_a = np.asarray(total / np.sqrt(width_a) * (1 - t), a.dtype)
    weight_b = np.asarray(total / np.sqrt(width_b) * t, a.dtype)
    return jnp.concatenate([weight_a * a, weight_b * b], axis=-1)


def normalised(params: Any) -> Any:
    """Return parameters with every weight of an `MPConv` at unit magnitude per output.

    Training does so after each step.
    """

    def one(path, p):
        if getattr(path[-1], "key", None) != "weight":
            return p
        return unit(p, tuple(range(p.ndim - 1)))

    return jax.tree_util.tree_map_with_path(one, params)


class MPConv(nnx.Module):
    """A convolution or linear map without bias, whose weights count by their direction only.

    See eq. 47 and 66.

    Args:
        features_in: channels of the state.
        features_out: channels of the result.
        size: height and width of the kernel; 0 makes a linear map.
        dtype: type of the computation; None: that of weights and input.
        rngs: the random keys of the parameters.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        size: int,
        dtype: Any = None,
        *,
        rngs: nnx.Rngs,
    ):
        shape = (features_in, features_out)
        if size:
            shape = (size, size, features_in, features_out)
        self.weight = nnx.Param(jax.random.normal(rngs.params(), shape))
        self.dtype = dtype

    def __call__(self, x: Array, gain: Array | float = 1.0, *, upsampled: bool = False) -> Array:
        """Apply to `x`, or to `x` upsampled; `gain` multiplies the result.

        A linear map takes (batch, features_in), a convolution (batch, height, width, features_in).
        """
        weight = self.weight[...]
        w = unit(weight, tuple(range(weight.ndim - 1)))
        w = w * (gain / np.float32(np.sqrt(weight[..., 0].size)))
        dtype = self.dtype or jnp.result_type(x, w)
        x = x.astype(dtype)
        w = w.astype(dtype)
        if w.ndim == 2:
            return x @ w
        if upsampled:
            return conv_of_upsampled(x, w)
        return convolution(x, w, "SAME")
