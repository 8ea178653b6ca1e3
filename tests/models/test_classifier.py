"""Classifiers of noisy data: logits of each sample by itself, which know the noise level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
from tests.models.networks import differ, filled

SETTINGS = {
    "ImageClassifier": ((8, 8, 2), {"nf": 8, "ch_mult": (1, 2)}),
    "VectorClassifier": ((3,), {"width": 16, "depth": 1}),
}
CLASSES = 5
NOISE = jnp.linspace(-2, 1, 4)

each_network = pytest.mark.parametrize("name", SETTINGS)


def made(name, **settings):
    """Return the split network without numbers, random parameters for it, and data."""
    shape, small = SETTINGS[name]
    cls = getattr(models, name)
    net = nnx.eval_shape(
        lambda: cls(shape, num_classes=CLASSES, **(small | settings), rngs=models.rngs_of(0))
    )
    split = models.split(net)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, *shape)), jnp.float32)
    return split, filled(split.params), x


@each_network
def test_logits_depend_on_the_sample_and_its_noise_level_alone(name):
    split, params, x = made(name, dropout=0.5)
    logits = jax.jit(lambda x, c: models.merge(split.evaluate, params)(x, c))
    want = logits(x, NOISE)
    assert want.shape == (4, CLASSES) and want.dtype == jnp.float32
    assert differ(want, logits(x, NOISE + 0.1))
    others = jnp.arange(4) != 2
    mixed = jnp.where(others.reshape(4, *[1] * (x.ndim - 1)), 1 - 3 * x, x)
    got = logits(mixed, jnp.where(others, 0.3, NOISE))
    np.testing.assert_allclose(got[2], want[2], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="rngs"):
        models.merge(split.train, params)(x, NOISE)


@each_network
def test_every_parameter_counts(name):
    split, params, x = made(name)

    @jax.jit
    @jax.grad
    def slope(params):
        logits = models.merge(split.train, params)(x, NOISE)
        return -jnp.sum(jax.nn.log_softmax(logits)[:, 0])

    for path, g in jax.tree_util.tree_leaves_with_path(slope(params)):
        assert np.isfinite(g).all() and np.mean(np.abs(g) > 1e-9) > 0.6, path


def test_an_image_goes_down_to_the_coarsest_level():
    """Two blocks on the first level, a step down, and two blocks with twice the channels."""
    split, _, _ = made("ImageClassifier", num_res_blocks=2)
    blocks = split.params["blocks"]
    assert "shortcut" in blocks[2] and "shortcut" not in blocks[1]  # where the resolution changes
    assert len(blocks) == 5 and blocks[4]["conv1"]["kernel"].shape == (3, 3, 16, 16)


@each_network
def test_wrong_arguments_are_refused(name):
    split, params, x = made(name)
    net = models.merge(split.evaluate, params)
    with pytest.raises(ValueError, match="x has shape"):
        net(x[0], NOISE)
    with pytest.raises(ValueError, match="takes no condition"):
        net(x, NOISE, jnp.arange(4))
    cls = getattr(models, name)
    with pytest.raises(ValueError, match="num_classes >= 2, got 1"):
        cls(SETTINGS[name][0], num_classes=1, rngs=models.rngs_of(0))
    with pytest.raises(ValueError, match="needs shape"):
        cls((2, 2), num_classes=3, rngs=models.rngs_of(0))
