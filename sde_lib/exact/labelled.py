r"""A Gaussian mixture whose components have classes: exact conditional denoisers and classifiers.

With :math:`p_{t,k}` the noised components and :math:`c(k)` their classes,

.. math:: p_t(x \mid c) \propto \sum_{k : c(k) = c} w_k p_{t,k}(x), \qquad
    p_t(c \mid x) = \sum_{k : c(k) = c} w_k p_{t,k}(x) \Big/ \sum_k w_k p_{t,k}(x) .

A class is chosen by a mask of the log-weights, so that it may be traced and differ by sample.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Shaped

from ..arrays import as_state, at_least_float32, check_time
from ..base import SDE, check_process
from ..checks import known
from ..estimate import Estimate
from ..evaluations import record_evaluations
from .base import ExactDenoiser, Marginal, check_state, estimate_of
from .mixture import GaussianMixture, component_marginals, mixture_marginal


class LabelledMixture(eqx.Module):
    """A mixture of K Gaussians, each of which belongs to a class; a class may have several.

    Attributes:
        mixture: the data of all classes together.
        labels: the class of each component (K,), whole numbers.
    """

    mixture: GaussianMixture
    labels: Int[np.ndarray, " k"]

    def __init__(self, mixture: GaussianMixture, labels: npt.ArrayLike):
        """Keep the mixture and the whole numbers `labels` (K,).

        Raises:
            ValueError: there is not one whole number for each component.
        """
        labels = np.asarray(labels)
        whole = np.issubdtype(labels.dtype, np.integer)
        if labels.shape != mixture.weights.shape or not whole:
            raise ValueError(
                f"need one whole number for each of the {len(mixture.weights)} components, "
                f"got labels of type {labels.dtype} and shape {labels.shape}: {labels}"
            )
        self.mixture = mixture
        self.labels = labels

    def given(self, label: int) -> GaussianMixture:
        """Return the data of one class.

        Raises:
            ValueError: no component has this label.
        """
        check_labels(label, self.labels)
        chosen = self.labels == label
        mixture = self.mixture
        covs = np.einsum(
            "kij,kj,klj->kil",
            mixture.bases[chosen],
            mixture.variances[chosen],
            mixture.bases[chosen],
        )
        weights = mixture.weights[chosen]
        return GaussianMixture(weights / weights.sum(), mixture.means[chosen], covs)

    def denoiser(self, sde: SDE) -> "LabelledDenoiser":
        """Return the perfect denoiser, whose conditions are labels (batch,) or None."""
        return LabelledDenoiser(self, sde)

    def log_prob_label(
        self, sde: SDE, x: Shaped[Array, "batch d"], t: ArrayLike, label: Int[ArrayLike, "*batch"]
    ) -> Float[Array, " batch"]:
        """Return the log-probability of a class given the noisy state, in nats (batch,).

        It is what `ClassifierGuidance` takes, with the process given:
        ``functools.partial(labelled.log_prob_label, sde)``.

        Args:
            sde: the process.
            x: states (batch, d).
            t: time of shape () or (batch,).
            label: of each sample (batch,), or one for all; NaN comes for a traced one that no
                component has.

        Raises:
            ValueError: no component has the label, or labels do not fit the batch.
        """
        check_labels(label, self.labels)
        x = check_state(x, self.mixture.means.shape[1])
        return _log_prob_label(_arrays(self, x), sde, x, jnp.asarray(check_time(t)), label)


class LabelledDenoiser(eqx.Module):
    """A denoise function that knows the data of each class; see `Denoise`.

    Its conditions are labels (batch,), or None for the data of all classes. A label that no
    component has is refused, and gives NaN where it is traced. A call counts as one evaluation.

    Attributes:
        data: the distribution.
        sde: the process.
    """

    data: LabelledMixture
    sde: SDE

    def __check_init__(self):
        check_process("an exact denoiser", self.sde)

    @property
    def sigma_data(self) -> Array:
        """The standard deviation of the data of all classes together, ()."""
        return ExactDenoiser(self.data.mixture, self.sde).sigma_data

    def __call__(self, x: Shaped[Array, "batch d"], t: ArrayLike, cond: Any = None) -> Estimate:
        """Return the exact estimate at `x` and time `t`, of shape () or (batch,).

        Raises:
            ValueError: no component has a label, or labels do not fit the batch.
        """
        record_evaluations()
        x = as_state(x)
        if cond is not None:
            check_labels(cond, self.data.labels, len(x))
        wide = check_state(at_least_float32(x), self.data.mixture.means.shape[1])
        t = jnp.asarray(check_time(t), wide.dtype)
        estimate = _estimate(_arrays(self.data, wide), self.sde, wide, t, cond)
        return jax.tree.map(lambda a: a.astype(x.dtype), estimate)


def check_labels(label: Any, present: Any, batch: int | None = None) -> None:
    """Raise a ValueError unless labels are whole numbers that some component has.

    With a `batch` there is one for each sample. Where either side is traced, type and shape alone
    are looked at.
    """
    if batch is not None and jnp.shape(label) != (batch,):
        raise ValueError(
            f"need a label for each of the {batch} samples, got shape {jnp.shape(label)}; "
            "repeat what all share, as in jnp.full(len(x), label)"
        )
    if not jnp.issubdtype(jnp.result_type(label), jnp.integer):
        raise ValueError(f"labels are whole numbers, got {jnp.result_type(label)}")
    if not known(label, present) or np.all(np.isin(label, present)):
        return
    unknown = np.setdiff1d(label, present)
    raise ValueError(f"no component has the label {unknown[0]}; there are {np.unique(present)}")


def _arrays(labelled: LabelledMixture, x: Array) -> LabelledMixture:
    """Return the distribution in arrays, its numbers in the type of `x`."""
    return jax.tree.map(
        lambda a: jnp.asarray(a, x.dtype if np.issubdtype(a.dtype, np.floating) else None), labelled
    )


def _log_weights(labelled: LabelledMixture, label: Array | None) -> Array:
    """Return log-weights (K, batch) or (K, 1), up to a constant for the class of each sample."""
    log_weights = jnp.log(labelled.mixture.weights)[:, None]
    if label is None:
        return log_weights
    of_class = labelled.labels[:, None] == jnp.reshape(label, (1, -1))
    return jnp.where(of_class, log_weights, -jnp.inf)


@eqx.filter_jit
def _estimate(labelled, sde, x, t, label) -> Estimate:
    weights = _log_weights(labelled, label)
    at: Marginal = mixture_marginal(labelled.mixture, sde, x, t, weights)
    return estimate_of(at, sde, x, t)


@eqx.filter_jit
def _log_prob_label(labelled, sde, x, t, label) -> Array:
    log_weights = jnp.log(labelled.mixture.weights)[:, None]
    joint = log_weights + component_marginals(labelled.mixture, sde, x, t).log_prob
    log_prob = jax.nn.log_softmax(joint, axis=0)
    of_class = labelled.labels[:, None] == jnp.reshape(label, (1, -1))
    inside = jax.nn.logsumexp(jnp.where(of_class, log_prob, -jnp.inf), axis=0)
    return jnp.where(jnp.any(of_class, axis=0), inside, jnp.nan)
