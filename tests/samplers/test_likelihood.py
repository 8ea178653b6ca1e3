"""Log-likelihood by the probability flow: the exact trace against closed forms and SciPy, the estimated one against its own error bar."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import solve_ivp

from samplers import TRACES, log_likelihood, prior_mismatch
from sde_lib import EDM, VE, VP, Gaussian, GaussianMixture

KEY = jax.random.key(0)
CURVED = GaussianMixture(
    [0.3, 0.7],
    [[-0.8, 0.2], [0.5, -0.1]],
    [[[0.04, 0.01], [0.01, 0.02]], [[0.05, -0.02], [-0.02, 0.06]]],
)


def correlated(d):
    """Return a Gaussian of `d` dimensions whose coordinates all depend on each other."""
    rng = np.random.default_rng(d)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return Gaussian(rng.normal(size=d), turn @ np.diag(np.geomspace(0.02, 1.0, d)) @ turn.T)


def exact_trace(data, sde, x, tolerance=1e-8, sd=0.6):
    """Return the likelihood by the exact trace, in float64; calls with the same shapes share one compilation."""
    tolerance, sd = jnp.asarray(tolerance), jnp.asarray(sd)
    return log_likelihood(
        KEY, data.denoiser(sde), sde, x, sd=sd, rtol=tolerance, atol=tolerance, max_steps=1024
    )


def check_exact(sde, d):
    data = correlated(d)
    with jax.enable_x64(True):
        x, mean, cov = (
            data.sample(jax.random.key(1), 4),
            data.mean,
            np.asarray(data.data_moments().cov),
        )
        # In two dimensions as a mixture of two equal ones, which shares the compilation of the curved density below.
        model = GaussianMixture([0.3, 0.7], [mean, mean], [cov, cov]) if d == 2 else data
        # Both at t_min, and with the prior instead of p_1: comparing with the density of the data would blame the solver for either.
        exact = data.model_log_prob(sde, x, sde.t_min)
        result = exact_trace(model, sde, x)
        np.testing.assert_allclose(result.log_prob, exact, rtol=1e-6, atol=1e-6)
        h = float(
            jnp.hypot(*sde.marginal(jnp.asarray(1.0)))
        )  # the solver sees x / h: EDM's latents are as large as 220
        np.testing.assert_allclose(
            result.latent / h, data.flow(sde, x, sde.t_min, 1.0) / h, rtol=1e-6, atol=1e-6
        )
        np.testing.assert_array_equal(result.std_error, 0)
        default = exact_trace(model, sde, x, 1e-5, sd=1.0)
        np.testing.assert_allclose(default.log_prob, exact, atol=1e-3 * d)


def test_exact_trace_gives_the_exact_density_of_the_model(any_sde):
    check_exact(any_sde, 2)


def test_exact_trace_in_sixteen_dimensions(sde):
    check_exact(sde, 16)


def test_exact_trace_in_sixty_four_dimensions(other_sde):
    check_exact(other_sde, 64)


def test_a_curved_density_is_what_scipy_says(any_sde):
    sde = any_sde
    with jax.enable_x64(True):
        x = CURVED.sample(jax.random.key(2), 4)
        result = exact_trace(CURVED, sde, x)

        @jax.jit
        def field(t, state):
            # dx/dt = f x - g^2/2 score and its divergence, both from the mixture's closed forms.
            x = state[None, :2]
            f, g = sde.coefficients(t)
            velocity = f * x[0] - 0.5 * g**2 * CURVED.score(sde, x, t)[0]
            return jnp.append(velocity, 2 * f - 0.5 * g**2 * CURVED.divergence(sde, x, t)[0])

        for i, start in enumerate(np.asarray(x[:3])):
            # f is infinite at t = 1 where no signal is left, so SciPy stops just before: p_t changes by less than 1e-5 from there on.
            ends, state = (
                (sde.t_min, 1.0 if np.isfinite(sde.log_snr(jnp.ones(()))) else 1 - 1e-6),
                np.append(start, 0.0),
            )
            y = solve_ivp(
                lambda t, y: np.asarray(field(t, y)),
                ends,
                state,
                method="DOP853",
                rtol=1e-9,
                atol=1e-9,
            ).y[:, -1]
            prior = stats.norm(0, float(sde.prior_std())).logpdf(y[:2]).sum()
            np.testing.assert_allclose(result.log_prob[i], prior + y[2], atol=1e-5)


@pytest.mark.parametrize(("sde", "nats"), [(VE(), 0.040), (VP(), 0.013)], ids=["VE", "VP"])
def test_mismatch_of_the_prior_is_the_known_one(sde, nats):
    # Data N(1, 0.5^2) at two standard deviations: ln pi(x_1) - ln p_1(x_1) at the x_1 = alpha + 2 h that the flow takes it to.
    with jax.enable_x64(True):
        data = Gaussian([1.0], [[0.25]])
        mean, cov = data.moments(sde, sde.t_min)
        x = jnp.tile(mean[None] + 2 * jnp.sqrt(cov), (4, 1))
        result = exact_trace(data, sde, x)
        mismatch = float(result.log_prob[0] - data.log_prob(sde, x, sde.t_min)[0])
        reported = prior_mismatch(sde, result.latent, 1.0, 0.25)
    assert round(abs(mismatch), 3) == nats, mismatch
    np.testing.assert_allclose(
        reported, mismatch, atol=1e-6
    )  # one-dimensional Gaussian data, so the term is exact


@pytest.mark.parametrize(
    ("trace", "probes", "independent"),
    [("rademacher", 3, 3), ("gaussian", 3, 3), ("hutch++", 9, 3)],
)
def test_the_estimated_trace_is_unbiased_and_its_error_covers_at_its_nominal_rate(
    trace, probes, independent
):
    # 3000 estimates of one density in 16 dimensions. Mean: within 4.5 standard errors (false-alarm probability 7e-6).
    # Coverage of the central 90 % of Student's t with 2 degrees of freedom: binomial standard deviation 0.0055; 0.023 allows 4.2 of them,
    # false-alarm probability 3e-5; without ddof=1 or with 4 probes' worth of certainty it would be 0.86.
    sde, data, n = VP(), correlated(16), 3000
    x = jnp.broadcast_to(data.sample(jax.random.key(3), 1), (n, 16))
    tolerance = jnp.asarray(1e-3)
    result = log_likelihood(
        KEY, data.denoiser(sde), sde, x, probes=probes, trace=trace, rtol=tolerance, atol=tolerance
    )
    with jax.enable_x64(True):
        exact = float(data.model_log_prob(sde, jnp.asarray(np.asarray(x[:1]), float), sde.t_min)[0])
    error, bar = (
        np.asarray(result.log_prob, np.float64) - exact,
        np.asarray(result.std_error, np.float64),
    )
    assert abs(error.mean()) < 4.5 * error.std() / np.sqrt(n) + 0.005  # the tolerance of the solver
    covered = np.mean(np.abs(error) < stats.t(independent - 1).ppf(0.95) * bar)
    assert abs(covered - 0.9) < 0.023, covered
    np.testing.assert_allclose(np.mean(bar**2), error.var(), rtol=0.15)


def test_traces_of_a_known_matrix():
    # One product each. Rademacher: v^T J v has variance sum_{i != j} (J_ij^2 + J_ij J_ji); Gaussian: |J|^2 + tr J^2; Hutch++ spends
    # its sketch on the range: exact where the rank of J is at most the number of sketched rows.
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(6, 6)) + 3 * np.eye(6)
    low = rng.normal(size=(6, 2)) @ rng.normal(size=(2, 6))
    off = matrix - np.diag(np.diag(matrix))
    variance = {
        "rademacher": np.sum(off**2 + off * off.T),
        "gaussian": np.sum(matrix**2 + matrix * matrix.T),
    }
    for name, expected in variance.items():
        draw, estimate, count = TRACES[name]
        values = np.asarray(
            estimate(lambda v: v @ matrix.T, draw(KEY, (count(20_000), 6), jnp.float32)), np.float64
        )
        assert len(values) == 20_000 and abs(values.mean() - np.trace(matrix)) < 5 * np.sqrt(
            expected / 20_000
        )
        np.testing.assert_allclose(
            values.var(), expected, rtol=0.08
        )  # 5 standard errors of a variance of heavy-tailed values
    draw, estimate, count = TRACES["hutch++"]
    with jax.enable_x64(True):
        values = estimate(lambda v: v @ low.T, draw(KEY, (count(9), 6), float))
        assert values.shape == (3,)
        np.testing.assert_allclose(values, np.trace(low), rtol=1e-9)


def test_probes_belong_to_the_index_of_a_sample():
    sde, data = VP(), correlated(4)
    x = jnp.broadcast_to(data.sample(jax.random.key(3), 1), (5, 4))

    def run(index):
        return np.asarray(
            log_likelihood(
                KEY, data.denoiser(sde), sde, x, probes=2, index=jnp.array(index)
            ).log_prob
        )

    whole = run([0, 1, 2, 3, 4])
    assert len(np.unique(np.round(whole, 3))) > 2  # the same point, but other probes
    np.testing.assert_allclose(run([3, 900, 1, 901, 0])[[0, 2, 4]], whole[[3, 1, 0]], atol=1e-4)


def test_one_probe_knows_no_error_bar_and_a_sample_that_does_not_arrive_is_nan():
    # An estimate that is not a number stops the walk of its own sample alone.
    exact = CURVED.denoiser(VP())

    def denoise(x, t, broken):
        estimate = exact(x, t)
        return estimate._replace(noise=estimate.noise + jnp.where(broken, jnp.nan, 0.0)[:, None])

    x, broken = CURVED.sample(jax.random.key(2), 2), jnp.array([False, True])
    result = log_likelihood(
        KEY, denoise, VP(), x, cond=broken, probes=1, rtol=1e-3, atol=1e-3, max_steps=256
    )
    np.testing.assert_array_equal(jnp.isnan(result.log_prob), [False, True])
    assert jnp.all(jnp.isnan(result.std_error)) and jnp.all(jnp.isnan(result.latent[1]))


def test_nfe_counts_both_solves_and_the_refinement_is_the_error_of_the_coarser():
    sde, data, calls = VP(), correlated(16), []
    denoise = data.denoiser(sde)

    def counted(x, t, cond=None):
        # Linearised, then applied to all directions at once: one evaluation a time, however many directions there are.
        jax.debug.callback(lambda: calls.append(1))
        return denoise(x, t, cond)

    x = data.sample(jax.random.key(1), 4)
    # A function does not know the size of its data, so both take the walk for data of unit size.
    result = log_likelihood(KEY, counted, sde, x, sd=1.0, refine=True, rtol=1e-3, atol=1e-3)
    jax.effects_barrier()
    assert len(calls) == int(result.nfe)
    with jax.enable_x64(True):
        exact = np.asarray(data.model_log_prob(sde, jnp.asarray(np.asarray(x), float), sde.t_min))
    np.testing.assert_allclose(result.log_prob, exact, atol=1e-3 * 16)  # in float32
    coarse = log_likelihood(KEY, denoise, sde, x, sd=1.0, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(result.refinement, result.log_prob - coarse.log_prob, atol=5e-4)
    assert np.max(np.abs(result.refinement)) > 2e-3
    assert np.all(np.isnan(coarse.refinement)) and np.all(
        np.abs(result.log_prob - exact) < np.abs(result.refinement) + 3e-3
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"probes": 0},
            "need at least 1 probes for rademacher, or None for the exact trace, got 0",
        ),
        ({"probes": 5, "trace": "hutch++"}, r"need at least 6 probes for hutch\+\+"),
        ({"trace": "skilling"}, "unknown trace 'skilling'; choose one of"),
    ],
)
def test_impossible_traces_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        log_likelihood(KEY, CURVED.denoiser(VP()), VP(), jnp.ones((1, 2)), **settings)


def test_a_process_without_noise_at_t_min_has_no_likelihood():
    with pytest.raises(ValueError, match="sigma is 0 at t_min = 0.0, .*raise t_min above 0"):
        log_likelihood(KEY, CURVED.denoiser(VP()), EDM(t_min=0.0), jnp.ones((1, 2)))
