"""Denoise functions that remember: momentum and self-conditioning under every walk."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import DDIM, Heun, Langevin, PredictorCorrector, dpm_adaptive, grids, sample
from samplers.inverse import DPS
from sde_lib import (
    Autoguidance,
    ClassifierFree,
    Denoiser,
    Estimate,
    ProjectedGuidance,
    Remembering,
    Retimed,
    StaticThreshold,
    expand,
    record_evaluations,
)
from sde_lib.inverse import Measurement, PriorDenoiser
from tests.samplers.test_dpm_adaptive import DATA, END, reference
from tests.samplers.walks import KEY, NAMES, SDE, call, state

X = jnp.array([[1.0, 0.0, 0.4], [0.0, 1.0, -0.2], [-1.0, 1.0, 0.3], [0.5, -2.0, 1.0]])
TS = grids.log_snr(SDE, 4)
SCALE, BETA, ETA = 3.0, -0.6, 0.25
REMEMBERING_WALKS = {"sample", "dpm_adaptive"}


@pytest.fixture(autouse=True)
def programs_that_compile_fast():
    """Every program here runs once or twice, on next to nothing."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def affine(x, t, cond):
    """Return an estimate that is linear in the state, another one with a condition."""
    record_evaluations()
    alpha, sigma = SDE.marginal(expand(t, x))
    slope, mean = (0.3, 0.1) if cond is None else (0.5, expand(cond, x))
    return Estimate.from_x0(x, alpha, sigma, slope * x + mean)


class Counting(Remembering):
    """Estimates of Gaussian data; the one at the end of the walk is the number of earlier calls."""

    end: float
    sigma_data: float = 1.0

    def init(self, x):
        return jnp.zeros(len(x))

    def recall(self, x, t, cond, memory):
        record_evaluations()
        alpha, sigma = SDE.marginal(expand(t, x))
        x0 = alpha * x / (alpha**2 + 2 * sigma**2)
        at_end = expand(jnp.broadcast_to(t <= self.end * 1.0001, len(x)), x)
        x0 = jnp.where(at_end, expand(memory, x), x0)
        return Estimate.from_x0(x, alpha, sigma, x0), memory + 1


def walk_in_numpy(estimates, x, ts, second_order):
    """Return the end of a walk by DDIM, or by Heun in sigma / alpha, and a denoising at its end.

    `estimates` maps a state and alpha, sigma to the expected clean data, once for each call.
    """
    marginal = [[float(v) for v in SDE.marginal(jnp.asarray(t, jnp.float32))] for t in ts]
    for (alpha, sigma), (alpha_s, sigma_s) in zip(marginal[:-1], marginal[1:], strict=True):
        x0 = estimates(x)
        noise = (x - alpha * x0) / sigma
        x = alpha_s * x0 + sigma_s * noise
        if second_order:
            at_end = (x - alpha_s * estimates(x)) / sigma_s
            x = x + 0.5 * alpha_s * (sigma_s / alpha_s - sigma / alpha) * (at_end - noise)
    return estimates(x)


@pytest.mark.parametrize("sampler", [DDIM(), Heun()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("cap", [None, 0.5])
def test_momentum_is_the_running_sum_of_updates_from_call_to_call(sampler, cap):
    labels = np.array([0.0, 1.0, 1.0, 0.5])
    total = np.zeros(X.shape)

    def guided(x):
        nonlocal total
        conditional = 0.5 * x + labels[:, None]
        total = conditional - (0.3 * x + 0.1) + BETA * total
        norm = np.linalg.norm(total, axis=1, keepdims=True)
        update = total if cap is None else total * np.minimum(1, cap / norm)
        square = np.sum(conditional**2, 1, keepdims=True)
        along = np.sum(update * conditional, 1, keepdims=True) / square * conditional
        return conditional + (SCALE - 1) * (update - (1 - ETA) * along)

    expected = walk_in_numpy(
        guided, np.asarray(X, float), np.asarray(TS), isinstance(sampler, Heun)
    )
    guidance = ProjectedGuidance(affine, SDE, SCALE, eta=ETA, cap=cap, momentum=BETA)
    got = sample(KEY, sampler, guidance, SDE, TS, X, cond=jnp.asarray(labels))
    np.testing.assert_allclose(got.x, expected, rtol=3e-4, atol=3e-5)
    assert int(got.nfe) == 2 * (4 * (1 + isinstance(sampler, Heun)) + 1)
    without = ProjectedGuidance(affine, SDE, SCALE, eta=ETA, cap=cap)
    plain = sample(KEY, sampler, without, SDE, TS, X, cond=jnp.asarray(labels)).x
    assert np.abs(got.x - plain).max() > 0.05


def test_momentum_0_is_bitwise_no_momentum():
    def called(momentum, update):
        guidance = ProjectedGuidance(affine, SDE, SCALE, cap=0.5, momentum=momentum)
        memory = guidance.init(X)._replace(update=update)
        return guidance.recall(X, 0.4, jnp.ones(4), memory)

    plain, memory = called(0.0, None)
    assert memory.update is None
    for part, expected in zip(called(0.0, 9 * X)[0], plain, strict=True):
        np.testing.assert_array_equal(part, expected)
    assert np.any(called(-0.01, 9 * X)[0].x0 != plain.x0)


def test_momentum_may_be_traced():
    def end(momentum):
        guidance = ProjectedGuidance(affine, SDE, SCALE, momentum=momentum)
        return sample(KEY, DDIM(), guidance, SDE, TS, X, cond=jnp.ones(4)).x

    np.testing.assert_allclose(jax.jit(end)(BETA), end(BETA), rtol=1e-5)


def self_conditioned(net, **settings):
    """Return a denoiser whose network predicts clean data as `net` says."""
    return Denoiser(
        net, SDE, prediction="x0", inputs="time", sigma_data=0.7, self_conditioning=True, **settings
    )


@pytest.mark.parametrize("sampler", [DDIM(), Heun()], ids=lambda s: type(s).__name__)
def test_the_network_is_given_its_last_estimate_over_the_size_of_the_data(sampler):
    last = np.zeros(X.shape)

    def estimate(x):
        nonlocal last
        last = 0.4 * x + 0.3 * last / 0.7
        return last

    expected = walk_in_numpy(
        estimate, np.asarray(X, float), np.asarray(TS), isinstance(sampler, Heun)
    )
    denoise = self_conditioned(lambda x, c, cond, last: 0.4 * x + 0.3 * last)
    got = sample(KEY, sampler, denoise, SDE, TS, X)
    np.testing.assert_allclose(got.x, expected, rtol=3e-4, atol=3e-5)
    wrapped = sample(KEY, sampler, StaticThreshold(denoise, SDE, 1e3), SDE, TS, X)
    np.testing.assert_allclose(wrapped.x, got.x, rtol=1e-4, atol=1e-5)
    retimed = sample(KEY, sampler, Retimed(denoise, SDE, SDE), SDE, TS, X)
    np.testing.assert_allclose(retimed.x, got.x, rtol=1e-3, atol=1e-4)


def test_a_network_that_ignores_its_last_estimate_walks_as_one_without(example):
    def net(x, c, cond, last=None):
        return 0.4 * x

    plain = Denoiser(net, SDE, prediction="x0", inputs="time", sigma_data=0.7)
    expected = call("sample", plain, X, sampler=example)
    got = call("sample", self_conditioned(net), X, sampler=example)
    # Another program, whose operations may be fused in another way.
    np.testing.assert_allclose(got.x, expected.x, rtol=2e-6, atol=2e-6)
    assert int(got.nfe) == int(expected.nfe)


def test_each_sample_remembers_by_itself_in_any_batch():
    denoise = self_conditioned(lambda x, c, cond, last: 0.4 * x + 0.3 * jnp.tanh(last))
    together = sample(KEY, DDIM(eta=1.0), denoise, SDE, TS, X).x
    for i in range(2):
        alone = sample(KEY, DDIM(eta=1.0), denoise, SDE, TS, X[i : i + 1], index=jnp.array([i])).x
        np.testing.assert_allclose(alone[0], together[i], atol=1e-5)
    mapped = jax.vmap(lambda x: sample(KEY, DDIM(), denoise, SDE, TS, x[None]).x[0])(X)
    np.testing.assert_allclose(mapped, sample(KEY, DDIM(), denoise, SDE, TS, X).x, atol=1e-5)


def test_progress_reports_do_not_make_a_walk_forget():
    denoise = self_conditioned(lambda x, c, cond, last: 0.4 * x + 0.3 * last)
    plain = sample(KEY, DDIM(), denoise, SDE, TS, X).x
    reported = sample(KEY, DDIM(), denoise, SDE, TS, X, progress=lambda done, total: None).x
    np.testing.assert_allclose(reported, plain, atol=1e-6)


@pytest.mark.parametrize(
    ("sampler", "calls"),
    [
        (DDIM(), 4),
        (Heun(), 8),
        (PredictorCorrector(DDIM(), Langevin()), 8),
        # Loops inside of a step hand nothing out of it.
        (PredictorCorrector(DDIM(), Langevin(n_steps=3)), 4),
        (DPS(lambda x: x[:2]), 0),
    ],
    ids=["DDIM", "Heun", "one Langevin step", "three Langevin steps", "DPS"],
)
def test_which_calls_are_remembered(sampler, calls):
    denoise = Counting(float(TS[-1]))
    cond = None
    if isinstance(sampler, DPS):
        denoise = PriorDenoiser(denoise)
        cond = Measurement(jnp.zeros((4, 2)))
    # At the end of the last step of Heun the call is at the time of the final denoising.
    got = sample(KEY, sampler, denoise, SDE, TS, X, cond=cond).x
    np.testing.assert_allclose(got, calls)


@pytest.mark.parametrize("order", [2, 3])
def test_rejected_steps_of_an_adaptive_walk_are_forgotten(order):
    class CountingMixture(Counting):
        """The exact denoiser of the mixture, which counts."""

        def recall(self, x, t, cond, memory):
            exact = DATA.denoiser(SDE)(x, t)
            at_end, memory = super().recall(x, t, cond, memory)
            return jax.tree.map(
                lambda a, b: jnp.where(t <= END * 1.0001, a, b), at_end, exact
            ), memory

    settings = {"rtol": 0.02, "atol": 0.01, "sd": 1.0, "growth": 5.0, "longest": 4.0}
    accepted = []
    with jax.enable_x64(True):
        x = np.array([0.4])
        _, calls = reference(SDE, x, order, **settings, accepted=accepted)
        got = dpm_adaptive(
            CountingMixture(END), SDE, jnp.asarray(x[None]), order=order, end=END, **settings
        )
    assert int(got.nfe) == 2 * (calls + 1) and calls > order * len(accepted)
    np.testing.assert_allclose(got.x, order * len(accepted))


class Forgetful(eqx.Module):
    """A denoise function as at its first call."""

    denoise: Remembering
    sigma_data: float = 1.0

    def __call__(self, x, t, cond=None):
        return self.denoise(x, t, cond)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REMEMBERING_WALKS])
def test_other_walks_make_first_calls_only(name):
    denoise = Counting(end=-1.0)
    forgetful = Forgetful(denoise)
    np.testing.assert_array_equal(state(call(name, denoise, X)), state(call(name, forgetful, X)))


def test_of_two_estimates_that_guidance_compares_each_remembers_its_own():
    unconditional, conditional = np.zeros(X.shape), np.zeros(X.shape)

    def guided(x):
        nonlocal unconditional, conditional
        unconditional = 0.4 * x + 0.3 * unconditional / 0.7
        conditional = 0.4 * x + 0.3 * conditional / 0.7 + 1.0
        return unconditional + SCALE * (conditional - unconditional)

    def net(x, c, cond, last):
        return 0.4 * x + 0.3 * last + (0.0 if cond is None else expand(cond, x))

    def without_condition(x, c, cond, last):
        return net(x, c, None, last)

    denoise = self_conditioned(net)
    for guidance in (
        ClassifierFree(denoise, SCALE),
        ProjectedGuidance(denoise, SDE, SCALE, eta=1.0),
        Autoguidance(denoise, self_conditioned(without_condition), SCALE),
    ):
        unconditional, conditional = np.zeros(X.shape), np.zeros(X.shape)
        expected = walk_in_numpy(guided, np.asarray(X, float), np.asarray(TS), False)
        got = sample(KEY, DDIM(), guidance, SDE, TS, X, cond=jnp.ones(4)).x
        np.testing.assert_allclose(got, expected, rtol=3e-4, atol=3e-5)
