"""Guidance by its name in a configuration, and the classifiers that it follows."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import experiments
import sde_lib
from experiments.configs import digits_classifier
from experiments.errors import RunError
from experiments.modes.sample import draw, draw_many
from experiments.modes.train import train
from experiments.run.build import DataFacts, build
from experiments.run.check import check_run
from experiments.run.conditions import sampled_conditions
from experiments.run.guidance import guided


@pytest.fixture(scope="module")
def conditional(tiny_config, tmp_path_factory):
    """Return the directory of a conditional run on eight classes, with checkpoints 10, 20."""
    workdir = tmp_path_factory.mktemp("conditional") / "run"
    config = tiny_config()
    config.train.conditional = True
    train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def classifier(tiny_config, tmp_path_factory):
    """Return the directory of a run that trained a classifier of the same data."""
    workdir = tmp_path_factory.mktemp("classifier") / "run"
    config = tiny_config()
    config.objective.name = "classifier"
    config.net = {"name": "VectorClassifier", "width": 32, "depth": 1}
    config.data.size = 4000
    config.train.update({"steps": 300, "batch_size": 256, "held_out_every": 300})
    config.optim.update({"lr": 1e-2, "decay_steps": 300})
    config.ema = 0.95
    train(config, workdir)
    return workdir


def with_guidance(workdir, **settings):
    """Return the loaded run with a section `guidance`."""
    loaded = experiments.load(workdir)
    config = loaded.config.copy_and_resolve_references().unlock()
    config.guidance = settings
    config.sampling.sampler = "ddim"
    return loaded._replace(config=config, run=loaded.run._replace(config=config))


def test_a_trained_classifier_knows_the_components_of_a_mixture(classifier):
    """Against Bayes' rule for the eight Gaussians of the data, at a low and at a high noise level.

    The cross-entropy beyond the best one is the divergence of what was learned.
    """
    from experiments.data.toy import MEANS, SD

    loaded = experiments.load(classifier)
    assert loaded.denoiser is None and loaded.classifier is not None
    rng = np.random.default_rng(0)
    label = rng.integers(0, 8, 2000)
    x0 = MEANS[label] + SD * rng.normal(size=(2000, 2))
    for t in (0.05, 0.4):
        x, _ = loaded.sde.perturb(jax.random.key(0), jnp.asarray(x0, jnp.float32), t)
        alpha, sigma = (float(value) for value in loaded.sde.marginal(jnp.asarray(t)))
        square = ((np.asarray(x)[:, None] - alpha * MEANS) ** 2).sum(-1)
        exact = -square / (2 * (alpha**2 * SD**2 + sigma**2))
        exact -= np.log(np.exp(exact).sum(1, keepdims=True))
        got = loaded.classifier.log_prob(x, t, jnp.asarray(label))
        divergence = (exact[np.arange(2000), label] - np.asarray(got)).mean()
        assert -0.02 < divergence < 0.1


def test_the_accuracy_of_a_classifier_is_logged_by_noise_level(classifier):
    last = json.loads((classifier / "metrics.jsonl").read_text().splitlines()[-1])
    levels = [value for name, value in last.items() if name.startswith("held_out/accuracy, t=")]
    assert len(levels) == 8 and levels[0] > 0.9 and levels[-1] < 0.6
    np.testing.assert_allclose(last["held_out/accuracy"], np.mean(levels), rtol=1e-5)


def test_classifier_free_guidance_is_the_one_of_the_library(conditional):
    loaded = with_guidance(conditional, name="ClassifierFree", scale=2, interval=(0.2, 3.0))
    denoise, identity = guided(loaded)
    assert identity == {"name": "ClassifierFree", "scale": 2, "interval": [0.2, 3.0]}
    want = sde_lib.ClassifierFree(loaded.denoiser, scale=2.0, interval=(0.2, 3.0), sde=loaded.sde)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)), jnp.float32)
    for t in (0.1, 0.5):
        np.testing.assert_allclose(
            denoise(x, t, jnp.arange(4)).x0, want(x, t, jnp.arange(4)).x0, rtol=1e-5
        )


def test_a_threshold_wraps_what_is_guided(conditional):
    section = {"name": "ClassifierFree", "scale": 3.0}
    threshold = {"name": "StaticThreshold", "bound": 0.3}
    plain = guided(with_guidance(conditional, **section)).denoise
    clipped = guided(with_guidance(conditional, **section, threshold=threshold)).denoise
    x = 2 * jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)), jnp.float32)
    want = np.clip(plain(x, 0.5, jnp.arange(4)).x0, -0.3, 0.3)
    np.testing.assert_allclose(clipped(x, 0.5, jnp.arange(4)).x0, want, rtol=1e-4, atol=1e-6)
    assert np.abs(want).max() == pytest.approx(0.3)


def test_autoguidance_leaves_an_earlier_checkpoint(conditional):
    settings = {"name": "Autoguidance", "scale": 2.0, "weaker": str(conditional)}
    loaded = with_guidance(conditional, **settings, weaker_step=10)
    denoise, identity = guided(loaded)
    early = experiments.load(conditional, 10)
    assert identity["weaker_weights"] == early.weights != loaded.weights
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)), jnp.float32)
    labels = jnp.arange(4)
    strong, weak = (run.denoiser(x, 0.5, labels).x0 for run in (loaded, early))
    np.testing.assert_allclose(
        denoise(x, 0.5, labels).x0, weak + 2 * (strong - weak), rtol=1e-4, atol=1e-5
    )


def test_a_classifier_guides_samples_of_a_network_without_labels_to_their_class(
    trained_once, classifier
):
    """Of the tiny network, with a large scale: the samples of a class lie on its side.

    The classes stand on a circle; unguided samples do not know theirs.
    """
    from experiments.data.toy import MEANS

    section = {"name": "ClassifierGuidance", "scale": 10.0, "classifier": str(classifier)}
    loaded = with_guidance(trained_once, **section)
    check_run(loaded.run)
    index = np.arange(64)
    np.testing.assert_array_equal(sampled_conditions(loaded.run, index), index % 8)
    denoise, identity = guided(loaded)
    assert identity["classifier_weights"] == experiments.load(classifier).weights
    setting = loaded.run.config.samplers.ddim
    towards = MEANS[index % 8]
    samples, nfe = draw(loaded.run, denoise, setting, index)
    unguided = experiments.load(trained_once)
    plain = draw(unguided.run, unguided.denoiser, setting, index)
    assert nfe == 3 * plain.nfe
    assert ((samples * towards).sum(1) > 0).mean() > 0.9
    assert ((plain.x * towards).sum(1) > 0).mean() < 0.8


def test_stored_samples_of_another_guidance_are_moved_aside(conditional, tmp_path):
    folder = tmp_path / "samples" / "ddim"
    plain = draw_many(with_guidance(conditional), "ddim", 16, folder)
    plain_x = plain.x  # read before the files are moved
    settings = {"name": "ClassifierFree", "scale": 3.0}
    steered = draw_many(with_guidance(conditional, **settings), "ddim", 16, folder)
    steered_x = steered.x
    assert (tmp_path / "samples" / "ddim.1").exists()
    assert plain.guidance == {} and steered.guidance == settings
    assert steered.nfe == 2 * plain.nfe and np.abs(steered_x - plain_x).max() > 1e-3
    again = draw_many(with_guidance(conditional, **settings), "ddim", 16, folder)
    np.testing.assert_array_equal(again.x, steered_x)
    assert not (tmp_path / "samples" / "ddim.2").exists()


def test_samples_of_other_weights_of_a_guide_are_not_taken_for_these(conditional, tmp_path):
    settings = {"name": "Autoguidance", "scale": 2.0, "weaker": str(conditional)}
    folder = tmp_path / "ddim"
    draw_many(with_guidance(conditional, **settings, weaker_step=10), "ddim", 8, folder)
    note = json.loads((folder / "job.json").read_text())
    assert note["guidance"]["weaker_weights"] == experiments.load(conditional, 10).weights


def test_guidance_on_the_command_line(conditional, in_process):
    flags = (f"--workdir={conditional}", "--mode=sample", "--config.sampling.number=8")
    guidance = ("--config.guidance.name=ClassifierFree", "--config.guidance.scale=2")
    result = in_process(*flags, *guidance, "--config.guidance.interval=0.2,3")
    assert result.code == 0, result.err
    summary = json.loads((conditional / "samples" / "ddim" / "summary.json").read_text())
    expected = {"name": "ClassifierFree", "scale": 2, "interval": [0.2, 3]}
    assert summary["guidance"] == expected and summary["nfe"] == 12
    result = in_process(f"--workdir={conditional}", "--mode=likelihood", *guidance)
    assert result.code == 1 and "has no effect on --mode=likelihood" in result.err


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"scale": 2.0}, "config.guidance: sde_lib has no Guidance None; choose one of Autoguid"),
        ({"name": "VP"}, "has no Guidance 'VP'"),
        ({"name": "ClassifierFree"}, "ClassifierFree needs a value for scale"),
        ({"name": "ClassifierFree", "scale": "2x"}, "needs a number as scale, got '2x'"),
        ({"name": "ClassifierFree", "scale": 2.0, "cap": 1.0}, "has no setting cap; it takes"),
        ({"name": "ClassifierFree", "scale": 2.0, "weaker": "r"}, "has no setting weaker"),
        ({"name": "Autoguidance", "scale": 2.0}, "needs weaker, .*--config.guidance.weaker="),
        (
            {"name": "StaticThreshold", "threshold": {"name": "StaticThreshold", "bound": -1.0}},
            "config.guidance.threshold: need bound > 0",
        ),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_opened(settings, message, tiny_config):
    config = tiny_config()
    config.train.conditional = True
    config.guidance = settings
    run = build(config, DataFacts((2,), None, 8, 1.0), abstract=True)
    with pytest.raises(ValueError, match=message):
        check_run(run)


def test_guidance_needs_a_run_that_knows_both_with_and_without(tiny_config):
    config = tiny_config()
    config.guidance = {"name": "ClassifierFree", "scale": 2.0}
    facts = DataFacts((2,), None, 8, 1.0)
    with pytest.raises(ValueError, match="ClassifierFree compares .* is not conditional"):
        check_run(build(config, facts, abstract=True))
    config.train.update({"conditional": True, "label_dropout": 0.0})
    with pytest.raises(ValueError, match="never trained without .*label_dropout is 0"):
        check_run(build(config, facts, abstract=True))
    config.train.conditional = False
    config.guidance = {
        "name": "ClassifierGuidance",
        "scale": 1.0,
        "classifier": "r",
        "conditional": True,
    }
    with pytest.raises(ValueError, match="is conditional, but this run is not"):
        check_run(build(config, facts, abstract=True))


def test_runs_that_cannot_guide_are_refused(trained_once, conditional, classifier, tiny_config):
    def refused(workdir, message, **settings):
        with pytest.raises(RunError, match=message):
            guided(with_guidance(workdir, scale=2.0, **settings))

    by_classifier = {"name": "ClassifierGuidance"}
    weaker = {"name": "Autoguidance"}
    refused(trained_once, "is a run of a denoiser", **by_classifier, classifier=str(conditional))
    refused(trained_once, "is no run directory", **by_classifier, classifier=str(classifier / "no"))
    refused(conditional, "is a run of a classifier", **weaker, weaker=str(classifier))
    refused(conditional, "train.conditional = False", **weaker, weaker=str(trained_once))
    loaded = with_guidance(trained_once, scale=2.0, **by_classifier, classifier=str(classifier))
    for run, message in (
        (loaded.run._replace(facts=loaded.run.facts._replace(num_classes=5)), "num_classes = 8"),
        (loaded.run._replace(sde=sde_lib.VP(beta_max=10.0)), "was trained with the process"),
    ):
        with pytest.raises(RunError, match=message):
            guided(loaded._replace(run=run))


def test_a_classifier_is_trained_on_classes_and_serves_no_other_mode(classifier, in_process):
    config = digits_classifier.get_config()
    facts = DataFacts((8, 8, 1), 17, 10, 0.5)
    run = build(config, facts, abstract=True)
    check_run(run)
    with pytest.raises(ValueError, match="needs data with two or more classes"):
        build(config, facts._replace(num_classes=0), abstract=True)
    config.train.conditional = True
    with pytest.raises(ValueError, match="train.conditional is set, but a classifier has no such"):
        build(config, facts, abstract=True)
    with pytest.raises(ValueError, match="trained a classifier, which denoises nothing"):
        run.denoiser(run.split.params)
    result = in_process(f"--workdir={classifier}", "--mode=sample")
    assert result.code == 1 and "this run trained a classifier, which --mode=sample" in result.err


def test_a_run_directory_without_the_section_opens_without_guidance(trained):
    saved = json.loads((trained / "config.json").read_text())
    del saved["guidance"]
    (trained / "config.json").write_text(json.dumps(saved))
    loaded = experiments.load(trained)
    assert guided(loaded).denoise is loaded.denoiser
