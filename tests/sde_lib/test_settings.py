"""Settings that make no sense are refused with the value and what was expected; every class of `sde_lib` meets this by itself."""

import dataclasses
import inspect
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sde_lib
from sde_lib import (
    PREDICTIONS,
    VE,
    VP,
    WEIGHTINGS,
    Binned,
    Denoiser,
    Discrete,
    Gaussian,
    Levels,
    LogNormal,
    LogUniform,
    Uniform,
    check_name,
    denoising_loss,
)
from sde_lib.base import check_process
from sde_lib.times import check_distribution

# What cannot be built without arguments, with everything but the number in question.
STEERED = {"denoise": lambda x, t, cond: x, "sde": VP(), "scale": 1.0}
REQUIRED = {
    "ClassifierFree": STEERED,
    "Autoguidance": {**STEERED, "weaker": lambda x, t, cond: x},
    "ClassifierGuidance": {**STEERED, "log_prob": lambda x, t, cond: x},
    "ProjectedGuidance": STEERED,
    "StaticThreshold": {"denoise": lambda x, t, cond: x, "sde": VP()},
    "DynamicThreshold": {"denoise": lambda x, t, cond: x, "sde": VP()},
    "Classifier": {"net": lambda x, signal, cond: x, "sde": VP()},
    "Denoiser": {"net": lambda x, signal, cond: x, "sde": VP()},
    "Discrete": {"sde": VP(), "n": 30},
}


def numbers():
    """Return every class with every field that is a number."""
    for name, cls in inspect.getmembers(sde_lib, inspect.isclass):
        if issubclass(cls, eqx.Module) and not inspect.isabstract(cls):
            for field in dataclasses.fields(cls):
                if field.type in (float, "float"):
                    yield pytest.param(cls, field.name, id=f"{name}-{field.name}")


each_number = pytest.mark.parametrize(("cls", "field"), list(numbers()))


def build(cls, **settings):
    return cls(**REQUIRED.get(cls.__name__, {}) | settings)


def test_the_numbers_are_found():
    result = {f"{p.values[0].__name__}.{p.values[1]}" for p in numbers()}
    assert {
        "VP.beta_max",
        "VE.sigma_min",
        "VP.t_min",
        "LogNormal.std",
        "Denoiser.sigma_data",
    } < result


@each_number
@pytest.mark.parametrize("value", [math.nan, math.inf, "abc", None, 1j])
def test_what_is_no_finite_number_is_refused(cls, field, value):
    if cls is Discrete and value is None:
        pytest.skip("the default: the first level")
    with pytest.raises(ValueError, match="need .*, got .*") as error:
        build(cls, **{field: value})
    assert str(value) in str(error.value) and field in str(error.value)


@each_number
def test_numbers_that_are_traced_are_not_looked_at(cls, field):
    if cls is not Discrete:
        jax.eval_shape(lambda value: getattr(build(cls, **{field: value}), field), jnp.ones(()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VP(beta_max=-1.0), "need 0 < beta_min < beta_max, got 0.1 and -1.0"),
        (lambda: VE(0.0, 50.0), "need 0 < sigma_min < sigma_max, got 0.0 and 50.0"),
        (lambda: LogNormal(std=-1.0), "need std > 0 and finite, got -1.0"),
        (lambda: LogNormal(std=0.0), "need std > 0 and finite, got 0.0"),
        (lambda: Denoiser(max, VP(), sigma_data=0), "need sigma_data > 0 and finite, got 0; it is"),
        (lambda: Denoiser(max, VP(), sigma_data=-1.0), "sigma_data > 0 and finite, got -1.0"),
        (lambda: Binned(Uniform(), []), "need a vector of weights > 0"),
        (lambda: Binned(Uniform(), [1.0, math.nan]), "need a vector of weights > 0, got"),
        (lambda: Binned(Uniform(), [1.0, math.inf]), "need a vector of weights > 0, got"),
        (lambda: Binned(Uniform(), [[1.0]]), "need a vector of weights > 0, got"),
        (lambda: Levels().quantile(VP(), jnp.ones(2)), "VP has no numbered noise levels"),
        (
            lambda: LogUniform(log_snr_min=30.0).quantile(VP(), jnp.ones(2)),
            "need log_snr_min below the log-SNR 13.8.* got 30.0",
        ),
        (
            lambda: LogNormal(mean=100.0).quantile(VP(), jnp.ones(2)),
            "need a LogNormal at noise levels .* mean = 100.0 .* move the mean between them",
        ),
        (lambda: LogNormal(mean=-90.0).quantile(VE(), jnp.ones(2)), "mean = -90.0"),
        (lambda: Gaussian([0.0, math.inf], np.eye(2)), r"not finite: \[ 0. inf\]"),
        (lambda: jax.jit(lambda m: Gaussian(m, [[1.0]]).mean)(jnp.ones(1)), "mean must be known"),
    ],
)
def test_other_settings_are_refused_with_the_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_classes_in_place_of_objects_are_answered_with_the_remedy():
    # Directly: where types are checked, as in these tests, the callers refuse them before.
    for refuse, message in (
        (
            lambda: check_process("Denoiser", VP),
            r"Denoiser needs a process, got the class VP; build it: VP\(\)",
        ),
        (lambda: check_process("Denoiser", None), r"needs a process such as VP\(\), got None"),
        (lambda: check_distribution(LogNormal), "need a distribution of times such as Uniform"),
    ):
        with pytest.raises(ValueError, match=message):
            refuse()


def test_a_log_normal_that_meets_a_part_of_the_process_is_taken():
    """Two and a half standard deviations beyond the last level, 0.6 % of it are left."""
    t = LogNormal(mean=8.0).quantile(VP(), jnp.array([0.1, 0.9]))
    assert 0.9 < t[0] < t[1] <= 1


@pytest.mark.parametrize(
    ("kind", "name", "meant", "choices"),
    [
        *[("prediction", name, "noise", PREDICTIONS) for name in ("epsilon", "eps", "pred_noise")],
        *[("prediction", name, "x0", PREDICTIONS) for name in ("sample", "x_start", "X0")],
        *[("prediction", name, "v", PREDICTIONS) for name in ("v_prediction", "v-prediction")],
        *[("prediction", n, "velocity", PREDICTIONS) for n in ("flow", "flow-matching", "velocty")],
        ("weighting", "epsilon", "noise", WEIGHTINGS),
        ("weighting", "min-snr", "min_snr", WEIGHTINGS),
        ("weighting", "uniform", "prediction", WEIGHTINGS),
        ("weighting", "edm", "prediction", WEIGHTINGS),
        ("weighting", "liklihood", "likelihood", WEIGHTINGS),
        ("inputs", "timestep", "label", sde_lib.INPUTS),
        ("inputs", "logsnr", "edm", sde_lib.INPUTS),
        ("inputs", "noise_level", "sigma", sde_lib.INPUTS),
        ("objective", "dsm", "denoising", sde_lib.OBJECTIVES),
    ],
)
def test_names_of_others_are_answered_with_ours(kind, name, meant, choices):
    with pytest.raises(ValueError, match=rf"unknown {kind} '{name}'.*; did you mean '{meant}'\?"):
        check_name(kind, name, choices)


def test_other_names_are_answered_with_the_choices_alone():
    with pytest.raises(ValueError, match="unknown weighting .*; choose one of likelihood, .*, x0$"):
        check_name("weighting", "qqqq", WEIGHTINGS)


def test_the_places_that_take_names_give_the_hint():
    denoiser = Denoiser(lambda x, signal, cond: x, VP())
    with pytest.raises(ValueError, match="did you mean 'noise'"):
        denoising_loss(jax.random.key(0), denoiser, jnp.ones((2, 2)), 0.5, weighting="eps")
    for row in ({"prediction": "epsilon"}, {"inputs": "continuous"}):
        with pytest.raises(ValueError, match="did you mean"):
            Denoiser(lambda x, signal, cond: x, VP(), **row)
