"""The exact distributions against calculus, quadrature and scipy, under every forward process."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sde_lib import VE, VP, Empirical, Gaussian, GaussianMixture, count_evaluations, in_float64

MEAN, COV = np.array([0.7, -0.4]), np.array([[0.25, 0.06], [0.06, 0.04]])
WEIGHTS, MEANS = np.array([0.2, 0.5, 0.3]), np.array([[-0.8, 0.1], [0.5, 0.4], [0.3, -0.9]])
COVS = np.array(
    [[[0.04, 0.01], [0.01, 0.02]], [[0.09, -0.05], [-0.05, 0.06]], [[0.01, 0.0], [0.0, 0.16]]]
)
POINTS = np.array([[-0.8, 0.1], [0.5, 0.4], [0.3, -0.9], [0.6, 0.3], [-0.2, -0.2]])
TWO_DIMENSIONAL = {
    "gaussian": Gaussian(MEAN, COV),
    "mixture": GaussianMixture(WEIGHTS, MEANS, COVS),
    "empirical": Empirical(POINTS),
}
ONE_DIMENSIONAL = {
    "gaussian": Gaussian([0.7], [[0.3**2]]),
    "mixture": GaussianMixture([0.3, 0.7], [[-0.8], [0.5]], [[[0.15**2]], [[0.25**2]]]),
    "empirical": Empirical([[-0.8], [0.5], [0.6]]),
}


@pytest.fixture(params=list(TWO_DIMENSIONAL))
def data(request):
    return TWO_DIMENSIONAL[request.param]


def draw(data, sde, t, n=16):
    """Draw `n` states of p_t."""
    key, noise = jax.random.split(jax.random.key(7))
    return sde.perturb(noise, data.sample(key, n), t)[0]


def test_score_and_divergence_are_derivatives_of_the_density(sde, data):
    @jax.jit
    def both(x, t):
        score = jax.vmap(jax.grad(lambda x, t: data.log_prob(sde, x[None], t)[0]))(x, t)
        hessian = jax.vmap(jax.jacfwd(lambda x, t: data.score(sde, x[None], t)[0]))(x, t)
        return (
            score,
            jnp.trace(hessian, axis1=1, axis2=2),
            data.score(sde, x, t),
            data.divergence(sde, x, t),
        )

    with jax.enable_x64(True):
        t = jnp.geomspace(0.01, 1, 16)
        score, trace, *got = both(draw(data, sde, t), t)
        np.testing.assert_allclose(got[0], score, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(got[1], trace, rtol=1e-8, atol=1e-9)


def test_density_changes_as_the_forward_process_says(sde, data):
    # Fokker-Planck, for log p: d/dt log p = -f (d + x . score) + g^2/2 (divergence + |score|^2).
    @jax.jit
    def sides(x, t):
        rate = jax.jvp(lambda t: data.log_prob(sde, x, t), (t,), (jnp.ones_like(t),))[1]
        at, (f, g) = data.marginal(sde, x, t), sde.coefficients(t)
        right = -f * (2 + jnp.sum(x * at.score, 1)) + g**2 / 2 * (
            at.divergence + jnp.sum(at.score**2, 1)
        )
        return rate, right

    with jax.enable_x64(True):
        t = jnp.geomspace(0.01, 0.98, 16)
        left, right = sides(draw(data, sde, t), t)
        np.testing.assert_allclose(left, right, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", list(ONE_DIMENSIONAL))
def test_density_and_estimate_equal_quadrature_over_the_clean_data(sde, name):
    for t in (0.05, 0.4, 0.9):
        check_against_quadrature(sde, name, t)


def check_against_quadrature(sde, name, t):
    alpha, sigma = in_float64(sde.marginal, t)
    x = alpha * 0.2 + np.hypot(sigma, 0.5 * alpha) * np.linspace(-3, 3, 31)
    x0 = np.linspace(-2.5, 2.5, 20_001)
    if name == "empirical":
        x0, prior = np.array([-0.8, 0.5, 0.6]), np.full(3, 1 / 3)
    elif name == "gaussian":
        prior = stats.norm(0.7, 0.3).pdf(x0) * (x0[1] - x0[0])
    else:
        prior = (0.3 * stats.norm(-0.8, 0.15).pdf(x0) + 0.7 * stats.norm(0.5, 0.25).pdf(x0)) * (
            x0[1] - x0[0]
        )
    noise = (x[:, None] - alpha * x0) / sigma
    log_joint = (
        np.log(np.maximum(prior, 1e-300)) - 0.5 * noise**2 - np.log(sigma * np.sqrt(2 * np.pi))
    )
    log_prob = np.logaddexp.reduce(log_joint, axis=1)
    posterior = np.exp(log_joint - log_prob[:, None])
    with jax.enable_x64(True):
        data, state = ONE_DIMENSIONAL[name], jnp.asarray(x[:, None])
        got = data.denoiser(sde)(state, t)
        np.testing.assert_allclose(data.log_prob(sde, state, t), log_prob, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(got.x0[:, 0], posterior @ x0, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(
            got.noise[:, 0], np.sum(posterior * noise, 1), rtol=1e-7, atol=1e-7
        )


def test_density_integrates_to_one(sde, data):
    with jax.enable_x64(True):
        for t in (0.2, 1.0):
            mean, cov = (np.asarray(m) for m in data.moments(sde, t))
            # 401^2 cells over +-8 standard deviations: far finer than any component, so the sum is exact to rounding of the tails.
            sides = [
                m + 8 * s * np.linspace(-1, 1, 401)
                for m, s in zip(mean, np.sqrt(np.diag(cov)), strict=True)
            ]
            grid = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2)
            mass = np.exp(np.asarray(data.log_prob(sde, jnp.asarray(grid), t))) * np.prod(
                [s[1] - s[0] for s in sides]
            )
            np.testing.assert_allclose(mass.sum(), 1, rtol=1e-6)
            np.testing.assert_allclose(mass @ grid, mean, atol=1e-6 * np.sqrt(np.trace(cov)))
            np.testing.assert_allclose(
                (mass[:, None] * (grid - mean)).T @ (grid - mean), cov, atol=1e-6 * np.trace(cov)
            )


def test_samples_have_the_moments_of_the_data(data):
    # 20 000 draws: five means and covariances within 5 standard errors; false-alarm probability below 1e-5.
    x, (mean, cov) = (
        np.asarray(data.sample(jax.random.key(11), 20_000), np.float64),
        data.data_moments(),
    )
    centred = x - np.asarray(mean)
    products = centred[:, :, None] * centred[:, None]
    assert np.all(np.abs(centred.mean(0)) < 5 * centred.std(0) / np.sqrt(len(x)))
    assert np.all(np.abs(products.mean(0) - cov) < 5 * products.std(0) / np.sqrt(len(x)))


def test_components_and_points_are_drawn_by_their_weights():
    # Counts of 20 000 draws within 5 standard errors, missed once in 1e6 runs each.
    mixture = GaussianMixture(WEIGHTS, MEANS, np.tile(1e-6 * np.eye(2), (3, 1, 1)))
    for data, centres, weights in (
        (mixture, MEANS, WEIGHTS),
        (Empirical(POINTS), POINTS, np.full(5, 0.2)),
    ):
        x = np.asarray(data.sample(jax.random.key(1), 20_000))
        counts = np.bincount(
            np.argmin(np.sum((x[:, None] - centres) ** 2, -1), 1), minlength=len(weights)
        )
        assert np.all(
            np.abs(counts / 20_000 - weights) < 5 * np.sqrt(weights * (1 - weights) / 20_000)
        )


# In two dimensions eigenvectors can form a symmetric matrix, which hides a transpose; in three they do not.
ROTATED = np.array([[0.25, 0.1, -0.06], [0.1, 0.09, 0.02], [-0.06, 0.02, 0.16]])
THREE_DIMENSIONAL = {
    "gaussian": Gaussian([0.7, -0.4, 0.2], ROTATED),
    "mixture": GaussianMixture([1.0], [[0.7, -0.4, 0.2]], [ROTATED]),
}


@pytest.mark.parametrize("name", list(THREE_DIMENSIONAL))
def test_a_rotated_gaussian_is_what_linear_algebra_says(sde, name):
    with jax.enable_x64(True):
        t, mean = 0.3, np.array([0.7, -0.4, 0.2])
        x = np.asarray(draw(THREE_DIMENSIONAL[name], sde, t))
        alpha, sigma = in_float64(sde.marginal, t)
        cov_t = alpha**2 * ROTATED + sigma**2 * np.eye(3)
        score = -np.linalg.solve(cov_t, (x - alpha * mean).T).T
        got = THREE_DIMENSIONAL[name].marginal(sde, jnp.asarray(x), t)
        np.testing.assert_allclose(
            got.log_prob, stats.multivariate_normal(alpha * mean, cov_t).logpdf(x), rtol=1e-9
        )
        np.testing.assert_allclose(got.score, score, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(got.x0, mean - alpha * score @ ROTATED, rtol=1e-9)
        np.testing.assert_allclose(
            got.divergence, np.full(16, -np.trace(np.linalg.inv(cov_t))), rtol=1e-9
        )
        np.testing.assert_allclose(
            THREE_DIMENSIONAL[name].moments(sde, t).cov, cov_t, rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("name", list(THREE_DIMENSIONAL))
def test_samples_of_a_rotated_gaussian_are_rotated(name):
    # Whitened by the true covariance, 20 000 draws have unit covariance to 5 standard errors (1e-6 a number).
    draws = np.asarray(THREE_DIMENSIONAL[name].sample(jax.random.key(2), 20_000), np.float64)
    z = np.linalg.solve(np.linalg.cholesky(ROTATED), (draws - [0.7, -0.4, 0.2]).T)
    np.testing.assert_allclose(z @ z.T / 20_000, np.eye(3), atol=5 * np.sqrt(2 / 20_000))


def test_at_time_zero_it_is_the_density_of_the_data():
    x = np.asarray(TWO_DIMENSIONAL["mixture"].sample(jax.random.key(0), 20), np.float64)
    parts = [
        w * stats.multivariate_normal(m, c).pdf(x)
        for w, m, c in zip(WEIGHTS, MEANS, COVS, strict=True)
    ]
    expected = {
        "gaussian": stats.multivariate_normal(MEAN, COV).logpdf(x),
        "mixture": np.log(sum(parts)),
    }
    for name, log_prob in expected.items():
        np.testing.assert_allclose(
            TWO_DIMENSIONAL[name].log_prob(VP(), jnp.asarray(x, jnp.float32), 0.0),
            log_prob,
            rtol=2e-5,
            atol=2e-5,
        )
        at = TWO_DIMENSIONAL[name].denoiser(VP())(jnp.asarray(x, jnp.float32), 0.0)
        np.testing.assert_allclose(at.x0, x, atol=1e-6)
        np.testing.assert_array_equal(at.noise, 0)


def test_without_noise_every_state_is_its_clean_data(data):
    for known in (data, Gaussian([1.0, 0.0], np.zeros((2, 2)))):
        x = jnp.array([[0.3, -0.7], [0.5, 0.4]])
        at = known.denoiser(VP())(x, jnp.array([0.0, 0.5]))
        np.testing.assert_allclose(at.x0[0], x[0], atol=1e-6)
        np.testing.assert_array_equal(at.noise[0], 0)
        assert np.all(np.isfinite(at))


def test_points_are_a_mixture_without_width(sde):
    with jax.enable_x64(True):
        narrow = GaussianMixture(np.full(5, 0.2), POINTS, np.zeros((5, 2, 2)))
        t = jnp.geomspace(0.05, 1, 16)
        x = draw(TWO_DIMENSIONAL["empirical"], sde, t)
        both = jax.jit(
            lambda x, t: (
                TWO_DIMENSIONAL["empirical"].marginal(sde, x, t),
                narrow.marginal(sde, x, t),
            )
        )
        for got, expected in zip(*both(x, t), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-8)


def test_flow_follows_the_velocity_and_carries_p_t_along(sde):
    data = THREE_DIMENSIONAL["gaussian"]

    @jax.jit
    def moved(x, t, s):
        end, rate = jax.jvp(lambda s: data.flow(sde, x, t, s), (s,), (jnp.ones_like(s),))
        slope = jax.vmap(jax.jacfwd(lambda x: data.flow(sde, x[None], t, s)[0]))(x)
        return end, rate, sde.velocity(s, data.estimate(sde, end, s)), jnp.linalg.slogdet(slope)[1]

    with jax.enable_x64(True):
        for t, s in ((0.9, 0.02), (0.1, 1.0), (0.5, 0.5)):
            x = draw(data, sde, t)
            end, rate, velocity, stretch = moved(x, t, jnp.asarray(s))
            np.testing.assert_allclose(rate, velocity, rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose(data.flow(sde, end, s, t), x, rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(
                data.log_prob(sde, end, s) + stretch, data.log_prob(sde, x, t), rtol=1e-9
            )
        times = jnp.linspace(0.1, 0.9, 16)
        one_each = data.flow(sde, draw(data, sde, times), times, times[::-1])
        np.testing.assert_allclose(
            one_each[3],
            data.flow(sde, draw(data, sde, times)[3:4], times[3], times[12])[0],
            rtol=1e-12,
        )


def test_flow_from_p_1_passes_through_known_points():
    # One dimension, VE: x_s = m + sqrt(c + sigma_s^2) / sqrt(c + sigma_t^2) (x_t - m).
    data, sigma = Gaussian([1.0], [[0.25]]), in_float64(VE().marginal, np.array([1.0, 0.3]))[1]
    expected = 1 + np.sqrt(0.25 + sigma[1] ** 2) / np.sqrt(0.25 + sigma[0] ** 2) * 59
    np.testing.assert_allclose(
        data.flow(VE(), jnp.array([[60.0]]), 1.0, 0.3), [[expected]], rtol=1e-5
    )


def test_model_density_is_the_prior_pulled_back(sde):
    # The flow is affine, so the model at t is the normal with mean flow(0) and covariance J J^T prior_std^2.
    data = TWO_DIMENSIONAL["gaussian"]
    with jax.enable_x64(True):
        for t in (0.01, 0.6):
            x = draw(data, sde, t)
            mean, *corners = np.asarray(
                data.flow(sde, jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 1.0, t)
            )
            slope = (np.array(corners) - mean).T
            model = stats.multivariate_normal(mean, slope @ slope.T * float(sde.prior_std()) ** 2)
            np.testing.assert_allclose(
                data.model_log_prob(sde, x, t), model.logpdf(np.asarray(x)), rtol=1e-8
            )
        np.testing.assert_allclose(
            data.model_log_prob(sde, x, jnp.full(16, 0.6)),
            data.model_log_prob(sde, x, 0.6),
            rtol=1e-12,
        )


def test_model_density_shows_the_mismatch_of_the_prior():
    # N(1, 0.5^2) under VE with sigma_max 50: N(1, 50^2 + 0.25) against N(0, 50^2), in nats at +-2 standard deviations of p_1.
    data, gap = Gaussian([1.0], [[0.25]]), []
    for side in (-2, 2):
        x1 = 1 + side * np.sqrt(2500.25)
        gap.append(stats.norm(0, 50).logpdf(x1) - stats.norm(1, np.sqrt(2500.25)).logpdf(x1))
    x = jnp.array([[1 - 2 * np.hypot(0.5, 0.01)], [1 + 2 * np.hypot(0.5, 0.01)]], jnp.float32)
    with jax.enable_x64(True):
        x = jnp.asarray(x, jnp.float64)
        difference = data.model_log_prob(VE(), x, 0.0) - data.log_prob(VE(), x, 0.0)
    np.testing.assert_allclose(difference, gap, atol=1e-6)
    assert np.max(np.abs(gap)) > 0.03


def test_float32_is_as_accurate_as_its_input(sde, data):
    # x and alpha m are rounded to float32, which moves x by about 6e-8 |x|; in units of sigma (points) or of the smallest standard
    # deviation of a component of x_t (0.1 in the data) that is the error of every whitened coordinate. Ten such roundings are allowed.
    known = jax.jit(lambda x, t: (data.marginal(sde, x, t), data.estimate(sde, x, t)))
    for t in np.array([1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9, 1.0], np.float32):
        x = draw(data, sde, t, 64)
        (at, estimate), sigma = known(x, t), float(in_float64(sde.marginal, t)[1])
        with jax.enable_x64(True):
            exact, truth = known(np.asarray(x, np.float64), np.float64(t))
        width = sigma if data is TWO_DIMENSIONAL["empirical"] else np.hypot(sigma, 0.1)
        rounding = 10 * 6e-8 * float(jnp.abs(x).max() + 1) / width
        assert (
            at.score.dtype == at.log_prob.dtype == estimate.x0.dtype == np.float32
            and truth.x0.dtype == np.float64
        )
        np.testing.assert_allclose(
            estimate.noise, truth.noise, rtol=1e-5, atol=3e-6 + rounding * sigma / width
        )
        np.testing.assert_allclose(estimate.x0, truth.x0, rtol=1e-5, atol=3e-6 + rounding * 0.3)
        np.testing.assert_allclose(at.log_prob, exact.log_prob, rtol=1e-5, atol=2e-5 + 4 * rounding)


def test_one_time_or_one_a_sample(data):
    t, known = jnp.linspace(0.1, 1.0, 4), jax.jit(lambda x, t: data.marginal(VP(), x, t))
    x = draw(data, VP(), t, 4)
    each = known(x, t)
    for i in (0, 3):
        alone = known(x[i : i + 1], t[i])
        for got, expected in zip(each, alone, strict=True):
            np.testing.assert_allclose(got[i], expected[0], rtol=1e-4, atol=1e-5)


def test_a_denoiser_call_counts_as_one_evaluation_every_time(data):
    denoise, x = data.denoiser(VP()), jnp.zeros((3, 2))
    with count_evaluations() as tally:
        for _ in range(3):  # also when the compiled method is reused
            eqx.filter_jit(lambda d, x: d(x, 0.5))(denoise, x)
            denoise(x, 0.5, cond=jnp.ones(3))
    assert tally.total == 6


def test_denoisers_are_arguments_that_do_not_recompile(data):
    traces = []

    @eqx.filter_jit
    def call(denoise, x):
        traces.append(1)
        return denoise(x, 0.3).x0

    for _ in range(3):
        x0 = call(data.denoiser(VP()), jnp.ones((2, 2)))
    assert len(traces) == 1 and x0.dtype == np.float32


def test_a_new_time_is_no_new_program(data):
    traces = []

    class Traced(VP):
        def marginal(self, t):
            traces.append(t)
            return super().marginal(t)

    sde, x = Traced(), jnp.ones((2, 2))
    data.score(sde, x, 0.1)
    first = len(traces)
    for t in (0.2, 0.3, np.float64(0.4)):
        data.score(sde, x, t=t)
    assert len(traces) == first


def test_a_data_set_takes_memory_for_distances_only():
    data, x = Empirical(np.random.default_rng(0).normal(size=(500, 64))), jnp.zeros((32, 64))
    full = 32 * 500 * 64 * 4
    for fn in (
        data.score,
        data.divergence,
        lambda sde, x, t: jax.grad(lambda x: data.log_prob(sde, x, t).sum())(x),
    ):
        memory = jax.jit(lambda x, fn=fn: fn(VP(), x, 0.2)).lower(x).compile().memory_analysis()
        assert memory is not None and memory.temp_size_in_bytes < full / 4


def test_a_singular_covariance_is_a_plane():
    data, direction = Gaussian([1.0, 0.0], np.outer([3, 4], [3, 4]) / 25), np.array([[0.8, -0.6]])
    x = data.sample(jax.random.key(0), 50)
    np.testing.assert_allclose((np.asarray(x) - [[1, 0]]) @ direction.T, 0, atol=1e-6)
    # Off the mean by two standard deviations of the noise, at right angles to the plane: it is all noise.
    alpha, sigma = in_float64(VP().marginal, 1e-3)
    at = data.estimate(
        VP(), jnp.asarray(alpha * np.array([[1.0, 0.0]]) + 2 * sigma * direction, jnp.float32), 1e-3
    )
    np.testing.assert_allclose(at.noise, 2 * direction, atol=1e-4)
    np.testing.assert_allclose(at.x0, [[1.0, 0.0]], atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Gaussian([0.0, 1.0], np.eye(3)),
            r"symmetric covariance of shape \(2, 2\), got shape \(3, 3\)",
        ),
        (
            lambda: Gaussian([0.0, 1.0], [1.0, 2.0]),
            "a covariance finite, non-empty and with 2 axes, got shape",
        ),
        (lambda: Gaussian([0.0, 1.0], [[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (
            lambda: Gaussian([0.0, 1.0], [[1.0, 2.0], [2.0, 1.0]]),
            "without negative eigenvalues, got -1",
        ),
        (lambda: Gaussian([0.0, np.nan], np.eye(2)), "mean finite"),
        (lambda: GaussianMixture([0.5, 0.6], MEANS[:2], COVS[:2]), "add up to 1"),
        (lambda: GaussianMixture([1.5, -0.5], MEANS[:2], COVS[:2]), "weights > 0"),
        (lambda: GaussianMixture([0.5, 0.5], MEANS, COVS), "got 2, 3 and 3"),
        (
            lambda: GaussianMixture(WEIGHTS, MEANS, COVS[:, 0]),
            "covs finite, non-empty and with 3 axes",
        ),
        (lambda: Empirical(np.zeros((0, 3))), "non-empty"),
        (lambda: Empirical([1.0, 2.0]), "with 2 axes"),
    ],
)
def test_impossible_data_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_states_and_times_of_other_shapes_are_refused(data):
    with pytest.raises(Exception, match=r"\(4, 3\)|d=3|shape"):
        data.log_prob(VP(), jnp.ones((4, 3)), 0.5)
    with pytest.raises(Exception, match=r"\(batch,\) = \(4,\), got \(3,\)"):
        data.log_prob(VP(), jnp.ones((4, 2)), jnp.ones(3))
