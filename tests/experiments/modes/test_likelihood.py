"""`--mode=likelihood`: every image once, stored, and not computed again."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments import data
from experiments.modes.likelihood import likelihood, measure_likelihood, moments_of
from experiments.run.build import DataFacts, build, make_dataset
from experiments.run.loading import Loaded, load
from sde_lib import VP, Estimate, expand, in_float64


@pytest.fixture
def loaded(trained):
    loaded = load(trained)
    loaded.run.config.unlock()
    # 64 examples: the last batch is cut
    loaded.run.config.eval.update({"batch_size": 24, "bound_draws": 4})
    return loaded


def test_a_split_is_measured_once_stored_and_gone_on_with(loaded, trained, capsys):
    first = likelihood(loaded, trained)
    folder = trained / "likelihood" / "test"
    values = dict(np.load(folder / "values.npz"))
    assert json.loads((folder / "summary.json").read_text()) == first
    assert first["images"] == 64 and all(len(v) == 64 for v in values.values())
    np.testing.assert_allclose(first["bits_per_dim"], values["bits_per_dim"].mean())
    np.testing.assert_allclose(first["bound_std_error"], values["bound"].std(ddof=1) / 8)
    assert f"test set, 64 examples: {first['bits_per_dim']:.3f} ±" in capsys.readouterr().out

    marked = dict(np.load(folder / "batch_0000000.npz"))
    np.savez(folder / "batch_0000000.npz", **marked | {"bits_per_dim": marked["bits_per_dim"] + 1})
    (folder / "batch_0000048.npz").unlink()
    likelihood(loaded, trained)
    again = np.load(folder / "values.npz")["bits_per_dim"]
    np.testing.assert_array_equal(again[:24], values["bits_per_dim"][:24] + 1)  # kept
    # the removed ones bitwise as before
    np.testing.assert_array_equal(again[24:], values["bits_per_dim"][24:])

    loaded.run.config.eval.rtol = 3e-2  # another question: nothing of the old answers is used
    third = likelihood(loaded, trained)
    assert "are now in" in capsys.readouterr().out
    assert (
        abs(third["bits_per_dim"] - first["bits_per_dim"]) < 0.2
        and (folder.with_name("test.1") / "values.npz").exists()
    )


def test_the_first_examples_in_whole_batches_are_those_of_the_split(loaded, trained, capsys):
    loaded.run.config.eval.examples = 25
    some = likelihood(loaded, trained)
    assert some["images"] == 48
    values = np.load(trained / "likelihood" / "test" / "values.npz")["bits_per_dim"]
    loaded.run.config.eval.examples = 0
    every = likelihood(loaded, trained)
    assert every["images"] == 64 and "damaged" not in capsys.readouterr().err
    again = np.load(trained / "likelihood" / "test" / "values.npz")["bits_per_dim"]
    np.testing.assert_array_equal(again[:48], values)
    loaded.run.config.eval.examples = 1000
    assert likelihood(loaded, trained)["images"] == 64


def test_the_bound_is_above_the_code_length_of_the_same_model_or_near_it(loaded, trained):
    summary = likelihood(loaded, trained)
    # another model's, but of the same network
    assert summary["bound"] > summary["bits_per_dim"] - 0.3
    assert (
        abs(summary["prior_mismatch"]) < 0.05
        and 0 < summary["bound_draw_std_error"] < summary["bound"]
    )


def test_moments_are_those_of_dequantised_data():
    class Grey(data.DataSet):
        shape, levels, num_classes, splits = (2,), 4, 0, ("train",)

        def source(self, split):
            x = np.array([[0, 1], [3, 1], [3, 2]], np.uint8)
            return data.base.Source(3, lambda i: (x[i], 0))

    mean, variance = moments_of(Grey(), "train")
    y = (
        np.array([[0, 1], [3, 1], [3, 2]])[:, None] + (np.arange(1000)[None, :, None] + 0.5) / 1000
    ) / 2 - 1  # all of each level's width
    np.testing.assert_allclose(mean, y.reshape(-1, 2).mean(0), atol=1e-6)
    np.testing.assert_allclose(variance, y.reshape(-1, 2).var(0), rtol=1e-5)


def test_a_saved_run_is_newer_settings_away_from_being_opened(trained):
    saved = json.loads((trained / "config.json").read_text())
    del saved["eval"]["trace"], saved["objective"]["uncertainty"]
    (trained / "config.json").write_text(json.dumps(saved))
    assert load(trained).config.eval.trace == "rademacher"
    assert make_dataset(load(trained).config).density == "mixture"


class Steps(data.DataSet):
    """Images of 2 x 1 pixels whose grey levels are drawn independently: dequantised, their density
    is constant on each level.
    """

    shape, levels, num_classes, splits = (2, 1, 1), 3, 0, ("train", "test")
    odds = np.array([0.6, 0.1, 0.3])

    def source(self, split):
        k = (
            np.random.default_rng(self.splits.index(split))
            .choice(3, (40, 2, 1, 1), p=self.odds)
            .astype(np.uint8)
        )
        return data.base.Source(40, lambda i: (k[i], 0))


def blurred_steps(x, alpha, sigma, cdf):
    """Return the density of one pixel of `Steps` at a noise level: boxes convolved with a normal,
    given its distribution function.
    """
    ends = 2 * np.arange(4) / 3 - 1
    inside = [
        cdf((x - alpha * low) / sigma) - cdf((x - alpha * high) / sigma)
        for low, high in zip(ends[:-1], ends[1:], strict=True)
    ]
    return sum(odds * part for odds, part in zip(Steps.odds, inside, strict=True)) * (3 / 2) / alpha


def test_bits_of_uniformly_dequantised_data_are_the_closed_form(tiny_config, tmp_path):
    sde = VP(t_min=1e-4)

    def exact(x, t, cond=None):
        alpha, sigma = sde.marginal(expand(t, x))

        def log_prob(x):
            return jnp.sum(jnp.log(blurred_steps(x, alpha, sigma, jax.scipy.stats.norm.cdf)))

        return Estimate.from_noise(x, alpha, sigma, -sigma * jax.grad(log_prob)(x))

    config, dataset = tiny_config(), Steps()
    config.sde.t_min = sde.t_min
    config.eval.update(
        {
            "probes": 0,
            "rtol": 1e-4,
            "batch_size": 40,
            "bound_draws": 0,
            "split": "test",
            "train_split": "train",
        }
    )
    config.net = {
        "name": "UNet",
        "nf": 8,
        "ch_mult": (1,),
        "num_res_blocks": 1,
        "attn_resolutions": (),
    }
    run = build(config, DataFacts(Steps.shape, 3, 0, 0.6))
    denoiser: Any = exact
    measure_likelihood(Loaded(sde, denoiser, run.config, run, 7), dataset, tmp_path)
    with np.load(tmp_path / "values.npz") as values:
        bits = values["bits_per_dim"] - values["prior_mismatch"]
    x = next(data.batches(dataset, "test", 40, seed=run.config.seed, train=False))["x"]
    density = blurred_steps(
        np.asarray(x, np.float64), *in_float64(sde.marginal, sde.t_min), stats.norm.cdf
    )
    np.testing.assert_allclose(
        bits, (-np.log2(density) + np.log2(3 / 2)).mean((1, 2, 3)), atol=2e-3
    )
    # Away from the ends of levels, by five standard deviations of the noise, it is the code length
    # of the integers.
    k, place = np.divmod(1.5 * (x + 1), 1)
    clear = np.all(np.abs(place - 0.5) < 0.5 - 7.5 * 3.2e-3, axis=(1, 2, 3))
    assert clear.sum() > 30
    np.testing.assert_allclose(
        bits[clear], -np.log2(Steps.odds[k.astype(int)]).mean((1, 2, 3))[clear], atol=3e-3
    )
