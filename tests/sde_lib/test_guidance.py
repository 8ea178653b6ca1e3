"""Guidance against what is known exactly: conditional models of labelled mixtures, affine fields of Gaussians, NumPy."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import sde_lib
from samplers import probability_flow
from sde_lib import (
    EDM,
    VE,
    VP,
    Autoguidance,
    ClassifierFree,
    ClassifierGuidance,
    DynamicThreshold,
    Estimate,
    Gaussian,
    GaussianMixture,
    Guidance,
    Guided,
    LabelledMixture,
    ProjectedGuidance,
    Rectified,
    StaticThreshold,
    check_denoise,
    count_evaluations,
    expand,
    record_evaluations,
)

SDE = VP()
DATA = LabelledMixture(
    GaussianMixture(
        [0.2, 0.3, 0.5],
        [[1.0, 0.2], [-0.3, 0.9], [-0.8, -0.6]],
        [[[0.1, 0.02], [0.02, 0.05]], 0.04 * np.eye(2), [[0.2, -0.1], [-0.1, 0.1]]],
    ),
    [4, 7, 4],
)
LABELS = jnp.array([4, 7, 7, 4])
X = jax.random.normal(jax.random.key(3), (4, 2))
TIMES = jnp.array([0.05, 0.3, 0.6, 0.95])


def classifier(sde):
    return functools.partial(DATA.log_prob_label, sde)


def built(cls, scale=2.5, sde=SDE, **settings):
    """Return guidance of a class around the exact denoiser."""
    denoise = DATA.denoiser(sde)
    needs = {
        "scale": scale,
        "sde": sde,
        "log_prob": classifier(sde),
        "weaker": without_labels(denoise),
    }
    known = inspect.signature(cls).parameters
    return cls(denoise, **{k: v for k, v in needs.items() if k in known} | settings)


def without_labels(denoise):
    """Return the unconditional estimate for any condition."""
    return lambda x, t, cond: denoise(x, t, None)


METHODS = [
    cls
    for _, cls in inspect.getmembers(sde_lib, inspect.isclass)
    if issubclass(cls, Guidance) and not inspect.isabstract(cls)
]
SCALED = [ClassifierFree, Autoguidance, ClassifierGuidance]
INTERVALS = [*SCALED, ProjectedGuidance]
either = pytest.mark.parametrize("cls", SCALED)


def assert_estimates(got, expected, tolerance=2e-5):
    for part, other in zip(got, expected, strict=True):
        scale = np.maximum(np.abs(other).max(), 1.0)
        np.testing.assert_allclose(part, other, atol=tolerance * scale)


@pytest.mark.parametrize("cls", METHODS)
def test_every_method_keeps_to_the_contract(cls):
    check_denoise(built(cls), SDE, (4, 2), LABELS)
    if "scale" in inspect.signature(cls).parameters:
        check_denoise(built(cls), SDE, (4, 2), Guided(LABELS, jnp.array([1.0, -2.0, 0.0, 7.0])))


@pytest.mark.parametrize("cls", METHODS)
def test_the_size_of_the_data_is_handed_on(cls):
    np.testing.assert_allclose(built(cls).sigma_data, DATA.denoiser(SDE).sigma_data)
    assert StaticThreshold(lambda x, t, cond: x, SDE).sigma_data == 1.0


@either
@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_scale_1_is_conditional_and_scale_0_unconditional(cls, scale):
    cond = LABELS if scale else None
    expected = DATA.denoiser(SDE)(X, TIMES, cond)
    assert_estimates(built(cls, scale)(X, TIMES, LABELS), expected)


@pytest.mark.parametrize("sde", [VP(), VE(), EDM(), Rectified()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("conditional", [False, True])
def test_the_exact_classifier_does_what_classifier_free_guidance_does(sde, conditional):
    # Float32 loses sigma / alpha at large noise, 1e-7 * 80 for EDM.
    for scale in (1.0, 3.0, -0.7):
        guided = built(ClassifierGuidance, scale, sde, conditional=conditional)
        free = built(ClassifierFree, scale, sde)
        for t in (0.02, 0.4, 0.9, 0.99 if isinstance(sde, Rectified) else 1.0):
            x = X * jnp.hypot(*sde.marginal(jnp.asarray(t)))
            assert_estimates(guided(x, t, LABELS), free(x, t, LABELS), 1e-4)


def test_a_classifier_moves_nothing_where_no_signal_is_left():
    sde = Rectified()
    expected = DATA.denoiser(sde)(X, 1.0, None)
    assert_estimates(built(ClassifierGuidance, 3.0, sde)(X, 1.0, LABELS), expected, 1e-6)


@either
def test_the_estimate_is_linear_in_the_scale(cls):
    weak, strong = (DATA.denoiser(SDE)(X, TIMES, cond) for cond in (None, LABELS))
    for scale in (4.0, -1.5):
        expected = [u + scale * (c - u) for u, c in zip(weak, strong, strict=True)]
        assert_estimates(built(cls, scale)(X, TIMES, LABELS), expected)
        traced = jax.jit(lambda w, cls=cls: built(cls, w)(X, TIMES, LABELS))(scale)
        assert_estimates(traced, expected)


@pytest.mark.parametrize("cls", INTERVALS)
def test_the_interval_is_of_noise_levels_open_below_and_closed_above(cls):
    levels = jnp.array([0.3, 0.5, 2.0, 3.0])
    sde = VE()  # whose noise level is sigma itself
    t = sde.time_of_level(levels)
    low, high = (float(v) for v in sde.noise_level(t)[1:3])
    x = X * levels[:, None]
    got = built(cls, 3.0, sde, interval=(low, high))(x, t, LABELS)
    inside = jnp.array([False, False, True, False])[:, None]
    steered, plain = (built(cls, scale, sde)(x, t, LABELS) for scale in (3.0, 1.0))
    expected = [jnp.where(inside, a, b) for a, b in zip(steered, plain, strict=True)]
    assert_estimates(got, expected, 1e-6)
    assert np.abs(steered.x0 - plain.x0).min() > 1e-4


@pytest.mark.parametrize("cls", INTERVALS)
def test_guided_brings_a_scale_of_each_sample(cls):
    scales = jnp.array([1.0, -2.0, 0.0, 7.0])
    got = built(cls, 99.0)(X, TIMES, Guided(LABELS, scales))
    for i, scale in enumerate(scales):
        alone = built(cls, scale)(X[i : i + 1], TIMES[i], LABELS[i : i + 1])
        assert_estimates([part[i : i + 1] for part in got], alone)


def test_of_nested_methods_each_takes_its_own_scale():
    inner = built(ClassifierFree, 99.0)
    outer = Autoguidance(inner, without_labels(DATA.denoiser(SDE)), 99.0)
    cond = Guided(Guided(LABELS, jnp.full(4, 2.0)), jnp.full(4, 3.0))
    got = outer(X, TIMES, cond)
    assert_estimates(got, built(ClassifierFree, 6.0)(X, TIMES, LABELS))


@pytest.mark.parametrize("null", [jnp.asarray(0), lambda cond: jnp.zeros_like(cond)])
def test_what_means_no_condition_may_be_an_entry_or_a_function(null):
    def denoise(x, t, cond):
        alpha, sigma = SDE.marginal(expand(t, x))
        return Estimate.from_x0(x, alpha, sigma, cond[:, None] * jnp.ones_like(x))

    got = ClassifierFree(denoise, 3.0, null=null)(X, TIMES, LABELS)
    np.testing.assert_allclose(got.x0[:, 0], 3.0 * LABELS)


def test_projected_guidance_against_numpy():
    x = jax.random.normal(jax.random.key(0), (4, 2)) * 2
    u, c = (np.asarray(DATA.denoiser(SDE)(x, TIMES, k).x0, float) for k in (None, LABELS))
    cap, eta, scale = 0.4, 0.3, 5.0
    expected = np.zeros_like(c)
    for i in range(4):
        step = c[i] - u[i]
        step *= min(1, cap / max(np.linalg.norm(step), 1e-12))
        along = (step @ c[i]) / (c[i] @ c[i]) * c[i]
        expected[i] = c[i] + (scale - 1) * (step - along + eta * along)
    assert np.any(np.linalg.norm(c - u, axis=1) > cap) and np.any(
        np.linalg.norm(c - u, axis=1) < cap
    )
    got = built(ProjectedGuidance, scale, eta=eta, cap=cap)(x, TIMES, LABELS)
    np.testing.assert_allclose(got.x0, expected, atol=2e-5)
    free = built(ProjectedGuidance, scale, eta=1.0)(x, TIMES, LABELS)
    assert_estimates(free, built(ClassifierFree, scale)(x, TIMES, LABELS))


def of_x0(x0):
    """Return a denoise function that expects `x0` (batch, ...) for the first states."""

    def denoise(x, t, cond):
        alpha, sigma = SDE.marginal(expand(t, x))
        return Estimate.from_x0(x, alpha, sigma, x0[: len(x)])

    return denoise


def test_thresholds_against_numpy():
    x0 = (
        2.0
        * jax.random.normal(jax.random.key(5), (3, 7, 2))
        * jnp.array([0.03, 1, 5])[:, None, None]
    )
    x = jnp.ones_like(x0)
    static = StaticThreshold(of_x0(x0), SDE, 0.5)(x, 0.3)
    np.testing.assert_allclose(static.x0, np.clip(x0, -0.5, 0.5), rtol=1e-5, atol=1e-5)
    dynamic = DynamicThreshold(of_x0(x0), SDE, 0.8, 0.5)(x, 0.3)
    for i in range(3):
        size = max(np.quantile(np.abs(np.asarray(x0[i], float)), 0.8), 0.5)
        expected = np.clip(x0[i], -size, size) * 0.5 / size
        np.testing.assert_allclose(dynamic.x0[i], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dynamic.x0[0], x0[0], atol=1e-6)  # within the bound already


def test_clean_data_are_left_alone():
    sde = Rectified(t_min=0.0)
    x = 3 * X
    for cls in METHODS:
        got = built(cls, sde=sde)(x, 0.0, LABELS)
        assert_estimates(got, Estimate(x0=x, noise=jnp.zeros_like(x)), 1e-6)


class Pair(sde_lib.ExactDenoiser):
    """Gaussian data without a condition, other Gaussian data with any."""

    conditional: sde_lib.DataDistribution

    def __call__(self, x, t, cond=None):
        record_evaluations()
        data = self.data if cond is None else self.conditional
        return data.estimate(self.sde, x, t)


def test_the_guided_flow_of_gaussians_ends_where_a_fine_integration_does():
    # In y = x / alpha and r = sigma / alpha the field is (y - D) / r, and D = m + v (y - m) / (v + r^2) of N(m, v).
    laws = {"u": (0.2, 1.0), "c": (0.8, 0.25)}
    u, c = (Gaussian([m], [[v]]) for m, v in laws.values())
    scale, starts = 3.0, np.linspace(-1.5, 1.5, 5)
    first, last = (float(SDE.noise_level(jnp.asarray(t))) for t in (1.0, 0.01))

    def rate(log_r, y):
        r2 = np.exp(2 * log_r)
        d_u, d_c = (m + v * (y - m) / (v + r2) for m, v in laws.values())
        return y - (d_u + scale * (d_c - d_u))

    alpha, alpha_end = (float(SDE.marginal(jnp.asarray(t))[0]) for t in (1.0, 0.01))
    span = np.log([first, last])
    expected = solve_ivp(rate, span, starts / alpha, method="DOP853", rtol=1e-10, atol=1e-10).y
    guided = ClassifierFree(Pair(u, SDE, c), scale)
    outcome = probability_flow(
        guided,
        SDE,
        jnp.asarray(starts[:, None], jnp.float32),
        end=0.01,
        cond=jnp.ones(5),
        denoise_last=False,
        rtol=1e-6,
        atol=1e-6,
    )
    np.testing.assert_allclose(outcome.x[:, 0] / alpha_end, expected[:, -1], atol=3e-4)


EVALUATIONS = {ClassifierGuidance: 3, StaticThreshold: 1, DynamicThreshold: 1}


@pytest.mark.parametrize("cls", METHODS)
def test_every_call_of_a_network_counts(cls):
    with count_evaluations() as tally:
        built(cls)(X, 0.4, LABELS)
    assert tally.total == EVALUATIONS.get(cls, 2)

    def silent(x, t, cond):  # it records nothing, and counts as one
        return Estimate(x0=x, noise=x)

    with count_evaluations() as tally:
        ClassifierFree(silent, 2.0)(X, 0.4, LABELS)
        Autoguidance(silent, silent, 2.0)(X, 0.4, LABELS)
    assert tally.total == 4


def test_half_precision_goes_in_and_comes_out():
    for cls in METHODS:
        estimate = built(cls)(X.astype("bfloat16"), 0.4, LABELS)
        assert estimate.x0.dtype == estimate.noise.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassifierFree(None, 2.0), "ClassifierFree needs a denoise function .* got None"),
        (lambda: Autoguidance(max, VP(), 2.0), "Autoguidance needs a denoise function"),
        (lambda: built(ClassifierFree, np.ones(4)), r"scale of shape \(4,\).*Guided\(cond, scale"),
        (lambda: built(ClassifierFree, interval=0.3), "need interval=.*two noise levels, got 0.3"),
        (lambda: built(ClassifierFree, interval=(2.0, 1.0)), "need 0 <= low < high .* got 2.0 and"),
        (lambda: ClassifierFree(max, 2.0, interval=(0.1, 1)), "without a process; pass .*sde=VP"),
        (lambda: built(ProjectedGuidance, cap=0.0), "need cap > 0, got 0.0; None is no cap"),
        (lambda: StaticThreshold(max, SDE, -1.0), "need bound > 0 and finite, got -1.0; it is"),
        (lambda: DynamicThreshold(max, SDE, 99.5), "need 0 <= quantile <= 1, got 99.5"),
        (lambda: built(ClassifierFree)(X, 0.5), "no condition to guide to, got cond=None; pass"),
        (
            lambda: built(ClassifierFree)(X, 0.5, Guided(LABELS, jnp.ones(3))),
            r"one scale for each of the 4 samples, got shape \(3,\)",
        ),
        (
            lambda: built(ClassifierFree)(X, 0.5, Guided(LABELS, jnp.full(4, jnp.nan))),
            "need finite guidance scales, got",
        ),
        (
            lambda: built(ClassifierGuidance, log_prob=lambda x, t, c: x)(X, 0.5, LABELS),
            r"one log-probability a sample, of shape \(4,\), got shape \(4, 2\)",
        ),
    ],
)
def test_what_is_impossible_is_refused_with_the_remedy(make, message, monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        make()
