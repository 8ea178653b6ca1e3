r"""Mean and covariance of what a sampler makes of Gaussian data, propagated exactly.

The denoiser of Gaussian data is affine, hence so is a step, v' = A v + b + C z, of the state with its memory v. A, b and C are read off the
real code by stepping from zero and every unit vector; then m' = A m + b and P' = A P A^T + C C^T hold without a random number. Started
from p_1, the walk must end in the exact marginal of the last time, up to an error that falls with the (weak) order that it declares.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import AnnealedLangevin, PredictorCorrector
from sde_lib import Estimate, Gaussian, in_float64
from tests.samplers.eager import END, memory_like, smooth_grid, step_all, supply

D, DRAWS, NS = 2, 8, (256, 512, 1024)
DATA = Gaussian([0.7, -0.4], [[0.5, 0.2], [0.2, 0.3]])


def denoiser(sde):
    """Return the exact denoise function of the data in NumPy, for any number of times at once."""
    mean, basis, variances = DATA.mean[None], DATA.basis, DATA.variances[None]

    def denoise(x, t, cond):
        alpha, sigma = in_float64(sde.marginal, t)
        z = (x - alpha * mean) @ basis / (alpha**2 * variances + sigma**2)
        return Estimate(mean + (alpha * variances * z) @ basis.T, sigma * (z @ basis.T))

    return denoise


def affine_steps(sampler, sde, plan):
    """Return A, b, C of every step of `plan`, acting on the state with its memory, and how far the steps are from being affine."""
    n = len(jax.tree.leaves(plan)[0])
    parts, shape = jax.tree.flatten(memory_like(sampler, np.zeros((1, D))))
    size, noises = D * (1 + len(parts)), D * DRAWS
    probe, silent = np.cos(1.0 + np.arange(size)), np.zeros((size + 1, noises))
    v = np.concatenate([np.zeros((1, size)), np.eye(size), np.zeros((noises, size)), probe[None]])
    z = np.concatenate([silent, np.eye(noises), np.sin(1.0 + np.arange(noises))[None]])
    x, *memory = (np.broadcast_to(a, (n, *a.shape)) for a in np.split(v, 1 + len(parts), axis=1))
    draws = iter(np.split(np.tile(z, (n, 1)), DRAWS, axis=1))
    with pytest.MonkeyPatch.context() as patch:
        supply(patch, lambda like: next(draws))
        x, memory = step_all(sampler, plan, x, jax.tree.unflatten(shape, memory), denoiser(sde))
    out = np.concatenate([x, *jax.tree.leaves(memory)], axis=2)
    b, linear = out[:, 0], np.moveaxis(out[:, 1:-1] - out[:, :1], 1, 2)
    a, c = linear[:, :, :size], linear[:, :, size:]
    return a, b, c, np.max(np.abs(out[:, -1] - b - a @ probe - c @ z[-1]))


def errors(sampler, sde, ns):
    """Return the error of the final mean and covariance at each number of steps."""
    plans = [in_float64(sampler.plan, sde, smooth_grid(sampler, n)) for n in ns]
    plan = jax.tree.map(lambda *parts: np.concatenate(parts), *plans)
    if isinstance(sampler, PredictorCorrector):
        # A Langevin step of size epsilon misses its law by O(epsilon^2). With epsilon ~ n^-order the n of them spoil no order.
        small = np.concatenate([np.full(n, n ** (-sampler.order / 2)) for n in ns])
        plan = plan._replace(
            corrector=plan.corrector._replace(ratio_squared=plan.corrector.ratio_squared * small**2)
        )
    a, b, c, curved = affine_steps(sampler, sde, plan)
    assert curved < 1e-9, (
        "not affine for Gaussian data: needs a test by Monte Carlo, see by_norms in conftest.py"
    )
    (m_start, p_start), (m_end, p_end) = (
        tuple(map(np.asarray, DATA.moments(sde, t))) for t in (1.0, END)
    )
    result, stops = [], np.cumsum([0, *ns])
    for first, last in zip(stops[:-1], stops[1:], strict=True):
        m, p = np.zeros(b.shape[1]), np.zeros(a.shape[1:])
        m[:D], p[:D, :D] = (
            m_start,
            p_start,
        )  # the state comes before the memory, which starts at zero
        for i in range(first, last):
            m, p = a[i] @ m + b[i], a[i] @ p @ a[i].T + c[i] @ c[i].T
        result.append(np.abs(m[:D] - m_end).max() + np.abs(p[:D, :D] - p_end).max())
    return np.array(result)


def test_moments_converge_to_the_exact_ones_with_the_declared_order(affine, sde):
    with jax.enable_x64(True):
        error = errors(affine, sde, NS)
    slopes = np.log2(error[:-1] / error[1:])
    assert error[-1] < 0.04, f"off by {error} where the data's variances are 0.2 and 0.6"
    near = 0.3 if affine.order < 4 else 0.4
    assert abs(slopes[-1] - affine.order) < near, (
        f"declared {affine.order}, measured {slopes}, errors {error}"
    )


@pytest.mark.parametrize("snr", [0.05, 0.16, 0.5])
def test_annealed_langevin_has_the_law_that_its_finite_step_must_have(sde, snr):
    # x' = x - e x / v + sqrt(2 e) z keeps the variance w = (1 - e/v)^2 w + 2 e, that is w = v / (1 - e / 2v). Here e = 2 (A snr sigma)^2.
    with jax.enable_x64(True):
        t, s = 0.3, 0.299
        sampler = AnnealedLangevin(snr=snr)
        a, b, c = (
            m[0]
            for m in affine_steps(sampler, sde, in_float64(sampler.plan, sde, np.array([t, s])))[:3]
        )
        (alpha, sigma), (alpha_s, _) = sde.marginal(jnp.asarray(t)), sde.marginal(jnp.asarray(s))
        mean, cov = DATA.moments(sde, t)
        epsilon = 2 * (alpha / alpha_s * snr * sigma) ** 2
        expected = cov @ np.linalg.inv(np.eye(D) - epsilon / 2 * np.linalg.inv(cov))
        np.testing.assert_allclose(a @ mean + b, mean, rtol=1e-9)
        np.testing.assert_allclose(a @ expected @ a.T + c @ c.T, expected, rtol=1e-9)
        np.testing.assert_allclose(c @ c.T, 2 * epsilon * np.eye(D), rtol=1e-9)
