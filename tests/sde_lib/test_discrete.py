"""A table of noise levels as a process: exact at the levels, and between them the linear SDE with constant coefficients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import EDM, VE, VP, Cosine, Denoiser, Discrete, SubVP, in_float64

N = 40


@pytest.fixture(params=[VP, SubVP, VE, EDM, Cosine], ids=lambda c: c.__name__)
def table(request):
    return Discrete(request.param(), N)


def test_it_has_the_levels_of_the_table_and_data_at_zero(table):
    log_alpha, sigma = in_float64(table.sde.discrete_schedule, N)
    alpha, result = in_float64(table.marginal, np.arange(N + 1) / N)
    np.testing.assert_allclose(alpha, np.append(1.0, np.exp(log_alpha)), rtol=1e-12)
    np.testing.assert_allclose(result, np.append(0.0, sigma), rtol=1e-12)
    assert table.t_min == 1 / N and np.all(np.diff(result) > 0)


def test_it_ends_in_the_prior_of_its_process(table):
    np.testing.assert_allclose(table.prior_std(), table.sde.prior_std(), rtol=1e-6)
    alpha, sigma = in_float64(table.marginal, np.array(1.0))
    np.testing.assert_allclose(table.prior_std(), np.hypot(alpha, sigma), rtol=0.01)


def test_published_tables():
    # DDPM: alpha_bar_N = 4.036e-5 at N = 1000, where exp(-integral) is 4.32e-5; first level sqrt(1e-4). SMLD: both sigmas included.
    alpha, sigma = in_float64(Discrete(VP(), 1000).marginal, np.array([0.001, 1.0]))
    np.testing.assert_allclose([alpha[1] ** 2, sigma[0]], [4.036e-5, 0.01], rtol=1e-4)
    np.testing.assert_allclose(
        in_float64(Discrete(VE(), 1000).marginal, np.array([0.001, 1.0]))[1], [0.01, 50.0]
    )
    alpha = in_float64(Discrete(Cosine(), 100).marginal, np.arange(101) / 100)[0]
    betas = 1 - (alpha[1:] / alpha[:-1]) ** 2
    np.testing.assert_allclose(betas[-1], 0.999)  # improved DDPM's ceiling


def test_between_levels_it_is_a_linear_sde_with_constant_coefficients(table):
    # d alpha = f alpha dt and d sigma^2 = (2 f sigma^2 + g^2) dt, in the middle of steps and at their ends from inside.
    t = (np.arange(N)[:, None] + np.array([[0.1, 0.5, 0.9]])) / N
    f, g = in_float64(table.coefficients, t)
    np.testing.assert_allclose(f, np.repeat(f[:, :1], 3, 1))
    np.testing.assert_allclose(g, np.repeat(g[:, :1], 3, 1))
    h = 1e-3 / N
    (alpha, sigma), low, high = (in_float64(table.marginal, t + d) for d in (0.0, -h, h))
    np.testing.assert_allclose(f * alpha, (high[0] - low[0]) / (2 * h), rtol=1e-5, atol=1e-8)
    rate = (high[1] ** 2 - low[1] ** 2) / (2 * h)
    np.testing.assert_allclose(
        2 * f * sigma**2 + g**2, rate, rtol=1e-5, atol=1e-5 * np.abs(g**2).max()
    )


def test_float32_is_accurate(table):
    t = np.linspace(1 / N, 1, 77).astype(np.float32)
    for got, exact in zip(
        table.marginal(jnp.asarray(t)), in_float64(table.marginal, t), strict=True
    ):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, exact, rtol=2e-5)  # exp of up to 8 for VE, and n t


def test_labels_number_the_levels_upwards_and_downwards():
    table, seen = Discrete(VP(), 1000), []
    t = (jnp.arange(1000, dtype=jnp.float32) + 1) / 1000
    for inputs in ("label", "reversed_label"):
        Denoiser(
            lambda x, label, cond: seen.append(np.asarray(label)) or x, table, "noise", inputs
        )(jnp.ones((1000, 1)), t)
    seen = [s for s in seen if s.shape == (1000,)]
    np.testing.assert_array_equal(seen[0], np.arange(1000))
    np.testing.assert_array_equal(seen[1], np.arange(1000)[::-1])
    np.testing.assert_allclose(
        table.label(jnp.array([0.0, 0.0005, 0.0035, 0.00305])), [0, 0, 2.5, 2.05], atol=1e-3
    )


def test_labels_need_a_table():
    with pytest.raises(
        ValueError,
        match=r"VE has no numbered noise levels to tell a network; wrap it: Discrete\(VE\(\), n\)",
    ):
        Denoiser(lambda x, label, cond: x, VE(), "score", "reversed_label")


def test_a_table_can_be_learned_and_passes_through_jit():
    def loss(b, t):
        alpha, sigma = Discrete(VP(beta_max=b), N).marginal(t)
        return alpha + sigma

    with jax.enable_x64(True):
        t, step = jnp.asarray(0.3), 1e-4
        numeric = (loss(20 + step, t) - loss(20 - step, t)) / (2 * step)
        np.testing.assert_allclose(jax.jit(jax.grad(loss))(20.0, t), numeric, rtol=1e-6)
