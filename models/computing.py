"""How a network computes: in which type, and what it keeps for the gradient.

The parameters are float32 always.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx

from .settings import check_choice

DTYPES = ("float32", "bfloat16")


def compute_type(dtype: str) -> Any:
    """Return the type in which convolutions and matrix products compute.

    None, for "float32", stands for the type of parameters and input.

    Raises:
        ValueError: `dtype` is none of DTYPES.
    """
    check_choice("dtype", dtype, DTYPES)
    return None if dtype == "float32" else jnp.dtype(dtype)


def run(block: Callable, *arguments: Any, remat: bool) -> Any:
    """Call a block.

    With `remat` only the arguments are kept for the gradient, and the rest is computed again.
    """
    if not remat:
        return block(*arguments)
    return nnx.remat(lambda block, *arguments: block(*arguments))(block, *arguments)
