"""The adaptive probability flow: its ends against the exact map of Gaussian data and, for a curved flow, against SciPy.

Compiling takes seconds, so most tests share one: the Gaussian is written as a mixture of two equal ones, tolerances are traced.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from samplers import probability_flow
from sde_lib import VE, VP, Gaussian, GaussianMixture

COV = np.array([[0.25, 0.06], [0.06, 0.04]])
DATA = Gaussian([0.7, -0.4], COV)
SAME = GaussianMixture([0.3, 0.7], [DATA.mean, DATA.mean], [COV, COV])
CURVED = GaussianMixture(
    [0.3, 0.7],
    [[-0.8, 0.2], [0.5, -0.1]],
    [[[0.04, 0.01], [0.01, 0.02]], [[0.05, -0.02], [-0.02, 0.06]]],
)
END = 1e-3


def states(data, sde, t, n=8):
    """Return `n` states that p_t may well have produced."""
    mean, cov = data.moments(sde, t)
    return (
        mean[None]
        + jax.random.normal(jax.random.key(1), (n, len(mean))) @ jnp.linalg.cholesky(cov).T
    )


def flow(data, sde, x, tolerance, start=1.0, end=END):
    """Return the end points of the flow, in float64."""
    tolerance = jnp.asarray(tolerance)
    return probability_flow(
        data.denoiser(sde),
        sde,
        x,
        start=start,
        end=end,
        rtol=tolerance,
        atol=0.1 * tolerance,
        denoise_last=False,
        max_steps=1024,
    )


def test_it_follows_the_exact_map_both_ways_and_the_tolerance(sde):
    with jax.enable_x64(True):
        x, error, nfe = states(DATA, sde, 1.0), [], []
        exact = DATA.flow(sde, x, 1.0, END)
        for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
            result = flow(SAME, sde, x, tolerance)
            error.append(float(jnp.median(jnp.abs(result.x - exact))))
            nfe.append(int(result.nfe))
        np.testing.assert_allclose(result.x, exact, atol=1e-7)
        np.testing.assert_allclose(
            flow(SAME, sde, exact, 1e-9, END, 1.0).x,
            x,
            rtol=1e-7,
            atol=1e-7 * float(sde.prior_std()),
        )
        np.testing.assert_allclose(
            flow(SAME, sde, result.x, 1e-9, END, 1.0).x,
            x,
            rtol=1e-6,
            atol=1e-6 * float(sde.prior_std()),
        )
    assert np.all(np.array(error) < [2e-2, 2e-4, 2e-6, 2e-8]), error
    assert nfe == sorted(nfe) and nfe[0] < nfe[-1] < 16 * nfe[0]


def test_a_curved_flow_ends_where_scipy_says(sde):
    with jax.enable_x64(True):
        x = states(CURVED, sde, 1.0)
        # dx/dt = f x - g^2/2 score, from the mixture's score alone.
        f_and_g = jax.jit(sde.coefficients)
        score = jax.jit(lambda x, t: CURVED.score(sde, x[None], t)[0])

        def field(t, x):
            f, g = f_and_g(t)
            return np.asarray(f * x - 0.5 * g**2 * score(x, t))

        result = flow(CURVED, sde, x, 1e-9).x
        for i in range(3):
            exact = solve_ivp(
                field, (1.0, END), np.asarray(x[i]), method="DOP853", rtol=1e-9, atol=1e-10
            ).y[:, -1]
            np.testing.assert_allclose(result[i], exact, atol=1e-6)


def test_nfe_is_the_number_of_calls_made_and_defaults_do_in_float32(sde):
    calls, denoise = [], DATA.denoiser(sde)

    def counted(x, t, cond=None):
        jax.debug.callback(lambda: calls.append(1))
        return denoise(x, t, cond)

    x = states(DATA, sde, 1.0, 3)
    result = probability_flow(counted, sde, x)
    jax.effects_barrier()
    assert len(calls) == int(result.nfe)  # a call is one of the whole batch
    with jax.enable_x64(True):
        exact = DATA.estimate(
            sde, DATA.flow(sde, jnp.asarray(np.asarray(x), float), 1.0, END), END
        ).x0
    np.testing.assert_allclose(
        result.x, exact, atol=1e-3
    )  # in units of data with standard deviations of 0.2 and 0.5
    assert result.path is None


def test_a_sample_does_not_depend_on_its_batch():
    # Other batch sizes are other programs, which round differently, and a step size may then differ: agreement to the tolerance.
    sde, denoise = VP(), SAME.denoiser(VP())
    x = states(DATA, sde, 1.0) * jnp.geomspace(0.1, 10.0, 8)[:, None]
    whole, alone = probability_flow(denoise, sde, x), probability_flow(denoise, sde, x[5:6])
    np.testing.assert_allclose(whole.x[5:6], alone.x, atol=1e-4)
    other = probability_flow(denoise, sde, x.at[:5].set(7.0))  # the same program: bitwise
    np.testing.assert_array_equal(other.x[5:], whole.x[5:])


def test_a_sample_that_does_not_arrive_is_nan_and_others_are_not():
    sde = VP()
    with jax.enable_x64(True):
        x = jnp.array(
            [[0.0, 0.0], [1e6, 1e6]]
        )  # without a relative tolerance, the second needs a million times the accuracy
        result = probability_flow(SAME.denoiser(sde), sde, x, atol=1e-3, rtol=0.0, max_steps=25)
    assert jnp.all(jnp.isfinite(result.x[0])) and jnp.all(jnp.isnan(result.x[1]))


@pytest.mark.parametrize(("start", "end"), [(1.5, 1e-3), (1.0, 1e-6), (1e-6, 1.0)])
def test_times_that_the_process_does_not_have_are_refused(start, end):
    with pytest.raises(
        ValueError, match=f"between t_min = 1e-05 and 1, got start = {start} and end = {end}"
    ):
        probability_flow(DATA.denoiser(VE()), VE(), jnp.ones((2, 2)), start=start, end=end)


def test_it_is_differentiable_in_what_the_denoiser_learned():
    # On N(m, 0.5^2) the flow is x_s = alpha_s m + h_s / h_t (x_t - alpha_t m), of slope alpha_s - h_s / h_t alpha_t in m.
    with jax.enable_x64(True):
        sde, x = VP(), jnp.array([[0.3]])

        def end(mean):
            def denoise(x, t, cond=None):
                centred = Gaussian([0.0], [[0.25]]).estimate(
                    sde, x - sde.marginal(jnp.asarray(t))[0] * mean, t
                )
                return centred._replace(x0=centred.x0 + mean)

            return probability_flow(
                denoise, sde, x, rtol=1e-7, atol=1e-7, denoise_last=False, max_steps=256
            ).x[0, 0]

        (alpha, sigma), (alpha_s, sigma_s) = (
            sde.marginal(jnp.asarray(1.0)),
            sde.marginal(jnp.asarray(END)),
        )
        slope = alpha_s - np.hypot(0.5 * alpha_s, sigma_s) / np.hypot(0.5 * alpha, sigma) * alpha
        np.testing.assert_allclose(jax.grad(end)(0.7), slope, rtol=1e-4)
