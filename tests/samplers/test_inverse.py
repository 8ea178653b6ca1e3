"""Samplers of inverse problems: each step against the law that its paper gives it, on Gaussian data.

The statistical tests take 20,000 samples. A mean is then known to 0.0071 standard deviations and a covariance to 0.01 of the product of
two; bounds of 5 of these are exceeded with probability 6e-7 for each number.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import DDIM, Ancestral, DPMpp2M, Langevin, draw_prior, grids, sample
from samplers.inverse import DAPS, DPS, RePaint, Replacement, SplitGibbs
from samplers.inverse.conditioning import conditional_draw
from samplers.inverse.inner import inner_plan, walk_down
from samplers.inverse.langevin_draw import langevin_draw
from sde_lib import VP, Estimate, Gaussian, Rectified
from sde_lib.inverse import Mask, Measurement, PriorDenoiser, Projection

SDE = VP()
MEAN = np.array([0.4, -0.6, 1.0])
ROOT = np.array([[0.8, 0.0, 0.0], [0.3, 0.5, 0.0], [-0.2, 0.4, 0.6]])
COV = ROOT @ ROOT.T
DATA = Gaussian(MEAN, COV)
DENOISE = PriorDenoiser(DATA.denoiser(SDE))
MATRIX = np.array([[1.0, -0.5, 0.2], [0.0, 0.7, 0.4]])
OPERATOR = Projection(jnp.asarray(MATRIX, jnp.float32))
Y = np.array([0.9, -0.4])
STD = 0.3
NUMBER = 20_000
KEY = jax.random.key(0)
TIMES = np.array([0.5, 0.4])
LEVELS = np.array([float(SDE.noise_level(jnp.asarray(t))) for t in TIMES])
ALPHAS = np.array([float(SDE.marginal(jnp.asarray(t))[0]) for t in TIMES])


def repeated(values, number=NUMBER):
    return jnp.broadcast_to(jnp.asarray(values, jnp.float32), (number, *np.shape(values)))


def one_step(sampler, x, y=Y, denoise=DENOISE, **settings):
    """Return where a single step leads the states `x`."""
    cond = Measurement(repeated(y, len(x)))
    return sample(KEY, sampler, denoise, SDE, TIMES, x, cond=cond, denoise_last=False, **settings).x


def assert_law(x, mean, cov):
    """Check mean and covariance of samples (number, d)."""
    x = np.asarray(x, np.float64)
    sd = np.sqrt(np.diag(cov))
    np.testing.assert_allclose((x.mean(0) - mean) / sd, 0, atol=5 * 0.0071)
    np.testing.assert_allclose((np.cov(x.T) - cov) / np.outer(sd, sd), 0, atol=5 * 0.01)


def conditioned(mean, variance):
    """Return mean and covariance of N(mean, variance I) given the measurement, and the gain."""
    gain = variance * MATRIX.T @ np.linalg.inv(STD**2 * np.eye(2) + variance * MATRIX @ MATRIX.T)
    return mean + gain @ (Y - MATRIX @ mean), variance * (np.eye(3) - gain @ MATRIX), gain


def test_a_conditional_draw_has_the_law_of_a_conditioned_gaussian():
    keys = jax.random.split(KEY, NUMBER)
    mean = np.array([0.2, 0.1, -0.3])

    def draw(key):
        y = jnp.asarray(Y, jnp.float32)
        return conditional_draw(OPERATOR, y, key, jnp.asarray(mean, jnp.float32), 0.49, STD)

    want, cov, _ = conditioned(mean, 0.49)
    assert_law(jax.vmap(draw)(keys), want, cov)


def test_langevin_steps_have_their_own_stationary_law():
    """For curvature c, steps of size e leave the variance 1 / (c (1 - e c / 2)) in each direction."""
    keys = jax.random.split(KEY, NUMBER)
    rate, variance = 0.5, 0.49

    def draw(key):
        return langevin_draw(
            lambda x: x[:1], jnp.asarray([0.8]), key, jnp.zeros(2), variance=variance, std=STD,
            steps=100, rate=rate,
        )  # fmt: skip

    curvature = np.array([1 / variance + 1 / STD**2, 1 / variance])
    size = rate / curvature[0]
    mean = np.array([0.8 / STD**2 / curvature[0], 0.0])
    assert_law(jax.vmap(draw)(keys), mean, np.diag(1 / (curvature * (1 - size * curvature / 2))))


def test_a_step_of_daps_solves_the_flow_then_draws_near_its_end():
    x = jnp.asarray([0.3, 0.2, -0.5], jnp.float32)
    end = 0.005
    sampler = DAPS(OPERATOR, STD, inner_steps=60, end=end)
    got = one_step(sampler, repeated(x))
    last = SDE.time_of_level(jnp.asarray(end))
    clean = DATA.flow(SDE, x[None], TIMES[0], last)[0] / SDE.marginal(last)[0]
    mean, cov, _ = conditioned(np.asarray(clean, np.float64), LEVELS[0] ** 2)
    noise = (LEVELS[1] * ALPHAS[1]) ** 2 * np.eye(3)
    assert_law(got, ALPHAS[1] * mean, ALPHAS[1] ** 2 * cov + noise)


def test_langevin_steps_draw_near_a_measurement_that_is_not_linear():
    """Steps of 0.02 leave about 1 % of the variance, and 1 % of a standard deviation of the mean."""
    keys = jax.random.split(KEY, 4000)

    def draw(key):
        return langevin_draw(
            jnp.tanh, jnp.asarray([0.6]), key, jnp.zeros(1), variance=1.0, std=STD, steps=4000, rate=0.02
        )  # fmt: skip

    x = np.asarray(jax.vmap(draw)(keys), np.float64)
    grid = np.linspace(-6, 6, 20_001)
    density = np.exp(-0.5 * (grid**2 + ((0.6 - np.tanh(grid)) / STD) ** 2))
    density /= density.sum()
    mean = density @ grid
    sd = np.sqrt(density @ (grid - mean) ** 2)
    # 4000 samples: 5 standard errors are 0.08 of sd for the mean, 6e-7
    assert abs(x.mean() - mean) / sd < 0.08 + 0.01


def test_daps_takes_langevin_steps_for_an_operator_that_is_not_linear():
    x = jnp.asarray([0.3, 0.2, -0.5], jnp.float32)
    sampler = DAPS(lambda x: jnp.tanh(x[:1]), STD, langevin_steps=4000, langevin_rate=0.02)
    got = np.asarray(one_step(sampler, repeated(x, 4000), y=[0.6]))
    last = SDE.time_of_level(jnp.asarray(sampler.end))
    clean = float((DATA.flow(SDE, x[None], TIMES[0], last)[0] / SDE.marginal(last)[0])[0])
    grid = np.linspace(-6, 6, 20_001)
    density = np.exp(
        -0.5 * (((grid - clean) / LEVELS[0]) ** 2 + ((0.6 - np.tanh(grid)) / STD) ** 2)
    )
    mean = density @ grid / density.sum()
    # five steps of the flow end 0.03 beside its own end; the sampling error is 0.01
    assert abs(got[:, 0].mean() / ALPHAS[1] - mean) < 0.06


def test_a_step_of_split_gibbs_draws_clean_data_then_the_copy():
    x = jnp.asarray([0.3, 0.2, -0.5], jnp.float32)
    got = one_step(SplitGibbs(OPERATOR, STD, inner_steps=300, end=0.002), repeated(x))
    given = np.linalg.inv(np.linalg.inv(COV) + np.eye(3) / LEVELS[0] ** 2)
    mean = given @ (np.linalg.solve(COV, MEAN) + np.asarray(x) / ALPHAS[0] / LEVELS[0] ** 2)
    mean, cov, gain = conditioned(mean, LEVELS[1] ** 2)
    kept = np.eye(3) - gain @ MATRIX
    total = ALPHAS[1] ** 2 * (cov + kept @ given @ kept.T)
    # The reverse SDE takes 300 steps of first order, which leaves 1 % of the variance.
    assert_law(got, ALPHAS[1] * mean, total)


def test_dps_moves_down_the_misfit_of_each_sample():
    x = jax.random.normal(KEY, (3, 3))
    zeta = 0.7
    plain = sample(KEY, DDIM(), DATA.denoiser(SDE), SDE, TIMES, x, denoise_last=False).x
    got = one_step(DPS(OPERATOR, zeta, DDIM()), x)
    # D = m + K (x - alpha m) has a constant Jacobian.
    alpha, sigma = ALPHAS[0], ALPHAS[0] * LEVELS[0]
    jacobian = alpha * COV @ np.linalg.inv(alpha**2 * COV + sigma**2 * np.eye(3))
    x0 = MEAN + (np.asarray(x, np.float64) - alpha * MEAN) @ jacobian.T
    residual = Y - x0 @ MATRIX.T
    direction = residual / np.linalg.norm(residual, axis=1, keepdims=True)
    want = np.asarray(plain) + zeta * direction @ MATRIX @ jacobian
    np.testing.assert_allclose(got, want, atol=2e-5)


SAMPLERS = {
    "dps": DPS(OPERATOR),
    "replacement": Replacement(OPERATOR, Ancestral()),
    "multistep replacement": Replacement(OPERATOR, DPMpp2M()),
    "repaint": RePaint(Replacement(OPERATOR, Ancestral()), 3),
    "daps": DAPS(OPERATOR, STD),
    "split gibbs": SplitGibbs(OPERATOR, STD, inner_steps=4),
}
EVALUATIONS = {
    "dps": 2, "replacement": 1, "multistep replacement": 1, "repaint": 3, "daps": 5, "split gibbs": 4,
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_does_not_depend_on_its_batch_and_its_evaluations_are_counted(name):
    x = draw_prior(KEY, SDE, (4, 3))
    ys = jnp.asarray([[0.9, -0.4], [0.1, 0.2], [1.5, 0.3], [-2.0, 0.0]])
    ts = grids.log_snr(SDE, 4)

    def walk(index):
        return sample(
            KEY,
            SAMPLERS[name],
            DENOISE,
            SDE,
            ts,
            x[index],
            cond=Measurement(ys[index]),
            index=index,
        )

    together = walk(jnp.arange(4))
    alone = walk(jnp.asarray([2]))
    np.testing.assert_allclose(alone.x[0], together.x[2], rtol=2e-4, atol=2e-4)
    assert together.nfe == 4 * EVALUATIONS[name] + 1  # and one for the last denoising


def test_replacement_puts_the_measurement_with_the_noise_of_its_time_into_the_state():
    mask = Mask(np.array([True, False, True]))
    got = one_step(Replacement(mask, DDIM()), repeated([0.3, 0.2, -0.5]))
    mean = ALPHAS[1] * Y
    cov = (ALPHAS[1] * LEVELS[1]) ** 2 * np.eye(2)
    assert_law(got[:, np.array([0, 2])], mean, cov)
    plain = sample(
        KEY,
        DDIM(),
        DATA.denoiser(SDE),
        SDE,
        TIMES,
        repeated([0.3, 0.2, -0.5], 2),
        denoise_last=False,
    ).x
    np.testing.assert_allclose(got[:, 1], float(plain[0, 1]), atol=1e-6)


def test_a_repeated_step_of_repaint_has_the_law_of_step_way_back_and_step():
    x, mask = np.array([0.3, 0.2, -0.5]), np.array([True, False, True])
    prior = DDIM(eta=1.0)
    got = one_step(RePaint(Replacement(Mask(mask), prior), 2), repeated(x))
    (alpha, alpha_s), (sigma, sigma_s) = ALPHAS, ALPHAS * LEVELS
    ratio = alpha / alpha_s
    back = sigma**2 - ratio**2 * sigma_s**2  # variance of the noise of the way back
    fresh = sigma_s**2 * back / sigma**2  # variance of the noise of a step
    jacobian = alpha * COV @ np.linalg.inv(alpha**2 * COV + sigma**2 * np.eye(3))
    moved = alpha_s * jacobian
    moved += np.sqrt(sigma_s**2 - fresh) / sigma * (np.eye(3) - alpha * jacobian)
    at_mean = alpha_s * MEAN  # where the state alpha MEAN moves to

    def stepped(mean, cov):
        mean, cov = at_mean + moved @ (mean - alpha * MEAN), moved @ cov @ moved.T
        cov = cov + fresh * np.eye(3)
        mean[mask] = alpha_s * Y
        cov[mask] = cov[:, mask] = 0
        cov[mask, mask] = sigma_s**2
        return mean, cov

    mean, cov = stepped(x, np.zeros((3, 3)))
    assert_law(got, *stepped(ratio * mean, ratio**2 * cov + back * np.eye(3)))


def test_inner_walks_end_at_a_tenth_of_their_start_if_that_is_less():
    sde = Rectified()
    ts = sde.time_of_level(jnp.array([2.0, 0.02, 0.01]))
    plan, alpha_end = inner_plan(DDIM(), sde, ts, 4, 0.01)
    last = np.array([0.01, 0.002])
    np.testing.assert_allclose(alpha_end, 1 / (1 + last), rtol=1e-5)
    levels = np.array([2.0, 0.02])[:, None] ** (1 - np.arange(4) / 4)
    levels = levels * last[:, None] ** (np.arange(4) / 4)
    np.testing.assert_allclose(plan.t, levels / (1 + levels), rtol=1e-4)


def test_an_inner_walk_ends_at_clean_data():
    sde = Rectified()
    ts = sde.time_of_level(jnp.array([20.0, 10.0]))
    plans, alpha_end = inner_plan(DDIM(), sde, ts, 400, 0.5)
    plan = jax.tree.map(lambda a: a[0], plans)
    x = jnp.asarray([[0.3, 0.2, -0.5]], jnp.float32)
    keys = jax.random.split(KEY, 1)
    got = walk_down(DDIM(), keys, DATA.denoiser(sde), x, plan, alpha_end[0], None)
    end = sde.time_of_level(jnp.asarray(0.5))
    clean = DATA.flow(sde, x, ts[0], end) / sde.marginal(end)[0]
    # Steps of first order, of 0.9 % of the noise each; alpha is 2 / 3 at the end.
    np.testing.assert_allclose(got, clean, atol=0.01)


def test_the_denoised_end_of_replacement_holds_no_noise_in_unknown_pixels():
    """The known pixel is all that the unknown one depends on, so that the clean data are known.

    Score_sde mixes the denoised unknown part with noised data and returns that: noise of the last level, 0.1 here.
    """
    point = Gaussian(np.array([0.5, -0.3]), np.array([[0.0, 0.0], [0.0, 0.0]]))
    ts = np.array([0.9, 0.5, float(SDE.time_of_level(jnp.asarray(0.1)))])
    mask = Mask(np.array([True, False]))
    result = sample(
        KEY,
        Replacement(mask, Ancestral()),
        PriorDenoiser(point.denoiser(SDE)),
        SDE,
        ts,
        draw_prior(KEY, SDE, (500, 2)),
        cond=Measurement(repeated([0.5], 500)),
        keep=1,
    )
    np.testing.assert_allclose(result.x[:, 1], -0.3, atol=1e-5)
    assert np.std(np.asarray(result.path[-1][:, 1])) > 0.05  # the state that is denoised has noise


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DPS(OPERATOR, -1.0), "step_size >= 0"),
        (lambda: Replacement(OPERATOR, Langevin()), "sampler of the prior"),
        (lambda: RePaint(Replacement(OPERATOR, Ancestral()), 0), "repeats"),
        (lambda: DAPS(OPERATOR, 0.0), "std > 0"),
        (lambda: DAPS(OPERATOR, STD, inner_steps=0), "inner_steps"),
        (lambda: DAPS(OPERATOR, STD, langevin_steps=-1), "langevin_steps"),
        (lambda: SplitGibbs(OPERATOR, -0.1), "std > 0"),
        (lambda: one_step(DPS(OPERATOR), jnp.zeros((2, 3)), y=[1.0]), "gives measurements of"),
        (
            lambda: one_step(Replacement(OPERATOR, DDIM()), jnp.zeros((2, 3)), y=[1.0]),
            "gives measure",
        ),
    ],
)
def test_what_makes_no_inverse_problem_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_dps_has_a_gradient_of_zero_where_the_measurement_is_met():
    def denoise(x, t, cond):
        del t, cond
        return Estimate(x0=0 * x + 1.0, noise=x)

    mask = Mask(np.array([True, False, True]))
    got = one_step(DPS(mask, 1.0, DDIM()), jnp.ones((2, 3)), y=[1.0, 1.0], denoise=denoise)
    assert np.all(np.isfinite(np.asarray(got)))
