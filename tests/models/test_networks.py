"""What every network promises: each public class of `models` meets these tests by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
from tests.models.networks import CLASSES, NETWORKS, SMALLER, build, case, differ, fast_key, takes

each_network = pytest.mark.parametrize("cls", NETWORKS, ids=lambda c: c.__name__)


def each_with(setting):
    """Return the mark of a test of every network that has a setting."""
    networks = [cls for cls in NETWORKS if takes(cls, setting)]
    return pytest.mark.parametrize("cls", networks, ids=lambda cls: cls.__name__)


each_with_dtype = each_with("dtype")
each_with_remat = each_with("remat")
each_with_dropout = each_with("dropout")
each_with_labels = each_with("embedding")  # a network that embeds nothing has no place for labels


def test_there_are_networks():
    assert {"MLP", "UNet"} <= {c.__name__ for c in NETWORKS}


@each_network
def test_a_new_network_without_classes_or_dropout_is_called_with_x_and_noise_alone(cls):
    settings = SMALLER.get(cls.__name__, {})
    shape = build(cls)[1]
    x = jnp.ones((3, *shape))
    y = jax.jit(lambda: cls(shape, **settings, rngs=nnx.Rngs(fast_key(0)))(x, jnp.ones(3)))()
    assert y.shape == x.shape
    assert y.dtype == jnp.float32
    assert bool(jnp.all(jnp.isfinite(y)))


@each_network
def test_parameters_are_a_plain_dict_of_float32_arrays(cls):
    params = case(cls).split.params
    assert type(params) is dict and jax.tree.leaves(params)
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(params))


@each_network
def test_every_parameter_has_a_finite_gradient_and_none_is_dead(cls):
    frozen = ("frequencies", "phases")  # drawn once, never trained
    for path, g in jax.tree_util.tree_leaves_with_path(case(cls).gradient):
        if path[-1].key in frozen:
            continue
        name = jax.tree_util.keystr(path)
        assert bool(jnp.all(jnp.isfinite(g))), f"gradient of {name} is not finite"
        alive = float(jnp.mean(jnp.abs(g) > 1e-9))  # not all: attention does not see its keys' bias
        assert alive > 0.6, f"{1 - alive:.0%} of {name} has no influence on the output"


@each_with_dtype
def test_bfloat16_is_near_float32_and_finite_at_any_noise_level(cls):
    it = case(cls)
    low = case(cls, dtype="bfloat16")
    want = it.evaluate(it.x, it.c, it.labels)
    got = low.evaluate(it.x, it.c, it.labels)
    assert got.dtype == jnp.float32
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(low.split.params))
    error = jnp.abs(got - want).reshape(4, -1).max(1) / jnp.abs(want).reshape(4, -1).max(1)
    assert error.min() > 1e-4 and error.max() < 2e-2  # an operation rounds to 2^-9
    extreme = jnp.array([-1e4, -1e-3, 1e-3, 1e4])
    assert bool(jnp.isfinite(low.evaluate(it.x, extreme, it.labels)).all())


@each_with_remat
def test_computing_blocks_again_changes_no_gradient_and_keeps_less(cls):
    it = case(cls)
    again = case(cls, remat=True)
    for g, want in zip(jax.tree.leaves(again.gradient), jax.tree.leaves(it.gradient), strict=True):
        size = float(jnp.abs(want).max())
        np.testing.assert_allclose(g, want, rtol=1e-3, atol=1e-5 * size + 1e-9)

    def numbers_for_the_gradient(case):
        backward = jax.eval_shape(lambda params: jax.vjp(case.loss, params)[1], case.params)
        return sum(a.size for a in jax.tree.leaves(backward))

    assert 3 * numbers_for_the_gradient(again) < numbers_for_the_gradient(it)


@each_network
def test_evaluation_needs_no_key_and_repeats_bitwise(cls):
    it = case(cls)
    np.testing.assert_array_equal(it.evaluate(it.x, it.c), it.evaluate(it.x, it.c))


@each_with_dropout
def test_training_output_depends_on_the_dropout_key_alone(cls):
    it = case(cls)
    np.testing.assert_array_equal(it.train(fast_key(4)), it.train(fast_key(4)))
    assert differ(it.train(fast_key(4)), it.train(fast_key(5)))
    with pytest.raises(ValueError, match="rngs"):
        jax.eval_shape(lambda: models.merge(it.split.train, it.params)(it.x, it.c))


@each_network
def test_a_sample_does_not_see_its_batch_mates(cls):
    it = case(cls)
    whole = it.evaluate(it.x, it.c, it.labels)
    for i in range(4):
        others = jnp.arange(4) != i
        x = jnp.where(others.reshape(4, *[1] * len(it.shape)), 1 - 3 * it.x, it.x)
        mates = None if it.labels is None else jnp.where(others, 1, it.labels)
        mixed = it.evaluate(x, jnp.where(others, 0.3, it.c), mates)
        size = float(jnp.abs(whole).max())
        np.testing.assert_allclose(mixed[i], whole[i], rtol=1e-5, atol=1e-6 * size)


@each_network
def test_the_noise_level_changes_the_output(cls):
    it = case(cls)
    nearby = it.c + 0.025  # a tenth of an e-fold of sigma, for log(sigma) / 4
    assert differ(it.evaluate(it.x, it.c), it.evaluate(it.x, nearby))


@each_network
def test_vmap_over_a_leading_axis_is_the_loop_over_it(cls):
    it = case(cls)
    x = jnp.stack([it.x, it.x[::-1]])
    c = jnp.stack([it.c, it.c + 0.5])
    got = jax.vmap(it.evaluate)(x, c)
    for g in range(2):
        want = it.evaluate(x[g], c[g])
        np.testing.assert_allclose(got[g], want, rtol=1e-4, atol=1e-5 * float(jnp.abs(want).max()))


@each_network
def test_wrong_inputs_say_what_was_expected(cls):
    it = case(cls)
    net = models.merge(it.split.evaluate, it.params)
    wide = (*it.shape[:-1], it.shape[-1] + 1)
    wrong = [
        ((jnp.zeros((4, *wide)), it.c), "x has shape"),
        ((it.x[0], it.c), "x has shape"),
        ((it.x, jnp.float32(0.0)), r"c_noise has shape \(\), expected \(4,\)"),
        ((it.x, it.c[:1]), r"c_noise has shape \(1,\), expected \(4,\)"),
        ((it.x, it.c[:, None]), r"c_noise has shape \(4, 1\), expected \(4,\)"),
    ]
    if it.labels is None:
        message = "labels were given to a network without classes"
        wrong.append(((it.x, it.c, jnp.arange(4)), message))
    else:
        wrong += wrong_labels(it)
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            net(*arguments)


def wrong_labels(it):
    """Return arguments with labels that are refused, and the messages."""
    messages = [
        (it.labels[:2], r"expected integer labels of shape \(4,\)"),
        (it.labels.astype(jnp.float32), "expected integer labels"),
        (it.labels + 1, r"labels range over 1\.\.4, expected 0\.\.3 \(3 = no label\)"),
        (it.labels - 1, r"labels range over -1\.\.2"),
    ]
    return [((it.x, it.c, labels), message) for labels, message in messages]


@each_with_labels
def test_the_label_changes_the_output_and_no_label_is_the_last_one(cls):
    it = case(cls)
    outputs = [it.evaluate(it.x, it.c, jnp.full(4, label)) for label in range(CLASSES + 1)]
    for a in range(CLASSES + 1):
        for b in range(a):
            assert differ(outputs[a], outputs[b]), f"labels {a} and {b} give the same output"
    np.testing.assert_array_equal(it.evaluate(it.x, it.c), outputs[CLASSES])


@each_with_labels
def test_a_traced_label_out_of_range_gives_nan_not_another_class(cls):
    it = case(cls)
    for bad in (-1, CLASSES + 1):
        y = it.evaluate(it.x, it.c, it.labels.at[2].set(bad))
        finite = jnp.isfinite(y).reshape(4, -1).all(1)
        np.testing.assert_array_equal(finite, [True, True, False, True])


@each_network
def test_labels_need_classes(cls):
    net, shape = build(cls)
    with pytest.raises(ValueError, match="num_classes > 0"):
        net(jnp.zeros((2, *shape)), jnp.zeros(2), jnp.zeros(2, jnp.int32))


@each_with_labels
def test_wrong_settings_say_what_was_expected(cls):
    _, shape = build(cls)
    for settings, message in [
        ({"embedding": "fuorier"}, "unknown embedding 'fuorier'; choose one of"),
        ({"num_classes": -1}, "num_classes >= 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            nnx.eval_shape(lambda: cls(shape, **settings, rngs=models.rngs_of(0)))  # noqa: B023


@each_network
def test_a_shape_of_another_kind_is_refused(cls):
    with pytest.raises(ValueError, match=r"needs shape .* got \(2, 3, 4, 5, 6\)"):
        cls((2, 3, 4, 5, 6), rngs=nnx.Rngs(0))
