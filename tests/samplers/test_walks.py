"""What is the same for every walk: its types, its count of evaluations, what it refuses."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from samplers import DDIM, decode, dpm_adaptive, grids, reverse_sde, sample
from sde_lib import EDM, VE, VP, Estimate, Gaussian, Rectified, expand, record_evaluations
from tests.samplers.conftest import OTHERS, SDES
from tests.samplers.walks import KEY, NAMES, SDE, SETTINGS, call, each, parameters, results, state

DATA = Gaussian([0.2, -0.1], [[0.25, 0.06], [0.06, 0.16]])
X = np.array([[1, 0], [0, 1], [-1, 1]])


@pytest.fixture(params=NAMES)
def walk(request):
    return request.param


@pytest.fixture
def as_users_run_it(monkeypatch):
    """Leave out the type checks of the tests."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def result_type(name, dtype, **changed):
    """Return the type of what a walk returns for a state of `dtype`; it is traced with its grid, and nothing is computed."""
    ts = jnp.asarray(SETTINGS["ts"], jnp.float32)
    outcome = jax.eval_shape(
        lambda x, ts: state(call(name, DATA.denoiser(SDE), x, ts=ts, **changed)),
        jnp.asarray(X, dtype),
        ts,
    )
    return outcome.dtype


@pytest.mark.parametrize("dtype", ["uint8", "bool", "bfloat16", "float16"])
def test_a_walk_returns_the_floating_type_of_its_state(walk, dtype):
    wide = "density" if "log_prob" in results(walk) else dtype
    expected = dtype if "float" in wide else "float32"
    assert result_type(walk, dtype) == expected


@pytest.mark.parametrize("dtype", ["int32", "bfloat16", "float32"])
def test_under_x64_as_well(walk, dtype):
    with jax.enable_x64(True):
        density = "log_prob" in results(walk)
        expected = {"int32": "float64", "bfloat16": "float32" if density else "bfloat16"}
        assert result_type(walk, dtype) == expected.get(dtype, dtype)


@pytest.mark.parametrize("x64", [False, True])
def test_every_sampler_keeps_the_type_of_the_state(usual, x64):
    with jax.enable_x64(x64):
        for dtype in ("bfloat16", "float32") if x64 else ("float16",):
            assert result_type("sample", dtype, sampler=usual) == dtype


def test_a_narrow_state_is_walked_in_float32():
    # The exact map of DDIM's fine grid, within what bfloat16 itself can hold of a result of about 0.5: 8 bits, or 2^-9 relative.
    ts, x = grids.log_snr(SDE, 50), jax.random.normal(KEY, (256, 2))
    narrow = x.astype("bfloat16")
    whole = sample(KEY, DDIM(), DATA.denoiser(SDE), SDE, ts, narrow.astype("float32")).x
    outcome = sample(KEY, DDIM(), DATA.denoiser(SDE), SDE, ts, narrow).x
    assert outcome.dtype == jnp.bfloat16
    np.testing.assert_array_equal(outcome, whole.astype("bfloat16"))


class Guided:
    """A denoise function that asks its network `calls` times and says so."""

    def __init__(self, calls, seen):
        self.calls, self.seen = calls, seen

    def __call__(self, x, t, cond=None):
        record_evaluations(self.calls)
        jax.debug.callback(lambda t: self.seen.append(float(t)), jnp.mean(jnp.asarray(t)))
        alpha, sigma = SDE.marginal(expand(t, x))
        return Estimate.from_x0(x, alpha, sigma, 0.2 + 0.0 * x)


@pytest.fixture(scope="module")
def seen():
    """Return what a walk of one sample returns, and the times at which the network was called; each is walked once."""
    walked = {}

    def outcome_of(name):
        if name not in walked:
            times = []
            # The data are a point, on which every walk is short.
            end = call(name, Guided(3, times), jnp.asarray([[0.3]]), max_steps=200)
            jax.effects_barrier()
            walked[name] = end, times
        return walked[name]

    return outcome_of


def test_every_network_evaluation_is_counted(walk, seen):
    if "nfe" not in results(walk):
        pytest.skip("returns codes alone")
    outcome, times = seen(walk)
    assert int(outcome.nfe) == 3 * len(times) > 0


def test_the_reverse_sde_begins_with_a_tenth_of_a_unit_of_log_snr(seen):
    # Calls are seen in any order; ShARK's second one lies at 5/6 of a step.
    levels = np.asarray(SDE.log_snr(jnp.asarray(seen("reverse_sde")[1])))
    ahead = levels - levels.min()
    assert np.any((ahead > 0.05) & (ahead < 0.11)), np.sort(ahead)[:5]


SIZES = (0.1, 1.0, 10.0)


def label(process) -> str:
    return type(process.processes[int(process.number)]).__name__


@pytest.mark.parametrize("process", each([*SDES, *OTHERS]), ids=label)
def test_the_defaults_of_adaptive_walks_suit_data_of_any_size(process):
    # Gaussian data, whose flow from t = 1 is known; denoised at noise level r they have the variance s^4 / (s^2 + r^2). The tolerance
    # of DPM-Solver is 5 % of the state a step, and two steps are about that far off.
    alpha, sigma = (float(v) for v in process.marginal(jnp.ones(())))
    z = jax.random.normal(jax.random.key(1), (64, 1))
    for sd in SIZES:
        data = Gaussian([0.5 * sd], [[sd**2]])
        x = alpha * 0.5 * sd + np.hypot(alpha * sd, sigma) * z
        outcome = dpm_adaptive(data.denoiser(process), process, x)
        assert float(jnp.sqrt(jnp.mean((outcome.x / sd - 0.5 - z) ** 2))) < 0.11
        assert int(outcome.nfe) < 150


@pytest.mark.parametrize("process", each([VP(), VE(), EDM(), Rectified()]), ids=label)
def test_the_reverse_sde_ends_in_the_law_of_data_of_any_size(process):
    # 2048 draws, 16 to a sample: 4.5 standard errors of the mean are 0.10 of a standard deviation, of the standard deviation 7 %; both
    # are met by all sizes with probability 1 - 4e-5. VE at its smallest noise, a tenth of the smallest data, loses 0.5 % more.
    alpha, sigma = (float(v) for v in process.marginal(jnp.ones(())))
    z = jax.random.normal(jax.random.key(1), (128, 16))
    for sd in SIZES:
        data = Gaussian(np.full(16, 0.5 * sd), sd**2 * np.eye(16))
        x = alpha * 0.5 * sd + np.hypot(alpha * sd, sigma) * z
        outcome = np.asarray(reverse_sde(KEY, data.denoiser(process), process, x).x) / sd
        assert abs(outcome.mean() - 0.5) < 0.10 and abs(outcome.std() - 1) < 0.075, (
            sd,
            outcome.std(),
        )


@pytest.mark.parametrize("name", ["dpm_adaptive", "reverse_sde"])
def test_a_start_without_signal_is_refused_and_the_default_starts_below_it(name):
    settings = {"sde": Rectified(), "start": 1.0, "end": 1e-3}
    with pytest.raises(ValueError, match=r"finite at start = 1.0 .* start below 1 \(start=0.99\)"):
        call(name, DATA.denoiser(Rectified()), jnp.ones((2, 2)), **settings)


BAD = {
    "x": [
        (np.full((3, 2), np.nan), "3 of the 3 samples of the state hold NaN or infinity"),
        (np.array([[1.0, np.inf], [0.0, 0.0]]), "1 of the 2 samples of the state hold NaN"),
        (np.ones(()), r"a state has shape \(batch, ...\) and at least one sample, got \(\)"),
        (np.ones((0, 2)), r"at least one sample, got \(0, 2\)"),
        (np.ones((3, 2), complex), "a state is real, got complex64"),
    ],
    "cond": [
        (np.zeros(2), r"each of the 3 samples, but cond has shape \(2,\)"),
        ({"a": 1.0}, r"each of the 3 samples, but cond\['a'\] has shape \(\)"),
    ],
    "index": [
        (jnp.arange(2), r"each of the 3 samples, so it has shape \(3,\), got \(2,\)"),
        (jnp.zeros(3), "index holds the whole numbers of samples, got float32"),
    ],
    "key": [
        (jax.random.PRNGKey(0), r"one typed key such as jax.random.key\(0\), got uint32"),
        (0, r"one typed key such as jax.random.key\(0\), got int"),
        (jax.random.split(KEY, 3), r"one typed key .*of shape \(3,\)"),
    ],
    "sde": [(VP, r"sde is a process such as VP\(\), got <class")],
    "denoise": [
        (VP(), r"denoise is a callable \(x, t, cond\) -> Estimate such as a Denoiser, got VP")
    ],
    "sampler": [(DDIM, r"need a sampler such as DDIM\(\)"), (None, "need a sampler such as")],
    "ts": [
        (20, r"ts is a grid of times, such as grids.log_snr\(sde, 20\), got 20"),
        ([0.1, 0.5, 1.0], "strictly decreasing times"),
        ([1.0, 0.5, -0.1], "this SDE covers times from 1 down to"),
        ([1.0, np.nan, 0.1], "strictly decreasing"),
        ([[1.0, 0.1]], "a grid is a vector"),
    ],
    "sd": [(-1.0, "need one sd > 0"), (np.nan, "need one sd > 0")],
    "rtol": [(-0.1, "need rtol >= 0, got -0.1"), ("a", "need rtol >= 0, got rtol = 'a'")],
    "atol": [(np.nan, "need atol >= 0, got nan"), (-1.0, "need atol >= 0")],
    "tolerance": [(-0.1, "need (tolerance|rtol) >= 0, got -0.1")],
    "max_steps": [
        (0, "need max_steps to be a whole number of at least 1, got 0"),
        (1.5, "whole number"),
    ],
    "start": [(1.5, "between t_min = 1e-05 and 1, got"), ("noise", "need start to be a time")],
    "end": [(-0.5, "between t_min = 1e-05 and 1, got"), (np.nan, "need end to be a time")],
    "order": [(4, "order 2, DPM-Solver-23 order 3, got order 4")],
    "first": [(0.0, "need first > 0, got 0")],
    "safety": [(1.5, "need 0 < safety <= 1, got 1.5")],
    "growth": [(1.0, "need growth > 1, got 1")],
    "longest": [(0.0, "need longest > 0, got 0")],
    "draws": [
        (3, "need an even number of draws"),
        (0, "whole number of at least 1"),
        (2.0, "whole"),
    ],
    "probes": [(0, "need at least 1 probes"), (1.5, "need probes to be a whole number")],
    "trace": [("hutch", "unknown trace 'hutch'")],
    "window": [
        (0, "need window to be a whole number of at least 1"),
        (9, "window of 1 to 4 steps"),
    ],
    "keep": [(-1, "need keep to be a whole number of at least 0, got -1")],
}


def test_what_is_impossible_is_refused_with_the_value_and_the_remedy(walk, as_users_run_it):
    met = parameters(walk) & BAD.keys() | ({"x"} if "z" in parameters(walk) else set())
    assert {"denoise", "sde", "cond"} <= met
    for name in sorted(met):
        for value, message in BAD[name]:
            changed = {"x": value, "z": value} if name == "x" else {name: value}
            with pytest.raises(ValueError, match=message):
                call(walk, changed.pop("denoise", DATA.denoiser(SDE)), **{"x": X, **changed})


def test_a_denoise_function_that_returns_something_else_is_told_what_to_return(walk):
    def pair(x, t, cond=None):
        return x, x

    def narrow(x, t, cond=None):
        return Estimate(x[:, :1], x)

    with pytest.raises(ValueError, match=r"returns an Estimate\(x0, noise\), got a tuple"):
        call(walk, pair, jnp.ones((3, 2)))
    with pytest.raises(ValueError, match=r"returned x0 of shape \(\d, 1\) for a state of shape"):
        call(walk, narrow, jnp.ones((3, 2)))


def test_times_and_tolerances_may_be_traced():
    x = jnp.asarray([[0.3, -0.2]])

    def end(tolerance, end):
        return dpm_adaptive(
            DATA.denoiser(SDE), SDE, x, start=1.0, end=end, rtol=tolerance, denoise_last=False
        ).x

    traced = jax.jit(end)(0.01, 0.01)
    np.testing.assert_allclose(traced, DATA.flow(SDE, x, 1.0, 0.01), atol=0.02)


def test_codes_decode_alike_whatever_size_is_given():
    z = jnp.asarray([[0.3, -0.2]])
    outcome = [decode(DATA.denoiser(SDE), SDE, z, sd=jnp.asarray(sd)) for sd in (0.3, 3.0)]
    np.testing.assert_allclose(outcome[0], outcome[1], atol=1e-3)
