"""The processes, tables and losses of the reference implementation of Song et al. 2021, see tests/fixtures/README.md."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import VE, VP, Denoiser, Discrete, SubVP, denoising_loss, expand, in_float64

REFERENCE = np.load(Path(__file__).parents[1] / "fixtures" / "sde_lib.npz")
X, T = jnp.asarray(REFERENCE["x"]), jnp.asarray(REFERENCE["t"])
SDES = {"vp": VP(), "ve": VE(), "subvp": SubVP()}
# 1 - exp(..) in the reference's float32 loses digits at small t, 1 % at 1e-5; there ours is checked against float64, in test_sdes.py.
REACHED: dict = {"vp": slice(None), "ve": slice(None), "subvp": np.asarray(T) > 0.05}


@pytest.fixture(params=list(SDES))
def name(request):
    return request.param


def close(got, name, key, times: slice | np.ndarray = slice(None)):
    got, expected = np.asarray(got)[times], REFERENCE[f"{name}/N1000/{key}"][times]
    np.testing.assert_allclose(
        got, expected, rtol=1e-5, atol=1e-7 * np.abs(expected).max()
    )  # float32 sums that nearly cancel


def test_marginal(name):
    alpha, sigma = SDES[name].marginal(T)
    close(expand(alpha, X) * X, name, "marg_mean")
    close(sigma, name, "marg_std", slice(None) if name == "ve" else np.asarray(T) > 0.05)
    np.testing.assert_allclose(sigma, REFERENCE[f"{name}/N1000/marg_std"], rtol=0.015)


def test_drift_and_diffusion(name):
    f, g = SDES[name].coefficients(T)
    close(expand(f, X) * X, name, "drift")
    close(g, name, "diffusion", REACHED[name])
    np.testing.assert_allclose(g, REFERENCE[f"{name}/N1000/diffusion"], rtol=0.015)


def test_prior_log_density(name):
    close(SDES[name].prior_log_prob(X), name, "prior_logp")


@pytest.mark.parametrize(("eta", "key"), [(1.0, "reverse_pf0"), (0.0, "reverse_pf1")])
def test_reverse(name, eta, key):
    drift, diffusion = SDES[name].reverse(X, T, -0.3 * X - 0.1 * expand(T, X), eta)
    close(drift, name, f"{key}/drift", REACHED[name])
    close(diffusion[:, 0, 0, 0], name, f"{key}/diffusion", REACHED[name])


@pytest.mark.parametrize(("weighting", "key"), [("noise", "lw0"), ("likelihood", "lw1")])
def test_continuous_loss(name, weighting, key, monkeypatch):
    z, t = jnp.asarray(REFERENCE["loss/z"]), jnp.asarray(REFERENCE["loss/u"] * (1 - 1e-5) + 1e-5)
    # The reference's score is the network itself for VE, which is told sigma, else the network over -sigma, told 999 t.
    prediction, inputs = ("score", "sigma") if name == "ve" else ("noise", "time")

    def net(x, label, cond):
        return 0.2 * x + 0.001 * expand(label, x)

    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype=None: z)
    denoiser, batch = (
        Denoiser(net, SDES[name], prediction, inputs),
        jnp.asarray(REFERENCE["loss/batch"]),
    )
    loss = denoising_loss(jax.random.key(0), denoiser, batch, t, weighting=weighting)
    np.testing.assert_allclose(
        jnp.mean(loss), REFERENCE[f"loss/{name}/reduce_mean1/{key}"], rtol=1e-5
    )
    np.testing.assert_allclose(
        jnp.mean(loss) * z[0].size / 2, REFERENCE[f"loss/{name}/reduce_mean0/{key}"], rtol=1e-5
    )


def steps(name, n):
    """Return what the reference reads off its tables for each row of X, at the index int(t (n - 1)): A and G, float64 (11, 1, 1, 1)."""
    if name == "subvp":  # it has no table: an Euler-Maruyama step of the continuous process
        f, g = in_float64(SDES[name].coefficients, np.asarray(T, np.float64))
        a, noise_scale = 1 + f / n, g / np.sqrt(n)
    else:
        i = np.trunc(np.asarray(T) * np.float32(n - 1)).astype(int)
        log_alpha, _, variance = Discrete(SDES[name], n).schedule()
        a, noise_scale = np.exp(np.diff(log_alpha))[i], np.sqrt(variance)[i]
    return tuple(v.reshape(-1, 1, 1, 1) for v in (a, noise_scale))


@pytest.mark.parametrize("n", [100, 1000])
def test_discretisation(name, n):
    def close(got, key, slack):
        expected = REFERENCE[f"{name}/N{n}/{key}"]
        got, expected = (np.asarray(v)[REACHED[name]] for v in (got, expected))
        np.testing.assert_allclose(
            got, expected, rtol=4e-5, atol=slack
        )  # VE: differences of squares that agree to 1.7 %

    a, noise_scale = steps(name, n)
    x, t = np.asarray(X, np.float64), np.asarray(T, np.float64).reshape(-1, 1, 1, 1)
    # In float32 sqrt(1 - beta) x - x is off by an ulp of x, and sigma_i^2 - sigma_{i-1}^2 by one of sigma_i^2.
    slack, score = 1e-7 * np.abs(x).max(), -0.3 * x - 0.1 * t
    g_slack = 1e-5 * np.abs(noise_scale).max()
    close((a - 1) * x, "disc_f", slack)
    close(noise_scale[:, 0, 0, 0], "disc_G", g_slack)
    close((a - 1) * x - noise_scale**2 * score, "reverse_pf0/disc_f", 10 * slack)
    close(noise_scale[:, 0, 0, 0], "reverse_pf0/disc_G", g_slack)
    close((a - 1) * x - 0.5 * noise_scale**2 * score, "reverse_pf1/disc_f", 10 * slack)
    assert not REFERENCE[f"{name}/N{n}/reverse_pf1/disc_G"].any()


@pytest.mark.parametrize(
    ("key", "sde", "prediction", "inputs", "level"),
    [
        ("legacy_ddpm", VP(), "noise", "label", lambda label: label + 1),
        ("legacy_smld", VE(), "score", "reversed_label", lambda label: 1000 - label),
    ],
)
def test_loss_at_the_levels_of_a_table(key, sde, prediction, inputs, level, monkeypatch):
    z, t = (
        jnp.asarray(REFERENCE["loss/z"]),
        jnp.asarray(level(REFERENCE["loss/labels"]) / 1000, jnp.float32),
    )
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype=None: z)
    denoiser = Denoiser(
        lambda x, label, cond: 0.2 * x + 0.001 * expand(label, x),
        Discrete(sde, 1000),
        prediction,
        inputs,
    )
    loss = denoising_loss(
        jax.random.key(0), denoiser, jnp.asarray(REFERENCE["loss/batch"]), t, weighting="noise"
    )
    np.testing.assert_allclose(jnp.mean(loss), REFERENCE[f"loss/{key}/reduce_mean1"], rtol=1e-5)
    # Summed over dimensions, SMLD's has a factor 1/2 and DDPM's, like here, too.
    np.testing.assert_allclose(
        jnp.mean(loss) * z[0].size / 2, REFERENCE[f"loss/{key}/reduce_mean0"], rtol=1e-5
    )
