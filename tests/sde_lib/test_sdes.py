"""Properties of every forward process. Float32 is compared with float64 of the same code, and that with calculus."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import sde_lib
from sde_lib import EDM, SDE, VE, VP, Cosine, Discrete, Gaussian, Rectified, SubVP, in_float64
from tests.processes import EXPORTED

TIMES = np.geomspace(1e-5, 1, 60).astype(np.float32)
INSIDE = np.geomspace(1e-3, 0.98, 40)
# Where a value is exp(u), its relative error is the absolute error of u: up to four roundings of numbers below 10 (VE: u = -4.6 + 8.5 t).
RTOL = 4e-6


class Quarter(SDE):
    """A quarter of a circle, left just before alpha is 0, by its marginal alone."""

    angle: float = 1.5

    def marginal(self, t):
        return jnp.cos(self.angle * t), jnp.sin(self.angle * t)


DATA = Gaussian([0.7, -0.4], [[0.25, 0.06], [0.06, 0.04]])


def derivative(fn, t):
    """Differentiate numerically; with steps of 1e-4 t both truncation and rounding stay below 1e-7 of the scale of fn / t."""
    return (fn(t * (1 + 1e-4)) - fn(t * (1 - 1e-4))) / (2e-4 * t)


def test_the_exported_processes_are_found(sde):
    names = [
        n
        for n, c in inspect.getmembers(sde_lib, inspect.isclass)
        if issubclass(c, SDE) and not inspect.isabstract(c)
    ]
    assert {"VP", "VE", "SubVP"} <= set(names)
    assert isinstance(sde, SDE)


def test_signal_falls_and_noise_grows_from_clean_to_noisy(sde):
    alpha, sigma = in_float64(sde.marginal, np.linspace(0, 1, 101))
    assert abs(alpha[0] - 1) < 1e-15 and sigma[0] < 0.02 and np.all(alpha >= 0)
    assert np.all(np.diff(alpha) <= 0) and np.all(np.diff(sigma) > 0)


def test_rates_are_the_derivatives_of_the_marginal(sde):
    rates = in_float64(sde.marginal_rate, INSIDE)
    for i in (0, 1):
        numeric = derivative(lambda t, i=i: in_float64(sde.marginal, t)[i], INSIDE)
        np.testing.assert_allclose(rates[i], numeric, rtol=1e-6, atol=1e-8)


def test_coefficients_solve_the_moment_equations_of_the_linear_sde(sde):
    # d alpha = f alpha dt for the mean of dx = f x dt + g dw, and d sigma^2 = (2 f sigma^2 + g^2) dt for its variance.
    f, g = in_float64(sde.coefficients, INSIDE)
    alpha, sigma = in_float64(sde.marginal, INSIDE)
    np.testing.assert_allclose(
        f * alpha,
        derivative(lambda t: in_float64(sde.marginal, t)[0], INSIDE),
        rtol=1e-6,
        atol=1e-8,
    )
    variance_rate = derivative(lambda t: in_float64(sde.marginal, t)[1] ** 2, INSIDE)
    np.testing.assert_allclose(
        2 * f * sigma**2 + g**2, variance_rate, rtol=1e-6, atol=1e-6 * np.max(g**2 * INSIDE)
    )


def test_float32_marginal_is_accurate_down_to_tiny_times(sde):
    # A user's process in plain jnp is as good as float32 is at numbers of size 1; ours are as good at tiny ones.
    atol = 0 if type(sde) in EXPORTED else 6e-8
    for got, exact in zip(
        sde.marginal(jnp.asarray(TIMES)), in_float64(sde.marginal, TIMES), strict=True
    ):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, exact, rtol=RTOL, atol=atol)


def test_float32_rates_and_coefficients_are_accurate_down_to_tiny_times(sde):
    times = TIMES[:-1]  # f and g need not exist at t = 1
    for fn in (sde.marginal_rate, sde.coefficients):
        for got, exact in zip(fn(jnp.asarray(times)), in_float64(fn, times), strict=True):
            assert got.dtype == np.float32
            np.testing.assert_allclose(
                got, exact, rtol=2 * RTOL, atol=3e-7
            )  # an ulp of 1, where a rate vanishes towards t = 1


def test_perturbed_data_have_the_moments_of_the_marginal(sde):
    # 40 000 normals: a mean within 5 standard errors and a variance within 5; false-alarm probability 1e-6 each.
    n, t = 40_000, np.float32(0.6)
    alpha, sigma = in_float64(sde.marginal, t)
    x, noise = sde.perturb(jax.random.key(3), jnp.full((n, 1), 1.5), t)
    z = (np.asarray(x, np.float64) - 1.5 * alpha) / sigma
    np.testing.assert_allclose(z, noise, atol=2e-5)
    assert abs(z.mean()) < 5 / np.sqrt(n)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / n)


def test_perturb_takes_one_time_or_one_a_sample(sde):
    x0, t = jnp.ones((4, 2, 3)), jnp.array([0.1, 0.4, 0.7, 1.0])
    whole, noise = sde.perturb(jax.random.key(0), x0, t)
    for i in range(4):
        alpha, sigma = sde.marginal(t[i])
        np.testing.assert_allclose(whole[i], alpha * x0[i] + sigma * noise[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 1), (3,), (1, 4)])
def test_other_shapes_of_time_are_refused(sde, shape):
    with pytest.raises(ValueError, match=r"shape \(\) or \(batch,\) = \(4,\), got"):
        sde.perturb(jax.random.key(0), jnp.ones((4, 2)), jnp.full(shape, 0.5))


def test_prior_is_the_normal_that_its_density_says_and_close_to_noisy_data(sde):
    # 40 000 normals: 5 standard errors of a mean and of a variance; false-alarm probability 1e-6 each.
    x, n = np.asarray(sde.prior(jax.random.key(5), (10_000, 2, 2))), 40_000
    std = float(sde.prior_std())
    assert abs(x.mean()) < 5 * std / np.sqrt(n)
    assert abs(x.var() / std**2 - 1) < 5 * np.sqrt(2 / n)
    expected = stats.norm(0, std).logpdf(x[:50].astype(np.float64)).sum((1, 2))
    np.testing.assert_allclose(sde.prior_log_prob(jnp.asarray(x[:50])), expected, rtol=1e-5)
    alpha, sigma = in_float64(sde.marginal, 1.0)
    np.testing.assert_allclose(
        std, np.hypot(alpha, sigma), rtol=0.01
    )  # data of unit variance, at t = 1


def test_reverse_without_noise_is_the_flow_that_the_velocity_gives(sde):
    with jax.enable_x64(True):
        x, t = jax.random.normal(jax.random.key(0), (6, 2)), jnp.linspace(0.05, 0.95, 6)
        drift, diffusion = sde.reverse(x, t, DATA.score(sde, x, t), eta=0.0)
        np.testing.assert_allclose(
            drift, sde.velocity(t, DATA.estimate(sde, x, t)), rtol=1e-9, atol=1e-11
        )
        np.testing.assert_array_equal(diffusion, 0)


def test_reverse_keeps_the_marginals_at_any_noise_level(sde):
    # For Gaussian data the drift is affine, drift = A (x - m) + drift(m), and walking back with noise eta g the moments of the walker obey
    # m' = drift(m), C' = A C + C A^T - (eta g)^2 I. They must be the moments of p_t.
    with jax.enable_x64(True):

        def drift(x, t, eta):
            return sde.reverse(x[None], t, DATA.score(sde, x[None], t), eta)[0][0]

        moments, both = (
            jax.jit(lambda t: DATA.moments(sde, t)),
            jax.jit(lambda *a: (drift(*a), jax.jacfwd(drift)(*a))),
        )
        for t in (0.03, 0.4, 0.9):
            mean, cov = (np.asarray(m) for m in moments(t))
            mean_rate, cov_rate = (
                derivative(lambda t, i=i: np.asarray(moments(t)[i]), t) for i in (0, 1)
            )
            g = float(sde.coefficients(t)[1])
            for eta in (0.0, 0.5, 1.0, 1.7):
                at_mean, slope = (np.asarray(v) for v in both(mean, t, eta))
                np.testing.assert_allclose(at_mean, mean_rate, rtol=1e-6, atol=1e-7)
                back = slope @ cov + cov @ slope.T - (eta * g) ** 2 * np.eye(2)
                np.testing.assert_allclose(
                    back, cov_rate, rtol=1e-6, atol=1e-6 * np.abs(cov_rate).max()
                )


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_reverse_takes_one_time_a_sample(sde, eta):
    x, score, t = jnp.ones((3, 2, 2)), jnp.full((3, 2, 2), -0.5), jnp.array([0.2, 0.5, 0.8])
    drift, diffusion = sde.reverse(x, t, score, eta)
    f, g = in_float64(sde.coefficients, t)
    assert diffusion.shape == (3, 1, 1)
    np.testing.assert_allclose(diffusion[:, 0, 0], eta * g, rtol=2 * RTOL)
    np.testing.assert_allclose(
        drift[:, 1, 1], f + (1 + eta**2) / 4 * g**2, rtol=4 * RTOL, atol=1e-6
    )


def test_velocity_is_finite_up_to_pure_noise(sde):
    estimate = sde_lib.Estimate(jnp.ones((2, 3)), jnp.full((2, 3), -2.0))
    alpha_rate, sigma_rate = in_float64(sde.marginal_rate, 1.0)
    np.testing.assert_allclose(
        sde.velocity(1.0, estimate), alpha_rate - 2 * sigma_rate, rtol=1e-5, atol=3e-6
    )


def test_time_inverts_log_snr(sde):
    back = in_float64(lambda t: sde.time(sde.log_snr(t)), TIMES)
    np.testing.assert_allclose(back, TIMES.astype(np.float64), rtol=1e-9)
    # Float32 log-SNRs are exact to RTOL; over their slope that is the error of t.
    t = jnp.asarray(TIMES[:-1])
    slope = derivative(lambda t: in_float64(sde.log_snr, t), TIMES[:-1].astype(np.float64))
    error = np.abs(np.asarray(sde.time(sde.log_snr(t)), np.float64) - TIMES[:-1])
    assert np.all(error < 8 * RTOL / np.abs(slope) + 1e-7)


def test_time_can_be_differentiated(sde):
    # dt / d log-SNR is one over the slope of the log-SNR; beyond the ends t stays.
    with jax.enable_x64(True):
        values = sde.log_snr(jnp.asarray([0.03, 0.3, 0.9]))
        slope = jax.vmap(jax.grad(sde.time))(jnp.append(values, jnp.array([1e9, -1e9])))
        step = 1e-4
        numeric = (np.asarray(sde.time(values + step)) - np.asarray(sde.time(values - step))) / (
            2 * step
        )
        np.testing.assert_allclose(slope[:3], numeric, rtol=1e-6)
        np.testing.assert_allclose(slope[3:], 0, atol=1e-15)


@pytest.mark.parametrize(
    "make",
    [lambda b: VP(beta_max=20 * b), lambda b: Quarter(1.5 * b)],
    ids=["closed form", "bisection"],
)
def test_time_can_be_differentiated_in_what_a_schedule_learns(make):
    with jax.enable_x64(True):
        value, step = make(1.0).log_snr(jnp.asarray(0.4)), 1e-4
        slope = jax.grad(lambda b: make(b).time(value))(1.0)
        numeric = (make(1 + step).time(value) - make(1 - step).time(value)) / (2 * step)
        np.testing.assert_allclose(slope, numeric, rtol=1e-6)


def test_log_snrs_out_of_range_give_the_nearer_end(sde):
    np.testing.assert_allclose(
        sde.time(jnp.array([1e9, jnp.inf, -1e9, -jnp.inf])), [0, 0, 1, 1], atol=1e-6
    )
    assert np.all(np.diff(in_float64(sde.log_snr, TIMES)) < 0)


def test_processes_pass_through_jit_and_vmap_as_arguments(sde):
    t = jnp.asarray(TIMES[:-1])

    def both(sde, t):
        return (sde.marginal(t), sde.coefficients(t))

    exact = np.asarray(in_float64(lambda t: both(sde, t), t))
    for call in (jax.jit(both), jax.vmap(both, (None, 0)), jax.jit(jax.vmap(both, (None, 0)))):
        np.testing.assert_allclose(np.asarray(call(sde, t)), exact, rtol=2 * RTOL, atol=3e-7)


def test_a_schedule_can_be_learned():
    # The slope of a loss in beta_max, against a finite difference of the same loss in float64.
    def loss(sde, t=0.3):
        x, _ = sde.perturb(jax.random.key(0), jnp.ones((5, 2)), jnp.asarray(t))
        f, g = sde.coefficients(jnp.asarray(t))
        return jnp.sum(x**2) + f * g

    with jax.enable_x64(True):
        for make, at in (
            (lambda b: VP(beta_max=b), 20.0),
            (lambda b: SubVP(beta_max=b), 20.0),
            (lambda b: VE(sigma_max=b), 50.0),
        ):
            slope = jax.grad(lambda b, make=make: loss(make(b)))(at)
            numeric = (loss(make(at + 1e-4)) - loss(make(at - 1e-4))) / 2e-4
            np.testing.assert_allclose(slope, numeric, rtol=1e-6)
            assert abs(slope) > 1e-3
    betas = jnp.array([5.0, 10.0, 20.0])
    many = jax.jit(jax.vmap(lambda b: VP(beta_max=b).marginal(jnp.float32(0.4))))(betas)
    for i, b in enumerate((5.0, 10.0, 20.0)):
        np.testing.assert_allclose(
            [many[0][i], many[1][i]], VP(beta_max=b).marginal(jnp.float32(0.4)), rtol=RTOL
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VP(beta_min=20.0, beta_max=0.1), "need 0 < beta_min < beta_max, got 20.0 and 0.1"),
        (lambda: VP(beta_min=0.0), "0 < beta_min"),
        (lambda: SubVP(beta_min=-1.0), "0 < beta_min"),
        (lambda: SubVP(beta_min=3.0, beta_max=3.0), "beta_min < beta_max, got 3.0 and 3.0"),
        (
            lambda: VE(sigma_min=50.0, sigma_max=0.01),
            "need 0 < sigma_min < sigma_max, got 50.0 and 0.01",
        ),
        (lambda: VE(sigma_max=float("nan")), "sigma_min < sigma_max"),
        (lambda: VP(t_min=1.0), "need 0 <= t_min < 1, got 1.0"),
        (lambda: VE(t_min=-1e-3), "0 <= t_min < 1"),
        (lambda: Cosine(s=-0.1), "need 0 <= s < 1, got -0.1"),
        (lambda: EDM(sigma_max=0.0), "0 < sigma_max, got 0.0"),
        (lambda: Discrete(VP(), 1), "need at least two noise levels, a whole number, got n = 1"),
        (
            lambda: Discrete(VP(), 20),
            "VP at n = 20 levels has a step that leaves no signal.*n > beta_max",
        ),
        (lambda: Discrete(Rectified(), 20), "a process that ends with some signal"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_process_without_marginal_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        SDE()  # pyright: ignore[reportAbstractUsage]


@pytest.mark.parametrize("cls", [VP, SubVP, VE])
def test_published_constants(cls):
    # Song et al. 2021, appendix C: beta from 0.1 to 20, sigma from 0.01 to 50.
    f, g = in_float64(cls().coefficients, np.array([1e-9, 1.0]))
    if cls is VE:
        np.testing.assert_allclose(g, np.array([0.01, 50]) * np.sqrt(2 * np.log(5000)), rtol=1e-6)
    else:
        np.testing.assert_allclose(-2 * f, [0.1, 20], rtol=1e-6)


def test_the_published_smallest_sigma_of_edm():
    np.testing.assert_allclose(
        in_float64(EDM().marginal, np.array(EDM().t_min))[1], 0.002
    )  # Karras et al. 2022, table 1
