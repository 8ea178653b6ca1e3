"""What networks are given beside the noise level: contexts, sets, images, and several of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
from models.conditions import ConditionSizes, with_image
from models.context import ContextEmbedding
from models.mp_context import MPContextEmbedding
from tests.models.networks import SMALLER, build, differ, filled, takes

BATCH = 3
FEATURES = 2
CHANNELS = 3
X = {"MLP": (3,), "UNet": (8, 8, 2), "DiT": (8, 8, 2), "MPUNet": (8, 8, 2), "NCSN": (8, 8, 2)}
RNG = np.random.default_rng(0)
VECTORS = jnp.asarray(RNG.normal(size=(BATCH, FEATURES)), jnp.float32)
SETS = jnp.asarray(RNG.normal(size=(BATCH, 4, FEATURES)), jnp.float32)
IMAGES = jnp.asarray(RNG.normal(size=(BATCH, 8, 8, CHANNELS)), jnp.float32)
NOISE = jnp.linspace(-1, 1, BATCH)

# compiles in half the time; a noise input of 0 is no sigma to divide by
ONE_LEVEL = {"UNet": {"ch_mult": (1,)}, "NCSN": {"scale_by_sigma": False}}

each_network = pytest.mark.parametrize("name", X)
each_of_images = pytest.mark.parametrize("name", ["UNet", "DiT", "MPUNet", "NCSN"])
each_that_is_augmented = pytest.mark.parametrize("name", ["UNet", "DiT"])


def network(name, **settings):
    """Return the function (x, cond) of a network with random parameters, compiled, and an x."""
    net, shape = build(getattr(models, name), **ONE_LEVEL.get(name, {}), **settings)
    split = models.split(net)
    params = filled(split.params)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(BATCH, *shape)), jnp.float32)
    return jax.jit(lambda x, cond: models.merge(split.evaluate, params)(x, NOISE, cond)), x


@each_network
def test_a_context_changes_the_output_and_nan_is_no_context(name):
    net, x = network(name, context=FEATURES)
    outputs = [
        net(x, VECTORS),
        net(x, VECTORS + 0.3),
        net(x, jnp.zeros_like(VECTORS)),
        net(x, None),
    ]
    for i in range(4):
        for j in range(i):
            assert differ(outputs[i], outputs[j]), (i, j)
    dropped = net(x, VECTORS.at[1].set(jnp.nan))
    for sample, want in enumerate([outputs[0], outputs[3], outputs[0]]):
        np.testing.assert_allclose(dropped[sample], want[sample], rtol=1e-4, atol=1e-4)
    part = net(x, VECTORS.at[1, 0].set(jnp.nan))
    finite = np.isfinite(np.asarray(part)).reshape(BATCH, -1).all(1)
    np.testing.assert_array_equal(finite, [True, False, True])


def test_a_set_has_no_order_and_leaves_absent_members_out():
    net, x = network("MLP", context=FEATURES)
    want = net(x, SETS)
    np.testing.assert_allclose(net(x, SETS[:, ::-1]), want, rtol=1e-4, atol=1e-5)
    padded = jnp.concatenate([SETS[:, :2], jnp.full((BATCH, 3, FEATURES), jnp.nan), SETS[:, 2:]], 1)
    np.testing.assert_allclose(net(x, padded), want, rtol=1e-4, atol=1e-5)
    assert differ(net(x, SETS[:, :3]), want)
    np.testing.assert_array_equal(net(x, SETS[:, 0]), net(x, SETS[:, :1]))
    nobody = jnp.full((BATCH, 4, FEATURES), jnp.nan)
    np.testing.assert_allclose(net(x, nobody), net(x, None), rtol=1e-5)


def test_a_set_knows_how_many_members_it_has():
    """A member that stands there twice, and four times, is more certain than once."""
    net, x = network("MLP", context=FEATURES)
    one, two, four = (net(x, jnp.repeat(SETS[:, :1], times, axis=1)) for times in (1, 2, 4))
    assert differ(one, two) and differ(two, four)


def test_a_set_enters_by_the_mean_of_its_members_and_the_log_of_their_number():
    """Members that stand there twice leave the mean as it is: log 2 more is all that changes."""
    embed = ContextEmbedding(
        FEATURES, 5, kernel_init=nnx.initializers.normal(1.0), activation=nnx.silu, rngs=nnx.Rngs(0)
    )
    once = embed(SETS, BATCH)
    twice = embed(jnp.concatenate([SETS, SETS], axis=1), BATCH)
    weights = embed.dense1.kernel[...][-1:]
    np.testing.assert_allclose(twice - once, np.log(2) * weights.repeat(BATCH, 0), atol=1e-5)
    each = jnp.stack([embed(SETS[:, member], BATCH) for member in range(4)])
    np.testing.assert_allclose(once, each.mean(0) + np.log(4) * weights, atol=1e-5)


def test_the_embedding_that_keeps_magnitude_has_unit_magnitude_and_the_same_symmetries():
    embed = MPContextEmbedding(FEATURES, 50, rngs=nnx.Rngs(0))
    want = embed(SETS, BATCH)
    np.testing.assert_allclose(jnp.mean(want**2, -1), 1.0, rtol=1e-3)
    np.testing.assert_allclose(embed(SETS[:, ::-1], BATCH), want, atol=1e-5)
    nan = jnp.full((BATCH, 2, FEATURES), jnp.nan)
    np.testing.assert_allclose(embed(jnp.concatenate([nan, SETS], 1), BATCH), want, atol=1e-5)
    np.testing.assert_array_equal(embed(nan, BATCH), 0.0)
    np.testing.assert_array_equal(embed(None, BATCH), 0.0)
    assert differ(embed(jnp.concatenate([SETS, SETS], 1), BATCH), want)
    some = SETS.at[0].set(jnp.nan)
    slopes = nnx.grad(lambda embed: jnp.sum(embed(some, BATCH)[:, 0]))(embed)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(slopes))


def test_gradients_of_a_dropped_context_are_finite_and_reach_its_own_vector():
    split = models.split(build(models.MLP, context=FEATURES)[0])
    params = filled(split.params)
    x = jnp.ones((BATCH, *X["MLP"]))
    some = VECTORS.at[0].set(jnp.nan)

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.sum(models.merge(split.train, params)(x, NOISE, some) ** 2)

    slopes = gradient(params)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(slopes))
    assert np.all(np.asarray(slopes["conditioning"]["context"]["no_context"]) != 0)


@each_of_images
def test_an_image_changes_the_output_where_it_is_and_nan_is_no_image(name):
    net, x = network(name, cond_channels=CHANNELS)
    want = net(x, IMAGES)
    assert want.shape == x.shape
    assert differ(want, net(x, IMAGES + 0.3)) and differ(want, net(x, None))
    dropped = net(x, IMAGES.at[1].set(jnp.nan))
    for sample, expected in enumerate([want, net(x, None), want]):
        np.testing.assert_allclose(dropped[sample], expected[sample], rtol=1e-4, atol=1e-4)
    part = net(x, IMAGES.at[1, 0, 0, 0].set(jnp.nan))
    assert not np.isfinite(np.asarray(part[1])).all() and np.isfinite(np.asarray(part[2])).all()


def test_the_channels_of_an_image_stand_behind_those_of_the_data():
    x = jnp.ones((BATCH, 8, 8, 2))
    both = with_image(x, IMAGES, CHANNELS)
    np.testing.assert_array_equal(both[..., :2], x)
    np.testing.assert_array_equal(both[..., 2:], IMAGES)
    np.testing.assert_array_equal(with_image(x, None, CHANNELS)[..., 2:], 0)
    assert with_image(x, None, 0) is x


NUMBERS = 9
AUGMENTATION = jnp.asarray(RNG.normal(size=(BATCH, NUMBERS)), jnp.float32)


@each_that_is_augmented
def test_an_augmentation_changes_the_output_and_zeros_are_bitwise_none(name):
    net, x = network(name, augmentation=NUMBERS)
    plain = net(x, None)
    told = net(x, {"augmentation": AUGMENTATION})
    assert differ(told, plain) and differ(told, net(x, {"augmentation": 2 * AUGMENTATION}))
    for number in range(NUMBERS):  # each of them is heard
        one = jnp.zeros((BATCH, NUMBERS)).at[:, number].set(1.0)
        assert differ(net(x, {"augmentation": one}), plain), number
    np.testing.assert_array_equal(net(x, {"augmentation": 0 * AUGMENTATION}), plain)
    some = net(x, {"augmentation": AUGMENTATION.at[1].set(0.0)})
    for sample, want in enumerate([told, plain, told]):
        np.testing.assert_allclose(some[sample], want[sample], rtol=1e-4, atol=1e-4)


@each_that_is_augmented
def test_whoever_draws_samples_need_not_know_of_augmentations(name):
    """A network of labels that is told of augmentations takes its labels as a bare array."""
    net, x = network(name, augmentation=NUMBERS, num_classes=3)
    label = jnp.arange(BATCH)
    want = net(x, label)
    np.testing.assert_array_equal(net(x, {"label": label}), want)
    np.testing.assert_array_equal(
        net(x, {"label": label, "augmentation": jnp.zeros((BATCH, NUMBERS))}), want
    )
    assert differ(net(x, {"label": label, "augmentation": AUGMENTATION}), want)


def test_several_conditions_come_by_name_and_each_counts():
    net, x = network("DiT", num_classes=3, context=FEATURES, cond_channels=CHANNELS)
    every = {"label": jnp.arange(BATCH), "context": VECTORS, "image": IMAGES}
    want = net(x, every)
    for kind in every:
        rest = {name: value for name, value in every.items() if name != kind}
        assert differ(net(x, rest), want), kind
    nothing = {
        "label": jnp.full(BATCH, 3),
        "context": VECTORS * jnp.nan,
        "image": IMAGES * jnp.nan,
    }
    np.testing.assert_allclose(net(x, nothing), net(x, None), rtol=1e-4, atol=1e-5)
    with pytest.raises(
        ValueError, match="takes label and context and image.* got one .*dictionary"
    ):
        net(x, every["label"])


@pytest.mark.parametrize(
    "sizes, cond, message",
    [
        ({"context": 2}, VECTORS[:2], r"context is float32\(2, 2\), expected .* \(3, 2\)"),
        ({"context": 2}, SETS[:, :0], r"context is float32\(3, 0, 2\), expected"),
        ({"context": 3}, VECTORS, r"expected floats of shape \(3, 3\)"),
        ({"context": 3}, SETS, r"expected floats of shape \(3, 4, 3\)"),
        (
            {"context": 2},
            jnp.zeros((3, 2), jnp.int32),
            r"context is int32\(3, 2\), expected floats",
        ),
        (
            {"image": 3},
            IMAGES[:, :4],
            r"an image is float32\(3, 4, 8, 3\), expected .*\(3, 8, 8, 3\)",
        ),
        ({"image": 2}, IMAGES, r"expected floats of shape \(3, 8, 8, 2\)"),
        ({"image": 3}, {"label": jnp.arange(3)}, "label were given to a network that takes image"),
        ({}, VECTORS, "without classes"),
        (
            {"augmentation": 9},
            {"augmentation": VECTORS},
            r"an augmentation is float32\(3, 2\), expected floats of shape \(3, 9\)",
        ),
        ({"augmentation": 2}, VECTORS, "without classes"),
        (
            {"label": 2},
            {"augmentation": VECTORS},
            "conditions augmentation were given to a network that takes label; leave them out",
        ),
    ],
)
def test_wrong_conditions_say_what_was_expected(sizes, cond, message):
    with pytest.raises(ValueError, match=message):
        ConditionSizes(**sizes).read(cond, jnp.zeros((3, 8, 8, 1)))


@pytest.mark.parametrize("name", X)
def test_settings_below_zero_are_refused(name):
    for setting in ("context", "cond_channels", "augmentation"):
        cls = getattr(models, name)
        if takes(cls, setting):
            with pytest.raises(ValueError, match=f"{setting} >= 0, got -1"):
                cls(X[name], **SMALLER[name], **{setting: -1}, rngs=models.rngs_of(0))


@pytest.mark.parametrize("name", ["MLP", "DiT"])
def test_a_network_without_conditions_has_the_parameters_that_it_had(name):
    """New settings draw no keys: published seeds and checkpoints keep their meaning."""
    cls = getattr(models, name)
    plain = models.split(
        cls(X[name], **SMALLER[name], num_classes=2, rngs=models.rngs_of(5))
    ).params
    more = models.split(
        cls(X[name], **SMALLER[name], num_classes=2, context=2, rngs=models.rngs_of(5))
    ).params
    assert set(plain["conditioning"]) == set(more["conditioning"]) - {"context"}
    np.testing.assert_array_equal(
        plain["conditioning"]["label"]["embedding"], more["conditioning"]["label"]["embedding"]
    )


@each_that_is_augmented
def test_the_map_of_an_augmentation_is_drawn_after_the_others_of_the_embedding(name):
    cls = getattr(models, name)
    settings = SMALLER[name] | {"num_classes": 2}

    def conditioning(**more):
        net = cls(X[name], **settings, **more, rngs=models.rngs_of(5))
        return models.split(net).params["conditioning"]

    plain = conditioning()
    more = conditioning(augmentation=NUMBERS)
    assert set(more) == set(plain) | {"augmentation"}
    assert set(more["augmentation"]) == {"kernel"}
    for part in plain:
        for leaf, other in zip(
            jax.tree.leaves(plain[part]), jax.tree.leaves(more[part]), strict=True
        ):
            np.testing.assert_array_equal(leaf, other)


def test_a_network_that_embeds_nothing_is_told_of_no_augmentation():
    with pytest.raises(ValueError, match="without embedding .* is told of no augmentation"):
        models.UNet((8, 8, 1), embedding="none", augmentation=9, rngs=models.rngs_of(0))
