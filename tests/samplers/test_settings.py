"""Every number of a sampler may be traced, held in an array or differentiated in; impossible ones are refused when it is built."""

import dataclasses

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import samplers
from samplers import (
    DDIM,
    AnnealedLangevin,
    EulerMaruyama,
    Langevin,
    PredictorCorrector,
    SASolver,
    grids,
    sample,
)
from sde_lib import EDM, VE, VP, Estimate, Gaussian
from tests.samplers.conftest import concrete

KEY, X = jax.random.key(0), jnp.array([[0.3, -0.2], [1.0, 0.5]])
DATA = Gaussian([0.2, -0.1], [[0.25, 0.06], [0.06, 0.16]])
SDE = EDM(t_min=0.0)
TS = np.append(grids.karras(SDE, 3), 0.0)  # an end without noise is where slopes may be infinite
CLASSES = concrete(samplers, samplers.Sampler)
# One sampler for each number, at a value inside its range.
NUMBERS = [
    (c, f.name)
    for c in CLASSES
    for f in dataclasses.fields(c)
    if isinstance(f.default, float) and not f.metadata.get("static")
]
INSIDE = {"s_max": 30.0, "churn": 1.0}


@pytest.fixture(params=NUMBERS, ids=lambda n: f"{n[0].__name__}.{n[1]}")
def number(request):
    """Return a class, the name of one of its numbers, a value of it, and what else has to be set."""
    cls, name = request.param
    others = {"churn": 1.0} if cls is samplers.Heun and name != "churn" else {}
    return cls, name, INSIDE.get(name, 0.5), others


def test_the_numbers_of_a_sampler_may_be_traced_held_in_an_array_and_differentiated_in(number):
    cls, name, value, others = number
    is_corrector = cls.is_corrector

    def plan(value):
        sampler = cls(**{name: value, **others})
        if not is_corrector:
            return sampler.plan(SDE, TS)
        # A corrector's number enters its steps: with no score they only add noise.
        coefficients = jax.tree.map(lambda c: jnp.asarray(c[0]), sampler.plan(SDE, TS))
        step_size = sampler.step_size(jnp.ones((2, 64)), jnp.ones((2, 64)), coefficients)
        return coefficients._replace(ratio_squared=jnp.ravel(step_size)[0])

    exact = plan(value)
    traced, slope = jax.jit(lambda v: jax.jvp(plan, (v,), (jnp.ones(()),)))(value)
    near = jax.tree.map(lambda a, b: (a - b) / 2e-3, plan(value + 1e-3), plan(value - 1e-3))
    for result, expected in zip(jax.tree.leaves(traced), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-3)
    for result, expected in zip(jax.tree.leaves(slope), jax.tree.leaves(near), strict=True):
        np.testing.assert_allclose(
            result, expected, rtol=0.05, atol=0.05 * np.max(np.abs(expected), initial=0.0)
        )
    many = jnp.array([value, 0.9 * value])

    def end(sampler):
        return sample(KEY, sampler, DATA.denoiser(SDE), SDE, TS, X).x

    mapped = jax.eval_shape(lambda m: jax.vmap(lambda v: end(cls(**{name: v, **others})))(m), many)
    assert mapped.shape == (2, *X.shape)
    held = cls(**{name: jnp.asarray(value), **others})
    np.testing.assert_allclose(end(held), end(cls(**{name: value, **others})), rtol=2e-3, atol=2e-3)


def test_impossible_numbers_are_refused_when_a_sampler_is_built(number):
    cls, name, _, _ = number
    for value in (-1.0, np.nan, "a", jnp.asarray([0.5, -0.5])):
        with pytest.raises(ValueError, match="need .*got"):
            cls(**{name: value})


COUNTS = [(c, f.name) for c in CLASSES for f in dataclasses.fields(c) if type(f.default) is int]


@pytest.mark.parametrize(("cls", "name"), COUNTS, ids=lambda v: getattr(v, "__name__", v))
def test_numbers_of_steps_are_whole(cls, name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for value in (-1, 1.5, 99.5, "2", True, None):
        with pytest.raises(ValueError, match="got"):
            cls(**{name: value})


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_traced_noise_level_may_be_none(eta):
    # Also where a grid ends without noise, and steps are endless.
    for cls, name in (
        (samplers.DPMpp2MSDE, "eta"),
        (samplers.DPMpp3MSDE, "eta"),
        (SASolver, "tau"),
    ):
        traced = jax.jit(lambda v, cls=cls, name=name: cls(**{name: v}).plan(SDE, TS))(eta)
        exact = cls(**{name: eta}).plan(SDE, TS)
        for result, expected in zip(jax.tree.leaves(traced), jax.tree.leaves(exact), strict=True):
            np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-3)


def test_predictor_and_corrector_are_what_they_are_called(sampler):
    pair = PredictorCorrector(EulerMaruyama(), AnnealedLangevin())
    if sampler.is_corrector:
        with pytest.raises(ValueError, match="the predictor goes on to the next time"):
            PredictorCorrector(sampler, AnnealedLangevin())
        assert PredictorCorrector(pair, sampler).stochastic
    else:
        with pytest.raises(ValueError, match="the corrector stays at its own"):
            PredictorCorrector(EulerMaruyama(), sampler)
        assert PredictorCorrector(sampler, AnnealedLangevin()).order == sampler.order


@pytest.mark.parametrize("d", [1, 2, 16, 63])
def test_langevin_takes_the_norms_of_noise_where_one_sample_is_too_few_numbers(d):
    # Its own norms would leave N(0, 1) with a variance of 62 in the plane and of 1.3 in 16 dimensions.
    sde = VP()
    ts = np.array([0.4, 0.3])
    coefficients = jax.tree.map(lambda c: jnp.asarray(c[0]), Langevin().plan(sde, ts))
    score, z = jax.random.normal(KEY, (2, 3, d))
    by_level = AnnealedLangevin().step_size(score, z, coefficients)
    np.testing.assert_allclose(Langevin().step_size(score, z, coefficients), by_level)
    batch = Langevin(norms="batch")
    with pytest.raises(
        ValueError, match=f"norms of 1 samples of {d} numbers are too erratic.*Annealed"
    ):
        batch.step_size(score[:1], z[:1], coefficients)
    assert batch.step_size(*jax.random.normal(KEY, (2, 64, d)), coefficients).shape == (1, 1)


def test_predictor_corrector_with_its_usual_parts_ends_in_the_law_of_data_in_one_dimension():
    # 4000 draws: 4.5 standard errors of the standard deviation are 5 %, of the mean 0.07; false-alarm probability 1.4e-5. The
    # finite steps of the corrector add up to 1.3 % where noise is as large as the data.
    data = Gaussian([0.3], [[0.36]])
    for sde in (VP(), VE()):
        x = samplers.draw_prior(KEY, sde, (4000, 1))
        pair = PredictorCorrector(EulerMaruyama(), Langevin())
        result = sample(KEY, pair, data.denoiser(sde), sde, grids.uniform(sde, 500), x).x
        assert abs(float(result.std()) / 0.6 - 1) < 0.065
        assert abs(float(result.mean()) - 0.3) < 0.6 * 0.075


def test_each_of_several_corrector_steps_has_noise_of_its_own():
    # Without a score, n steps of size e add noise of variance 2 e n; the same noise n times would have 2 e n^2. 8000 draws, 5 standard
    # errors: 8 %; false-alarm probability 6e-7.
    sde, n = VP(), 3
    corrector = AnnealedLangevin(n_steps=n)
    coefficients = jax.tree.map(
        lambda c: jnp.asarray(c[0]), corrector.plan(sde, np.array([0.4, 0.3]))
    )
    keys = jax.random.split(KEY, 4000)
    result, _ = corrector.step(
        keys, lambda x, t, cond: Estimate(x, 0 * x), jnp.zeros((4000, 2)), coefficients, (), None
    )
    epsilon = 2 * float(coefficients.ratio_squared) * (0.16 * float(coefficients.sigma)) ** 2
    np.testing.assert_allclose(float(jnp.var(result)), 2 * epsilon * n, rtol=0.08)


def test_a_sampler_has_to_say_its_order():
    class Silent(samplers.Sampler):
        def plan(self, sde, ts):
            return ()

        def step(self, keys, denoise, x, coefficients, memory, cond):
            return x, memory

    with pytest.raises(TypeError, match="order"):
        Silent()

    class Spoken(Silent):
        order = 3

    assert Spoken().order == 3 and not Spoken().is_corrector


def test_the_order_of_a_predictor_with_a_corrector_counts_both():
    orders = [samplers.UniPC(predictor_order=p).order for p in (1, 2, 3)]
    assert orders == [2, 3, 4]
    pairs = [(3, 3), (4, 1), (2, 0), (4, 0)]
    orders = [SASolver(predictor_steps=s, corrector_steps=c, tau=0.0).order for s, c in pairs]
    assert orders == [4, 4, 2, 4] and SASolver().order == 2


def test_ddim_stays_deterministic_when_it_is_known_to_be():
    assert not DDIM().stochastic and not DDIM(eta=jnp.zeros(())).stochastic
