"""The random keys that a network's parameters are drawn from, fast where only their shapes are asked for."""

import jax
import numpy as np
from flax import nnx


class CountingStream(nnx.RngStream):
    """A stream with the keys of `nnx.RngStream`, counted in Python.

    Flax counts in an array. While a network of hundreds of parameters is traced, each count looks back through all that came before,
    which took most of the time of `nnx.eval_shape`.
    """

    drawn = 0

    def __call__(self) -> jax.Array:
        key = jax.random.fold_in(self.key[...], np.uint32(self.drawn))
        self.drawn += 1
        return key


def rngs_of(seed: int) -> nnx.Rngs:
    """Return what `nnx.Rngs(seed)` is, with the same keys.

    >>> nnx.eval_shape(lambda: models.UNet((32, 32, 3), rngs=models.rngs_of(0)))
    """
    rngs = nnx.Rngs(seed)
    stream = CountingStream(seed, tag="default")
    rngs.default = stream  # pyright: ignore[reportAttributeAccessIssue]
    return rngs
