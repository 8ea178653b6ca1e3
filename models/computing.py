"""How a network computes: in which type, and what it keeps for the gradient. Parameters are float32 always."""

import jax.numpy as jnp
from flax import nnx

DTYPES = ("float32", "bfloat16")


def compute_type(dtype: str):
    """Return the type in which convolutions and matrix products compute; for "float32" None, that of parameters and input."""
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    return None if dtype == "float32" else jnp.dtype(dtype)


def run(block, *arguments, remat: bool):
    """Call a block; with `remat` keep only its arguments for the gradient and compute the rest again."""
    if not remat:
        return block(*arguments)
    return nnx.remat(lambda block, *arguments: block(*arguments))(block, *arguments)
