"""Attention: the kernel that is chosen, by device and by use, and the derivatives of each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo as cudnn

import models
from models import attention

SHAPE = (2, 10, 3, 8)  # batch, tokens, heads, features


def drawn(seed: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), SHAPE)


@pytest.fixture
def gpu(monkeypatch):
    """A machine whose programs are traced, not compiled, for a GPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 92000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda *_: True)


def test_attention_is_the_softmax_of_similarities():
    q, k, v = drawn(0), drawn(1), drawn(2)
    weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(8), axis=-1)
    mixed = attention.Attention()(q, k, v)
    np.testing.assert_allclose(mixed, jnp.einsum("bhts,bshd->bthd", weights, v), atol=1e-6)


@pytest.mark.parametrize("function", [attention.fused, attention.fused_without_gradient])
def test_without_a_gpu_the_same_is_computed_plainly(function):
    points = drawn(0), drawn(1), drawn(2)
    directions = drawn(3), drawn(4), drawn(5)
    expected = jax.jvp(attention.plain, points, directions)
    np.testing.assert_array_equal(jax.jvp(function, points, directions), expected)


def kernels_of(function, *arguments) -> bool:
    """Whether cuDNN's kernel is in the program."""
    return "dot_product_attention" in str(jax.make_jaxpr(function)(*arguments))


def test_training_takes_value_and_gradient_from_the_kernel(gpu):
    points = [a.astype(jnp.bfloat16) for a in (drawn(0), drawn(1), drawn(2))]
    train = attention.Attention("cudnn")
    assert kernels_of(train, *points)
    gradient = jax.grad(lambda *points: train(*points).astype(jnp.float32).sum())
    assert "dot_product_attention_bwd" in str(jax.make_jaxpr(gradient)(*points))
    assert not kernels_of(attention.Attention("plain"), *points)


def test_evaluation_takes_the_value_from_the_kernel_and_any_derivative_plainly(gpu):
    points = [a.astype(jnp.bfloat16) for a in (drawn(0), drawn(1), drawn(2))]
    evaluate = nnx.view(attention.Attention("cudnn"), deterministic=True)
    assert kernels_of(evaluate, *points)

    def derivative(*points):
        return jax.jvp(evaluate, points, points)[1]

    assert not kernels_of(derivative, *points)
    for a, b in zip(derivative(*points), jax.jvp(attention.plain, points, points)[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_traced_for_the_cpu_of_such_a_machine_is_plain(gpu):
    """Operations are counted so."""
    points = [a.astype(jnp.bfloat16) for a in (drawn(0), drawn(1), drawn(2))]
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        assert not kernels_of(attention.fused, *points)


def make(**settings):
    """Return a transformer of 16 tokens and 8 features a head."""
    given = {"width": 16, "depth": 1, "heads": 2, "attention": "cudnn", "dtype": "bfloat16"}
    return models.DiT((8, 8, 1), **{**given, **settings}, rngs=nnx.Rngs(0))


def test_the_network_takes_the_kernel_in_training_and_in_evaluation(gpu):
    parts = models.split(make())
    x, c_noise = jnp.zeros((1, 8, 8, 1)), jnp.zeros(1)
    for graphdef in (parts.train, parts.evaluate):
        assert kernels_of(models.merge(graphdef, parts.params), x, c_noise)
    evaluate = models.merge(parts.evaluate, parts.params)
    jax.make_jaxpr(lambda x: jax.jvp(lambda x: evaluate(x, c_noise), (x,), (x,)))(x)


def test_what_the_kernel_cannot_compute_is_refused():
    with pytest.raises(ValueError, match="unknown attention 'flash'; choose one of plain, cudnn"):
        make(attention="flash")
    with pytest.raises(ValueError, match="'cudnn' computes in bfloat16 only, got dtype 'float32'"):
        make(dtype="float32")
    with pytest.raises(ValueError, match="got 1 tokens and 8 features"):
        make(patch=8)
    with pytest.raises(ValueError, match="got 16 tokens and 12 features"):
        make(width=24)
