"""Every named solver against the formulas of its paper, written again in `published.py`: equal to 1e-8 on a curved problem in float64."""

import inspect

import jax
import numpy as np
import pytest

import samplers
from samplers import (
    DDIM,
    DEIS,
    DPM2,
    LMS,
    SEEDS,
    AdamsBashforth,
    Ancestral,
    AnnealedLangevin,
    DPMpp2M,
    DPMpp2MSDE,
    DPMpp2S,
    DPMpp3M,
    DPMpp3MSDE,
    DPMpp3S,
    DPMppSDE,
    DPMSolver,
    DPMSolverM,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    SASolver,
    UniPC,
)
from sde_lib import VP, Estimate, in_float64
from tests.samplers import published as p
from tests.samplers.eager import supply, walk

SDE, X = VP(), np.linspace(-2.0, 2.0, 9)[:, None]
TS = np.array([0.97, 0.8, 0.71, 0.5, 0.36, 0.2, 0.13, 0.05])  # steps of no regular length
LAM = in_float64(SDE.log_snr, TS) / 2
WEIGHTS, MEANS, STDS = np.array([0.3, 0.7]), np.array([-0.8, 0.5]), np.array([0.3, 0.4])
BETA = 19.9


def time(lam):
    """Return the time at which log alpha = -t^2 (20 - 0.1) / 4 - t 0.1 / 2 gives this half log-SNR."""
    minus = 0.5 * np.log1p(np.exp(-2 * lam))
    return (np.sqrt(0.1**2 + 4 * BETA * minus) - 0.1) / BETA


def score(x, alpha, sigma):
    variance = (alpha * STDS) ** 2 + sigma**2
    joint = np.log(WEIGHTS / np.sqrt(variance)) - (x - alpha * MEANS) ** 2 / (2 * variance)
    joint = np.exp(joint - joint.max(1, keepdims=True))
    return np.sum(joint * (alpha * MEANS - x) / variance, 1, keepdims=True) / np.sum(
        joint, 1, keepdims=True
    )


def estimate(x, alpha, sigma):
    return Estimate(
        (x + sigma**2 * score(x, alpha, sigma)) / alpha, -sigma * score(x, alpha, sigma)
    )


def D(x, lam):
    return estimate(x, p.alpha(lam), p.sigma(lam)).x0


def E(x, lam):
    return estimate(x, p.alpha(lam), p.sigma(lam)).noise


def by_time(x, lam, D, E, z, order):
    return p.adams_bashforth(
        x, TS, lambda t: np.sqrt(np.expm1(BETA * t**2 / 2 + 0.1 * t)), lam, D, E, z, order
    )


def by_log(x, lam, D, E, z, order):
    return p.adams_bashforth(x, lam, lambda v: np.exp(-v), lam, D, E, z, order)


def by_level(x, lam, D, E, z, order):
    return p.adams_bashforth(x, np.exp(-lam), lambda v: v, lam, D, E, z, order)


CASES = [
    (DDIM(), p.singlestep, {"order": 1, "data": False}),
    (DPMSolver(order=1), p.singlestep, {"order": 1, "data": True}),
    (DPMSolver(order=2), p.singlestep, {"order": 2, "data": False}),
    (DPMSolver(order=3), p.singlestep, {"order": 3, "data": False}),
    (DPMpp2S(), p.singlestep, {"order": 2, "data": True}),
    (DPMpp3S(), p.singlestep, {"order": 3, "data": True}),
    (DPMSolverM(steps=2), p.dpm_multistep, {"steps": 2, "data": False}),
    (DPMSolverM(steps=3), p.dpm_multistep, {"steps": 3, "data": False}),
    (DPMpp2M(), p.dpm_multistep, {"steps": 2, "data": True}),
    (DPMpp3M(), p.dpm_multistep, {"steps": 3, "data": True}),
    (DPMpp2MSDE(), p.dpm_sde_multistep, {"steps": 2}),
    (DPMpp3MSDE(), p.dpm_sde_multistep, {"steps": 3}),
    (DPMppSDE(), p.dpm_sde_single, {}),
    (SEEDS(stages=1), p.seeds, {"order": 1}),
    (SEEDS(stages=2), p.seeds, {"order": 2}),
    (SEEDS(stages=3), p.seeds, {"order": 3}),
    *((DEIS(order, "t"), by_time, {"order": order}) for order in (2, 3, 4)),
    *((DEIS(order, "log_rho"), by_log, {"order": order}) for order in (2, 3, 4)),
    *((DEIS(order, "rho"), by_level, {"order": order}) for order in (2, 3)),
    (LMS(), by_level, {"order": 4}),
    *((AdamsBashforth(order), p.velocity, {"order": order}) for order in (2, 3, 4)),
    *(
        (UniPC(predictor_order=order, variant=b), p.unipc, {"order": order, "b": b})
        for order in (1, 2, 3)
        for b in ("bh1", "bh2")
    ),
    *(
        (
            SASolver(predictor_steps=q, corrector_steps=c, tau=tau),
            p.sa,
            {"predictor": q, "corrector": c, "tau": tau},
        )
        for q, c, tau in ((3, 3, 1.0), (2, 1, 0.4), (3, 2, 0.0))
    ),
    (
        SASolver(predictor_steps=2, corrector_steps=0),
        p.sa,
        {"predictor": 2, "corrector": 0, "tau": 1.0},
    ),
    (DPM2(), p.dpm_2, {}),
    (Heun(), p.heun, {}),
    (Heun(churn=2.0, s_noise=1.01), p.heun, {"churn": 2.0, "s_noise": 1.01}),
]


@pytest.mark.parametrize(
    ("sampler", "solver", "settings"), CASES, ids=[str(case[0]) for case in CASES]
)
def test_a_solver_is_its_paper(sampler, solver, settings, monkeypatch):
    # One draw after another from the same generator: the order of the draws within a step is that of the paper, start to end.
    ours, theirs = (np.random.default_rng(1) for _ in range(2))
    supply(monkeypatch, lambda like: ours.standard_normal(like.shape))
    with jax.enable_x64(True):
        result = walk(sampler, SDE, TS, X, estimate)
    expected = solver(X, LAM, D, E, lambda: theirs.standard_normal(X.shape), **settings)
    np.testing.assert_allclose(result, expected, rtol=1e-8, atol=1e-10)
    if sampler.stochastic:
        assert ours.standard_normal() == theirs.standard_normal()


def test_every_solver_with_memory_or_stages_is_compared():
    kinds = (samplers.multistep.Multistep, samplers.runge_kutta.RungeKutta)
    exported = {c for _, c in inspect.getmembers(samplers, inspect.isclass) if issubclass(c, kinds)}
    assert exported == {type(case[0]) for case in CASES if isinstance(case[0], kinds)}


def test_ddim_with_all_of_its_noise_is_ancestral_sampling(monkeypatch):
    # Any eta keeps the marginals, so that no moment tells one from another.
    ends = []
    for sampler in (DDIM(eta=1.0), Ancestral()):
        rng = np.random.default_rng(1)
        with monkeypatch.context() as patch, jax.enable_x64(True):
            supply(patch, lambda like, rng=rng: rng.standard_normal(like.shape))
            ends.append(walk(sampler, SDE, TS, X, estimate))
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-10)


def test_a_pair_corrects_first_and_then_predicts(monkeypatch):
    # Where the corrector is exact or left out, the moments are right too.
    predictor, corrector, ts = EulerMaruyama(), AnnealedLangevin(snr=0.5), TS[:2]
    ours, theirs = (np.random.default_rng(1) for _ in range(2))
    with jax.enable_x64(True):
        with monkeypatch.context() as patch:
            supply(patch, lambda like: ours.standard_normal(like.shape))
            result = walk(PredictorCorrector(predictor, corrector), SDE, ts, X, estimate)
        (alpha, alpha_s), (sigma, _) = in_float64(SDE.marginal, ts)
        epsilon = 2 * (alpha / alpha_s * 0.5 * sigma) ** 2
        corrected = (
            X
            + epsilon * score(X, alpha, sigma)
            + np.sqrt(2 * epsilon) * theirs.standard_normal(X.shape)
        )
        with monkeypatch.context() as patch:
            supply(patch, lambda like: theirs.standard_normal(like.shape))
            np.testing.assert_allclose(
                result, walk(predictor, SDE, ts, corrected, estimate), rtol=1e-10
            )
