"""Variational dequantisation: the flow is a density on the unit cube, and training makes it the one
that costs the fewest bits.
"""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from experiments.data.base import DataSet, Source
from experiments.errors import RunError
from experiments.modes.dequantise import Dequantiser, dequantise, restore_dequantiser
from experiments.modes.likelihood import measure_likelihood
from experiments.run.build import DataFacts, build
from experiments.run.flow import DequantisingFlow
from experiments.run.loading import Loaded
from experiments.storage import checkpoint
from sde_lib import VP, Estimate, Gaussian

SD = 0.4  # of a level, so that the density changes much within one


class Narrow(DataSet):
    """Images of 2 x 2 pixels: a rounded-down normal around the middle of level 1 of 4."""

    shape, levels, num_classes, splits = (2, 2, 1), 4, 0, ("train", "test")

    def source(self, split):
        y = 1.5 + SD * np.random.default_rng(self.splits.index(split)).standard_normal(
            (512, 2, 2, 1)
        )
        x = np.clip(np.floor(y), 0, 3).astype(np.uint8)
        return Source(len(x), lambda i: (x[i], 0))


def exact(x, t, cond=None):
    """Denoise images whose scaled pixels are independent normals."""
    model = Gaussian(np.full(4, -0.25), (SD / 2) ** 2 * np.eye(4))
    estimate = model.estimate(VP(), x.reshape(len(x), 4), t)
    return Estimate(*(part.reshape(x.shape) for part in estimate))


def test_the_flow_is_a_density():
    net = DequantisingFlow((3, 4, 2), width=4, layers=2, rngs=nnx.Rngs(0))
    for coupling in net.couplings:  # away from its start, where couplings do nothing
        coupling.conv2.kernel[...] = 0.3 * jax.random.normal(
            jax.random.key(1), coupling.conv2.kernel.shape
        )
    z = jax.random.normal(jax.random.key(2), (2, 3, 4, 2))
    image = jax.random.uniform(jax.random.key(3), (2, 3, 4, 2))
    u, log_q = net(z, image)
    assert np.all((u > 0) & (u < 1)) and log_q.shape == (2,)
    for i in range(2):
        jacobian = jax.jacfwd(lambda z, i=i: net(z[None], image[i : i + 1])[0].ravel())(
            z[i]
        ).reshape(24, 24)
        expected = (
            stats.norm.logpdf(np.asarray(z[i], np.float64)).sum()
            - np.linalg.slogdet(np.asarray(jacobian, np.float64))[1]
        )
        np.testing.assert_allclose(log_q[i], expected, rtol=1e-4)


def test_it_starts_almost_uniform():
    net = DequantisingFlow((8, 8, 1), rngs=nnx.Rngs(0))
    _, log_q = net(jax.random.normal(jax.random.key(0), (200, 8, 8, 1)), jnp.zeros((200, 8, 8, 1)))
    assert 0 < float(jnp.mean(log_q)) / 64 < 0.03  # nats a value, where the uniform has 0


def check_that_it_is_known_by_what_it_depends_on(loaded, workdir, monkeypatch, capsys):
    """Go on with the flow of `workdir` under the same and under other settings; nothing is trained."""
    folder = workdir / "dequantiser"
    before = json.loads((folder / "job.json").read_text())
    capsys.readouterr()
    dequantise(loaded, workdir)
    assert "has made its 250 steps; raise --config.dequantise.steps" in capsys.readouterr().out

    config = loaded.run.config.copy_and_resolve_references().unlock()
    config.dequantise.update({"width": 99, "layers": 9})  # those it was trained with count
    other = loaded._replace(run=loaded.run._replace(config=config), weights="others")
    with pytest.warns(UserWarning, match="trained for other weights than those of step 7"):
        restored = restore_dequantiser(other, workdir)
    assert restored.weights == restore_dequantiser(loaded, workdir).weights != ""
    state = checkpoint.restore(folder, Dequantiser(loaded).template()).state
    same = jax.tree.map(lambda a, b: bool((a == b).all()), restored.params, state.ema)
    assert all(jax.tree.leaves(same))  # the averaged ones, which are not the raw ones
    same = jax.tree.map(lambda a, b: bool((a == b).all()), state.params, state.ema)
    assert not all(jax.tree.leaves(same))

    monkeypatch.setattr("experiments.modes.dequantise.make_train_step", lambda *a: 1 / 0)
    for change in ({"lr": 1e-3}, {"batch_size": 32}, {"width": 4}, {}):
        config = loaded.run.config.copy_and_resolve_references().unlock()
        config.dequantise.update(change)
        weights = loaded.weights if change else "others"
        other = loaded._replace(run=loaded.run._replace(config=config), weights=weights)
        with pytest.raises(ZeroDivisionError):  # it begins to train
            dequantise(other, workdir)
        what = " and ".join(change) or "weights"
        assert f"of another {what}, are now in {folder}.1" in capsys.readouterr().out
        shutil.rmtree(folder)
        (workdir / "dequantiser.1").rename(folder)
        assert json.loads((folder / "job.json").read_text()) == before


def test_training_comes_near_the_code_length_of_the_integers(
    tiny_config, tmp_path, monkeypatch, capsys
):
    config = tiny_config()
    config.eval.update(
        {
            "probes": 0,
            "rtol": 1e-3,
            "batch_size": 512,
            "bound_draws": 0,
            "split": "test",
            "train_split": "train",
        }
    )
    config.dequantise.update({"steps": 250, "batch_size": 64, "lr": 1e-2, "width": 8, "layers": 2})
    config.net = {
        "name": "UNet",
        "nf": 8,
        "ch_mult": (1,),
        "num_res_blocks": 1,
        "attn_resolutions": (),
    }
    run = build(config, DataFacts((2, 2, 1), 4, 0, 0.2))
    loaded, dataset = Loaded(VP(), exact, run.config, run, 7), Narrow()  # pyright: ignore[reportArgumentType]
    with pytest.raises(RunError, match="has no dequantiser; train one with --mode=dequantise"):
        restore_dequantiser(loaded, tmp_path)
    monkeypatch.setattr("experiments.modes.dequantise.make_dataset", lambda config: dataset)
    dequantise(loaded, tmp_path)
    summaries = {
        name: measure_likelihood(loaded, dataset, None, redraw)
        for name, redraw in (
            ("uniform", None),
            ("variational", restore_dequantiser(loaded, tmp_path)),
        )
    }
    check_that_it_is_known_by_what_it_depends_on(loaded, tmp_path, monkeypatch, capsys)
    k = np.stack([dataset.source("test")[i]["x"] for i in range(512)]).astype(float)
    bits = -np.log2(stats.norm.cdf((k + 1 - 1.5) / SD) - stats.norm.cdf((k - 1.5) / SD)).mean()
    # The bound is above the code length; the flow closes most of what the uniform distribution
    # leaves open.
    uniform, variational = (
        summaries[name]["bits_per_dim"] - bits for name in ("uniform", "variational")
    )
    assert -0.02 < variational < 0.35 * uniform, (uniform, variational, bits)


def test_continuous_data_are_refused(tiny_config):
    run = build(tiny_config(), DataFacts((2,), None, 0, 0.7))
    with pytest.raises(RunError, match="continuous: there is nothing to dequantise"):
        Dequantiser(Loaded(VP(), exact, run.config, run, 7))  # pyright: ignore[reportArgumentType]
