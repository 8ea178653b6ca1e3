"""States of any numeric type, times of any form, and what is refused of both, for every function that takes a state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import (
    VE,
    VP,
    Cosine,
    Denoiser,
    Discrete,
    Empirical,
    Estimate,
    Gaussian,
    GaussianMixture,
    Retimed,
    denoising_loss,
    expand,
    sliced_loss,
)

KEY = jax.random.key(0)
GAUSSIAN = Gaussian([0.5, -0.25], [[1.0, 0.5], [0.5, 1.0]])
MIXTURE = GaussianMixture([1.0], [[0.5, -0.25]], [[[1.0, 0.5], [0.5, 1.0]]])
POINTS = Empirical([[0.5, -0.25], [1.0, 0.0]])
# Values that every type has, so that a result may be compared with that of float32.
STATE = [[0, 1], [1, 0], [1, 1]]


def net(x, signal, cond):
    assert signal.dtype in (jnp.float32, jnp.float64)  # never narrower: eight bits are no time
    return 0.1 * x + expand(signal, x)


# name -> (sde, x, t) -> states like x, and -> numbers, which are never narrower than float32.
STATES = {
    "perturb": lambda sde, x, t: tuple(sde.perturb(KEY, x, t)),
    "velocity": lambda sde, x, t: sde.velocity(t, Estimate(x, x)),
    "reverse": lambda sde, x, t: sde.reverse(x, t, x)[0],
    "denoiser": lambda sde, x, t: tuple(Denoiser(net, sde)(x, t)),
    "score": lambda sde, x, t: Denoiser(net, sde).score(x, t),
    "gaussian": lambda sde, x, t: tuple(GAUSSIAN.denoiser(sde)(x, t)),
    "mixture": lambda sde, x, t: tuple(MIXTURE.denoiser(sde)(x, t)),
    "points": lambda sde, x, t: tuple(POINTS.denoiser(sde)(x, t)),
    "retimed": lambda sde, x, t: tuple(Retimed(Denoiser(net, VP()), VP(), sde)(x, t)),
}
NUMBERS = {
    "prior_log_prob": lambda sde, x, t: sde.prior_log_prob(x),
    "diffusion": lambda sde, x, t: sde.reverse(x, t, x)[1],
    "denoising": lambda sde, x, t: denoising_loss(KEY, Denoiser(net, sde), x, t),
    "sliced": lambda sde, x, t: sliced_loss(KEY, Denoiser(net, sde), x, t),
    "log_prob": lambda sde, x, t: GAUSSIAN.log_prob(sde, x, t),
    "divergence": lambda sde, x, t: MIXTURE.divergence(sde, x, t),
    "model_log_prob": lambda sde, x, t: GAUSSIAN.model_log_prob(sde, x, t),
    "flow": lambda sde, x, t: GAUSSIAN.flow(sde, x, t, 0.5),
}
FUNCTIONS = STATES | NUMBERS
each_function = pytest.mark.parametrize("name", FUNCTIONS)


def leaves(result):
    return [jnp.asarray(leaf) for leaf in jax.tree.leaves(result)]


@pytest.mark.parametrize("kind", ["int32", "uint8", "bool", "bfloat16", "float16", "float32"])
@each_function
def test_a_state_of_any_type_is_computed_as_in_float32(name, kind):
    x, sde = jnp.asarray(STATE, kind), VP()
    narrow = kind in ("bfloat16", "float16")
    got = leaves(FUNCTIONS[name](sde, x, 0.37))
    for value, exact in zip(
        got, leaves(FUNCTIONS[name](sde, jnp.asarray(STATE, "float32"), 0.37)), strict=True
    ):
        assert value.dtype == (kind if narrow and name in STATES else np.float32)
        # Rounding of the state that the network sees and answers; where nothing is rounded, nothing differs.
        rounding = float(jnp.finfo(kind).eps) if narrow else 1e-6
        np.testing.assert_allclose(
            np.asarray(value, np.float64), exact, rtol=4 * rounding, atol=8 * rounding
        )


@pytest.mark.parametrize("name", ["log_prob", "divergence", "prior_log_prob", "model_log_prob"])
@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_densities_of_narrow_states_are_those_of_float32(name, kind):
    exact = NUMBERS[name](VP(), jnp.asarray(STATE, "float32"), 0.37)
    got = NUMBERS[name](VP(), jnp.asarray(STATE, kind), 0.37)
    np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-5)


@each_function
def test_under_x64_a_state_keeps_its_type(sde, name):
    # Shapes and types alone: nothing is compiled.
    with jax.enable_x64(True):
        for wrapped in (sde, sde if isinstance(sde, Cosine | VE) is False else Discrete(sde, 20)):
            for kind in ("float32", "float64"):
                x, t = jnp.asarray(STATE, kind), jnp.full(3, 0.37, "float64")
                out = jax.eval_shape(lambda x, t, w=wrapped: FUNCTIONS[name](w, x, t), x, t)
                for leaf in jax.tree.leaves(out):
                    assert leaf.dtype == kind, (type(wrapped).__name__, name)


def test_narrow_times_of_a_process_are_not_rounded():
    t = jnp.asarray(0.37, "bfloat16")
    exact = jnp.asarray(t, "float32")
    for fn in ("marginal_rate", "log_snr", "coefficients", "time"):
        for got, expected in zip(
            leaves(getattr(VP(), fn)(t)), leaves(getattr(VP(), fn)(exact)), strict=True
        ):
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got, expected)


def test_whole_numbers_are_times(sde):
    for whole in (0, 1):
        for fn in (sde.marginal, sde.log_snr):
            for got, expected in zip(
                leaves(fn(jnp.asarray(whole))), leaves(fn(jnp.asarray(float(whole)))), strict=True
            ):
                np.testing.assert_array_equal(got, expected)
        assert jnp.issubdtype(sde.log_snr(jnp.asarray(whole)).dtype, jnp.floating)


@each_function
def test_an_empty_batch_is_one(name):
    for leaf in jax.tree.leaves(FUNCTIONS[name](VP(), jnp.zeros((0, 2)), 0.5)):
        assert leaf.size in (0, 1)


@each_function
@pytest.mark.parametrize("t", [-0.01, 1.01, 50, float("nan"), np.array([0.1, 0.2, 7.0])])
def test_times_that_are_none_are_refused(name, t):
    if name == "prior_log_prob":
        pytest.skip("it has no time")
    with pytest.raises(ValueError, match=r"need times from 0 \(data\) to 1 \(noise\), got"):
        FUNCTIONS[name](VP(), jnp.ones((3, 2)), t)


@each_function
def test_a_time_may_have_been_rounded(name):
    if name != "prior_log_prob":
        for t in (1.0 + 1e-7, 1.0 + 4e-7):
            for leaf in jax.tree.leaves(FUNCTIONS[name](VP(), jnp.ones((3, 2)), t)):
                assert np.all(np.isfinite(leaf))


@each_function
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (jnp.float32(1.0), r"a state has shape \(batch, ...\), got one number"),
        (jnp.ones((3, 2), "complex64"), "need real numbers, got an array of type complex64"),
    ],
)
def test_states_that_are_none_are_refused(name, x, message):
    with pytest.raises(Exception, match=f"{message}|batch"):
        FUNCTIONS[name](VP(), x, 0.5)


@pytest.mark.parametrize("x", ["abc", [[1.0], [2.0, 3.0]], None])
def test_what_is_no_array_is_refused(x):
    with pytest.raises(ValueError, match="need an array of numbers, got"):
        Denoiser(net, VP())(x, 0.5)


def test_numbers_in_lists_are_a_state():
    got = Denoiser(net, VP())([[0, 1], [1, 0], [1, 1]], 0.5)
    np.testing.assert_array_equal(got.x0, Denoiser(net, VP())(jnp.asarray(STATE), 0.5).x0)


def test_a_network_that_returns_no_array_is_named():
    with pytest.raises(ValueError, match="the network returned a tuple; it must return one array"):
        Denoiser(lambda x, signal, cond: (x, x), VP())(jnp.ones((2, 2)), 0.5)


def test_moments_are_those_of_one_time():
    with pytest.raises(ValueError, match=r"need one time, of shape \(\), got shape \(2,\)"):
        GAUSSIAN.moments(VP(), jnp.array([0.1, 0.2]))
