"""One step of the reference implementation of Song et al. 2021 from given states, under given noise; see tests/fixtures/README.md.

Its Euler-Maruyama is continuous, and ours to rounding. Its reverse diffusion and ancestral sampling read a table at a truncated index,
int(t (N - 1)), where ours has the exact transition from t - 1/N to t: they differ by up to a step's change of beta, below 1 % from t = 0.1
on. Its correctors take two steps, here with the same noise in both, and shrink VP's by 1 - beta_i where ours has exp of minus its integral.
Small times are left out where the reference's own sqrt(1 - exp) or 1 - exp keeps few digits.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import samplers
from samplers import Ancestral, AnnealedLangevin, EulerMaruyama, Langevin, ReverseDiffusion
from sde_lib import VE, VP, Estimate, SubVP, in_float64

FIXTURES = Path(__file__).parents[1] / "fixtures"
REFERENCE = {**np.load(FIXTURES / "sde_lib.npz"), **np.load(FIXTURES / "predictors.npz")}
X, T, NOISE = (REFERENCE[k] for k in ("x", "t", "noise"))
SDES = {"vp": VP(), "ve": VE(), "subvp": SubVP()}
DIGITS = T > 0.01


def step(sampler, sde, n, monkeypatch):
    """Take one step of 1/n from each row of X at its own time, in float32, with the reference's noise."""
    rows = [in_float64(sampler.plan, sde, np.array([t, t - 1 / n])) for t in T.astype(np.float64)]
    row = jax.tree.map(lambda *r: jnp.asarray(np.stack(r).reshape(-1, 1, 1, 1), jnp.float32), *rows)

    def denoise(x, t, cond):
        alpha, sigma = sde.marginal(t)
        return Estimate.from_noise(x, alpha, sigma, -sigma * (-0.3 * x - 0.1 * t))

    for module in (samplers.one_step, samplers.langevin):
        monkeypatch.setattr(module, "normal", lambda keys, like: jnp.asarray(NOISE))
    keys = jax.random.split(jax.random.key(0), len(X))
    return np.asarray(sampler.step(keys, denoise, jnp.asarray(X), row, (), None)[0])


def relative(got, expected):
    """Return the error of the update at each time, relative to its norm."""
    error, update = (np.linalg.norm(a.reshape(len(X), -1), axis=1) for a in (got - expected, expected - X))
    return error / update


@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize("name", SDES)
def test_euler_maruyama(name, n, monkeypatch):
    error = relative(step(EulerMaruyama(), SDES[name], n, monkeypatch), REFERENCE[f"{name}/N{n}/pred_euler_maruyama/x"])
    assert np.all(error[DIGITS if name == "subvp" else slice(None)] < (2e-5 if name == "subvp" else 1e-5)), error


@pytest.mark.parametrize("name", SDES)
def test_annealed_langevin(name, monkeypatch):
    error = relative(step(AnnealedLangevin(n_steps=2), SDES[name], 1000, monkeypatch), REFERENCE[f"{name}/N1000/corr_ald/x"])
    assert np.all(error[DIGITS] < 2e-4), error


@pytest.mark.parametrize("name", SDES)
def test_langevin_with_the_norms_of_the_batch(name, monkeypatch):
    sampler = Langevin(n_steps=2, norms="batch")
    error = relative(step(sampler, SDES[name], 1000, monkeypatch), REFERENCE[f"{name}/N1000/corr_langevin/x"])
    assert np.all(error < 2e-4), error


@pytest.mark.parametrize(
    ("name", "sampler", "key"),
    [
        ("vp", ReverseDiffusion(), "pred_reverse_diffusion"),
        ("ve", ReverseDiffusion(), "pred_reverse_diffusion"),
        ("subvp", ReverseDiffusion(), "pred_reverse_diffusion"),
        ("vp", Ancestral(variance="transition"), "pred_ancestral_sampling"),
        ("ve", Ancestral(variance="posterior"), "pred_ancestral_sampling"),
    ],
)
def test_tables_agree_with_exact_transitions(name, sampler, key, monkeypatch):
    error = relative(step(sampler, SDES[name], 1000, monkeypatch), REFERENCE[f"{name}/N1000/{key}/x"])
    assert np.all(error[T >= 0.1] < 0.01), error
