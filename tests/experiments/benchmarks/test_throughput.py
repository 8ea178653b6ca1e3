"""The counts of the throughput benchmark, against closed forms and brute force."""


import jax
import jax.numpy as jnp
import pytest
from jax.lax import conv_general_dilated

from experiments.benchmarks.throughput.account import kept_bytes
from experiments.benchmarks.throughput.operations import operations

LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv(x, w, stride=1, padding="SAME", **settings):
    return conv_general_dilated(
        x, w, (stride, stride), padding, dimension_numbers=LAYOUT, **settings
    )


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_a_convolution_multiplies_where_its_kernel_meets_the_image():
    counted = operations(conv, shape(8, 32, 32, 16), shape(3, 3, 16, 24))
    assert counted.convolutions == 2 * 8 * (3 * 32 - 2) ** 2 * 16 * 24
    assert counted.products == 0
    inside = operations(
        lambda x, w: conv(x, w, padding="VALID"), shape(2, 9, 7, 4), shape(3, 3, 4, 5)
    )
    assert inside.total == 2 * 2 * 7 * 5 * 9 * 4 * 5


@pytest.mark.parametrize(
    "stride, padding, up, apart",
    [(2, (1, 2), 1, 1), (1, (2, 1), 2, 1), (3, (0, 4), 2, 2), (1, (2, 2), 1, 2)],
)
def test_strides_and_dilations_are_counted_as_brute_force_does(stride, padding, up, apart):
    """Each product of a pixel that is 1 with an entry that is 1 adds 1 to the sum of the results."""

    def dilated(x, w):
        return conv(
            x, w, stride, [padding, padding], lhs_dilation=(up, up), rhs_dilation=(apart, apart)
        )

    ones = jnp.ones((2, 7, 6, 3)), jnp.ones((3, 2, 3, 4))
    assert operations(dilated, *ones).convolutions == 2 * float(dilated(*ones).sum())


def test_groups_of_channels_are_counted_as_brute_force_does():
    def grouped(x, w):
        return conv(x, w, feature_group_count=3)

    ones = jnp.ones((2, 5, 5, 6)), jnp.ones((3, 3, 2, 9))
    assert operations(grouped, *ones).total == 2 * float(grouped(*ones).sum())


@pytest.mark.parametrize("stride", [1, 2])
def test_each_of_the_two_gradients_of_a_convolution_costs_what_it_does(stride):
    x, w = shape(4, 12, 12, 3), shape(3, 3, 3, 5)
    once = operations(lambda x, w: conv(x, w, stride), x, w).total
    both = operations(jax.grad(lambda x, w: (conv(x, w, stride) ** 2).sum(), (0, 1)), x, w).total
    assert both == 3 * once


def test_products_of_matrices_are_counted_with_their_batches():
    counted = operations(
        lambda a, b: jnp.einsum("bij,bjk->bik", a, b), shape(7, 2, 3), shape(7, 3, 5)
    )
    assert counted == (0, 2 * 7 * 2 * 3 * 5)


def test_loops_and_branches_count_as_often_as_they_run():
    def body(carry, _):
        return carry @ carry, None

    def loop(x):
        once = jax.jit(lambda x: x @ x)(x)
        twice = jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, once)
        return jax.lax.scan(body, twice, length=5)[0]

    assert operations(loop, shape(4, 4)).products == (1 + 2 + 5) * 2 * 4**3


def test_one_convolution_is_counted_as_xla_counts_it():
    x, w = shape(8, 32, 32, 16), shape(3, 3, 16, 24)
    counted = operations(conv, x, w).total
    lowered = jax.jit(conv).lower(x, w)
    assert lowered.cost_analysis()["flops"] == pytest.approx(counted)
    assert lowered.compile().cost_analysis()["flops"] == pytest.approx(counted)


def test_what_a_gradient_keeps_is_counted_once_and_without_its_arguments():
    def loss(params, x):
        hidden = jnp.sin(x @ params["w"])  # keeps the cosine, and x, which is given
        return (hidden @ params["v"]).sum()  # keeps hidden, and v, which is given

    params = {"w": shape(6, 5), "v": shape(5, 3)}
    assert kept_bytes(loss, params, shape(10, 6)) == 4 * 2 * 10 * 5
    products = jax.checkpoint(
        loss, policy=lambda primitive, *_, **__: primitive.name == "dot_general"
    )
    assert kept_bytes(products, params, shape(10, 6)) == 4 * 10 * 5
