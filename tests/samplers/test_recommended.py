"""What is recommended spends what it was asked to and is as good as the best of the peers' on problems with a known end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.deterministic import error
from experiments.benchmarks.problems import problems
from samplers import (
    DEIS,
    DPMpp2MSDE,
    DPMpp3MSDE,
    SASolver,
    UniPC,
    draw_prior,
    grids,
    recommended,
    sample,
)
from sde_lib import EDM, VE, VP, Cosine, Denoiser, Gaussian, Rectified, in_float64

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
            sampler, ts = recommended(problem.sde, nfe, sd=0.4, end=1e-3, denoise_last=False)
            result = error(sampler, problem, ts)
        else:  # to zero noise
            sampler, ts = recommended(problem.sde, nfe, sd=0.4)
            result = error(sampler, problem, np.append(ts, 0.0))
    assert result < 1.3 * PEERS[title][nfe]


@pytest.mark.parametrize("nfe", [5, 6, 7, 9, 10, 14, 15, 19, 20, 24, 25, 69, 70])
def test_the_choice_changes_where_its_docstring_says(nfe):
    result = recommended(VP(), nfe, end=1e-3)
    third, fourth = (SASolver(predictor_steps=s, corrector_steps=s, tau=0.0) for s in (3, 4))
    sampler, weight, centre, reach, warm_up = {
        5: (UniPC(predictor_order=2), 1.0, 1.0, 8.0, 0.0),
        7: (UniPC(predictor_order=2), 1.2, 1.2, 30.0, 0.0),
        10: (DEIS(order=3), 1.0, -0.5, 30.0, 1.5),
        15: (third, 0.5, 0.6, 15.0, 0.5),
        20: (fourth, 0.5, 0.5, 15.0, 0.5),
        25: (fourth, 1.0, 0.5, 30.0, 1.5),  # the defaults of the grid
        70: (fourth, 1.5, 0.2, 30.0, 2.0),
    }[max(n for n in (5, 7, 10, 15, 20, 25, 70) if n <= nfe)]
    assert result.sampler == sampler
    expected = grids.centred(
        VP(), nfe - 1, weight=weight, centre=centre, reach=reach, warm_up=warm_up
    )
    np.testing.assert_allclose(result.ts, expected)
    if 25 <= nfe < 70:
        np.testing.assert_allclose(result.ts, grids.centred(VP(), nfe - 1))


def test_stochastic_ones_have_a_grid_in_log_snr():
    for nfe, sampler in ((13, DPMpp2MSDE()), (14, DPMpp3MSDE())):
        result = recommended(VP(), nfe, stochastic=True, end=1e-3)
        assert result.sampler == sampler
        np.testing.assert_allclose(result.ts, grids.log_snr(VP(), nfe - 1))


@pytest.mark.parametrize("stochastic", [False, True])
def test_it_spends_what_it_was_given(stochastic):
    key, sde = jax.random.key(0), VP()
    sampler, ts = recommended(sde, 6, stochastic)
    denoise = Gaussian([0.3], [[0.2]]).denoiser(sde)
    assert sampler.stochastic == stochastic
    assert int(sample(key, sampler, denoise, sde, ts, draw_prior(key, sde, (2, 1))).nfe) == 6
    assert len(recommended(sde, 6, denoise_last=False).ts) == 7


def levels(sde, ts):
    alpha, sigma = in_float64(sde.marginal, ts)
    return sigma / alpha


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("sd", [0.1, 10.0])
def test_data_of_any_size_are_walked_as_those_of_size_one(sd, stochastic):
    """What starts `sd` times as far away gets `sd` times the levels: EDM's process has sigma_max to say so."""
    unit, sized = EDM(sigma_max=80.0, t_min=0.0), EDM(sigma_max=80.0 * sd, t_min=0.0)
    for nfe in (5, 12, 30):
        known = recommended(unit, nfe, stochastic)
        result = recommended(sized, nfe, stochastic, sd=sd)
        assert result.sampler == known.sampler
        np.testing.assert_allclose(levels(sized, result.ts), sd * levels(unit, known.ts), rtol=1e-9)


def test_the_size_is_that_of_the_denoiser_unless_it_is_given():
    data = Gaussian([5.0, 0.0], [[9.0, 0.0], [0.0, 9.0]])
    expected = recommended(VP(), 6, sd=3.0).ts
    np.testing.assert_allclose(
        recommended(VP(), 6, denoise=data.denoiser(VP())).ts, expected, rtol=1e-5
    )
    network = Denoiser(lambda x, signal, cond: x, VP(), sigma_data=3.0)
    np.testing.assert_array_equal(recommended(VP(), 6, denoise=network).ts, expected)
    result = recommended(VP(), 6, denoise=network, sd=1.0).ts
    np.testing.assert_array_equal(result, recommended(VP(), 6).ts)
    inside = jax.jit(lambda: jnp.asarray(recommended(VP(), 6, denoise=data.denoiser(VP())).ts))()
    np.testing.assert_allclose(inside, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="cannot be traced; pass sd as a number"):
        jax.jit(lambda sd: recommended(VP(), 6, sd=sd).ts)(1.0)


def test_it_ends_at_a_noise_level_that_falls_with_the_budget_or_at_t_min():
    for nfe in (10, 50):
        np.testing.assert_allclose(
            levels(VP(), recommended(VP(), nfe).ts[-1]), 3 / nfe**2, rtol=1e-3
        )
        result = recommended(VP(), nfe, stochastic=True, sd=0.4).ts[-1]
        np.testing.assert_allclose(levels(VP(), result), 0.1 / nfe, rtol=1e-3)
    assert recommended(VE(), 50).ts[-1] == VE().t_min  # sigma_min is 0.01


def test_there_is_a_walk_also_where_the_noise_hardly_exceeds_the_data():
    for sde in (VE(), EDM(sigma_max=0.5)):
        ts = recommended(sde, 2, sd=100.0).ts
        assert len(ts) == 2 and ts[0] == 1 and ts[1] == 0.5


@pytest.mark.parametrize("sde", [Rectified(), Cosine(), VP(), VE(sigma_max=1348.0)], ids=repr)
def test_it_starts_at_the_prior_also_where_no_signal_is_left(sde):
    sampler, ts = recommended(sde, 6)
    assert ts[0] == 1
    plan = in_float64(sampler.plan, sde, ts)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(plan))


@pytest.mark.parametrize("nfe", [0, 1, -3, 6.0, np.nan, None, "6", True, 10**9])
def test_what_is_no_number_of_evaluations_is_refused(nfe):
    with pytest.raises(ValueError, match=f"need nfe as a whole number from 2 to .*got {nfe!r}"):
        recommended(VP(), nfe)


@pytest.mark.parametrize("sd", [0.0, -1.0, np.nan, np.ones(2)])
def test_what_is_no_size_is_refused(sd):
    with pytest.raises(ValueError, match="need one sd > 0"):
        recommended(VP(), 6, sd=sd)
