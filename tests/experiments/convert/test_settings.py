"""What score_sde's configurations become here: network, process, and the published way of sampling."""

import copy
import json

import numpy as np
import pytest
from flax import nnx

import models
from experiments.convert import FORMATS, rules
from experiments.convert.ncsn import ncsn_rules
from experiments.convert.score_sde import pytorch_rules
from experiments.convert.settings import from_score_sde, network
from experiments.errors import RunError
from experiments.run.build import build, make
from experiments.run.check import check_run, check_settings
from experiments.run.walks import make_walk
from tests.experiments.convert.foreign_files import write_pth
from tests.experiments.convert.test_score_sde import numbered


@pytest.fixture(scope="module")
def theirs(networks):
    """Return the function (name, section={key: value}, ...) -> score_sde's configuration with these
    changes.
    """

    def theirs(name, **changes):
        config = json.loads((networks / f"{name}.config.json").read_text())
        for section, values in changes.items():
            config[section] |= values
        return copy.deepcopy(config)

    return theirs


REFINENET = {
    "nonlinearity": "elu",
    "normalization": "InstanceNorm++",
    "interpolation": "bilinear",
    "nf": 4,
    "num_scales": 10,
}


def test_a_network_of_discrete_steps_knows_their_numbers(theirs):
    """VP counts levels from the cleanest, VE from the noisiest; a final denoising is the last of
    the n steps.
    """
    discrete = {"continuous": False}
    ancestral = {"predictor": "ancestral_sampling", "corrector": "none"}
    config = from_score_sde(theirs("ddpm", training=discrete, sampling=ancestral))
    assert config.sde.to_dict() == {
        "name": "Discrete",
        "sde": {"name": "VP", "beta_min": 0.1, "beta_max": 20.0},
        "n": 1000,
    }
    assert config.denoiser.inputs == "label" and config.objective.times.name == "Levels"
    check_settings(config)
    run = build(config, abstract=True)
    check_run(run)
    walk, ts = make_walk(config.samplers.published, run.sde)
    assert walk.variance == "transition" and len(ts) == 1000
    np.testing.assert_allclose(run.sde.label(np.float32(ts)), np.arange(1000)[::-1])

    ve = from_score_sde(
        theirs("ncsnpp_ve_cifar", training=discrete, model={"num_scales": 20}, sampling=ancestral)
    )
    assert ve.denoiser.to_dict() == {
        "prediction": "unit_score",
        "inputs": "unit_reversed_label",
        "sigma_data": 0.5,
    }
    assert ve.sde.sde.sigma_max == 100.0
    assert make_walk(ve.samplers.published, build(ve, abstract=True).sde)[0].variance == "posterior"
    sub = from_score_sde(theirs("ddpmpp_vp", training={"continuous": False, "sde": "subvpsde"}))
    # as there, where it has no table
    assert sub.sde.name == "SubVP" and sub.denoiser.inputs == "time"


def test_a_corrector_alone_visits_every_level(theirs):
    sampling = {"predictor": "none", "corrector": "ald", "n_steps_each": 5, "snr": 0.176}
    model = {**REFINENET, "name": "ncsnv2_64"}
    config = from_score_sde(
        theirs("ncsnpp_ve_cifar", model=model, training={"continuous": False}, sampling=sampling)
    )
    assert config.net.to_dict() == {
        "name": "NCSN", "nf": 4, "nonlinearity": "elu", "centered": False, "sigmas": (50, 0.01, 10),
    }  # fmt: skip
    run = build(config, abstract=True)
    check_run(run)
    walk, ts = make_walk(config.samplers.published, run.sde)
    assert (type(walk).__name__, walk.n_steps, walk.snr) == ("AnnealedLangevin", 5, 0.176)
    np.testing.assert_array_equal(run.sde.label(np.float32(ts[:-1])), np.arange(10)[::-1])
    # the walk goes to where a last denoising changes nothing
    assert float(run.sde.marginal(np.float32(ts[-1]))[1]) < 0.01 * 0.02


def test_the_older_network_is_conditioned_by_its_normalisation(theirs):
    model = {**REFINENET, "name": "ncsn"}
    settings = network(theirs("ncsnpp_ve_cifar", model=model))
    assert settings["levels"] == 10 and settings["scale_by_sigma"] is False
    with pytest.raises(RunError, match="not model.interpolation = 'nearest_neighbor'"):
        network(theirs("ncsnpp_ve_cifar", model=model | {"interpolation": "nearest_neighbor"}))


def test_a_network_without_time_keeps_the_place_of_frequencies_that_nothing_sees(theirs, tmp_path):
    model = {"conditional": False, "nf": 8, "progressive_input": "none"}
    config = theirs("ncsnpp_ve_cifar", model=model)
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = network(config)
    # it is told sigma, not an index
    assert settings["embedding"] == "none" and "sigmas" not in settings
    net = make_abstract(settings)
    params = numbered(net)
    weights = rules.write(pytorch_rules(net, first=1), params)
    np.savez(
        tmp_path / "net.npz",
        **{f"param/{k}": v for k, v in weights.items()},
        **{"param/all_modules.0.W": np.ones(8)},
    )
    converted = FORMATS["score_sde_pytorch"](tmp_path / "net.npz", str(tmp_path / "config.json"))
    for path, value in rules.flatten(converted.ema).items():
        np.testing.assert_array_equal(value, rules.flatten(params)[path])
    discrete = theirs("ddpmpp_vp", model=model | {"scale_by_sigma": True})
    assert network(discrete)["sigmas"] == (50, 0.01, 1000)


def make_abstract(settings):
    return nnx.eval_shape(
        lambda: make(
            models, settings, nnx.Module, shape=(16, 16, 3), num_classes=0, rngs=nnx.Rngs(0)
        )
    )


def test_a_training_state_of_the_code_of_ncsnv2(theirs, tmp_path):
    """A list: model, optimizer, epoch, step and the average by name, without the prefix and without
    the buffer.
    """
    config = theirs(
        "ncsnpp_ve_cifar",
        model={**REFINENET, "name": "ncsnv2_64", "nf": 2},
        training={"continuous": False},
    )
    (tmp_path / "config.json").write_text(json.dumps(config))
    net = make_abstract(network(config))
    model = rules.write(ncsn_rules(net), numbered(net))
    state = [
        {f"module.{k}": v for k, v in model.items()},
        {"state": {}},
        3,
        70,
        {k: 2 * v for k, v in model.items()},
    ]
    state[0]["module.sigmas"] = np.ones(10, np.float32)
    for parts, factor in ((5, 2), (4, 1)):
        write_pth(tmp_path / "checkpoint.pth", state[:parts])
        converted = FORMATS["score_sde_pytorch"](
            tmp_path / "checkpoint.pth", str(tmp_path / "config.json")
        )
        assert converted.step == 70
        for path, value in rules.flatten(converted.ema).items():
            np.testing.assert_array_equal(value, factor * rules.flatten(converted.params)[path])


def test_a_walk_that_score_sde_has_not_is_refused(theirs):
    for sampling, message in [
        ({"corrector": "ula"}, "sampling.corrector is 'ula', expected one of langevin, ald, none"),
        ({"predictor": "none", "corrector": "none"}, "both 'none'"),
    ]:
        with pytest.raises(RunError, match=message):
            from_score_sde(theirs("ddpmpp_vp", sampling=sampling))
