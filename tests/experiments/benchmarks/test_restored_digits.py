"""The scores of restored digits, where each is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import restored_digits
from experiments.benchmarks.restored_digits import LEVEL, STD, Observed, judged, psnr
from experiments.run.build import DataFacts, build
from experiments.run.loading import Loaded
from experiments.run.operators import measured_by
from experiments.run.restoration import Restored
from sde_lib import ExactDenoiser, Gaussian
from sde_lib.inverse import Projection

COV = np.array([[1.0, 0.6], [0.6, 0.5]])
MEAN = np.array([0.3, -0.2])
MATRIX = np.array([[1.0, 0.5]])
Y = np.array([0.9])


@pytest.fixture(scope="module")
def gaussian(tiny_config):
    """A run whose denoiser is that of a Gaussian."""
    run = build(tiny_config(), DataFacts((2,), None, 0, 0.8), abstract=True)
    denoiser = ExactDenoiser(Gaussian(MEAN, COV), run.sde)
    return Loaded(run.sde, denoiser, run.config, run, 0)


@pytest.fixture(scope="module")
def measured():
    return measured_by(Projection(jnp.asarray(MATRIX, jnp.float32)), (2,))


def test_the_score_is_that_of_the_posterior(gaussian, measured):
    x = np.random.default_rng(0).standard_normal((5, 2))
    prior = -np.linalg.solve(COV + LEVEL**2 * np.eye(2), (x - MEAN).T).T
    pull = (Y - x @ MATRIX.T) @ MATRIX / STD**2
    got = restored_digits.posterior_score(gaussian, measured, Y)(x)
    np.testing.assert_allclose(got, prior + pull, rtol=1e-3, atol=1e-3)


def test_samples_of_the_posterior_have_little_discrepancy_and_others_much(gaussian, measured):
    gain = COV @ MATRIX.T / (MATRIX @ COV @ MATRIX.T + STD**2)
    mean, cov = MEAN + gain @ (Y - MATRIX @ MEAN), COV - gain @ MATRIX @ COV
    rng = np.random.default_rng(1)
    y = np.stack([Y, Y])
    right = rng.multivariate_normal(mean, cov, (2, 300))
    wrong = rng.multivariate_normal(mean, 0.5 * cov, (2, 300))
    truth = rng.multivariate_normal(mean, cov, 2)
    scores = [judged(gaussian, Observed(measured, truth, y), restored(x)) for x in (right, wrong)]
    assert scores[0]["score_ksd"] < 0.15 < 0.3 < scores[1]["score_ksd"]


def restored(x):
    mean, std = x.mean(1), x.std(1)
    return Restored(x=x, mean=mean, std=std, chi_square=np.ones(len(x)), nfe=7)


def test_decibels_and_coverage_count_open_pixels_only(gaussian, measured, monkeypatch):
    """One number of each digit is open, with the truth inside of its samples for three of four; the
    other one hardly varies, and misses the truth.
    """
    monkeypatch.setattr(restored_digits, "discrepancy", lambda *_: 0.0)
    spread = np.linspace(-1, 1, 41)
    x = np.stack([np.broadcast_to(spread, (4, 41)), np.full((4, 41), 0.5)], -1)
    truth = np.array([[0.0, 0.7], [0.3, 0.7], [-0.6, 0.7], [3.0, 0.7]])
    scores = judged(gaussian, Observed(measured, truth, np.zeros((4, 1))), restored(x))
    assert (scores["open_pixels"], scores["coverage"], scores["nfe"]) == (0.5, 0.75, 7)
    error = np.mean((np.array([[0.0, 0.5]]) - truth) ** 2)
    assert scores["psnr_of_mean"] == pytest.approx(10 * np.log10(4 / error))
    assert psnr(np.full(9, 0.3), np.full(9, 0.5)) == pytest.approx(20.0)
    assert scores["psnr_of_sample"] < scores["psnr_of_mean"]
