"""The one loop: what it counts, keeps, reports, refuses and lets JAX transform."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from samplers import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    DPMpp2M,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    draw_prior,
    grids,
    sample,
)
from sde_lib import VP, Denoiser, Gaussian

KEY, SDE = jax.random.key(0), VP()
DATA = Gaussian([0.7, -0.4], [[0.25, 0.06], [0.06, 0.04]])
DENOISE = DATA.denoiser(SDE)
TS, X = grids.quadratic(SDE, 6), draw_prior(KEY, SDE, (3, 2))


class Watched(eqx.Module):
    """A denoise function that says when it is traced, and is otherwise the exact one."""

    seen: list = eqx.field(static=True)

    def __call__(self, x, t, cond=None):
        self.seen.append(1)
        return DENOISE(x, t)

    def __hash__(self):
        return id(self.seen)

    def __eq__(self, other):
        return self.seen is other.seen


def test_nfe_is_the_number_of_calls_made(usual):
    calls = []

    def denoise(x, t, cond=None):
        jax.debug.callback(lambda: calls.append(1))
        return DENOISE(x, t)

    result = sample(KEY, usual, denoise, SDE, TS, X)
    jax.effects_barrier()
    assert int(result.nfe) == len(calls) > len(TS) - 1


def test_a_denoiser_that_calls_its_network_twice_is_counted_so():
    def net(x, signal, cond):
        return 0.5 * x

    inner = Denoiser(net, SDE)

    def guided(x, t, cond=None):
        return jax.tree.map(lambda a, b: 2 * a - b, inner(x, t), inner(0.9 * x, t))

    assert int(sample(KEY, Heun(), guided, SDE, TS, X).nfe) == 2 * (2 * 6 + 1)
    assert int(sample(KEY, Heun(), inner, SDE, TS, X).nfe) == 2 * 6 + 1


def test_the_path_holds_the_states_of_the_walk(example):
    whole = sample(KEY, example, DENOISE, SDE, TS, X, keep=None)
    last = sample(KEY, example, DENOISE, SDE, TS, X, keep=3)
    short = sample(KEY, example, DENOISE, SDE, TS[:5], X, denoise_last=False)
    assert whole.path.shape == (7, 3, 2) and last.path.shape == (3, 3, 2) and short.path is None
    np.testing.assert_array_equal(whole.path[0], X)
    assert len(np.unique(np.asarray(whole.path)[:, 0, 0])) == 7
    np.testing.assert_allclose(last.path, whole.path[-3:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(short.x, whole.path[4], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole.x, DENOISE(whole.path[-1], TS[-1]).x0, rtol=1e-4, atol=1e-5)
    assert int(whole.nfe) == int(last.nfe) == int(short.nfe) // 4 * 6 + 1


def test_more_states_than_there_are_and_none():
    runs = {
        keep: sample(KEY, DDIM(), DENOISE, SDE, TS, X, keep=keep, denoise_last=False)
        for keep in (0, 1, 99)
    }
    assert (
        runs[0].path is None
        and runs[1].path.shape == (1, 3, 2)
        and runs[99].path.shape == (7, 3, 2)
    )
    np.testing.assert_array_equal(runs[1].path[0], runs[1].x)
    np.testing.assert_array_equal(runs[99].path[-1], runs[99].x)
    assert all(int(run.nfe) == 6 for run in runs.values())


def same_with_progress(sampler, ts):
    """Assert that reporting changes nothing, and return the reports."""
    reports = []
    result = sample(
        KEY, sampler, DENOISE, SDE, ts, X, keep=3, progress=lambda *report: reports.append(report)
    )
    plain = sample(KEY, sampler, DENOISE, SDE, ts, X, keep=3)
    np.testing.assert_allclose(result.x, plain.x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.path, plain.path, rtol=1e-4, atol=1e-5)
    assert int(result.nfe) == int(plain.nfe)
    return reports


def test_reporting_progress_changes_nothing(example):
    assert same_with_progress(example, TS) == [(i, 6) for i in range(1, 7)]


@pytest.mark.parametrize("sampler", [EulerMaruyama(), DPMpp2M()], ids=["noise", "memory"])
def test_long_walks_report_about_fifty_times(sampler):
    done, totals = zip(*same_with_progress(sampler, grids.quadratic(SDE, 130)), strict=True)
    assert (
        len(done) == 50
        and done[-1] == 130
        and set(totals) == {130}
        and set(np.diff(done)) == {2, 3}
    )


def test_conditions_reach_the_denoiser():
    cond = {"shift": jnp.array([[1.0], [2.0], [-3.0]])}

    def denoise(x, t, cond):
        return DENOISE(x, t)._replace(x0=DENOISE(x, t).x0 + cond["shift"])

    result, plain = (
        sample(KEY, DDIM(), denoise, SDE, TS, X, cond=cond).x,
        sample(KEY, DDIM(), DENOISE, SDE, TS, X).x,
    )
    assert np.all((result - plain)[:, 0] * cond["shift"][:, 0] > 0)
    np.testing.assert_allclose(
        sample(KEY, DDIM(), denoise, SDE, TS, X[1:2], cond={"shift": cond["shift"][1:2]}).x,
        result[1:2],
        rtol=1e-4,
    )


def test_repeated_calls_share_a_compilation():
    seen = []
    denoise = Watched(seen)
    first = sample(KEY, EulerMaruyama(), denoise, SDE, TS, X)
    traced = len(seen)
    second = sample(jax.random.key(5), EulerMaruyama(), denoise, SDE, grids.uniform(SDE, 6), X + 1)
    assert traced == len(seen) > 0
    assert int(first.nfe) == int(second.nfe) == 7 and not np.allclose(first.x, second.x)


def test_reports_of_progress_share_a_compilation():
    seen = []
    sample(KEY, EulerMaruyama(), Watched(seen), SDE, TS, X, progress=lambda *_: None)
    traced = len(seen)
    sample(
        KEY, EulerMaruyama(), Watched(seen), SDE, grids.uniform(SDE, 6), X, progress=lambda *_: None
    )
    assert len(seen) == traced <= 4


def test_it_can_be_differentiated(example):
    # In the precision of users, in a parameter of the denoiser.
    @jax.jit
    def end(shift):
        def denoise(x, t, cond=None):
            return DENOISE(x, t)._replace(x0=DENOISE(x, t).x0 + shift)

        return jnp.sum(sample(KEY, example, denoise, SDE, TS, X).x)

    slope = jax.grad(end)(0.1)
    assert np.isfinite(slope)
    if not isinstance(
        example, Langevin
    ):  # the end is affine in the shift: a finite difference has no truncation error
        np.testing.assert_allclose(slope, end(0.6) - end(-0.4), rtol=1e-3)


def test_a_schedule_can_be_differentiated_and_batched():
    # What depends on the schedule is planned in float32 then.
    def end(beta_max):
        sde = VP(beta_max=beta_max)
        return sample(KEY, EulerMaruyama(), DATA.denoiser(sde), sde, TS, X).x

    betas = jnp.array([5.0, 20.0])
    np.testing.assert_allclose(jax.vmap(end)(betas)[1], end(20.0), rtol=1e-3, atol=1e-4)
    slope = jax.grad(lambda b: jnp.sum(end(b) ** 2))(10.0)
    np.testing.assert_allclose(
        slope, (jnp.sum(end(10.1) ** 2) - jnp.sum(end(9.9) ** 2)) / 0.2, rtol=0.02
    )


def test_it_runs_inside_jit_and_vmap():
    sampler = PredictorCorrector(EulerMaruyama(), AnnealedLangevin(snr=0.1))

    def run(key, snr):
        return sample(
            key, PredictorCorrector(EulerMaruyama(), AnnealedLangevin(snr=snr)), DENOISE, SDE, TS, X
        ).x

    plain = sample(KEY, sampler, DENOISE, SDE, TS, X).x
    np.testing.assert_allclose(jax.jit(run)(KEY, 0.1), plain, rtol=1e-4, atol=1e-5)
    many = jax.vmap(run, (None, 0))(KEY, jnp.array([0.05, 0.1, 0.3]))
    np.testing.assert_allclose(many[1], plain, rtol=1e-4, atol=1e-5)
    assert not np.allclose(many[0], many[2], atol=1e-3)


@pytest.mark.parametrize(
    ("ts", "message"),
    [
        ([1e-3, 0.5, 1.0], "strictly decreasing times, got"),
        ([1.0, 0.5, 0.5], "strictly decreasing"),
        ([1.0], "at least two strictly decreasing times, got"),
        ([[1.0, 0.5]], "a grid is a vector"),
        ([1.0, np.nan], "strictly decreasing"),
        ([1.2, 0.5], "runs from 1.2 to 0.5; this SDE covers times from 1 down to t_min = 1e-05"),
        ([1.0, 1e-6], "runs from 1 to 1e-06; this SDE covers times from 1 down to t_min = 1e-05"),
    ],
)
def test_impossible_grids_are_refused(ts, message):
    with pytest.raises(ValueError, match=message):
        sample(KEY, DDIM(), DENOISE, SDE, np.array(ts), X)


def test_a_grid_may_be_a_list_or_rounded_to_float32():
    exact = sample(KEY, DDIM(), DENOISE, SDE, [1.0, 0.5, 1e-5], X).x
    np.testing.assert_allclose(
        sample(KEY, DDIM(), DENOISE, SDE, jnp.array([1.0, 0.5, 1e-5]), X).x, exact, rtol=1e-5
    )


def test_an_index_that_does_not_number_the_batch_is_refused():
    with pytest.raises(
        ValueError, match=r"each of the 3 samples, so it has shape \(3,\), got \(2,\)"
    ):
        sample(KEY, DDIM(), DENOISE, SDE, TS, X, index=jnp.arange(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PredictorCorrector(EulerMaruyama, Langevin()),
            r"the predictor is a sampler such as EulerMaruyama\(\)",
        ),
        (
            lambda: PredictorCorrector(EulerMaruyama(), "langevin"),
            "the corrector is a sampler .*got 'langevin'",
        ),
        (lambda: DDIM(eta=1.5), "need 0 <= eta <= 1, got 1.5"),
        (lambda: DDIM(eta=-0.1), "need 0 <= eta <= 1"),
        (
            lambda: Ancestral(variance="small"),
            "unknown variance 'small'; choose one of posterior, transition",
        ),
        (lambda: Langevin(norms="all"), "unknown norms 'all'; choose one of batch, sample"),
        (lambda: Langevin(snr=0.0), "need 0 < snr < 1, got 0.0"),
        (lambda: AnnealedLangevin(snr=1.0), "need 0 < snr < 1, got 1.0"),
        (lambda: AnnealedLangevin(n_steps=0), "need at least one corrector step, got n_steps = 0"),
        (lambda: Langevin(n_steps=0), "need at least one corrector step, got n_steps = 0"),
    ],
)
def test_impossible_settings_are_refused(make, message, monkeypatch):
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # as users run it, without the type checks of the tests
    with pytest.raises(ValueError, match=message):
        make()
