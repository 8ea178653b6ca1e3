"""Every configuration and every variant of it builds; the small ones train; what is wrong in one is
said before anything is spent.
"""

import importlib
import json
from pathlib import Path

import flax.nnx as nnx
import jax
import numpy as np
import pytest
from PIL import Image

import sde_lib
from experiments import data
from experiments.configs import common
from experiments.configs.common import SDES, base_config
from experiments.errors import RunError
from experiments.modes.train import train
from experiments.run import build as building
from experiments.run.build import build, make_dataset, measure_facts
from experiments.run.check import AT_LEAST, check_run, check_settings

CONFIGS = Path(common.__file__).parent
NAMES = sorted(
    p.stem for p in CONFIGS.glob("*.py") if p.stem not in ("__init__", "common", "score_sde")
)
DENSITIES = ["checkerboard", "swiss_roll", "mixture", "moons"]
# The words that each understands beside an SDE's.
WORDS = {
    "cifar10": ["", "cond"],
    "digits": ["", "cond", "likelihood", "edm2", "dit"],
    "digits_classifier": [""],
    "fashion_mnist": ["", "cond", "likelihood", "gpu"],
    "files": ["", "cond", "vectors"],
    "satellite": ["", "cond", "likelihood", "gpu"],
    "toy": DENSITIES,
}
SHAPES = {"fashion_mnist": (28, 28, 1)}
VARIANTS = [
    (name, f"{sde},{word}".strip(","))
    for name in NAMES
    for sde in SDES
    for word in WORDS[name]
    if word != "gpu" or sde == "vp"  # a large network, the same for every process
]


def get_config(name, variant):
    return importlib.import_module(f"experiments.configs.{name}").get_config(variant)


SPLITS = {}  # networks that several tests need


@pytest.fixture
def abstractly(monkeypatch):
    """Let networks be built without numbers, and each only once."""
    make, split = building.make, building.models.split

    def make_once(package, section, kind, **extra):
        if kind is not nnx.Module:
            return make(package, section, kind, **extra)
        key = f"{section} {extra['shape']} {extra['num_classes']}"
        if key not in SPLITS:
            SPLITS[key] = split(
                nnx.eval_shape(
                    lambda: make(package, section, kind, **extra | {"rngs": nnx.Rngs(0)})
                )
            )
        return SPLITS[key]

    monkeypatch.setattr(building, "make", make_once)
    monkeypatch.setattr(building.models, "split", lambda made: made)


@pytest.mark.parametrize("name, variant", VARIANTS)
def test_every_variant_of_every_configuration_builds(name, variant, abstractly):
    config, vectors = get_config(name, variant), name == "toy" or "vectors" in variant
    shape = (2,) if vectors else SHAPES.get(name, (32, 32, 3))
    facts = building.DataFacts(shape, None if vectors else 256, 10, 0.5)
    check_settings(config)
    run = build(config, facts, abstract=True)
    check_run(run)
    assert type(run.sde).__name__.lower() == variant.split(",")[0]
    assert config.train.conditional == ("cond" in variant)
    assert sum(p.size for p in jax.tree.leaves(run.split.params)) > 10_000
    again = build(run.config, abstract=True)  # as a saved one is
    assert json.loads(again.config.to_json_best_effort()) == json.loads(
        run.config.to_json_best_effort()
    )


def test_the_full_size_network_has_the_published_size(abstractly):
    # its facts are declared: no data are needed
    run = build(get_config("cifar10", "vp"), abstract=True)
    # Song et al. 2021: 61.8 M
    assert sum(p.size for p in jax.tree.leaves(run.split.params)) == pytest.approx(61.8e6, rel=0.02)


@pytest.mark.parametrize("name", ["fashion_mnist", "satellite"])
def test_the_networks_of_real_images_have_the_stated_size_and_fit_the_declared_facts(
    name, abstractly
):
    for variant, size in (("vp,cond", 1.26e6), ("vp,gpu", 61.8e6)):
        run = build(get_config(name, variant), abstract=True)
        parameters = sum(p.size for p in jax.tree.leaves(run.split.params))
        assert parameters == pytest.approx(size, rel=0.02)
        dataset = getattr(data, run.config.data.name)
        assert run.facts.levels == dataset.levels
        assert run.facts.num_classes == dataset.num_classes


@pytest.mark.parametrize("variant", ["ve,moons", "subvp,swiss_roll", "vp,checkerboard"])
def test_the_toy_configurations_train(variant, tiny_config, tmp_path):
    config = tiny_config(variant)
    config.train.update({"steps": 2, "log_every": 1, "held_out_every": 2, "sample_every": 2})
    train(config, tmp_path / "run")
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [1, 2]
    assert 0.1 < lines[0]["train/loss"] < 10
    levels = [v for k, v in lines[1].items() if k.startswith("held_out/t=")]
    assert len(levels) == 8
    assert np.mean(levels) == pytest.approx(lines[1]["held_out/loss"])
    assert (tmp_path / "run" / "samples" / "train_0000002.png").exists()


def write_images(folder, count=40):
    rng = np.random.default_rng(0)
    for i in range(count):
        kind = folder / ("left" if i % 2 else "right")
        kind.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (11, 9, 3)).astype(np.uint8)).save(kind / f"{i}.png")


def test_a_folder_of_ones_own_images_trains_in_one_command(command, tmp_path):
    write_images(tmp_path / "images")
    small = [
        "--config.net.nf=8",
        "--config.net.num_res_blocks=1",
        "--config.net.ch_mult=(1,)",
        "--config.net.attn_resolutions=()",
    ]
    few = [
        "--config.train.steps=3",
        "--config.train.batch_size=8",
        "--config.train.log_every=1",
        "--config.train.held_out=",
    ]
    data = [f"--config.data.path={tmp_path}/images", "--config.data.image_size=8"]
    workdir = tmp_path / "run"
    result = command(
        f"--config={CONFIGS}/files.py:vp,cond", *data, *small, *few, f"--workdir={workdir}"
    )
    assert result.code == 0, result.err
    config = json.loads((workdir / "config.json").read_text())
    assert (
        config["facts"]["shape"] == [8, 8, 3]
        and config["facts"]["num_classes"] == 2
        and config["train"]["conditional"]
    )
    assert len((workdir / "metrics.jsonl").read_text().splitlines()) == 3


def test_vectors_of_ones_own_train(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((50, 3)))
    config = get_config("files", "vectors")
    config.data.path = str(tmp_path / "x.npy")
    config.net.width, config.net.depth = 8, 1
    config.train.update({"steps": 2, "batch_size": 8, "log_every": 1})
    train(config, tmp_path / "run")
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "section, key, value, message",
    [
        (
            "sde",
            "name",
            "VPP",
            "sde_lib has no SDE 'VPP'; choose one of Cosine, Discrete, EDM, Rectified, SubVP, VE, "
            "VP",
        ),
        (
            "net",
            "name",
            "MPL",
            "models has no Module 'MPL'; choose one of DiT, ImageClassifier, MLP, MPUNet, NCSN, "
            "UNet",
        ),
        (
            "data",
            "name",
            "Digit",
            "experiments.data has no DataSet 'Digit'; choose one of Digits, FashionMNIST, Files, "
            "Satellite, TFDS, Toy",
        ),
        ("data", "density", "spiral", "unknown density 'spiral'; choose one of"),
        ("denoiser", "prediction", "eps", "unknown prediction 'eps'; choose one of edm, noise"),
        ("denoiser", "inputs", "raw", "unknown inputs 'raw'; choose one of edm"),
        (
            "objective",
            "weighting",
            "snr",
            "unknown weighting 'snr'; choose one of likelihood, min_snr, noise, prediction, "
            "sigmoid, x0",
        ),
        (
            "objective",
            "times",
            {"name": "Unifrom"},
            "no TimeDistribution 'Unifrom'; choose one of Binned, Levels, LogNormal, LogUniform, "
            "Uniform",
        ),
        (
            "samplers",
            "mine",
            {"name": "DDMI", "grid": "uniform", "steps": 5, "end": 0.1},
            "samplers has no Sampler 'DDMI'; choose one of",
        ),
        (
            "samplers",
            "mine",
            {"name": "DDIM", "grid": "even", "steps": 5, "end": 0.1},
            "unknown grid 'even'; choose one of centred, karras",
        ),
        (
            "samplers",
            "mine",
            {"name": "DDIM", "grid": "uniform"},
            "the sampler 'DDIM' needs a value for steps",
        ),
        (
            "samplers",
            "mine",
            {"name": "DDIM", "grid": "uniform", "steps": 0, "end": 0.1},
            "at least one step",
        ),
        (
            "samplers",
            "mine",
            {"name": "DDIM", "eat": 1.0, "grid": "uniform", "steps": 5, "end": 0.1},
            "DDIM has no setting eat; it takes",
        ),
        (
            "samplers",
            "mine",
            {"name": "probability_flow", "tol": 1e-3},
            "probability_flow has no setting tol; it takes",
        ),
        (
            "samplers",
            "mine",
            {"name": "recommended", "steps": 5},
            "recommended has no setting steps; it takes nfe, stochastic",
        ),
        (
            "samplers",
            "mine",
            {"name": "recommended", "nfe": 1},
            "need nfe as a whole number from 2 to .* got 1",
        ),
        ("sampling", "sampler", "cp", "unknown sampler 'cp'; choose one of best, ddim, ode, pc"),
        ("eval", "samplers", ("cp",), "unknown sampler 'cp'; choose one of best, ddim, ode, pc"),
        (
            "sampling",
            "label",
            3,
            r"config.sampling.label is 3, expected -1, as this run is not conditional",
        ),
        ("optim", "lr", -1.0, "an optimizer needs lr > 0, got -1.0"),
        ("optim", "momentum", 0.9, r"optim.name=adam has no setting momentum; it takes b1, b2"),
        ("train", "stepz", 5, r"config.train has no setting 'stepz'; did you mean steps\?"),
        ("train", "label_dropout", 1.5, "need 0 <= config.train.label_dropout <= 1, got 1.5"),
        (
            "train",
            "split",
            "training",
            "unknown split 'training'; choose one of train, validation, test",
        ),
        (
            "train",
            "batch_size",
            10_000,
            "batch_size 10000 is larger than split 'train', which has 640 examples; lower "
            "batch_size",
        ),
    ],
)
def test_what_is_wrong_in_a_configuration_is_said_before_training(
    section, key, value, message, tiny_config, tmp_path
):
    config = tiny_config()
    config[section][key] = value
    with pytest.raises((ValueError, RunError), match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("path, low", AT_LEAST.items())
def test_a_count_that_is_too_small_is_refused(path, low, tiny_config):
    config = tiny_config()
    section, _, key = path.rpartition(".")
    (config[section] if section else config)[key] = low
    check_settings(config)
    (config[section] if section else config)[key] = low - 1
    with pytest.raises(ValueError, match=f"need config.{path} >= {low}, got {low - 1}"):
        check_settings(config)


def test_a_section_that_is_missing_or_no_section_is_refused():
    config = base_config()
    del config.ema
    with pytest.raises(ValueError, match="config lacks ema; begin with base_config"):
        check_settings(config)
    config = base_config().unlock()
    with config.ignore_type():
        config.train = 3
    with pytest.raises(ValueError, match="config.train is a section with settings, got 3"):
        check_settings(config)


def test_what_is_declared_of_the_data_is_compared_with_them(tiny_config):
    config = tiny_config()
    config.denoiser.sigma_data = 0.3
    with pytest.warns(
        UserWarning,
        match="config.denoiser.sigma_data is 0.3, but the data have standard deviation 0.99",
    ):
        facts = measure_facts(config, make_dataset(config))
    assert facts.shape == (2,) and facts.levels is None and facts.num_classes == 8
    config = tiny_config()
    config.facts = facts._asdict() | {"num_classes": 9}
    with pytest.warns(UserWarning, match="config.facts.num_classes is 9, but the data have 8"):
        assert measure_facts(config, make_dataset(config)).num_classes == 8
    assert build(tiny_config(), facts).config.denoiser.sigma_data == facts.sd  # 0: measured


def test_classes_are_asked_of_data_that_have_none(tiny_config):
    config = tiny_config("checkerboard")
    config.train.conditional = True
    with pytest.raises(
        ValueError, match="config.train.conditional is set, but the data have no labels"
    ):
        build(config, measure_facts(config, make_dataset(config)))


@pytest.mark.parametrize("label, good", [(-1, True), (0, True), (7, True), (8, False), (-2, False)])
def test_the_label_to_sample_is_one_of_the_classes(label, good, tiny_config):
    config = tiny_config()
    config.train.conditional, config.sampling.label = True, label
    run = build(config, measure_facts(config, make_dataset(config)))
    if good:
        return check_run(run)
    with pytest.raises(
        ValueError, match=f"config.sampling.label is {label}, expected 0..7, or -1 for all in turn"
    ):
        check_run(run)


def test_sections_become_objects_nested_ones_too():
    import samplers

    section = {
        "name": "PredictorCorrector",
        "predictor": {"name": "DDIM", "eta": 0.5},
        "corrector": {"name": "Langevin", "snr": 0.1},
    }
    pair = building.make(samplers, section, samplers.Sampler)
    assert pair.predictor.eta == 0.5 and pair.corrector.snr == 0.1
    with pytest.raises(ValueError, match="PredictorCorrector needs a value for corrector"):
        building.make(
            samplers,
            {"name": "PredictorCorrector", "predictor": {"name": "DDIM"}},
            samplers.Sampler,
        )
    # None: not given
    assert building.make(sde_lib, {"name": "VP", "beta_max": None}, sde_lib.SDE).beta_max == 20
