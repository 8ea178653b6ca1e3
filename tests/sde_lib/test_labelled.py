"""Mixtures with classes: conditional denoisers and classifiers against mixtures built by hand and Bayes' rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import GaussianMixture, LabelledMixture, Rectified, check_denoise, count_evaluations

WEIGHTS, MEANS = np.array([0.2, 0.5, 0.3]), np.array([[-0.8, 0.1], [0.5, 0.4], [0.3, -0.9]])
COVS = np.array(
    [[[0.04, 0.01], [0.01, 0.02]], [[0.09, -0.05], [-0.05, 0.06]], [[0.01, 0.0], [0.0, 0.16]]]
)
DATA = LabelledMixture(GaussianMixture(WEIGHTS, MEANS, COVS), [3, 8, 3])
BY_HAND = {
    3: GaussianMixture([0.4, 0.6], MEANS[[0, 2]], COVS[[0, 2]]),
    8: GaussianMixture([1.0], MEANS[[1]], COVS[[1]]),
}
LABELS = jnp.array([3, 8, 8, 3, 3])
X = jax.random.normal(jax.random.key(1), (5, 2))
T = jnp.array([0.1, 0.3, 0.5, 0.7, 1.0])


def test_given_a_class_the_data_are_those_of_its_components():
    for label, expected in BY_HAND.items():
        for got, other in zip(
            DATA.given(label).data_moments(), expected.data_moments(), strict=True
        ):
            np.testing.assert_allclose(got, other, atol=1e-6)
        np.testing.assert_allclose(DATA.given(label).weights, expected.weights)


def test_the_denoiser_is_that_of_each_class_and_of_all(sde):
    denoise = DATA.denoiser(sde)
    x = X * jnp.hypot(*sde.marginal(T))[:, None]
    each = {label: data.denoiser(sde)(x, T) for label, data in BY_HAND.items()}
    for got, three, eight in zip(denoise(x, T, LABELS), each[3], each[8], strict=True):
        expected = jnp.where(LABELS[:, None] == 3, three, eight)
        np.testing.assert_allclose(got, expected, atol=1e-5)
    whole = DATA.mixture.denoiser(sde)(x, T)
    for got, expected in zip(denoise(x, T), whole, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_the_classifier_obeys_the_rule_of_bayes(sde):
    with jax.enable_x64(True):
        x = jnp.asarray(X * jnp.hypot(*sde.marginal(T))[:, None], float)
        logs = {}
        for label, share in {3: 0.5, 8: 0.5}.items():
            joint = np.log(share) + BY_HAND[label].log_prob(sde, x, T)
            expected = joint - DATA.mixture.log_prob(sde, x, T)
            logs[label] = DATA.log_prob_label(sde, x, T, jnp.full(5, label))
            np.testing.assert_allclose(logs[label], expected, rtol=1e-9, atol=1e-9)
            np.testing.assert_array_equal(DATA.log_prob_label(sde, x, T, label), logs[label])
        np.testing.assert_allclose(np.exp(logs[3]) + np.exp(logs[8]), 1.0, rtol=1e-12)


def test_it_keeps_to_the_contract_and_counts():
    sde = Rectified(t_min=0.0)
    denoise = DATA.denoiser(sde)
    check_denoise(denoise, sde, (5, 2), LABELS)
    check_denoise(denoise, sde, (5, 2))
    with count_evaluations() as tally:
        clean = denoise(X, 0.0, LABELS)
    assert tally.total == 1
    np.testing.assert_allclose(clean.x0, X)
    np.testing.assert_allclose(denoise.sigma_data, DATA.mixture.denoiser(sde).sigma_data)


def test_a_traced_label_that_no_component_has_gives_nan():
    sde = Rectified()
    labels = LABELS.at[1].set(5)
    estimate = jax.jit(lambda label: DATA.denoiser(sde)(X, 0.5, label))(labels)
    log_prob = jax.jit(lambda label: DATA.log_prob_label(sde, X, 0.5, label))(labels)
    for part in (*estimate, log_prob[:, None]):
        np.testing.assert_array_equal(np.isnan(part).all(1), np.arange(5) == 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelledMixture(DATA.mixture, [0, 1]), r"each of the 3 components, got .*\(2,\)"),
        (lambda: LabelledMixture(DATA.mixture, [0.0, 1, 2]), "one whole number .* got labels of"),
        (lambda: DATA.given(5), r"no component has the label 5; there are \[3 8\]"),
        (lambda: DATA.denoiser(Rectified())(X, 0.5, LABELS.at[0].set(0)), "has the label 0"),
        (lambda: DATA.denoiser(Rectified())(X, 0.5, LABELS[:2]), r"5 samples, got shape \(2,\)"),
        (lambda: DATA.denoiser(Rectified())(X, 0.5, 1.0 * LABELS), "whole numbers, got float32"),
    ],
)
def test_impossible_labels_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
