"""Choices of NCSN++ that no other fixture makes, beside a transcription of the published PyTorch
layers in float64.

../fixtures/networks/options.npz holds the names and shapes of each network's state dict and its
output; the weights are those of `weight`.
"""

import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from experiments.convert import FORMATS, rules
from experiments.convert.formats import abstract_network
from experiments.convert.score_sde import jax_rules
from experiments.errors import RunError

OPTIONS = {
    "published_256": {"progressive": "output_skip", "progressive_input": "input_skip"},
    "cat_without_time": {
        "progressive_input": "input_skip",
        "progressive_combine": "cat",
        "conditional": False,
        "fir_kernel": [1, 2, 3, 4],
    },
    "filters_between_blocks": {
        "resblock_type": "ddpm",
        "progressive": "residual",
        "embedding_type": "positional",
        "fir_kernel": [1, 2, 1],
    },
    "plain_without_rescaling": {
        "fir": False,
        "skip_rescale": False,
        "progressive": "residual",
        "nonlinearity": "lrelu",
    },
}


def weight(name, shape):
    """Return numbers that depend on the name alone; RandomState draws the same ones for ever."""
    numbers = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        return np.float32(
            numbers / np.sqrt(np.prod(shape) / (shape[0] if len(shape) == 4 else shape[-1]))
        )
    return np.float32(("GroupNorm" in name) + 0.3 * numbers)


@pytest.fixture
def write(networks, tmp_path):
    """Return the function (name) -> the paths of a state dict and its configuration, its weights,
    and its output.
    """

    def write(name):
        config = json.loads((networks / "ncsnpp_ve_cifar.config.json").read_text())
        config["model"] |= {"nf": 8, "ch_mult": [1, 2], "attn_resolutions": [4], **OPTIONS[name]}
        config["data"] |= {"image_size": 8, "centered": True}
        config["training"]["continuous"] = config["model"]["embedding_type"] == "fourier"
        with np.load(networks / "options.npz") as file:
            shapes, y = json.loads(str(file[f"{name}/names"])), file[f"{name}/y_f64"]
        weights = {k: weight(k, shape) for k, shape in shapes.items()}
        np.savez(tmp_path / "net.npz", **{f"param/{k}": v for k, v in weights.items()})
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path / "net.npz", str(tmp_path / "config.json"), weights, y

    return write


@pytest.mark.parametrize("name", OPTIONS)
def test_a_network_of_other_choices(name, write, relative_errors):
    path, config, _, want = write(name)
    converted = FORMATS["score_sde_pytorch"](path, config)
    evaluate = models.split(abstract_network(converted.config)).evaluate
    x = (
        np.random.RandomState(1)
        .standard_normal((3, 3, 8, 8))
        .astype(np.float32)
        .transpose(0, 2, 3, 1)
    )
    fast = {"xla_backend_optimization_level": 0}  # compiles in less than half the time
    run = jax.jit(lambda params, x, t: models.merge(evaluate, params)(x, t), compiler_options=fast)
    y = run(converted.ema, x, jnp.array([0.5, 3.0, 20.0]))
    assert relative_errors(y, want.transpose(0, 2, 3, 1)).max() < 4e-6


def test_what_a_network_without_time_ignores_is_only_what_nothing_reads(write):
    """Its blocks keep a linear map of the embedding that there is none of; any other weight too
    many is an error still.
    """
    path, config, weights, _ = write("cat_without_time")
    assert any(".Dense_0." in k for k in weights) and "all_modules.0.W" in weights
    np.savez(
        path,
        **{f"param/{k}": v for k, v in weights.items()},
        **{"param/all_modules.2.Dense_1.bias": np.zeros(8)},
    )
    with pytest.raises(
        RunError, match=r"holds all_modules\.2\.Dense_1\.bias, which the network has no place for"
    ):
        FORMATS["score_sde_pytorch"](path, config)
    path, config, weights, _ = write("published_256")
    np.savez(
        path,
        **{f"param/{k}": v for k, v in weights.items()},
        **{"param/all_modules.99.Dense_0.bias": np.zeros(8)},
    )
    with pytest.raises(RunError, match=r"holds all_modules\.99\.Dense_0\.bias"):
        FORMATS["score_sde_pytorch"](path, config)


def test_the_two_frameworks_name_the_image_s_convolution_differently(write):
    path, config, weights, _ = write("published_256")
    assert any(k.endswith(".Conv.weight") for k in weights)
    net = abstract_network(FORMATS["score_sde_pytorch"](path, config).config)
    assert "Combine_0.Conv_0.kernel" in {
        name for rule in jax_rules(net, {}) for name in rule.theirs
    }


def test_ddpm_of_pytorch_is_told_the_time_whatever_its_configuration_says(networks, tmp_path):
    config = json.loads((networks / "ddpm.config.json").read_text())
    config["model"]["conditional"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    plain = FORMATS["score_sde_pytorch"](networks / "ddpm.npz", str(networks / "ddpm.config.json"))
    converted = FORMATS["score_sde_pytorch"](networks / "ddpm.npz", str(tmp_path / "config.json"))
    for path, value in rules.flatten(plain.ema).items():
        np.testing.assert_array_equal(rules.flatten(converted.ema)[path], value)
