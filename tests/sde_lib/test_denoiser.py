"""The three tables of the denoiser against the algebra they stand for, for every forward process."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import (
    INPUTS,
    PREDICTIONS,
    VE,
    VP,
    Denoiser,
    Discrete,
    Gaussian,
    SubVP,
    count_evaluations,
    in_float64,
)

TIMES = np.geomspace(1e-3, 0.999, 41).astype(np.float32)
SD = 0.5


def answer(value):
    """Make a network that always answers `value`."""
    return lambda x, signal, cond: value


def problem(sde, times=TIMES, n=64):
    """Draw clean data of standard deviation 0.5 and noise, in float64, with the x that they make at each time."""
    rng = np.random.default_rng(0)
    x0, noise = SD * rng.standard_normal((len(times), n)), rng.standard_normal((len(times), n))
    alpha, sigma = in_float64(sde.marginal, times[:, None])
    return x0, noise, alpha * x0 + sigma * noise


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_what_is_predicted_gives_back_clean_data_and_noise(sde, prediction):
    x0, noise, x = problem(sde)
    with jax.enable_x64(True):
        a, b = (
            np.asarray(c)
            for c in Denoiser(answer(None), sde, prediction, sigma_data=SD).combination(
                jnp.asarray(TIMES[:, None], float)
            )
        )
        got = Denoiser(answer(jnp.asarray(a * x0 + b * noise)), sde, prediction, sigma_data=SD)(
            jnp.asarray(x), TIMES
        )
        np.testing.assert_allclose(got.x0, x0, atol=1e-11)
        np.testing.assert_allclose(got.noise, noise, atol=1e-11)


def float32_error(sde, prediction):
    """Return the largest error of clean data and noise that rounding to float32 causes."""
    x0, noise, x = problem(sde)
    a, b = in_float64(
        Denoiser(answer(None), sde, prediction, sigma_data=SD).combination, TIMES[:, None]
    )
    value = jnp.asarray(a * x0 + b * noise, jnp.float32)
    got = Denoiser(answer(value), sde, prediction, sigma_data=SD)(
        jnp.asarray(x, jnp.float32), jnp.asarray(TIMES)
    )
    assert got.x0.dtype == got.noise.dtype == np.float32
    return max(np.abs(got.x0 - x0).max(), np.abs(got.noise - noise).max())


@pytest.mark.parametrize("prediction", ["edm", "v"])
def test_bounded_predictions_are_accurate_in_float32_at_any_time(sde, prediction):
    # Every factor in them is of order one, so what remains is the rounding of x / h, of order 4: a dozen units of 1e-7.
    assert float32_error(sde, prediction) < 4e-6


@pytest.mark.parametrize("cls", [VP, SubVP, VE])
@pytest.mark.parametrize(
    ("prediction", "bound"), [("noise", 2.4e-4), ("score", 2.4e-4), ("x0", 2.2e-3)]
)
def test_other_predictions_lose_what_their_division_costs(cls, prediction, bound):
    # x0 from noise costs 1/alpha = 150 at t = 1 (VP), noise from x0 costs 1/sigma = 9000 at t = 1e-3 (sub-VP): times rounding of x, 2e-7.
    assert float32_error(cls(), prediction) < bound


def test_edm_rows_are_the_preconditioning_of_the_paper(sde):
    # Karras et al. 2022, table 1, at noise level sigma / alpha and state x / alpha; for alpha = 1 literally.
    with jax.enable_x64(True):
        t, x = jnp.linspace(0.01, 0.99, 9), jnp.full((9, 1), 1.7)
        alpha, sigma = (np.asarray(v) for v in sde.marginal(t))
        level, state, seen = sigma / alpha, 1.7 / alpha, []

        def net(x, signal, cond):
            seen.extend((np.asarray(x), np.asarray(signal)))
            return jnp.full_like(x, 0.3)

        x0 = np.asarray(Denoiser(net, sde, "edm", "edm", SD)(x, t).x0)[:, 0]
        c_skip, c_out = SD**2 / (level**2 + SD**2), level * SD / np.sqrt(level**2 + SD**2)
        np.testing.assert_allclose(x0, c_skip * state + c_out * 0.3, rtol=1e-12)
        np.testing.assert_allclose(seen[0][:, 0], state / np.sqrt(level**2 + SD**2), rtol=1e-12)
        np.testing.assert_allclose(seen[1], np.log(level) / 4, rtol=1e-12, atol=1e-14)


def test_edm_is_minus_v_on_data_of_unit_variance(sde):
    t = np.linspace(0.01, 0.99, 9)
    edm, v = (
        np.array(in_float64(lambda t, p=p: PREDICTIONS[p](sde, t, 1.0), t)) for p in ("edm", "v")
    )
    np.testing.assert_allclose(edm, -v, rtol=1e-12)


def test_v_and_velocity_mean_what_their_papers_say(sde):
    # v is the normal to (alpha, sigma) on the unit circle, signed towards noise; the velocity is dx/dt at fixed x0 and noise.
    t = np.linspace(0.01, 0.99, 9)
    (alpha, sigma), (a, b) = (
        in_float64(sde.marginal, t),
        in_float64(lambda t: PREDICTIONS["v"](sde, t, SD), t),
    )
    np.testing.assert_allclose(a**2 + b**2, 1, rtol=1e-12)
    np.testing.assert_allclose(a * alpha + b * sigma, 0, atol=1e-12 * np.hypot(alpha, sigma).max())
    assert np.all(b >= 0)
    a, b = in_float64(lambda t: PREDICTIONS["velocity"](sde, t, SD), t)
    step = 1e-6
    (alpha_1, sigma_1), (alpha_0, sigma_0) = (
        in_float64(sde.marginal, t + step),
        in_float64(sde.marginal, t - step),
    )
    np.testing.assert_allclose(a, (alpha_1 - alpha_0) / (2 * step), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(b, (sigma_1 - sigma_0) / (2 * step), rtol=1e-6)


def test_published_networks_are_told_their_own_time(sde):
    t, x = jnp.array([0.1, 0.5, 0.9]), jnp.ones((3, 2, 2, 1))
    sigma = in_float64(sde.marginal, t)[1]
    expected = {"time": 999 * np.asarray(t), "sigma": sigma, "log_sigma": np.log(sigma / 2)}
    for inputs, signal in expected.items():
        seen = []
        Denoiser(lambda x, s, cond, seen=seen: seen.append((x, s)) or x, sde, "noise", inputs)(x, t)
        np.testing.assert_array_equal(seen[0][0], x)
        np.testing.assert_allclose(seen[0][1], signal, rtol=1e-5, atol=1e-5)


def test_a_network_of_images_in_the_unit_range_is_fed_and_understood_in_its_own_units():
    """Of x in [-1, 1] at sigma, it gets (x + 1) / 2 at sigma / 2, and its score is minus the noise over that."""

    sde, t, noise = VE(0.02, 100.0), jnp.array([0.1, 0.9]), jnp.array([[1.0, -2.0], [0.5, 3.0]])
    sigma = in_float64(sde.marginal, t)[1].astype(np.float32)
    x = 0.25 + sigma[:, None] * noise

    def net(unit, signal, cond):
        np.testing.assert_allclose(unit, (x + 1) / 2, rtol=1e-6)
        np.testing.assert_allclose(signal, sigma / 2, rtol=1e-5)
        return -noise / signal[:, None]

    estimate = Denoiser(net, sde, "unit_score", "unit_sigma")(x, t)
    np.testing.assert_allclose(estimate.noise, noise, rtol=1e-5)


@pytest.mark.parametrize("inputs", [name for name in INPUTS if name.startswith("unit_")])
def test_every_network_of_images_in_the_unit_range_is_fed_such_images(inputs):
    seen, x = [], jnp.array([[-1.0, 0.0, 1.0], [0.5, 3.0, -7.0]])
    sde = Discrete(VE(0.02, 100.0), 50)
    Denoiser(lambda x, s, cond: seen.append(x) or x, sde, "unit_score", inputs)(x, 0.4)
    np.testing.assert_allclose(seen[-1], (x + 1) / 2, rtol=1e-6)


@pytest.mark.parametrize("inputs", INPUTS)
def test_the_network_gets_one_number_a_sample_and_the_condition(inputs):
    seen = []
    denoise = Denoiser(
        lambda x, s, cond: seen.append((s.shape, cond)) or x, Discrete(VP(), 50), inputs=inputs
    )
    denoise(jnp.ones((5, 2)), 0.3, cond={"label": 7})
    denoise(jnp.ones((5, 2)), jnp.full(5, 0.3))
    assert seen == [((5,), {"label": 7}), ((5,), None)]


def test_a_denoiser_passes_through_jit_with_a_network_that_learns():
    scale = jnp.float32(0.4)
    make = eqx.filter_jit(lambda d, x: d(x, 0.4).x0.sum())

    class Net(eqx.Module):
        scale: jax.Array

        def __call__(self, x, signal, cond):
            return self.scale * x

    denoise, x = Denoiser(Net(scale), VP()), jnp.ones((3, 2))
    slope = eqx.filter_grad(make)(denoise, x).net.scale
    step = 0.01  # x0 is linear in the scale
    numeric = (
        make(Denoiser(Net(scale + step), VP()), x) - make(Denoiser(Net(scale - step), VP()), x)
    ) / (2 * step)
    np.testing.assert_allclose(slope, numeric, rtol=1e-3)


def test_a_call_counts_as_one_evaluation():
    denoise = Denoiser(answer(jnp.zeros((2, 2))), VP())
    with count_evaluations() as tally:
        jax.eval_shape(lambda x: (denoise(x, 0.5), denoise.output(x, 0.5)), jnp.zeros((2, 2)))
    assert tally.total == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prediction": "epsilon"},
            "unknown prediction 'epsilon'; choose one of edm, noise, score, unit_score, v, velocity, x0",
        ),
        ({"inputs": "x"}, "unknown inputs 'x'"),
    ],
)
def test_unknown_names_are_answered_with_the_choices(row, message):
    with pytest.raises(ValueError, match=message):
        Denoiser(answer(None), VP(), **row)


def test_networks_and_times_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"returned shape \(2, 3\) for a state of shape \(2, 4\)"):
        Denoiser(answer(jnp.zeros((2, 3))), VP())(jnp.zeros((2, 4)), 0.5)
    with pytest.raises(ValueError, match=r"got \(2, 1\)"):
        Denoiser(answer(jnp.zeros((2, 4))), VP())(jnp.zeros((2, 4)), jnp.ones((2, 1)))


def test_the_score_is_that_of_the_density():
    data, x, t = (
        Gaussian([0.7, -0.4], [[0.25, 0.06], [0.06, 0.04]]),
        jnp.ones((3, 2)),
        jnp.array([0.1, 0.5, 0.9]),
    )
    denoise = Denoiser(
        lambda x, signal, cond: data.estimate(VP(), x, signal / 999).noise, VP(), "noise", "time"
    )
    np.testing.assert_allclose(denoise.score(x, t), data.score(VP(), x, t), rtol=1e-3)
