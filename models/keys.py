"""The random keys from which the parameters of a network are drawn.

They are made fast where only the shapes of the parameters are needed.
"""

import jax
import numpy as np
from flax import nnx


class CountingStream(nnx.RngStream):
    """A stream with the keys of `nnx.RngStream`, counted in Python.

    Flax counts in an array. While a network of hundreds of parameters is traced, each count looks
    back through all that came before, which took most of the time of `nnx.eval_shape`.
    """

    drawn = 0

    def __call__(self) -> jax.Array:
        """Return the next key."""
        key = jax.random.fold_in(self.key[...], np.uint32(self.drawn))
        self.drawn += 1
        return key


def rngs_of(seed: int) -> nnx.Rngs:
    """Return the equivalent of `nnx.Rngs(seed)`, with the same keys.

    >>> nnx.eval_shape(lambda: models.UNet((32, 32, 3), rngs=models.rngs_of(0)))
    """
    rngs = nnx.Rngs(seed)
    stream = CountingStream(seed, tag="default")
    rngs.default = stream  # pyright: ignore[reportAttributeAccessIssue]
    return rngs
