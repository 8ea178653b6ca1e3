"""The compiler underneath computes what it is told: a version that does not would spoil every number, silently."""

import jax
import jax.numpy as jnp


def test_a_vmapped_matrix_product_with_a_reduction_is_computed_right():
    """jaxlib 0.10.2 gets it wrong on CPU (jax-ml/jax issue 39103)."""
    i = jnp.arange(32_769, dtype=jnp.float32)
    x, eye = jnp.stack((i, jnp.zeros_like(i), jnp.zeros_like(i)), axis=1), jnp.eye(3)
    last = jax.jit(jax.vmap(lambda row: jnp.sum((eye @ row) ** 2)))(x)[-1]
    assert last == i[-1] ** 2
