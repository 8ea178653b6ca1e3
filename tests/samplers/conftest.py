"""Every SDE and every sampler that the packages export: a test that asks for one meets them all, also those of a new file."""

import inspect

import pytest

import samplers
import sde_lib
from samplers import (
    DDIM,
    DEIS,
    SEEDS,
    AdamsBashforth,
    Ancestral,
    AnnealedLangevin,
    DPMpp2M,
    DPMpp2MSDE,
    DPMSolver,
    DPMSolverM,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
    SASolver,
    UniPC,
)
from tests.processes import EXPORTED

# What cannot be built without arguments.
PAIRS = [
    PredictorCorrector(EulerMaruyama(), AnnealedLangevin()),
    PredictorCorrector(Ancestral(), AnnealedLangevin(n_steps=3)),
    PredictorCorrector(Heun(), AnnealedLangevin()),
    PredictorCorrector(DPMpp2M(), AnnealedLangevin()),
    PredictorCorrector(ReverseDiffusion(), Langevin(n_steps=2)),
]
# Settings that take another path than the default ones.
VARIANTS = [
    EulerMaruyama(eta=0.0),
    EulerMaruyama(eta=0.7),
    DDIM(eta=0.5),
    DDIM(eta=1.0),
    Ancestral(variance="transition"),
    DPMSolverM(steps=2),
    DPMSolver(order=1),
    DPMSolver(order=3),
    DEIS(order=1),
    DEIS(order=2),
    DEIS(order=4),
    DEIS(variable="t"),
    DEIS(variable="rho"),
    AdamsBashforth(order=3),
    AdamsBashforth(order=4),
    UniPC(predictor_order=1),
    UniPC(predictor_order=2, variant="bh1"),
    UniPC(predictor_order=3),
    UniPC(predictor_order=3, variant="bh1"),
    SASolver(tau=0.0),
    SASolver(predictor_steps=2, corrector_steps=0),
    DPMpp2MSDE(eta=0.5),
    Heun(churn=20.0),
    SEEDS(stages=1),
    SEEDS(stages=3),
]
# One of each mechanism: one evaluation, several, memory, memory with a corrector and noise, several with noise, correctors, pairs.
EXAMPLES = [DDIM(), EulerMaruyama(), Heun(), DEIS(), SASolver(), SEEDS(), Langevin(), PAIRS[1]]


def concrete(package, base):
    return [
        c
        for _, c in inspect.getmembers(package, inspect.isclass)
        if issubclass(c, base) and not inspect.isabstract(c)
    ]


def built(cls):
    """Return a default sampler of `cls`, or the examples above."""
    try:
        return [cls()]
    except TypeError:
        examples = [s for s in PAIRS if type(s) is cls]
        assert examples, (
            f"{cls.__name__} needs arguments: give an example of it in tests/samplers/conftest.py"
        )
        return examples


def label(sampler) -> str:
    settings = [
        label(v) if isinstance(v, samplers.Sampler) else str(v) for v in vars(sampler).values()
    ]
    return f"{type(sampler).__name__}({','.join(settings)})"


# Compiling takes seconds a pair: three processes meet every sampler in every test; the others every sampler in test_processes.py,
# every grid, the adaptive flow and the likelihood.
SDES = [sde_lib.SubVP(), sde_lib.VE(), sde_lib.VP()]
OTHERS = [c() for c in EXPORTED if c not in map(type, SDES)]
SAMPLERS = [s for c in concrete(samplers, samplers.Sampler) for s in built(c)] + VARIANTS


def corrects_only(sampler) -> bool:
    """Whether the sampler stays at its time, so that no grid brings it to the data."""
    return isinstance(sampler, AnnealedLangevin | Langevin)


def by_norms(sampler) -> bool:
    """Whether a step is not affine in the state and the noise for Gaussian data; a test finds out if another one is not."""
    return any(isinstance(s, Langevin) for s in (sampler, *vars(sampler).values()))


WALKS = [s for s in SAMPLERS if not corrects_only(s)]


@pytest.fixture(params=SDES, ids=lambda s: type(s).__name__)
def sde(request):
    return request.param


@pytest.fixture(params=SDES + OTHERS, ids=lambda s: type(s).__name__)
def any_sde(request):
    return request.param


@pytest.fixture(params=OTHERS, ids=lambda s: type(s).__name__)
def other_sde(request):
    return request.param


@pytest.fixture(params=SAMPLERS, ids=label)
def sampler(request):
    return request.param


@pytest.fixture(params=list({type(s): s for s in reversed(SAMPLERS)}.values()), ids=label)
def usual(request):
    """One sampler of each class, with its default settings."""
    return request.param


@pytest.fixture(params=EXAMPLES, ids=label)
def example(request):
    """One sampler of each mechanism, for what is the same in all that share it."""
    return request.param


@pytest.fixture(params=[s for s in WALKS if not by_norms(s)], ids=label)
def affine(request):
    """A sampler that goes from noise to data by steps that are affine for Gaussian data."""
    return request.param


@pytest.fixture(params=[s for s in WALKS if not s.stochastic], ids=label)
def deterministic(request):
    return request.param


@pytest.fixture(params=[s for s in WALKS if s.stochastic], ids=label)
def stochastic(request):
    return request.param
