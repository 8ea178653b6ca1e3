"""Augmentation: what is drawn, what the network is told, and that it does not leak."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from experiments.configs import digits, digits_classifier
from experiments.configs.common import base_config
from experiments.run.augmentation import augment, augmented, draw_augmentations, linear_map
from experiments.run.build import DataFacts, build
from experiments.run.losses import make_losses
from sde_lib import VP, Denoiser, Uniform, denoising_loss

COUNT = 20_000
RNG = np.random.default_rng(0)


def numbers_of(**given):
    """Return the nine numbers of one augmentation, (1, 9)."""
    names = ["mirror_x", "mirror_y", "scale", "cos", "sin", "along", "across", "right", "down"]
    row = np.zeros((1, 9), np.float32)
    for name, value in given.items():
        row[0, names.index(name)] = value
    return jnp.asarray(row)


@pytest.fixture(scope="module")
def drawn():
    return np.asarray(draw_augmentations(jax.random.key(0), COUNT, 0.12), np.float64)


@pytest.fixture(scope="module")
def always():
    return np.asarray(draw_augmentations(jax.random.key(1), COUNT, 1.0), np.float64)


KINDS = {
    "mirror_x": [0],
    "mirror_y": [1],
    "scale": [2],
    "turn": [3, 4],
    "stretch": [5, 6],
    "move": [7, 8],
}


def test_each_augmentation_is_as_frequent_as_stated_and_independent_of_the_others(drawn):
    """Mirroring half as often, as half of the draws are 0. Within five standard deviations of a
    binomial share, for 6 shares and 15 products: a false alarm once in 80,000 seeds.
    """
    on = {name: (drawn[:, columns] != 0).any(1) for name, columns in KINDS.items()}
    share = {name: 0.06 if name.startswith("mirror") else 0.12 for name in KINDS}
    for name, hits in on.items():
        p = share[name]
        assert abs(hits.mean() - p) < 5 * np.sqrt(p * (1 - p) / COUNT), name
        for other in KINDS:
            if other < name:
                both = p * share[other]
                spread = 5 * np.sqrt(both * (1 - both) / COUNT)
                assert abs((hits & on[other]).mean() - both) < spread, (name, other)
    untouched = (drawn == 0).all(1).mean()
    assert abs(untouched - 0.94**2 * 0.88**4) < 5 * np.sqrt(0.25 / COUNT)  # 53 %


def test_numbers_have_the_stated_laws(always):
    """Moments within five standard errors: a false alarm once in 100,000 seeds."""
    error = 5 / np.sqrt(COUNT)
    assert set(np.unique(always[:, :2])) == {0, 1}
    assert abs(always[:, :2].mean(0) - 0.5).max() < error / 2
    for column in (2, 7, 8):  # N(0, 1)
        assert abs(always[:, column].mean()) < error
        assert abs(always[:, column].var() - 1) < error * np.sqrt(2)
    cos, sin = always[:, 3] + 1, always[:, 4]
    np.testing.assert_allclose(cos**2 + sin**2, 1, atol=1e-5)
    # of a uniform angle all these moments are 0
    harmonics = [cos, sin, cos**2 - sin**2, 2 * sin * cos]
    assert max(abs(np.mean(h)) for h in harmonics) < error / np.sqrt(2)
    size = np.hypot(always[:, 5], always[:, 6])  # |N(0, 1)|
    assert abs((size**2).mean() - 1) < error * np.sqrt(2)
    assert abs((size**4).mean() - 3) < error * np.sqrt(96)
    direction = always[:, 5:7] / size[:, None]
    assert abs(direction.mean(0)).max() < error / np.sqrt(2)
    correlation = np.corrcoef(always, rowvar=False)[np.triu_indices(9, 1)]
    assert abs(correlation).max() < error


def test_nothing_is_drawn_with_probability_zero():
    assert not draw_augmentations(jax.random.key(0), 100, 0.0).any()


def test_the_map_is_the_product_of_its_parts(always):
    """Each part by itself, in float64: exponential, rotation, scaling, mirrors."""
    some = always[:50]
    for row, matrix in zip(some, np.asarray(linear_map(jnp.asarray(some))), strict=True):
        mirrors = np.diag(1 - 2 * row[:2])
        scaling = 2 ** (0.2 * row[2])
        turn = np.array([[row[3] + 1, -row[4]], [row[4], row[3] + 1]])
        stretch = expm(0.2 * np.log(2) * np.array([[row[5], row[6]], [row[6], -row[5]]]))
        np.testing.assert_allclose(matrix, stretch @ turn @ mirrors * scaling, atol=2e-6)
        assert abs(np.linalg.det(matrix)) == pytest.approx(scaling**2, rel=1e-5)


def test_a_stretch_is_along_its_direction_and_the_numbers_decide_it():
    """By 2^(w/5) along psi and its inverse across. The numbers of (w, psi) are those of the same
    map only: of (-w, psi + pi/2), and not of (-w, psi + pi), which stretches where it squeezed.
    """
    for w, psi in ((1.3, 0.4), (-0.7, 2.0)):
        matrix = linear_map(numbers_of(along=w * np.cos(2 * psi), across=w * np.sin(2 * psi)))[0]
        along = np.array([np.cos(psi), np.sin(psi)])
        across = np.array([-along[1], along[0]])
        np.testing.assert_allclose(matrix @ along, 2 ** (w / 5) * along, atol=1e-6)
        np.testing.assert_allclose(matrix @ across, 2 ** (-w / 5) * across, atol=1e-6)


def test_zeros_are_the_identity_and_leave_images_bitwise_as_they_are():
    np.testing.assert_array_equal(linear_map(jnp.zeros((2, 9))), np.stack([np.eye(2)] * 2))
    images = RNG.normal(size=(400, 5, 5, 2)).astype(np.float32)
    batch = augmented(jax.random.key(2), {"x": jnp.asarray(images)}, 0.12)
    untouched = np.asarray(batch["augmentation"] == 0).all(1)
    x = np.asarray(batch["x"])
    assert 0.35 < untouched.mean() < 0.7  # 0.53; seven standard deviations
    np.testing.assert_array_equal(x[untouched], images[untouched])
    assert all((a != b).any() for a, b in zip(x[~untouched], images[~untouched], strict=True))
    images[0, 2, 2] = np.nan  # whatever they hold: no interpolation spreads it
    none = augmented(jax.random.key(2), {"x": jnp.asarray(images)}, 0.0)
    np.testing.assert_array_equal(none["x"], images)
    assert not none["augmentation"].any()


def test_single_augmentations_do_what_they_say():
    image = jnp.asarray(RNG.normal(size=(1, 8, 16, 1)), jnp.float32)
    x = np.asarray(image[0])

    def after(**given):
        return np.asarray(augment(image, numbers_of(**given))[0])

    np.testing.assert_array_equal(after(mirror_x=1), x[:, ::-1])
    np.testing.assert_array_equal(after(mirror_y=1), x[::-1])
    np.testing.assert_array_equal(after(cos=-2), x[::-1, ::-1])
    np.testing.assert_array_equal(after(right=1)[:, 2:], x[:, :-2])  # an eighth of 16 pixels
    np.testing.assert_array_equal(after(down=-1)[:-1], x[1:])  # an eighth of 8 pixels
    twice = augment(augment(image, numbers_of(mirror_x=1)), numbers_of(mirror_x=1))
    np.testing.assert_array_equal(twice, image)
    grown = after(scale=5)  # twice as large: centres of pixels 2 k + 1/2 from the middle
    np.testing.assert_allclose(np.asarray(grown).mean(), x[2:6, 4:12].mean(), atol=0.3)


def test_scaling_by_two_keeps_the_middle_and_spreads_it():
    """An image that is linear in x has half the slope afterwards."""
    ramp = jnp.broadcast_to(jnp.arange(16.0)[None, None, :, None], (1, 8, 16, 1))
    grown = np.asarray(augment(ramp, numbers_of(scale=5))[0, :, :, 0])
    np.testing.assert_allclose(
        grown[:, 1:-1],
        np.asarray(7.5 + (np.arange(16) - 7.5) / 2)[None, 1:-1].repeat(8, 0),
        atol=1e-5,
    )


def test_an_image_that_is_a_condition_is_augmented_alike_and_other_conditions_are_not():
    x = jnp.asarray(RNG.normal(size=(30, 6, 6, 1)), jnp.float32)
    image = jnp.concatenate([x, 2 * x], axis=-1)
    batch = augmented(jax.random.key(0), {"x": x, "cond": image, "label": jnp.arange(30)}, 0.9)
    np.testing.assert_allclose(batch["cond"][..., :1], batch["x"], atol=1e-6)
    np.testing.assert_allclose(batch["cond"][..., 1:], 2 * batch["x"], atol=1e-5)
    np.testing.assert_array_equal(batch["label"], np.arange(30))
    vectors = jnp.ones((30, 4))
    batch = augmented(jax.random.key(0), {"x": x, "cond": vectors}, 0.9)
    assert batch["cond"] is vectors


def test_a_dropped_image_stays_absent():
    x = jnp.full((4, 5, 5, 1), jnp.nan)
    assert jnp.isnan(augment(x, jnp.full((4, 9), 0.3))).all()


def spied(augmentation, given, denoise=None, **train):
    """Return a run whose network appends what it is given, and answers as `denoise` says."""
    config = build_config(augment=augmentation, **train)
    sde = VP()

    def net(x, signal, cond):
        given.append((x, signal, cond))
        return 0 * x

    facts = DataFacts((4, 4, 1), None, 3, 0.5)
    run: Any = SimpleNamespace(
        config=config,
        classifies=False,
        self_conditioning=False,
        facts=facts,
        sde=sde,
        denoiser=lambda params, dropout: Denoiser(denoise or net, sde, sigma_data=0.5),
    )
    return run


def build_config(**train):
    config = base_config().unlock()
    config.train.update(train)
    return config


KEYS = jax.random.split(jax.random.key(9), 3)


@pytest.mark.parametrize("conditional", [False, True])
def test_the_network_is_told_what_was_done_even_where_its_label_is_dropped(conditional):
    given = []
    run = spied(0.5, given, conditional=conditional, label_dropout=1.0)
    x = jnp.asarray(RNG.normal(size=(64, 4, 4, 1)), jnp.float32)
    batch = {"x": x, "label": jnp.zeros(64, int)}
    t = jnp.full(64, 0.3)
    loss = make_losses(run)(None, KEYS, batch, Uniform(), t)
    ((seen, signal, cond),) = given
    assert set(cond) == ({"label", "augmentation"} if conditional else {"augmentation"})
    if conditional:
        np.testing.assert_array_equal(cond["label"], 3)
    numbers = cond["augmentation"]
    key = jax.random.fold_in(KEYS[1], 0xFFFFFFFF)  # of no other draw, see docs/how_it_works.md
    np.testing.assert_array_equal(numbers, draw_augmentations(key, 64, 0.5))
    moved = augment(x, numbers)
    np.testing.assert_array_equal(
        loss,
        denoising_loss(KEYS[0], run.denoiser(None, None), moved, Uniform().quantile(run.sde, t)),
    )


def test_without_augmentation_the_loss_is_what_it_was():
    """Keys, data and the arguments of the network are those of a run that knows nothing of it."""
    given = []
    run = spied(0.0, given)
    x = jnp.asarray(RNG.normal(size=(8, 4, 4, 1)), jnp.float32)
    t = jnp.linspace(0.1, 0.9, 8)
    loss = make_losses(run)(None, KEYS, {"x": x, "label": jnp.zeros(8, int)}, Uniform(), t)
    times = Uniform().quantile(run.sde, t)
    np.testing.assert_array_equal(loss, denoising_loss(KEYS[0], run.denoiser(None, None), x, times))
    assert given[0][2] is None


def exact_mean(images, x, alpha, sigma):
    """Return E[x0 | x] for x0 one of `images` (k, d) with equal weights, x (n, d); float64."""
    square = ((x[:, None] - alpha * images[None]) ** 2).sum(-1)
    weights = np.exp(-(square - square.min(1, keepdims=True)) / (2 * sigma**2))
    return (weights / weights.sum(1, keepdims=True)) @ images


def shifted_by_hand(images, steps):
    """Return images moved to the right by whole pixels, with reflection; NumPy alone."""
    padded = np.pad(images, ((0, 0), (0, 0), (4, 4)), mode="reflect")
    return padded[:, :, 4 - steps : 4 - steps + images.shape[2]]


def test_the_best_network_that_is_told_does_not_leak_and_the_best_that_is_not_does():
    """Data of two images. The best denoiser that is told moves by k pixels is the exact posterior
    mean of the two images moved by k pixels; told zeros, that of the data as they are. So the
    residuals of exactly these denoisers have mean zero in every group of examples that are told the
    same, also multiplied by the noisy image: six standard errors in 2 x 3 x 16 means, a false alarm
    once in five million. The best denoiser that is told nothing leaks: on clean data its mean
    square distance to the exact one is far from zero.
    """
    pair = RNG.normal(size=(2, 4, 4))
    alpha, sigma = 0.7, 0.9
    number = 30_000
    which = RNG.integers(0, 2, number)
    moves = RNG.integers(-1, 2, number)  # in pixels: of the width of 8 an eighth, so of 4 a half
    numbers = np.zeros((number, 9), np.float32)
    numbers[:, 7] = 2 * moves
    given = pair[which][..., None].astype(np.float32)
    x0 = np.asarray(augment(jnp.asarray(given), jnp.asarray(numbers)), np.float64)
    noisy = alpha * x0 + sigma * RNG.normal(size=x0.shape)
    x0, noisy = x0.reshape(number, -1), noisy.reshape(number, -1)
    everything = np.concatenate([shifted_by_hand(pair, steps) for steps in (-1, 0, 1)])
    for steps in (-1, 0, 1):
        told = numbers[:, 7] == 2 * steps
        own = shifted_by_hand(pair, steps).reshape(2, -1)
        residual = x0[told] - exact_mean(own, noisy[told], alpha, sigma)
        for product in (residual, residual * noisy[told]):
            error = product.std(0) / np.sqrt(told.sum())
            assert (abs(product.mean(0)) < 6 * error).all(), steps
    clean = noisy[moves == 0]
    exact = exact_mean(pair.reshape(2, -1), clean, alpha, sigma)
    untold = exact_mean(everything.reshape(6, -1), clean, alpha, sigma)
    assert np.mean((untold - exact) ** 2) > 0.05 * pair.var()


def config_of_images(**train):
    config = digits.get_config("vp")
    config.net.update({"nf": 8, "ch_mult": (1,), "num_res_blocks": 1, "attn_resolutions": ()})
    config.train.update(train)
    return config


FACTS = DataFacts((8, 8, 1), 17, 10, 0.75)


def test_a_run_without_augmentation_has_no_place_for_it_and_one_with_it_has():
    for augmentation, conditional in ((0.0, False), (0.12, False), (0.12, True)):
        config = config_of_images(augment=augmentation, conditional=conditional)
        run = build(config, FACTS, abstract=True)
        conditioning = run.split.params["conditioning"]
        assert ("augmentation" in conditioning) == (augmentation > 0)
        assert ("label" in conditioning) == conditional
    assert conditioning["augmentation"]["kernel"].shape == (9, 32)


@pytest.mark.parametrize(
    "change, facts, message",
    [
        ({"name": "MLP"}, DataFacts((2,), None, 0, 1.0), r"only images .* have shape \(2,\)"),
        ({"name": "MPUNet"}, FACTS, "MPUNet does not take augmentation, which is 9 here"),
    ],
)
def test_what_cannot_be_augmented_is_refused(change, facts, message):
    config = config_of_images(augment=0.12)
    config.net = change
    with pytest.raises(ValueError, match=message):
        build(config, facts, abstract=True)


def test_a_classifier_is_not_augmented():
    config = digits_classifier.get_config("vp")
    config.train.augment = 0.12
    with pytest.raises(ValueError, match="config.train.augment is set, but a classifier has no"):
        build(config, FACTS, abstract=True)
