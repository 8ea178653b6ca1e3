"""Noise-conditional classifiers: their log-probabilities, loss and inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import VE, VP, Classifier, ClassifierGuidance, Denoiser, classification_loss
from sde_lib.evaluations import count_evaluations

MEANS = np.array([-1.5, 0.0, 2.0])
SD = 0.5
X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 1)), jnp.float32)
T = jnp.linspace(0.05, 0.9, 6)
LABELS = jnp.arange(6) % 3


def exact(sde):
    """Return the classifier that knows three Gaussians of equal weight, fed what `inputs` say.

    Its network is fed the state as it is, and 999 t.
    """

    def net(x, signal, cond):
        assert cond is None
        alpha, sigma = sde.marginal(signal[:, None] / 999)
        variance = (alpha * SD) ** 2 + sigma**2
        return -((x - alpha * MEANS[None]) ** 2) / (2 * variance)

    return Classifier(net, sde, inputs="time")


def bayes(x, t, label):
    """Return log p(label | x) in float64."""
    alpha, sigma = (np.asarray(value, np.float64)[:, None] for value in VP().marginal(t))
    variance = (alpha * SD) ** 2 + sigma**2
    joint = -((np.asarray(x, np.float64) - alpha * MEANS) ** 2) / (2 * variance)
    joint -= np.log(np.exp(joint).sum(1, keepdims=True))
    return joint[np.arange(len(x)), label]


def test_the_log_probability_is_that_of_each_samples_label():
    got = exact(VP()).log_prob(X, T, LABELS)
    np.testing.assert_allclose(got, bayes(X, T, LABELS), rtol=1e-4, atol=1e-5)


def test_no_label_says_nothing_and_other_labels_give_nan():
    classifier = exact(VP())
    got = classifier.log_prob(X, T, jnp.array([0, 3, 4, -1, 1, 2]))
    assert got[1] == 0
    np.testing.assert_array_equal(np.isnan(got), [False, False, True, True, False, False])
    slope = jax.grad(lambda x: classifier.log_prob(x, T, jnp.full(6, 3)).sum())(X)
    np.testing.assert_array_equal(slope, 0)


def test_the_loss_is_the_cross_entropy_of_the_noisy_state():
    key = jax.random.key(1)
    x, _ = VP().perturb(key, X, T)
    got = classification_loss(key, exact(VP()), X, T, LABELS)
    np.testing.assert_allclose(got, -bayes(x, T, LABELS), rtol=1e-4, atol=1e-5)


def test_a_network_is_fed_what_that_of_a_denoiser_is_fed():
    seen = []

    def net(x, signal, cond):
        seen.append((x, signal))
        return jnp.zeros((len(x), 3)) if cond is None else x

    Classifier(net, VE(), "edm", 0.7)(X, T)
    Denoiser(net, VE(), "edm", "edm", 0.7)(X, T, LABELS)
    for a, b in zip(*seen, strict=True):
        np.testing.assert_array_equal(a, b)


def test_guidance_follows_it_and_counts_it():
    """Guided by the exact classifier, the denoiser of the mixture becomes that of one Gaussian."""
    sde = VP()

    def mixture(x, t, cond):
        alpha, sigma = sde.marginal(t[:, None])
        variance = (alpha * SD) ** 2 + sigma**2
        logits = -((x - alpha * MEANS[None]) ** 2) / (2 * variance)
        each = MEANS[None] + alpha * SD**2 / variance * (x - alpha * MEANS[None])
        x0 = (jax.nn.softmax(logits) * each).sum(1, keepdims=True)
        return Denoiser(lambda x, signal, cond: x0, sde, "x0", "time")(x, t, cond)

    guided = ClassifierGuidance(mixture, sde, exact(sde).log_prob, 1.0)
    with count_evaluations() as tally:
        got = guided(X, T, LABELS).x0
    assert tally.total == 3
    alpha, sigma = (np.asarray(value)[:, None] for value in sde.marginal(T))
    mean = MEANS[np.asarray(LABELS)][:, None]
    want = mean + alpha * SD**2 / ((alpha * SD) ** 2 + sigma**2) * (X - alpha * mean)
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    "labels, message",
    [
        (LABELS[:3], r"labels are int32\(3,\), expected whole numbers \(6,\)"),
        (LABELS.astype(jnp.float32), "labels are float32"),
    ],
)
def test_wrong_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        exact(VP()).log_prob(X, T, labels)


def test_wrong_settings_and_outputs_are_refused():
    with pytest.raises(ValueError, match=r"returned shape \(6,\)"):
        Classifier(lambda x, signal, cond: x[:, 0], VP())(X, T)
    with pytest.raises(ValueError, match="unknown inputs 'edn'"):
        Classifier(lambda x, signal, cond: x, VP(), "edn")
