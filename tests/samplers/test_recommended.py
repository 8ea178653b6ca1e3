"""What is recommended spends what it was asked to and is as good as the best of the peers' on problems with a known end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.deterministic import error
from experiments.benchmarks.problems import problems
from samplers import DEIS, DPMpp2MSDE, DPMpp3MSDE, UniPC, draw_prior, grids, recommended, sample
from sde_lib import VE, VP, Gaussian, Rectified, in_float64

# The smallest median error of 23 settings of diffusers 0.42, k-diffusion and dpm-solver over their grids, by evaluations.
PEERS = {
    "gmm2 VP": {
        5: 2.2e-2,
        8: 8.0e-3,
        10: 3.4e-3,
        15: 8.9e-4,
        20: 5.2e-4,
        30: 1.6e-4,
        50: 3.8e-5,
        100: 5.8e-6,
    },
    "gmm64 VP": {
        5: 2.4e-2,
        8: 1.0e-2,
        10: 4.2e-3,
        15: 9.8e-4,
        20: 7.1e-4,
        30: 1.7e-4,
        50: 5.2e-5,
        100: 8.8e-6,
    },
    "gmm2 EDM": {
        5: 6.4e-2,
        8: 3.2e-2,
        10: 2.3e-2,
        15: 9.0e-3,
        20: 4.5e-3,
        30: 1.3e-3,
        50: 1.2e-4,
        100: 2.6e-5,
    },
    "gmm64 EDM": {
        5: 6.2e-2,
        8: 3.2e-2,
        10: 1.7e-2,
        15: 7.5e-3,
        20: 2.8e-3,
        30: 6.4e-4,
        50: 1.1e-4,
        100: 2.8e-5,
    },
}


@pytest.mark.parametrize(
    "nfe", [5, 10, 15, 20, 50]
)  # a new number of steps costs seconds of compiling; the benchmark does them all
@pytest.mark.parametrize("title", PEERS)
def test_it_is_within_1_3_of_the_best_of_the_peers(title, nfe):
    with jax.enable_x64(True):
        problem = problems(title)[title]
        if title.endswith("VP"):  # to t = 1e-3, without denoising
            sampler, ts = recommended(problem.sde, nfe, end=1e-3, denoise_last=False)
            found = error(sampler, problem, ts)
        else:  # to zero noise
            sampler, ts = recommended(problem.sde, nfe)
            found = error(sampler, problem, np.append(ts, 0.0))
    assert found < 1.3 * PEERS[title][nfe]


@pytest.mark.parametrize(
    ("nfe", "sampler", "weight"),
    [
        (9, UniPC(p=2), 2.5),
        (10, UniPC(p=2), 1.6),
        (14, UniPC(p=2), 1.6),
        (15, UniPC(p=3), 1.0),
        (19, UniPC(p=3), 1.0),
    ],
)
def test_the_choice_changes_where_its_docstring_says(nfe, sampler, weight):
    found = recommended(VP(), nfe, end=1e-3)
    assert found.sampler == sampler
    np.testing.assert_allclose(found.ts, grids.centred(VP(), nfe - 1, weight=weight))


def test_many_evaluations_and_stochastic_ones_have_a_grid_in_log_snr():
    for nfe, stochastic, sampler in (
        (20, False, DEIS(order=4)),
        (13, True, DPMpp2MSDE()),
        (14, True, DPMpp3MSDE()),
    ):
        found = recommended(VP(), nfe, stochastic, end=1e-3)
        assert found.sampler == sampler
        np.testing.assert_allclose(found.ts, grids.log_snr(VP(), nfe - 1))


@pytest.mark.parametrize("stochastic", [False, True])
def test_it_spends_what_it_was_given(stochastic):
    key, sde = jax.random.key(0), VP()
    sampler, ts = recommended(sde, 6, stochastic)
    denoise = Gaussian([0.3], [[0.2]]).denoiser(sde)
    assert sampler.stochastic == stochastic
    assert int(sample(key, sampler, denoise, sde, ts, draw_prior(key, sde, (2, 1))).nfe) == 6
    assert len(recommended(sde, 6, denoise_last=False).ts) == 7


def test_it_ends_at_a_noise_level_that_falls_with_the_budget_or_at_t_min():
    for nfe in (10, 50):
        alpha, sigma = VP().marginal(jnp.asarray(recommended(VP(), nfe).ts[-1]))
        np.testing.assert_allclose(sigma / alpha, 0.1 / nfe, rtol=1e-3)
    assert recommended(VE(), 50).ts[-1] == VE().t_min  # sigma_min is 0.01


@pytest.mark.parametrize(
    ("sde", "level"),
    [(Rectified(), 200.0), (VP(), 152.17), (VE(sigma_max=1348.0), 1348.0)],
    ids=repr,
)
def test_it_starts_at_the_prior_or_at_level_200_where_no_signal_is_left(sde, level):
    alpha, sigma = in_float64(sde.marginal, recommended(sde, 8).ts[0])
    np.testing.assert_allclose(sigma / alpha, level, rtol=1e-4)


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="need at least 2 evaluations, got 1"):
        recommended(VP(), 1)
