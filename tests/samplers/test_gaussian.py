r"""Mean and covariance of what a sampler makes of Gaussian data, propagated exactly.

The denoiser of Gaussian data is affine, hence so is a step, v' = A v + b + C z, of the state with its memory v. A, b and C are read off the
real code by differentiation; then m' = A m + b and P' = A P A^T + C C^T hold without a random number. Started from p_1, the walk must end
in the exact marginal of the last time, up to an error that falls with the (weak) order that the sampler declares.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from samplers import AnnealedLangevin, PredictorCorrector, grids
from sde_lib import Gaussian, in_float64

D, END = 2, 0.01
DATA = Gaussian([0.7, -0.4], [[0.5, 0.2], [0.2, 0.3]])


class Supplied:
    """Stands in for jax.random.normal and hands out the parts of `z` one after another."""

    def __init__(self, z):
        self.z, self.used = z, 0

    def __call__(self, key, shape=(), dtype=None):
        part = self.z[self.used : self.used + np.prod(shape, dtype=int)]
        self.used += len(part)
        return part.reshape(shape)  # fails if z is used up


def unrolled(start, stop, body, x):
    """Stands in for lax.fori_loop, so that every turn of an inner loop meets noise of its own."""
    return functools.reduce(lambda x, i: body(i, x), range(start, stop), x)


def affine_steps(sampler, sde, rows, snr=None):
    """Return A, b, C of the steps `rows`, and how far a step is from being affine; a corrector takes one `snr` a step."""
    state = (jnp.zeros((1, D)), sampler.init(jnp.zeros((1, D))))
    start, restore = ravel_pytree(state)
    keys, denoise = jax.random.key(0)[None], DATA.denoiser(sde)

    def one(row, snr):
        def step(v, z):
            x, memory = restore(v)
            used = sampler if snr is None else eqx.tree_at(lambda s: s.corrector.snr, sampler, snr)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(jax.random, "normal", Supplied(z))
                patch.setattr(jax.lax, "fori_loop", unrolled)
                return ravel_pytree(used.step(keys, denoise, x, row, memory, None))[0]

        origin, silence = jnp.zeros_like(start), jnp.zeros(8 * D)
        (a, c), b = jax.jacfwd(step, (0, 1))(origin, silence), step(origin, silence)
        v, z = jnp.cos(jnp.arange(1.0, 1 + len(origin))), jnp.sin(jnp.arange(1.0, 1 + len(silence)))
        return a, b, c, jnp.max(jnp.abs(step(v, z) - (a @ v + b + c @ z)))

    return tuple(np.asarray(m) for m in jax.jit(jax.vmap(one, (0, None if snr is None else 0)))(rows, snr))


def errors(sampler, sde, ns):
    """Return the error of the final mean and covariance at each number of steps."""
    plans = [in_float64(sampler.plan, sde, grids.quadratic(sde, n, end=END)) for n in ns]
    rows = jax.tree.map(lambda *parts: jnp.concatenate([jnp.asarray(p) for p in parts]), *plans)
    snr = None
    if isinstance(sampler, PredictorCorrector):
        # A Langevin step of size epsilon misses its law by O(epsilon^2). With epsilon ~ n^-order the n of them spoil no order.
        snr = jnp.concatenate([jnp.full(n, 0.5 * n ** (-sampler.order / 2)) for n in ns])
    a, b, c, curved = affine_steps(sampler, sde, rows, snr)
    assert np.all(curved < 1e-9), "not affine for Gaussian data: needs a test by Monte Carlo, see by_norms in conftest.py"
    (m_start, p_start), (m_end, p_end) = (tuple(map(np.asarray, DATA.moments(sde, t))) for t in (1.0, END))
    found, stops = [], np.cumsum([0, *ns])
    for first, last in zip(stops[:-1], stops[1:], strict=True):
        m, p = np.zeros(b.shape[1]), np.zeros(a.shape[1:])
        m[:D], p[:D, :D] = m_start, p_start  # ravelled, the state comes before the memory, which starts at zero
        for i in range(first, last):
            m, p = a[i] @ m + b[i], a[i] @ p @ a[i].T + c[i] @ c[i].T
        found.append(np.abs(m[:D] - m_end).max() + np.abs(p[:D, :D] - p_end).max())
    return np.array(found)


def test_moments_converge_to_the_exact_ones_with_the_declared_order(affine, sde):
    with jax.enable_x64(True):
        error = errors(affine, sde, (256, 512, 1024))
    slopes = np.log2(error[:-1] / error[1:])
    assert error[-1] < 0.04, f"off by {error} where the data's variances are 0.2 and 0.6"
    assert np.all(np.abs(slopes - affine.order) < 0.3), f"declared {affine.order}, measured {slopes}, errors {error}"


@pytest.mark.parametrize("snr", [0.05, 0.16, 0.5])
def test_annealed_langevin_has_the_law_that_its_finite_step_must_have(sde, snr):
    # x' = x - e x / v + sqrt(2 e) z keeps the variance w = (1 - e/v)^2 w + 2 e, that is w = v / (1 - e / 2v). Here e = 2 (A snr sigma)^2.
    with jax.enable_x64(True):
        t, s = 0.3, 0.299
        sampler = AnnealedLangevin(snr=snr)
        a, b, c, _ = (m[0] for m in affine_steps(sampler, sde, in_float64(sampler.plan, sde, np.array([t, s]))))
        (alpha, sigma), (alpha_s, _) = sde.marginal(jnp.asarray(t)), sde.marginal(jnp.asarray(s))
        mean, cov = DATA.moments(sde, t)
        epsilon = 2 * (alpha / alpha_s * snr * sigma) ** 2
        expected = cov @ np.linalg.inv(np.eye(D) - epsilon / 2 * np.linalg.inv(cov))
        np.testing.assert_allclose(a @ mean + b, mean, rtol=1e-9)
        np.testing.assert_allclose(a @ expected @ a.T + c @ c.T, expected, rtol=1e-9)
        np.testing.assert_allclose(c @ c.T, 2 * epsilon * np.eye(D), rtol=1e-9)
