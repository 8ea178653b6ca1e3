"""One step of the reference implementation of Song et al. 2021 from given states, under given noise; see tests/fixtures/README.md.

Its Euler-Maruyama is continuous; its reverse diffusion and ancestral sampling read a table at the index int(t (N - 1)), which is a step of
`Discrete` there. Its correctors take two steps, here with the same noise in both; they shrink VP's, and by choice sub-VP's, by the table's
1 - beta_i. Small times are left out where the reference's own sqrt(1 - exp) or 1 - exp keeps few digits.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import samplers
from samplers import Ancestral, AnnealedLangevin, EulerMaruyama, Langevin, ReverseDiffusion
from sde_lib import VE, VP, Discrete, Estimate, SubVP, in_float64

REFERENCE = np.load(Path(__file__).parents[1] / "fixtures" / "sde_lib.npz")
X, T, NOISE = (REFERENCE[k] for k in ("x", "t", "noise"))
SDES = {"vp": VP(), "ve": VE(), "subvp": SubVP()}
DIGITS = T > 0.01


def on_table(n):
    """Return the two ends of the step of `Discrete` that the reference takes at each time, (11, 2)."""
    index = np.trunc(T * np.float32(n - 1))
    return np.stack([index + 1, index], -1) / n


def step(sampler, sde, ends, monkeypatch, **replaced):
    """Take one step between the `ends` (11, 2) of each row of X, in float32, with the reference's score and noise."""
    plans = [in_float64(sampler.plan, sde, end) for end in ends]
    coefficients = jax.tree.map(
        lambda *r: jnp.asarray(np.stack(r).reshape(-1, 1, 1, 1), jnp.float32), *plans
    )._replace(**replaced)
    alpha, sigma = (
        jnp.asarray(v.reshape(-1, 1, 1, 1), jnp.float32)
        for v in in_float64(sde.marginal, ends[:, 0])
    )
    sigma = replaced.get("sigma", sigma)

    def denoise(x, t, cond):
        return Estimate.from_noise(
            x, alpha, sigma, -sigma * (-0.3 * x - 0.1 * T.reshape(-1, 1, 1, 1))
        )

    for module in (samplers.one_step, samplers.langevin):
        monkeypatch.setattr(module, "normal", lambda keys, like: jnp.asarray(NOISE))
    keys = jax.random.split(jax.random.key(0), len(X))
    return np.asarray(sampler.step(keys, denoise, jnp.asarray(X), coefficients, (), None)[0])


def relative(got, expected):
    """Return the error of the update at each time, relative to its norm."""
    error, update = (
        np.linalg.norm(a.reshape(len(X), -1), axis=1) for a in (got - expected, expected - X)
    )
    return error / update


@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize(("name", "key"), [("vp", ""), ("ve", ""), ("subvp", ""), ("subvp", "rd")])
def test_euler_maruyama(name, key, n, monkeypatch):
    # Reverse diffusion of sub-VP, which has no table, is Euler-Maruyama there.
    ends = np.stack([T.astype(np.float64), T.astype(np.float64) - 1 / n], -1)
    expected = REFERENCE[f"{name}/N{n}/pred_{'reverse_diffusion' if key else 'euler_maruyama'}/x"]
    error = relative(step(EulerMaruyama(), SDES[name], ends, monkeypatch), expected)
    assert np.all(
        error[DIGITS if name == "subvp" else slice(None)] < (2e-5 if name == "subvp" else 1e-5)
    ), error


@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize(
    ("name", "sampler", "key"),
    [
        ("vp", ReverseDiffusion(), "pred_reverse_diffusion"),
        ("ve", ReverseDiffusion(), "pred_reverse_diffusion"),
        ("vp", Ancestral(variance="transition"), "pred_ancestral_sampling"),
        ("ve", Ancestral(variance="posterior"), "pred_ancestral_sampling"),
    ],
)
def test_predictors_on_a_table(name, sampler, key, n, monkeypatch):
    error = relative(
        step(sampler, Discrete(SDES[name], n), on_table(n), monkeypatch),
        REFERENCE[f"{name}/N{n}/{key}/x"],
    )
    assert np.all(error < 1e-4), error  # the reference's float32 differences of sigma^2


@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize(
    ("sampler", "key"),
    [
        (AnnealedLangevin(n_steps=2), "corr_ald"),
        (Langevin(n_steps=2, norms="batch"), "corr_langevin"),
    ],
    ids=["ald", "langevin"],
)
def test_correctors(name, sampler, key, n, monkeypatch):
    table = Discrete(VE() if name == "ve" else VP(), n)
    sigma = jnp.asarray(
        in_float64(SDES[name].marginal, T.astype(np.float64))[1].reshape(-1, 1, 1, 1), jnp.float32
    )
    result = step(sampler, table, on_table(n), monkeypatch, sigma=sigma)
    error = relative(result, REFERENCE[f"{name}/N{n}/{key}/x"])
    assert np.all(error[DIGITS if key == "corr_ald" else slice(None)] < 1e-5), error
