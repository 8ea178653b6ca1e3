"""Runs that are conditional on vectors, sets and images."""

import json
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import experiments
from experiments.configs import files
from experiments.errors import RunError
from experiments.modes import diagnose as diagnosis
from experiments.modes import evaluate as evaluation
from experiments.modes.sample import draw, sample
from experiments.modes.train import train
from experiments.run.build import DataFacts, build
from experiments.run.conditions import conditions_of, named_conditions, read_conditions
from experiments.run.losses import make_losses
from sde_lib import Denoiser, Uniform

MATRIX = np.array([[1.0, 0.5], [0.0, 1.0], [1.0, -1.0]])
PRIOR_SD = np.array([1.0, 0.7])
NOISE_SD = 0.5
OBSERVED = np.array([1.0, 0.5, -0.5])


def exact_posterior(y):
    """Return mean and covariance of x ~ N(0, diag(PRIOR_SD^2)) given y = MATRIX x + noise."""
    precision = np.diag(PRIOR_SD**-2) + MATRIX.T @ MATRIX / NOISE_SD**2
    covariance = np.linalg.inv(precision)
    return covariance @ MATRIX.T @ y / NOISE_SD**2, covariance


@pytest.fixture(scope="module")
def posterior_run(tmp_path_factory):
    """Return the run directory of an amortised posterior, trained for a few seconds."""
    folder = tmp_path_factory.mktemp("posterior")
    rng = np.random.default_rng(0)
    x = PRIOR_SD * rng.normal(size=(20_000, 2))
    y = x @ MATRIX.T + NOISE_SD * rng.normal(size=(len(x), 3))
    np.savez(folder / "data.npz", x=x.astype(np.float32), cond=y.astype(np.float32))
    config = files.get_config("vectors,cond")
    config.data.path = str(folder / "data.npz")
    config.net.update({"width": 32, "depth": 1})
    config.optim.update({"lr": 5e-3, "warmup": 20, "decay_steps": 800})
    config.train.update({"steps": 800, "batch_size": 256, "held_out_every": 800, "sample_every": 0})
    config.ema = 0.98
    config.devices = 1
    train(config, folder / "run")
    return folder / "run"


def drawn(loaded, folder, number=2000, **sampling):
    """Return samples under the observation, or without any condition."""
    np.save(folder / "observed.npy", OBSERVED)
    config = loaded.config.copy_and_resolve_references().unlock()
    config.sampling.update({"condition": str(folder / "observed.npy"), **sampling})
    run = loaded.run._replace(config=config)
    return draw(run, loaded.denoiser, config.samplers.best, np.arange(number)).x


def test_an_amortised_posterior_is_the_exact_one(posterior_run, tmp_path):
    """Linear-Gaussian: posterior mean and covariance are known.

    Of 2000 samples a mean is off by 0.05 posterior standard deviations, and a covariance by 8 % of
    a variance, less than once in 50 times; the network's own error is about as large. The prior,
    and the posterior of another observation, are several times farther.
    """
    loaded = experiments.load(posterior_run)
    mean, covariance = exact_posterior(OBSERVED)
    sd = np.sqrt(np.diag(covariance))
    x = drawn(loaded, tmp_path)
    assert np.abs(x.mean(0) - mean).max() < 0.2 * sd.min()
    assert np.abs((np.cov(x.T) - covariance) / np.outer(sd, sd)).max() < 0.2


def test_without_a_condition_the_same_network_draws_from_the_prior(posterior_run):
    """As it was trained with one condition in ten left out."""
    loaded = experiments.load(posterior_run)
    x0 = PRIOR_SD * np.random.default_rng(1).normal(size=(4000, 2))
    key = jax.random.key(0)
    for t in (0.3, 0.6):
        xt, _ = loaded.sde.perturb(key, jnp.asarray(x0, jnp.float32), t)
        alpha, sigma = (float(value) for value in loaded.sde.marginal(jnp.asarray(t)))
        exact = alpha * PRIOR_SD**2 / (alpha**2 * PRIOR_SD**2 + sigma**2) * np.asarray(xt)
        error = np.asarray(loaded.denoiser(xt, t, None).x0) - exact
        assert np.sqrt((error**2).mean()) < 0.15


def test_sampling_reads_conditions_and_keeps_them(posterior_run, tmp_path):
    """Two conditions serve the samples in turn, and samples of others are not taken for them."""
    loaded = experiments.load(posterior_run)
    conditions = np.stack([OBSERVED, -OBSERVED]).astype(np.float32)
    np.savez(tmp_path / "c.npz", cond=conditions)
    config = loaded.config.copy_and_resolve_references().unlock()
    config.sampling.update({"number": 12, "batch_size": 8, "condition": str(tmp_path / "c.npz")})
    loaded = loaded._replace(config=config, run=loaded.run._replace(config=config))
    sample(loaded, tmp_path)
    folder = tmp_path / "samples" / "best"
    with np.load(folder / "samples.npz") as saved:
        np.testing.assert_array_equal(saved["cond"], np.tile(conditions, (6, 1)))
        first = saved["x"]
        assert (
            (first[::2] @ MATRIX.T @ OBSERVED).mean()
            > 0
            > (first[1::2] @ MATRIX.T @ OBSERVED).mean()
        )
    note = json.loads((folder / "job.json").read_text())
    np.savez(tmp_path / "c.npz", cond=conditions[::-1])
    sample(loaded, tmp_path)
    assert (tmp_path / "samples" / "best.1").exists()
    assert json.loads((folder / "job.json").read_text())["condition"] != note["condition"]
    with np.load(folder / "samples.npz") as saved:
        assert not np.allclose(saved["x"], first)


def test_sampling_without_conditions_says_what_it_needs(posterior_run, tmp_path):
    loaded = experiments.load(posterior_run)
    with pytest.raises(
        RunError, match="shape \\(3,\\); name a file .*--config.sampling.condition="
    ):
        sample(loaded, tmp_path)


def test_evaluation_and_diagnosis_ask_for_conditions_before_they_compute(
    posterior_run, tmp_path, monkeypatch
):
    def too_early(*arguments, **settings):
        raise AssertionError("it computed first")

    loaded = experiments.load(posterior_run)
    loaded.run.config.unlock().eval.samplers = ("ddim",)
    monkeypatch.setattr(evaluation, "measure_likelihood", too_early)
    monkeypatch.setattr(diagnosis, "health_curves", too_early)
    for mode in (evaluation.evaluate, diagnosis.diagnose):
        with pytest.raises(RunError, match="name a file of them"):
            mode(loaded, tmp_path)


FACTS = DataFacts((2,), None, 4, 1.0, (3,))


@pytest.mark.parametrize(
    "content, message",
    [
        (np.zeros(4), r"holds float64 of shape \(1, 4\), expected numbers of shape \(3,\)"),
        (np.zeros((0, 3)), "expected numbers"),
        (np.zeros((2, 2, 3)), "expected numbers"),
        (np.array(["a", "b", "c"]), "expected numbers"),
        (np.array([[1.0, 2, 3], [1, np.nan, 3]]), "condition 1 holds nan"),
        (np.array([{}]), "cannot be read"),
        ({"a": np.zeros(3), "b": np.zeros(3)}, "holds the arrays a, b.*save one array"),
        (None, "no such file"),
    ],
)
def test_files_that_are_no_conditions_are_refused(content, message, tmp_path):
    path = tmp_path / "c.npy"
    if isinstance(content, dict):
        path = tmp_path / "c.npz"
        np.savez(path, **content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(RunError, match=message):
        read_conditions(str(path), FACTS)


def test_a_set_of_any_number_of_members_can_be_observed(tmp_path):
    np.save(tmp_path / "c.npy", np.ones((7, 2)))
    facts = FACTS._replace(cond_shape=(3, 2))
    assert read_conditions(str(tmp_path / "c.npy"), facts).shape == (1, 7, 2)
    with pytest.raises(RunError, match=r"shape \(1, 7, 2\), expected numbers of shape \(3, 3\)"):
        read_conditions(str(tmp_path / "c.npy"), facts._replace(cond_shape=(3, 3)))


def conditional(facts, **net):
    """Return a run on data with some facts, without parameters."""
    config = files.get_config("vectors,cond")
    config.data.path = "nothing"
    config.net.update(net or {"name": "MLP", "width": 8, "depth": 1})
    return build(config, facts, abstract=True)


def test_data_with_classes_and_conditions_give_both_and_drop_both():
    run = conditional(FACTS)
    batch = {"label": jnp.array([1, 2]), "cond": jnp.ones((2, 3))}
    given = conditions_of(run, batch, jnp.array([False, True]))
    np.testing.assert_array_equal(given["label"], [1, 4])
    np.testing.assert_array_equal(np.isnan(given["context"]), [[False] * 3, [True] * 3])
    assert conditions_of(conditional(FACTS._replace(num_classes=0)), batch).shape == (2, 3)
    assert conditions_of(conditional(FACTS._replace(cond_shape=None)), batch).shape == (2,)
    x = jnp.zeros((2, 2))
    params = jax.tree.map(lambda p: jnp.ones(p.shape), run.split.params)
    assert np.isfinite(run.denoiser(params)(x, 0.5, given).x0).all()
    assert named_conditions(conditional(FACTS._replace(cond_shape=None)), np.arange(5)).keys() == {
        "label"
    }


def test_training_drops_conditions_as_often_as_it_should():
    """Of 4000 conditions 25 % are dropped, 21.6 to 28.4 % but for once in 1e6 times."""
    run = conditional(FACTS._replace(num_classes=0))
    config = run.config.copy_and_resolve_references().unlock()
    config.train.label_dropout = 0.25
    given = []

    def net(x, signal, cond):
        given.append(cond)
        return 0 * x

    spy: Any = SimpleNamespace(
        config=config,
        classifies=False,
        self_conditioning=False,
        facts=run.facts,
        sde=run.sde,
        denoiser=lambda params, dropout: Denoiser(net, run.sde),
    )
    batch = {"x": jnp.ones((4000, 2)), "label": jnp.zeros(4000, int), "cond": jnp.ones((4000, 3))}
    keys = jax.random.split(jax.random.key(0), 3)
    make_losses(spy)(None, keys, batch, Uniform(), jnp.linspace(0, 1, 4000))
    dropped = np.isnan(given[0])
    assert (dropped.all(1) == dropped.any(1)).all()
    assert 0.216 < dropped.all(1).mean() < 0.284


def test_images_reach_a_network_of_images():
    facts = DataFacts((8, 8, 1), None, 0, 1.0, (8, 8, 2))
    run = conditional(
        facts, name="UNet", nf=8, ch_mult=(1,), num_res_blocks=1, width=None, depth=None
    )
    assert run.split.params["conv_in"]["kernel"].shape == (3, 3, 3, 8)


def test_a_network_that_takes_no_conditions_is_refused():
    with pytest.raises(ValueError, match="MLP does not take cond_channels, which is 2 here"):
        conditional(DataFacts((2,), None, 0, 1.0, (8, 8, 2)))
    with pytest.raises(ValueError, match="the data have no labels and no conditions"):
        conditional(DataFacts((2,), None, 0, 1.0))
