"""What training minimises: times, their correction, labels and held-out levels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_lib
from experiments.run import losses
from experiments.run.adaptive import WEIGHTS
from experiments.run.losses import make_held_out, make_loss, make_losses

SIZE = 4096


@pytest.mark.parametrize("weights", [None, [1.0, 1.0], [1.0, 2.0, 3.0, 10.0]])
@pytest.mark.parametrize("stratified", [True, False])
def test_adapted_times_leave_the_expected_loss_as_it_is(weights, stratified, tiny_run, monkeypatch):
    """A loss equal to the time has the expectation (1 + t_min) / 2, however the times are drawn.

    Stratified, each of 4096 strata is met once: the error is below 3 / 4096, as the integrand, the
    time over its density, varies by at most 3. Independent draws have a standard deviation of at
    most 1, so that 0.08 is five standard errors of their mean: a false alarm in 2 million.
    """

    def time_itself(run):
        return lambda params, keys, batch, times, u: times.quantile(run.sde, u)

    monkeypatch.setattr(losses, "make_losses", time_itself)
    tiny_run.config.unlock()
    tiny_run.config.objective.stratified = stratified
    batch = {"x": jnp.zeros((SIZE, 2))}
    if weights is not None:
        batch[WEIGHTS] = jnp.asarray(weights)
    loss = make_loss(tiny_run)(None, jax.random.key(3), batch)
    expected = (1 + tiny_run.sde.t_min) / 2
    np.testing.assert_allclose(loss, expected, atol=3 / SIZE if stratified else 0.08)


@pytest.mark.parametrize("dropout", [0.0, 0.25, 1.0])
def test_labels_are_dropped_as_often_as_the_configuration_says(dropout, tiny_run, monkeypatch):
    """Of 4096 labels, within six standard deviations of a binomial count: a false alarm in 500
    million.
    """

    def label_itself(key, denoiser, x, t, cond, weighting):
        return cond

    monkeypatch.setitem(sde_lib.OBJECTIVES, "denoising", label_itself)
    tiny_run.config.unlock()
    tiny_run.config.train.update({"conditional": True, "label_dropout": dropout})
    run = tiny_run._replace(facts=tiny_run.facts._replace(num_classes=8))
    labels = jnp.arange(SIZE) % 8
    keys = jax.random.split(jax.random.key(5), 3)
    seen = make_losses(run)(
        run.split.params,
        keys,
        {"x": jnp.zeros((SIZE, 2)), "label": labels},
        sde_lib.Uniform(),
        jnp.linspace(0.1, 0.9, SIZE),
    )
    dropped = np.asarray(seen) == 8
    np.testing.assert_array_equal(np.asarray(seen)[~dropped], np.asarray(labels)[~dropped])
    tolerance = 6 * np.sqrt(SIZE * dropout * (1 - dropout))
    assert abs(dropped.sum() - SIZE * dropout) <= tolerance


def test_self_conditioning_is_trained_with_a_first_pass_half_of_the_time(tiny_run, monkeypatch):
    """Of 400 steps, within five standard deviations of a binomial: a false alarm in 2 million."""

    def first_pass_itself(key, denoiser, x, t, cond, weighting, first_pass):
        assert denoiser.self_conditioning
        return jnp.full(len(x), first_pass, float)

    monkeypatch.setitem(sde_lib.OBJECTIVES, "denoising", first_pass_itself)
    tiny_run.config.unlock().net.self_conditioning = True
    loss = make_losses(tiny_run)
    batch = {"x": jnp.zeros((2, 2))}

    def one(key):
        keys = jax.random.split(key, 3)
        params = tiny_run.split.params
        return loss(params, keys, batch, sde_lib.Uniform(), jnp.full(2, 0.5))

    asked = np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(0), 400)))
    np.testing.assert_array_equal(asked[:, 0], asked[:, 1])  # one choice for the batch
    assert abs(asked[:, 0].sum() - 200) < 50


@pytest.mark.parametrize("name", ["VP", "VE", "EDM", "Rectified"])
def test_held_out_losses_are_measured_at_levels_equally_spaced_in_the_log_snr(name, tiny_run):
    """In the middle of eight equal parts from the end of the process, or -10, to its beginning."""
    sde = getattr(sde_lib, name)()
    _, times = make_held_out(tiny_run._replace(sde=sde), levels=8)
    first, last = np.asarray(sde.log_snr(jnp.asarray([sde.t_min, 1.0])), np.float64)
    last = max(last, -10.0)
    middle = (np.arange(8) + 0.5) / 8
    log_snr = np.sort(np.asarray(sde.log_snr(jnp.asarray(times))))
    np.testing.assert_allclose(log_snr, last + middle * (first - last), rtol=2e-3, atol=2e-3)
