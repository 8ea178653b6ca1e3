"""DPM-Solver with adaptive steps: its algorithm again in NumPy, its accuracy and evaluations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import dpm_adaptive
from sde_lib import VE, VP, Estimate, GaussianMixture
from tests.samplers.test_mixture import MEANS, STDS, WEIGHTS, estimate

DATA = GaussianMixture(WEIGHTS, MEANS[:, None], STDS[:, None, None] ** 2)
X, END = np.array([[-1.2], [0.4], [1.7]]), 1e-3


def reference(sde, x, order, rtol, atol, sd, growth, longest, h=0.05, theta=0.9, accepted=None):
    """Return where one sample ends and the network calls it took, as in arXiv:2206.00927, app. C.

    Errors are relative to the normalised state, which is x itself for VP and sd = 1; there, and
    without a limit of growth, it is the paper's algorithm.
    """

    def lam_of(t):
        return float(0.5 * sde.log_snr(jnp.asarray(t)))

    marginal = jax.jit(lambda lam: sde.marginal(sde.time(2 * lam)))

    def at(lam):
        return [float(v) for v in marginal(lam)]

    def noise(lam, x):
        return np.asarray(estimate(x, *at(lam)).noise)

    def first_order(x, e, lam, to):
        (a, _), (a_s, s_s) = at(lam), at(to)
        return a_s / a * x - s_s * np.expm1(to - lam) * e

    def size(lam):
        alpha, sigma = at(lam)
        return np.hypot(sd * alpha, sigma)

    lam, last, calls = lam_of(1.0), lam_of(END), 0
    before = x / size(lam)
    while lam < last:
        h, e0 = min(h, last - lam), noise(lam, x)
        to, (_, s_s), calls = lam + h, at(lam + h), calls + order
        if order == 2:
            u = first_order(x, e0, lam, lam + h / 2)
            low = first_order(x, e0, lam, to)
            high = low - s_s * np.expm1(h) * (noise(lam + h / 2, u) - e0)
        else:
            u1 = first_order(x, e0, lam, lam + h / 3)
            d1 = noise(lam + h / 3, u1) - e0
            low = first_order(x, e0, lam, to) - 1.5 * s_s * np.expm1(h) * d1
            g = 2 * h / 3
            u2 = first_order(x, e0, lam, lam + g) - at(lam + g)[1] * 2 * (np.expm1(g) / g - 1) * d1
            d2 = noise(lam + g, u2) - e0
            high = first_order(x, e0, lam, to) - s_s * 1.5 * (np.expm1(h) / h - 1) * d2
        now = low / size(to)
        tolerance = np.maximum(atol, rtol * np.maximum(abs(now), abs(before)))
        error = np.sqrt(np.mean(((high - low) / size(to) / tolerance) ** 2))
        if error <= 1:
            lam, x, before = (last if h == last - lam else to), high, now
            if accepted is not None:
                accepted.append(lam)
        h = min(h * min(theta * error ** (-1 / order), growth), longest)
    return x, calls


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(
    ("sde", "sd", "growth"), [(VP(), 1.0, np.inf), (VE(), 0.7, 2.0)], ids=["VP", "VE"]
)
def test_it_is_the_algorithm_of_the_paper(sde, sd, growth, order):
    with jax.enable_x64(True):
        x = X * float(jnp.hypot(*sde.marginal(jnp.asarray(1.0))))
        result = dpm_adaptive(
            DATA.denoiser(sde),
            sde,
            jnp.asarray(x),
            order=order,
            end=END,
            sd=sd,
            rtol=0.02,
            atol=0.01,
            growth=growth,
            longest=growth / 2,
            denoise_last=False,
        )
        expected, calls = zip(
            *(reference(sde, row, order, 0.02, 0.01, sd, growth, growth / 2) for row in x),
            strict=True,
        )
    np.testing.assert_allclose(result.x, expected, rtol=1e-8)
    assert int(result.nfe) == max(calls)


def test_the_defaults_are_those_of_the_paper_and_one_call_more_denoises():
    with jax.enable_x64(True):
        sde, x = VP(), jnp.asarray(X[:1])
        result = dpm_adaptive(DATA.denoiser(sde), sde, x, end=END)
        sd = float(np.sqrt(DATA.data_moments().cov[0, 0]))
        expected, calls = reference(sde, X[0], 3, 0.05, 0.0078, sd, 2.0, 1.0)
        clean = estimate(expected, *(float(v) for v in sde.marginal(jnp.asarray(END)))).x0
    np.testing.assert_allclose(result.x[0], clean, rtol=1e-8)
    assert int(result.nfe) == calls + 1


def test_a_network_that_fails_ends_the_walk_with_nan():
    result = dpm_adaptive(
        lambda x, t, cond: Estimate(x * jnp.nan, x * jnp.nan),
        VP(),
        jnp.ones((2, 1)),
        denoise_last=False,
    )
    assert np.isnan(result.x).all() and int(result.nfe) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": 1}, "got order 1"),
        ({"end": 1.0}, "runs from start down to end"),
        ({"end": 0.0}, "finite at start = 1.0 and end = 0.0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dpm_adaptive(DATA.denoiser(VP()), VP(t_min=0.0), jnp.ones((1, 1)), **settings)
