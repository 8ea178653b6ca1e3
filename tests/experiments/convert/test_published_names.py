"""Checkpoints in the form that score_sde_pytorch saves them, under the names of its published code
and of the code before.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from experiments.convert import FORMATS, rules
from experiments.convert.formats import abstract_network
from experiments.errors import RunError
from tests.experiments.convert.foreign_files import published_names, write_old_pth, write_pth
from tests.experiments.convert.test_options import OPTIONS, weight

FAST = {"xla_backend_optimization_level": 0}


@pytest.fixture
def network(networks, tmp_path):
    """Return the function (name) -> configuration, weights under the older names and under the
    published ones, and the output.
    """

    def network(name):
        config = json.loads((networks / "ncsnpp_ve_cifar.config.json").read_text())
        config["model"] |= {"nf": 8, "ch_mult": [1, 2], "attn_resolutions": [4], **OPTIONS[name]}
        config["data"] |= {"image_size": 8, "centered": True}
        config["training"]["continuous"] = config["model"]["embedding_type"] == "fourier"
        (tmp_path / "config.json").write_text(json.dumps(config))
        with np.load(networks / "options.npz") as file:
            shapes, y = json.loads(str(file[f"{name}/names"])), file[f"{name}/y_f64"]
        old = {key: weight(key, shape) for key, shape in shapes.items()}
        names = published_names(config)
        assert list(map(tuple, shapes.values())) == list(names.values())
        return str(tmp_path / "config.json"), old, dict(zip(names, old.values(), strict=True)), y

    return network


def saved_state(weights):
    """Return a training state as the published code saves it, its learning rate warmed up: the
    average is twice the weights.
    """
    trained = {name: w for name, w in weights.items() if not name.endswith("all_modules.0.W")}
    moments = {
        i: {"step": 3, "exp_avg": w, "exp_avg_sq": w * w} for i, w in enumerate(trained.values())
    }
    group = {"lr": np.float64(2e-4) * 0.4, "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False}
    group["params"] = list(moments)
    buffers = {"module.sigmas": np.linspace(50, 0.01, 5).astype(np.float32)}
    return {
        "optimizer": {"state": moments, "param_groups": [group]},
        "model": buffers | {f"module.{name}": w for name, w in weights.items()},
        "ema": {
            "decay": 0.9999,
            "num_updates": 3,
            "shadow_params": [2 * w for w in trained.values()],
        },
        "step": 3,
    }


@pytest.mark.parametrize("name", ["published_256", "plain_without_rescaling"])
def test_the_published_names_mean_the_network_of_the_older_ones(
    name, network, relative_errors, tmp_path
):
    config, old, new, want = network(name)
    write_pth(tmp_path / "new.pth", saved_state(new))
    write_old_pth(tmp_path / "old.pth", saved_state(old))
    converted = FORMATS["score_sde_pytorch"](tmp_path / "new.pth", config)
    before = FORMATS["score_sde_pytorch"](tmp_path / "old.pth", config)
    assert converted.step == 3
    jax.tree.map(np.testing.assert_array_equal, converted, before._replace(config=converted.config))
    for path, average in rules.flatten(converted.ema).items():
        factor = 1 if path[-1] == "frequencies" else 2
        np.testing.assert_array_equal(average, factor * rules.flatten(converted.params)[path])
    evaluate = models.split(abstract_network(converted.config)).evaluate
    x = np.random.RandomState(1).standard_normal((3, 3, 8, 8)).astype(np.float32)
    run = jax.jit(lambda p, x, t: models.merge(evaluate, p)(x, t), compiler_options=FAST)
    y = run(converted.params, x.transpose(0, 2, 3, 1), jnp.array([0.5, 3.0, 20.0]))
    assert relative_errors(y, want.transpose(0, 2, 3, 1)).max() < 4e-6


@pytest.mark.parametrize("name", OPTIONS)
def test_both_namings_of_every_choice_are_told_apart_by_the_names(name, network, tmp_path):
    config, old, new, _ = network(name)
    converted = []
    for i, weights in enumerate((old, new)):
        np.savez(tmp_path / f"{i}.npz", **{f"param/{k}": w for k, w in weights.items()})
        converted.append(FORMATS["score_sde_pytorch"](tmp_path / f"{i}.npz", config))
    jax.tree.map(np.testing.assert_array_equal, converted[0].ema, converted[1].ema)


def test_what_is_missing_is_named_as_the_file_names_the_rest(network, tmp_path):
    config, old, new, _ = network("published_256")
    for weights in (old, new):
        lost = sorted(name for name in weights if ".Conv" in name)[-1]
        others = {f"param/{k}": w for k, w in weights.items() if k != lost}
        np.savez(tmp_path / "net.npz", **others)
        with pytest.raises(RunError, match=rf"it lacks {lost.replace('.', '.')}$"):
            FORMATS["score_sde_pytorch"](tmp_path / "net.npz", config)
