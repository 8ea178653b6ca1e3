"""Every denoiser keeps to the contract of `Denoise`, and `check_denoise` refuses whatever breaks one of its rules."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

import sde_lib
from samplers.counted import Counted
from sde_lib import (
    INPUTS,
    PREDICTIONS,
    VE,
    VP,
    DataDistribution,
    Denoiser,
    Discrete,
    Empirical,
    Estimate,
    Gaussian,
    GaussianMixture,
    Rectified,
    Retimed,
    check_denoise,
    expand,
)

SHAPE, COND = (3, 2), {"label": jnp.array([0.0, 1.0, 2.0])}
POINTS = np.array([[0.5, -0.2], [-0.3, 0.4]])
DATA = {
    Gaussian: Gaussian([0.2, -0.1], [[0.25, 0.06], [0.06, 0.16]]),
    GaussianMixture: GaussianMixture([0.4, 0.6], POINTS, [0.01 * np.eye(2), 0.04 * np.eye(2)]),
    Empirical: Empirical(POINTS),
}
SDE = VP()


def network(x, signal, cond):
    """A network that takes everything it is fed into account."""
    label = 0.0 if cond is None else cond["label"]
    return jnp.tanh(x + (0.01 * signal + label)[:, None])


def test_every_distribution_of_data_is_met():
    concrete = {
        cls
        for _, cls in inspect.getmembers(sde_lib, inspect.isclass)
        if issubclass(cls, DataDistribution) and not inspect.isabstract(cls)
    }
    assert concrete == DATA.keys()


@pytest.mark.parametrize("data", DATA.values(), ids=lambda data: type(data).__name__)
def test_exact_denoisers_keep_to_the_contract(data):
    check_denoise(data.denoiser(SDE), SDE, SHAPE, COND)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_denoisers_of_every_prediction_keep_to_the_contract(prediction):
    check_denoise(Denoiser(network, SDE, prediction=prediction), SDE, SHAPE, COND)


@pytest.mark.parametrize("inputs", INPUTS)
def test_denoisers_of_every_input_keep_to_the_contract(inputs):
    sde = Discrete(SDE, 100)
    check_denoise(Denoiser(network, sde, inputs=inputs), sde, SHAPE)


def test_what_wraps_a_denoiser_keeps_to_the_contract():
    denoise = DATA[Gaussian].denoiser(SDE)
    check_denoise(Retimed(denoise, trained=SDE, sde=VE()), VE(), SHAPE)
    check_denoise(Counted(denoise), SDE, SHAPE)


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 4, 4, 1)], ids=str)
def test_states_may_have_any_shape(shape):
    check_denoise(zero, Rectified(), shape)


def zero(x, t, cond):
    """Expect no data anywhere."""
    return from_x0(x, t, jnp.zeros_like(x), Rectified())


def from_x0(x, t, x0, sde=SDE):
    alpha, sigma = sde.marginal(expand(t, x))
    return Estimate.from_x0(x, alpha, sigma, x0)


def of_the_wrong_shape(x, t, cond):
    return Estimate(x0=x, noise=x[:, :1])


def infinite_at_late_times(x, t, cond):
    return from_x0(x, t, jnp.where(expand(t, x) > 0.7, jnp.inf, x))


def of_two_minds(x, t, cond):
    return from_x0(x, t, jnp.tanh(x))._replace(noise=x)


def of_one_time(x, t, cond):
    return from_x0(x, t, jnp.tanh(x) if jnp.ndim(t) else jnp.tanh(2 * x))


def random(x, t, cond):
    return from_x0(x, t, x + np.random.default_rng().normal(size=x.shape).astype(np.float32))


def other_when_compiled(x, t, cond):
    return from_x0(x, t, jnp.tanh(2 * x) if isinstance(x, Tracer) else jnp.tanh(x))


def branching_on_a_value(x, t, cond):
    return from_x0(x, t, x if float(jnp.sum(x)) > 0 else -x)


def normalised_over_the_batch(x, t, cond):
    return from_x0(x, t, x - jnp.mean(x, 0, keepdims=True))


def normalised_where_it_hardly_shows_in_the_noise(x, t, cond):
    return from_x0(x, t, 1e-4 * (x - jnp.mean(x, 0, keepdims=True)))


def counting_samples(x, t, cond):
    return from_x0(x, t, x * jnp.arange(1.0, len(x) + 1)[:, None])


def of_the_first_time(x, t, cond):
    return from_x0(x, t, x * jnp.ravel(jnp.asarray(t))[0])


def capturing_a_condition(x, t, cond):
    return from_x0(x, t, jnp.tanh(x + COND["label"][: len(x), None]))


def for_one_batch_size(x, t, cond):
    return from_x0(x, t, jnp.reshape(jnp.tanh(x).reshape(3, 2), x.shape))


BROKEN = [
    (lambda x, t, cond: (x, x), "returns an Estimate.*got a tuple.*Estimate.from_x0"),
    (of_the_wrong_shape, r"noise of the estimate has shape \(3, 1\).*\(3, 2\)"),
    (infinite_at_late_times, "x0 of the estimate is not finite"),
    (of_two_minds, "alpha x0 .* sigma noise .* differs from x by .*Estimate.from_x0"),
    (of_one_time, r"a time of shape \(\) gives another estimate.*expand"),
    (random, "not pure: a second call .* differs by"),
    (other_when_compiled, "not pure: compiled it differs by"),
    (branching_on_a_value, "cannot be traced when it is compiled .*branches on values"),
    (normalised_over_the_batch, "depends on its batch.*no statistics of the batch"),
    (normalised_where_it_hardly_shows_in_the_noise, "depends on its batch"),
    (counting_samples, "depends on its batch"),
    (of_the_first_time, "depends on its batch"),
    (capturing_a_condition, "depends on its batch.*conditions travel in cond"),
    (for_one_batch_size, "cannot be traced on a batch of one, .*any batch size"),
]


@pytest.mark.parametrize(
    "denoise, message", BROKEN, ids=lambda value: getattr(value, "__name__", "")
)
def test_what_breaks_a_rule_is_refused_by_that_rule(denoise, message):
    with pytest.raises(ValueError, match=message):
        check_denoise(denoise, SDE, SHAPE)


def test_a_difference_counts_relative_to_the_estimate_and_to_the_tolerance():
    def nearly(x, t, cond):
        return from_x0(x, t, 1e3 * (x + 1e-2 * jnp.mean(x)))

    check_denoise(nearly, SDE, SHAPE, tolerance=0.1)
    with pytest.raises(ValueError, match="depends on its batch"):
        check_denoise(nearly, SDE, SHAPE)


def test_the_key_draws_the_states():
    drawn = []

    def recording(x, t, cond):
        if not isinstance(x, Tracer):
            drawn.append(np.asarray(x))
        return zero(x, t, cond)

    for seed in (0, 1):
        check_denoise(recording, Rectified(), SHAPE, key=jax.random.key(seed))
    check_denoise(recording, Rectified(), SHAPE)
    first, second, default = drawn[0], drawn[len(drawn) // 3], drawn[-1]
    assert np.all(first == default) and np.all(first != second)


def test_the_conditions_reach_the_function():
    labels = []

    def recording(x, t, cond):
        if not isinstance(x, Tracer):
            labels.append(np.asarray(cond["label"]))
        return zero(x, t, cond)

    check_denoise(recording, Rectified(), SHAPE, COND)
    np.testing.assert_array_equal(labels, [COND["label"]] * len(labels))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"sde": VP}, "check_denoise needs a process"),
        ({"shape": (1, 2)}, "at least 2 samples"),
        ({"shape": 3}, "at least 2 samples"),
        ({"cond": {"label": jnp.zeros(2)}}, r"batch of 3 .* cond\['label'\] has shape \(2,\)"),
    ],
    ids=str,
)
def test_impossible_arguments_are_refused(changed, message, monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        check_denoise(**{"denoise": zero, "sde": SDE, "shape": SHAPE} | changed)
