"""Power-function averages against quadrature, explicit sums and the figures of the paper."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from experiments.run.power_average import (
    WIDEST,
    Profile,
    exponent,
    fit_profile,
    inner_products,
    power_update,
    relative_width,
)

WIDTHS = (0.01, 0.05, 0.1, 0.15, 0.2, 0.28)


def density(profile):
    """The profile as a function of time, written down once more."""
    g, end = exponent(profile.sigma_rel), profile.step
    return lambda t: np.where(t <= end, (g + 1) / end * (np.minimum(t, end) / end) ** g, 0.0)


def update_weights(sigma_rel, step):
    """How much the parameters after updates 1, 2, ... count after `step` of them, in float64: the
    products of the rule's factors.
    """
    n = np.arange(1, step + 1)
    keep = (1 - 1 / n) ** (exponent(sigma_rel) + 1)
    later = np.append(np.cumprod(keep[::-1])[::-1][1:], 1.0)
    return (1 - keep) * later


def product_at(p, q, t):
    return p(t) * q(t)


def stored(steps, widths=(0.05, 0.1)):
    return [Profile(width, step) for step in steps for width in widths]


def walk(steps, seed=0):
    return np.cumsum(np.random.default_rng(seed).standard_normal((steps, 3)), axis=0)


def test_the_exponents_are_those_of_the_paper():
    """arXiv:2312.02696, section 3.1, names 16.97 and 6.94."""
    assert exponent(0.05) == pytest.approx(16.97, abs=5e-3)
    assert exponent(0.10) == pytest.approx(6.94, abs=5e-3)


@pytest.mark.parametrize("width", (0.001, *WIDTHS, 0.2886))
def test_a_width_is_the_standard_deviation_of_its_profile(width):
    p = density(Profile(width, 1.0))
    start = max(0.0, 1 - 60 * width)
    mass, mean, square = (quad(lambda t, k=k: t**k * p(t), start, 1)[0] for k in range(3))
    assert mass == pytest.approx(1, rel=1e-9)
    assert np.sqrt(square - mean**2) == pytest.approx(width, rel=1e-6)
    assert relative_width(exponent(width)) == pytest.approx(width, rel=1e-12)


@pytest.mark.parametrize("width", (0.0, -0.1, WIDEST, 1.0, float("nan")))
def test_a_width_that_no_profile_has_is_refused(width):
    with pytest.raises(ValueError, match=r"need 0 < sigma_rel < 0.2887.*got"):
        exponent(width)


def test_inner_products_are_those_of_quadrature():
    left = [Profile(width, step) for width in WIDTHS for step in (3.0, 7.0)]
    right = [Profile(0.12, 5.0), Profile(0.05, 7.0)]
    got = inner_products(left, right)
    assert got.shape == (12, 2) and got.dtype == np.float64
    for row, a in zip(got, left, strict=True):
        for value, b in zip(row, right, strict=True):
            end = min(a.step, b.step)
            product = partial(product_at, density(a), density(b))
            expected = quad(product, 0, end, epsabs=1e-13, points=[0.9 * end])[0]
            assert value == pytest.approx(expected, rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("width", (0.02, 0.05, 0.1, 0.25))
def test_the_running_average_is_the_explicit_sum_at_any_step(width):
    history = walk(400).astype(np.float32)
    update = jax.jit(power_update, static_argnums=2)
    average = jnp.full(3, 99.0)  # what was there before the first update leaves no trace
    for step, params in enumerate(history):
        average = update(average, params, exponent(width), jnp.asarray(step))
        if step + 1 in (1, 2, 3, 10, 57, 400):
            weights = update_weights(width, step + 1)
            expected = weights @ history[: step + 1].astype(np.float64)
            # 400 roundings of numbers up to 40; 99 goes in the first update
            np.testing.assert_allclose(average, expected, rtol=0, atol=4e-5)


@pytest.mark.parametrize("width", (0.05, 0.1, 0.25))
@pytest.mark.parametrize("step", (1, 2, 33))
def test_an_update_counts_as_much_as_its_share_of_the_profile(width, step):
    p = density(Profile(width, step))
    shares = [quad(p, t - 1, t)[0] for t in range(1, step + 1)]
    np.testing.assert_allclose(update_weights(width, step), shares, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("place", range(8))
def test_a_profile_that_is_stored_is_taken_as_it_is(place):
    profiles = stored((100, 200, 300, 350))
    combination = fit_profile(profiles[place], profiles)
    np.testing.assert_allclose(combination.weights, np.eye(8)[place], atol=1e-9)
    assert combination.error < 1e-7


@pytest.mark.parametrize("width", (0.02, 0.07, 0.15, 0.2, 0.28))
@pytest.mark.parametrize("last", (1000, 1037))
def test_the_error_is_the_norm_of_what_is_missing_and_as_small_as_can_be(width, last):
    profiles = stored((*range(200, 1001, 200), *([last] if last > 1000 else [])))
    target = Profile(width, last)
    combination = fit_profile(target, profiles)
    assert combination.weights.sum() == pytest.approx(1, abs=1e-12)
    # cells of one width, whose midpoints are off by 1e-6 of the norm
    t = (np.arange(400_000) + 0.5) / 400_000 * last
    columns = np.stack([density(profile)(t) for profile in profiles])
    wanted = density(target)(t)
    norm = lambda x: np.linalg.norm(wanted - x @ columns) / np.linalg.norm(wanted)  # noqa: E731
    assert combination.error == pytest.approx(norm(combination.weights), rel=1e-3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        aside = rng.standard_normal(len(profiles)) * 0.02 * np.abs(combination.weights).max()
        assert norm(combination.weights + aside - aside.mean()) > combination.error


@pytest.mark.parametrize("width", (0.03, 0.07, 0.12, 0.2, 0.25))
@pytest.mark.parametrize("last", (1200, 1201, 1250))
def test_a_reconstruction_is_the_average_itself_within_the_error(width, last):
    """By Cauchy and Schwarz: the error bounds the difference by the size of what changed."""
    history = walk(last)
    steps = [*range(100, 1201, 100), *([last] if last > 1200 else [])]
    profiles = stored(steps)
    averages = [update_weights(p.sigma_rel, p.step) @ history[: p.step] for p in profiles]
    combination = fit_profile(Profile(width, last), profiles)
    made = combination.weights @ np.array(averages)
    tracked = update_weights(width, last) @ history
    norm = np.sqrt(inner_products([Profile(width, last)], [Profile(width, last)]).item())
    bound = combination.error * norm * np.linalg.norm(history - history[-1], axis=0)
    assert (np.abs(made - tracked) <= bound).all()
    # and is no worse than the nearest one that was stored
    nearest = min(abs(width - other) for other in (0.05, 0.1))
    (best,) = [
        i for i, p in enumerate(profiles) if p.step == last and abs(p.sigma_rel - width) == nearest
    ]
    assert np.linalg.norm(made - tracked) < 0.5 * np.linalg.norm(averages[best] - tracked)


def test_the_error_is_reached_by_the_history_that_is_hardest():
    """Parameters that follow the missing part of the profile are off by its squared norm."""
    last, width = 3000, 0.2
    profiles, target = stored(range(500, 3001, 500)), Profile(0.2, 3000)
    combination = fit_profile(target, profiles)
    shares = np.zeros((len(profiles), last))
    for row, profile in zip(shares, profiles, strict=True):
        row[: profile.step] = update_weights(profile.sigma_rel, profile.step)
    missing = update_weights(width, last) - combination.weights @ shares
    difference = missing @ missing  # of the two averages of the history `missing`
    norm = np.sqrt(inner_products([target], [target]).item())
    assert np.sqrt(difference) / norm == pytest.approx(combination.error, rel=0.02)


@pytest.mark.parametrize("width", (0.005, 0.03, 0.15))
@pytest.mark.parametrize("gap", (1, 2, 5))
def test_neighbouring_steps_of_a_long_training_do_no_harm(width, gap):
    """A run that was stopped soon after a snapshot stores nearly the same average twice, which
    without the price of rounding makes the system singular, or its weights 40 times as large.
    """
    steps, last = range(100_000, 1_000_001, 100_000), 1_000_000 + gap
    alone = fit_profile(Profile(width, 1_000_000), stored(steps))
    both = fit_profile(Profile(width, last), stored([*steps, last]))
    assert both.error == pytest.approx(alone.error, rel=2e-2)
    assert np.abs(both.weights).sum() < 2 * np.abs(alone.weights).sum()


def test_what_does_not_change_is_kept_whatever_the_error():
    combination = fit_profile(Profile(0.28, 100), stored((100,)))
    assert combination.error > 1
    assert combination.weights @ np.full(2, 7.0) == pytest.approx(7, abs=1e-12)
    with pytest.raises(ValueError, match="at least one stored profile"):
        fit_profile(Profile(0.1, 100), [])
