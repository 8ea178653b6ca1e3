"""At t = 1, where a process may have no signal, and at t = 0, where it may have no noise, everything has its limit and nothing is NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import (
    INPUTS,
    PREDICTIONS,
    SDE,
    VE,
    VP,
    WEIGHTINGS,
    Cosine,
    Denoiser,
    Discrete,
    Estimate,
    LogNormal,
    Rectified,
    denoising_loss,
    expand,
    in_float64,
    sliced_loss,
)
from sde_lib.inputs import LOG_SNR_MIN
from sde_lib.weightings import determinant

SD = 0.5
BOTH_ENDS = jnp.array([0.0, 1.0])
X = jnp.array([[0.7, -1.2], [0.3, 1.6]])


def net(x, signal, cond):
    """Answer something that depends on x and, without bound, on the time signal."""
    return 0.3 * x + expand(signal, x) ** 2 * 1e-3


def inputs_of(sde):
    """Return the inputs that `sde` can give; only tables have labels."""
    return [name for name in INPUTS if "label" not in name or isinstance(sde, Discrete)]


@pytest.fixture(params=["float32", "float64"])
def number(request):
    with jax.enable_x64(request.param == "float64"):
        yield jnp.dtype(request.param)


def everything_finite(sde, number):
    """Check estimates and gradients of all predictions and inputs; step by step, as compiling them would take longer."""
    rows = [("edm", "edm")]
    if number == jnp.float32:  # as users have it
        rows = [(p, "edm") for p in PREDICTIONS] + [("edm", i) for i in inputs_of(sde)[1:]]

    def of(row, scale, x, t):
        denoiser = Denoiser(lambda *a: scale * net(*a), sde, *row, sigma_data=SD)
        return denoiser(x, t)

    def total(row, scale, x, t):
        return sum(jnp.sum(part) for part in of(row, scale, x, t))

    def known(x, t):
        slopes = {row: jax.grad(total, (1, 2, 3))(row, 1.0, x, t) for row in rows}
        return {row: of(row, 1.0, x, t) for row in rows}, slopes

    # The slope in t of sigma = sqrt(t) is infinite at 0.
    slope_at_zero = bool(np.isfinite(in_float64(sde.marginal_rate, 0.0)[1]))
    estimates, slopes = known(X.astype(number), BOTH_ENDS.astype(number))
    for row in rows:
        scale, x, t = slopes[row]
        assert np.all(np.isfinite(estimates[row])), (row, estimates[row])
        assert np.isfinite(scale) and np.all(np.isfinite(x)), (row, scale, x)
        assert np.isfinite(t[1]) and (np.isfinite(t[0]) or not slope_at_zero), (row, t)
        assert estimates[row].x0.dtype == number


def test_estimates_and_gradients_are_finite_at_both_ends(sde, number):
    everything_finite(sde, number)


@pytest.mark.parametrize("table", [VP(), VE(), Cosine()], ids=lambda s: type(s).__name__)
def test_estimates_and_gradients_of_tables_are_finite_at_both_ends(table, number):
    everything_finite(Discrete(table, 50), number)


def test_one_time_at_an_end_is_one_time_for_all(sde):
    denoiser = Denoiser(net, sde)
    for t in (0.0, 1.0):
        one, each = denoiser(X, t), denoiser(X, jnp.full(2, t))
        mapped = jax.vmap(lambda x, t=t: denoiser(x[None], t))(X)
        for got, expected, alone in zip(one, each, mapped, strict=True):
            assert np.all(np.isfinite(got))
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(alone[:, 0], got, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prediction", ["edm", "v", "velocity"])
def test_estimates_without_signal_are_the_limit_of_those_with_little(sde, prediction):
    # These predictions say something at every level. A network is told log-SNRs down to the stated one; here none depends on it.
    denoiser = Denoiser(lambda x, signal, cond: 0.3 * x, sde, prediction, sigma_data=SD)
    with jax.enable_x64(True):
        close = denoiser(X.astype(float), 1 - 1e-7)
    for got, expected in zip(denoiser(X, 1.0), close, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_what_says_nothing_gives_the_smallest_estimate_that_adds_up():
    without_signal = Denoiser(net, Rectified(), "noise")(X, 1.0)
    np.testing.assert_array_equal(without_signal.x0, 0)
    np.testing.assert_array_equal(without_signal.noise, X)
    without_noise = Denoiser(net, VP(), "x0")(X, 0.0)
    np.testing.assert_array_equal(without_noise.x0, X)
    np.testing.assert_array_equal(without_noise.noise, 0)
    both = Estimate.solve(X, 0.6, 0.8, 0.6, 0.8, X)  # told nothing but x itself
    np.testing.assert_allclose(0.6 * both.x0 + 0.8 * both.noise, X, rtol=1e-6)
    np.testing.assert_allclose(0.8 * both.x0, 0.6 * both.noise, rtol=1e-6)


def textbook(sde, t):
    """Return all weights by their definitions, which are 0 / 0 at the ends, in float64."""

    def weights(t):
        alpha, sigma = sde.marginal(t)
        g = sde.coefficients(t)[1]
        snr = (alpha / sigma) ** 2
        result = {}
        for prediction, coefficients in PREDICTIONS.items():
            a, b = coefficients(sde, t, SD)
            noise, x0 = alpha / (b * alpha - a * sigma), sigma / (b * alpha - a * sigma)
            result |= {
                ("prediction", prediction): jnp.ones_like(t),
                ("noise", prediction): noise**2,
                ("x0", prediction): x0**2,
                ("likelihood", prediction): (g / sigma * noise) ** 2,
                ("min_snr", prediction): jnp.minimum(snr, 5.0) * x0**2,
                ("sigmoid", prediction): noise**2 / (1 + jnp.exp(-2.0) * snr),
            }
        return result

    return in_float64(weights, t)


def weight(sde, weighting, prediction, t):
    a, b = PREDICTIONS[prediction](sde, t, SD)
    return WEIGHTINGS[weighting](sde, t, determinant(sde, t, a, b))


def test_weights_at_both_ends_are_their_limits(sde):
    # A limit is finite if the last factor 1000 of the distance from the end changes the weight by less than 30: they go as powers.
    t = jnp.array([0.0, 1.0, 0.3, 0.9])
    names = [(w, p) for w in WEIGHTINGS for p in PREDICTIONS]
    weights = jax.jit(lambda t: {name: weight(sde, *name, t) for name in names})(t)
    near_ends = np.array([1e-4, 1e-7, 1 - 1e-4, 1 - 1e-7])
    exact = textbook(sde, np.append(near_ends, np.asarray(t[2:], np.float64)))
    checked = 0
    for weighting, prediction in names:
        what = f"{weighting} of {prediction}"
        got = np.broadcast_to(weights[weighting, prediction], 4)
        assert np.all(np.isfinite(got)) and np.all(got >= 0), (what, got)
        *at_ends, third, last = exact[weighting, prediction]
        np.testing.assert_allclose(got[2:], [third, last], rtol=1e-4, err_msg=what)
        for end, (before, limit) in enumerate((at_ends[:2], at_ends[2:])):
            if limit < 30 * before:
                checked += 1
                np.testing.assert_allclose(
                    got[end], limit, rtol=2e-3, atol=2e-3, err_msg=f"{what} at {end}"
                )
    assert checked > 40


def test_losses_and_their_gradients_are_finite_at_both_ends(sde):
    def losses(scale):
        result = {}
        for prediction in PREDICTIONS:
            denoiser = Denoiser(lambda *a: scale * net(*a), sde, prediction, sigma_data=SD)
            for weighting in WEIGHTINGS:
                result[prediction, weighting] = denoising_loss(
                    jax.random.key(0), denoiser, X, BOTH_ENDS, weighting=weighting
                )
        denoiser = Denoiser(lambda *a: scale * net(*a), sde, sigma_data=SD)
        result["sliced", "noise"] = sliced_loss(jax.random.key(0), denoiser, X, BOTH_ENDS)
        return result

    for values in jax.jvp(losses, (1.0,), (1.0,)):
        for row, loss in values.items():
            assert np.all(np.isfinite(loss)), (row, loss)


def test_the_log_snr_without_signal_is_minus_infinity_with_a_finite_gradient():
    class Circle(SDE):
        """A process whose signal at t = 1 rounding makes -4e-8 in float32 and 6e-17 in float64."""

        def marginal(self, t):
            return jnp.cos(0.5 * jnp.pi * t), jnp.sin(0.5 * jnp.pi * t)

    for x64 in (False, True):
        with jax.enable_x64(x64):
            for sde in (Circle(), Rectified(), Cosine()):
                assert sde.log_snr(1.0) == -np.inf and np.isfinite(jax.grad(sde.log_snr)(1.0))
                assert sde.time(-np.inf) == pytest.approx(1, abs=1e-6)
    assert np.all(np.isinf(Circle().coefficients(1.0)))
    steep = 20.0  # a signal of e^-20 is small, but one

    class Decaying(SDE):
        def marginal(self, t):
            return jnp.exp(-steep * t), jnp.sqrt(-jnp.expm1(-2 * steep * t))

    np.testing.assert_allclose(Decaying().log_snr(1.0), -2 * steep, rtol=1e-5)


def test_a_network_is_told_the_stated_levels_at_most(sde):
    time_signal = []
    denoiser = Denoiser(lambda x, signal, cond: time_signal.append(signal) or x, sde)
    denoiser(jnp.ones((4, 1)), jnp.array([0.0, 1e-5, 0.4, 1.0]))
    time_signal = time_signal[-1]
    assert time_signal.dtype == np.float32
    assert (
        -5
        <= time_signal[0]
        <= time_signal[1]
        < time_signal[2]
        < time_signal[3]
        <= -LOG_SNR_MIN / 8
        == 2.5
    )
    inside = -in_float64(sde.log_snr, np.array([1e-5, 0.4], np.float32)) / 8
    np.testing.assert_allclose(time_signal[1:3], inside, rtol=1e-5, atol=1e-6)


def test_a_log_normal_draws_noise_under_every_process(sde):
    """Half of the draws lie above the stated mean of log(sigma / alpha), none of them on an end alone."""
    t = LogNormal().quantile(sde, jnp.linspace(0.05, 0.95, 19))
    level = -0.5 * in_float64(sde.log_snr, np.asarray(t, np.float64))
    assert np.all(np.diff(t) > 0)
    assert abs(level[9] + 1.2) < 0.05
