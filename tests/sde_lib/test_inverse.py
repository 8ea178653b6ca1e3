"""Denoisers of posteriors against the exact ones of Gaussian data."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_lib
from sde_lib import (
    VE,
    VP,
    Cosine,
    Estimate,
    Gaussian,
    Rectified,
    check_denoise,
    count_evaluations,
)
from sde_lib.inverse import (
    DDNM,
    JFPS,
    MMPS,
    TMPD,
    Covariance,
    Diagonal,
    DiffPIR,
    Mask,
    Measurement,
    PiGDM,
    PosteriorDenoiser,
    PriorDenoiser,
    Projection,
    Whitened,
)

RNG = np.random.default_rng(1)
MEAN = np.array([0.5, -1.0, 0.3, 0.8])
ROOT = RNG.normal(size=(4, 4))
COV = 0.3 * ROOT @ ROOT.T + 0.05 * np.eye(4)
DATA = Gaussian(MEAN, COV)
MATRIX = RNG.normal(size=(2, 4))
OPERATOR = Projection(jnp.asarray(MATRIX, jnp.float32))
STD = 0.3
Y = np.array([[0.7, -1.4], [-0.3, 0.9], [2.0, 0.1]])
X = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
COND = Measurement(jnp.asarray(Y, jnp.float32))
EXACT = {
    "MMPS": lambda denoise, sde, operator, std: MMPS(denoise, sde, operator, std, tolerance=0.0),
    "JFPS": lambda denoise, sde, operator, std: JFPS(
        denoise, sde, operator, std, cov=Covariance.of(COV)
    ),
}
METHODS = [
    cls
    for cls in vars(sde_lib.inverse).values()
    if isinstance(cls, type) and issubclass(cls, PosteriorDenoiser) and cls is not PosteriorDenoiser
]


def exact(sde, t, data=DATA, matrix=MATRIX, cov=STD**2, ys=Y):
    """Return the estimates of the exact posteriors, one measurement a sample."""
    estimates = [
        data.posterior(matrix, y, cov).data.denoiser(sde)(X[i : i + 1], t) for i, y in enumerate(ys)
    ]
    return Estimate(*(jnp.concatenate(parts) for parts in zip(*estimates, strict=True)))


def assert_close(got, want, tolerance=2e-4):
    for part, wanted in zip(got, want, strict=True):
        np.testing.assert_allclose(part, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_methods_with_the_whole_covariance_are_exact_for_gaussian_data(sde, name, t):
    method = EXACT[name](DATA.denoiser(sde), sde, OPERATOR, STD)
    # Noise estimates, which are multiplied by sigma / alpha, lose these digits of a float32.
    level = float(sde.noise_level(jnp.asarray(t)))
    got = method(X, t, COND)
    want = exact(sde, t)
    np.testing.assert_allclose(got.x0, want.x0, atol=2e-4 * max(1, level / 10), rtol=2e-4)
    np.testing.assert_allclose(got.noise, want.noise, atol=5e-4 / min(1, level), rtol=5e-4)


@pytest.mark.parametrize("cls", [PiGDM, JFPS])
def test_methods_that_take_the_size_of_the_data_are_exact_for_isotropic_data(cls):
    data = Gaussian(MEAN, 0.49 * np.eye(4))
    method = cls(data.denoiser(VP()), VP(), OPERATOR, STD)
    assert_close(method(X, 0.4, COND), exact(VP(), 0.4, data))


def test_tweedie_moment_projection_is_exact_where_measurements_are_independent():
    data = Gaussian(MEAN, np.diag([0.2, 0.5, 0.9, 0.4]))
    mask = np.array([True, False, True, False])
    method = TMPD(data.denoiser(VP()), VP(), Mask(mask), STD)
    assert_close(method(X, 0.4, COND), exact(VP(), 0.4, data, np.eye(4)[mask]))


def test_a_proximal_step_minimises_what_it_says():
    sde, t, weight = VP(), 0.4, 8.0
    denoise = DATA.denoiser(sde)
    got = DiffPIR(denoise, sde, OPERATOR, STD, weight=weight)(X, t, COND)
    x0 = np.asarray(denoise(X, t).x0, np.float64)
    trust = weight / float(sde.noise_level(jnp.asarray(t))) ** 2
    normal = MATRIX.T @ MATRIX / STD**2 + trust * np.eye(4)
    want = [
        np.linalg.solve(normal, MATRIX.T @ y / STD**2 + trust * d)
        for y, d in zip(Y, x0, strict=True)
    ]
    np.testing.assert_allclose(got.x0, want, rtol=2e-4, atol=2e-4)


def test_the_null_space_model_replaces_the_measured_part():
    denoise = DATA.denoiser(VP())
    got = DDNM(denoise, VP(), OPERATOR, STD, tolerance=0.0)(X, 0.4, COND)
    x0 = np.asarray(denoise(X, 0.4).x0, np.float64)
    want = x0 + (Y - x0 @ MATRIX.T) @ np.linalg.pinv(MATRIX).T
    np.testing.assert_allclose(got.x0, want, atol=2e-4)


def test_measurements_may_have_noise_of_several_sizes_or_correlated_noise():
    sde, t = VP(), 0.5
    denoise = DATA.denoiser(sde)
    stds = np.array([0.1, 0.6])
    apart = EXACT["MMPS"](denoise, sde, OPERATOR, jnp.asarray(stds))
    assert_close(apart(X, t, COND), exact(sde, t, cov=np.diag(stds**2)))
    cov = np.array([[0.2, 0.12], [0.12, 0.1]])
    whitened = Whitened(OPERATOR, cov)
    together = EXACT["MMPS"](denoise, sde, whitened, 1.0)
    assert_close(together(X, t, Measurement(whitened.whiten(COND.y))), exact(sde, t, cov=cov))


def test_noise_of_several_sizes_is_whitened_by_its_variances():
    variances = np.array([0.01, 0.36])
    by_vector, by_matrix = Whitened(OPERATOR, variances), Whitened(OPERATOR, np.diag(variances))
    np.testing.assert_allclose(by_vector(X[0]), by_matrix(X[0]), rtol=1e-5)
    np.testing.assert_allclose(by_vector.whiten(COND.y), np.asarray(COND.y) / [0.1, 0.6], rtol=1e-5)
    z = jax.random.normal(jax.random.key(0), (3, 2))
    cov = np.array([[0.2, 0.12], [0.12, 0.1]])
    for whitened in (by_vector, by_matrix, Whitened(OPERATOR, cov)):
        np.testing.assert_allclose(whitened.whiten(whitened.noise(z)), z, atol=1e-5)
    lower = np.linalg.cholesky(cov)
    np.testing.assert_allclose(Whitened(OPERATOR, cov).noise(z), z @ lower.T, atol=1e-6)
    with pytest.raises(ValueError, match="positive definite"):
        Whitened(OPERATOR, np.array([0.1, 0.0]))


@pytest.mark.parametrize("cls", [MMPS, PiGDM, TMPD])
def test_without_signal_the_data_count_as_isotropic(cls):
    data = Gaussian(MEAN, 0.49 * np.eye(4))
    sde = Rectified()
    mask = np.array([True, False, True, False])
    method = cls(data.denoiser(sde), sde, Mask(mask), STD)
    posterior = MEAN + np.where(mask, 0.49 / (0.49 + STD**2), 0.0) * (
        np.array([[y[0], 0, y[1], 0] for y in Y]) - MEAN
    )
    np.testing.assert_allclose(method(X, 1.0, COND).x0, posterior, atol=2e-4)
    just_before = method(X, 1 - 1e-3, COND).x0
    np.testing.assert_allclose(just_before, posterior, atol=0.02)


def test_each_sample_may_have_an_operator_of_its_own():
    sde, t = VP(), 0.5
    weights = np.array([[1, 0, 1, 0], [0, 1, 1, 1], [1, 1, 0, 0]], float)
    ys = weights * 0.7
    method = EXACT["MMPS"](DATA.denoiser(sde), sde, Diagonal(jnp.ones(4)), STD)
    own = Diagonal(jnp.asarray(weights, jnp.float32))
    got = method(X, t, Measurement(jnp.asarray(ys, jnp.float32), operator=own))
    for i in range(3):
        want = DATA.posterior(np.diag(weights[i]), ys[i], STD**2).data.denoiser(sde)(
            X[i : i + 1], t
        )
        np.testing.assert_allclose(got.x0[i : i + 1], want.x0, rtol=5e-4, atol=5e-4)


def test_a_constant_of_the_operator_belongs_to_the_measurement():
    def shifted(x):
        return OPERATOR(x) + 2.0

    method = EXACT["MMPS"](DATA.denoiser(VP()), VP(), shifted, STD)
    assert_close(method(X, 0.5, Measurement(COND.y + 2.0)), exact(VP(), 0.5))


def test_an_operator_that_is_not_linear_is_replaced_by_its_tangent():
    sde, t = VP(), 0.3
    denoise = DATA.denoiser(sde)
    x0 = denoise(X, t).x0

    def squares(x):
        return jnp.stack([x[0] ** 2, x[1] * x[2]])

    got = EXACT["JFPS"](denoise, sde, squares, STD)(X, t, COND)
    for i in range(3):
        tangent = jax.jacfwd(squares)(x0[i])

        def linear(x, i=i, tangent=tangent):
            return squares(x0[i]) + tangent @ (x - x0[i])

        one = EXACT["JFPS"](denoise, sde, linear, STD)
        want = one(X[i : i + 1], t, Measurement(COND.y[i : i + 1]))
        np.testing.assert_allclose(got.x0[i : i + 1], want.x0, rtol=1e-4, atol=1e-4)


def test_a_batch_in_parts_is_the_whole_batch_at_its_price():
    x, times = jnp.concatenate([X, 1 - X]), jnp.linspace(0.2, 0.7, 6)
    cond = Measurement(jnp.concatenate([COND.y, 1 - COND.y]))
    estimates = []
    for parts in (1, 3):
        method = PiGDM(DATA.denoiser(VP()), VP(), OPERATOR, STD, parts=parts)
        with count_evaluations() as tally:
            estimates.append(jax.jit(lambda x, method=method: method(x, times, cond))(x))
        assert tally.total == 2
    assert_close(*estimates, 1e-5)


def test_products_stop_at_the_tolerance_of_the_residual():
    sde, t = VP(), 0.4
    alpha, sigma = (float(v) for v in sde.marginal(jnp.asarray(t)))
    denoise = DATA.denoiser(sde)
    given_state = np.linalg.inv(np.linalg.inv(COV) + alpha**2 / sigma**2 * np.eye(4))
    cov = STD**2 * np.eye(2) + MATRIX @ given_state @ MATRIX.T
    first = Y[0] - MATRIX @ np.asarray(denoise(X, t).x0[0], np.float64)
    second = first - first @ first / (first @ cov @ first) * cov @ first
    ratio = np.linalg.norm(second) / np.linalg.norm(first)
    assert 0.01 < ratio < 0.8  # its square is something else

    @jax.jit
    def estimate(tolerance):
        method = MMPS(denoise, sde, OPERATOR, STD, iterations=2, tolerance=tolerance)
        return method(X[:1], t, Measurement(COND.y[:1])).x0

    # One step along the first residual; two are exact.
    step = given_state @ MATRIX.T @ first * (first @ first) / (first @ cov @ first)
    one = denoise(X, t).x0[0] + step
    np.testing.assert_allclose(estimate(1.05 * ratio)[0], one, atol=2e-4)
    two = exact(sde, t).x0[0]
    np.testing.assert_allclose(estimate(0.95 * ratio)[0], two, atol=2e-4)
    assert np.abs(one - two).max() > 0.01


@pytest.mark.parametrize("t", [0.999, 1.0])
def test_large_data_may_have_large_noise(t):
    # At a level of a tenth of the data, and where no signal is left.
    scale = 1e4
    data = Gaussian(scale * MEAN, scale**2 * COV)
    sde = Rectified()
    cov = Covariance.of(scale**2 * COV)
    method = JFPS(data.denoiser(sde), sde, OPERATOR, scale * STD, cov=cov)
    got = method(10 * X, t, Measurement(scale * COND.y)).x0 / scale
    wanted = []
    for x, y in zip(10 * X, scale * Y, strict=True):
        posterior = data.posterior(MATRIX, y, (scale * STD) ** 2).data
        wanted.append(posterior.denoiser(sde)(x[None], t).x0[0] / scale)
    np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=2e-3)


def test_row_sums_below_zero_add_no_variance():
    cov = np.array([[1.0, -1.9], [-1.9, 4.0]])
    data, sde, t = Gaussian(np.zeros(2), cov), VP(), 0.6
    level = float(sde.noise_level(jnp.asarray(t)))
    given_state = np.linalg.inv(np.linalg.inv(cov) + np.eye(2) / level**2)
    sums = given_state.sum(1)
    assert sums[0] < -0.2 and sums[1] > 0.2
    x0 = np.asarray(data.denoiser(sde)(X[:, :2], t).x0, np.float64)
    want = x0 + (Y - x0) / (STD**2 + np.maximum(sums, 0)) @ given_state
    method = TMPD(data.denoiser(sde), sde, Mask(np.ones(2)), STD)
    np.testing.assert_allclose(method(X[:, :2], t, COND).x0, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.__name__)
def test_a_method_is_a_denoise_function(cls):
    method = cls(DATA.denoiser(VP()), VP(), OPERATOR, STD)
    check_denoise(method, VP(), (3, 4), cond=COND)


@pytest.mark.parametrize(
    ("cls", "count"), [(PiGDM, 2), (TMPD, 3), (MMPS, 9), (JFPS, 1), (DiffPIR, 1), (DDNM, 1)]
)
def test_products_with_the_jacobian_count_as_evaluations(cls, count):
    method = cls(DATA.denoiser(VP()), VP(), OPERATOR, STD)
    with count_evaluations() as tally:
        jax.eval_shape(lambda x: method(x, 0.5, COND), X)
    assert tally.total == count


def test_a_jacobian_that_is_neither_symmetric_nor_positive_does_no_harm():
    """That of a trained network is neither; the residual never exceeds the first one."""
    sde = VE()
    skew = np.array([[0.6, 0.7, 0, 0], [-0.3, 0.5, 0, 0], [0, 0, -0.2, 0.3], [0, 0, 0.1, 0.7]])
    product = jnp.asarray(skew.T, jnp.float32)

    def denoise(x, t, cond):
        x0 = jnp.matmul(x, product, precision="highest")
        return Estimate(x0=x0, noise=0 * x)

    t = 0.5
    variance = float(sde.noise_level(jnp.asarray(t))) ** 2
    std = 0.3 * np.sqrt(variance)
    y = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
    method = MMPS(denoise, sde, Diagonal(jnp.ones(4)), std, iterations=12)
    shift = np.asarray(method(X, t, Measurement(y)).x0 - denoise(X, t, None).x0, np.float64)
    first = np.asarray(y, np.float64) - np.asarray(X, np.float64) @ skew.T
    cov = variance * skew.T
    solved = shift @ np.linalg.inv(cov).T  # shift = C v
    left = first - std**2 * solved - shift
    assert np.all(np.linalg.norm(left, axis=1) <= np.linalg.norm(first, axis=1) * (1 + 1e-4))
    assert np.linalg.norm(shift) > 0


def test_products_that_are_counted_are_all_that_are_made():
    made = []

    class Watched(eqx.Module):
        """An exact denoiser that notes each product with its Jacobian while it runs."""

        def __call__(self, x, t, cond=None):
            @jax.custom_vjp
            def clean(x):
                return DATA.denoiser(VP())(x, t).x0

            def forward(x):
                return jax.vjp(lambda x: DATA.denoiser(VP())(x, t).x0, x)

            def backward(transpose, v):
                jax.debug.callback(lambda: made.append(1))
                return transpose(v)

            clean.defvjp(forward, backward)
            alpha, sigma = VP().marginal(jnp.asarray(t).reshape(-1, 1))
            return Estimate.from_x0(x, alpha, sigma, clean(x))

    method = MMPS(Watched(), VP(), OPERATOR, STD, iterations=2, tolerance=0.0)
    method(X[:1], 0.5, Measurement(COND.y[:1]))
    jax.effects_barrier()
    assert len(made) == 2


@pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize(("sde", "t"), [(VE(t_min=0.0), 0.0), (Cosine(), 1.0)])
def test_the_ends_of_time_are_finite(cls, sde, t):
    def denoise(x, t, cond):  # the prior is a point, whose estimates exist at both ends
        alpha, sigma = sde.marginal(jnp.asarray(t).reshape(-1, 1))
        noise = jnp.where(sigma > 0, (x - alpha) / jnp.where(sigma > 0, sigma, 1.0), 0.0)
        return Estimate(x0=jnp.ones_like(x) + 0 * x, noise=noise)

    estimate = cls(denoise, sde, OPERATOR, STD)(X, t, COND)
    assert jnp.all(jnp.isfinite(estimate.x0)) and jnp.all(jnp.isfinite(estimate.noise))


def test_conditions_reach_the_denoiser_inside():
    def denoise(x, t, cond):
        return Estimate(x0=x + cond[:, None], noise=jnp.zeros_like(x))

    cond = Measurement(COND.y, cond=jnp.arange(3.0))
    got = PriorDenoiser(denoise)(X, 0.5, cond)
    np.testing.assert_array_equal(got.x0, X + jnp.arange(3.0)[:, None])
    wrapped = DiffPIR(denoise, VP(), Mask(np.array([1, 1, 0, 0])), 1e3)(X, 0.5, cond)
    np.testing.assert_allclose(wrapped.x0, got.x0, atol=1e-3)  # hardly any measurement


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: PiGDM(d, VP(), OPERATOR, 0.0), "std > 0"),
        (lambda d: PiGDM(d, VP(), OPERATOR, -1.0), "std > 0"),
        (lambda d: DiffPIR(d, VP(), OPERATOR, STD, weight=0.0), "weight > 0"),
        (lambda d: PiGDM(d, VP(), OPERATOR, STD)(X, 0.5, COND.y), "cond=Measurement"),
        (lambda d: PriorDenoiser(d)(X, 0.5, None), "cond=Measurement"),
        (lambda d: PiGDM(d, VP(), OPERATOR, STD)(X, 0.5, Measurement(X)), "gives measurements of"),
        (lambda d: PiGDM(d, VP(), OPERATOR, STD)(X, 1.5, COND), "times from 0"),
        (lambda d: Covariance.of(np.ones((2, 3))), "square matrix"),
        (lambda d: Covariance.of(np.array([1.0, -2.0])), "not negative"),
    ],
)
def test_what_makes_no_inverse_problem_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(DATA.denoiser(VP()))
