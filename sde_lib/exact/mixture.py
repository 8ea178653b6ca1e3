r"""A mixture of Gaussians. With :math:`r_k` the probability that x came from component k and
:math:`s_k` the component's score,

.. math:: \log p_t = \operatorname{logsumexp}_k(\log w_k + \log p_{t,k}), \qquad
    \nabla \log p_t = \sum_k r_k s_k, \qquad E[x_0 \mid x] = \sum_k r_k E_k[x_0 \mid x],

.. math:: \Delta \log p_t = \sum_k r_k (\Delta \log p_{t,k} + \| s_k - \nabla \log p_t \|^2) .
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Shaped

from ..arrays import matmul
from ..base import SDE
from .base import DataDistribution, Marginal, Moments, check_state, finite
from .gaussian import covariance, factorise, gaussian_marginal
from .posterior import Measured, Posterior


class GaussianMixture(DataDistribution):
    """A mixture of K Gaussians, each with a full covariance of its own.

    Attributes:
        weights: (K,), adding up to 1.
        means: (K, d).
        bases: eigenvectors of the covariances, as columns (K, d, d).
        variances: their eigenvalues (K, d).
    """

    weights: Float[np.ndarray, " k"]
    means: Float[np.ndarray, "k d"]
    bases: Float[np.ndarray, "k d d"]
    variances: Float[np.ndarray, "k d"]

    def __init__(self, weights: npt.ArrayLike, means: npt.ArrayLike, covs: npt.ArrayLike):
        """Factorise the covariances `covs` (K, d, d) of components with `weights` (K,) and `means`
        (K, d).

        Raises:
            ValueError: shapes disagree, weights do not add up to 1, or a matrix is no covariance
                matrix.
        """
        self.weights = finite("weights", weights, 1)
        self.means = finite("means", means, 2)
        covs = finite("covs", covs, 3)
        if not len(self.weights) == len(self.means) == len(covs):
            raise ValueError(
                f"need as many weights as means and covs, got {len(self.weights)}, "
                f"{len(self.means)} and {len(covs)}"
            )
        if np.any(self.weights <= 0) or abs(self.weights.sum() - 1) > 1e-6:
            raise ValueError(
                f"need weights > 0 that add up to 1, got {self.weights}; divide them by their sum"
            )
        bases, variances = zip(*(factorise(cov, self.means.shape[1]) for cov in covs), strict=True)
        self.bases, self.variances = np.stack(bases), np.stack(variances)

    def sample(self, key: Key[Array, ""], n: int) -> Float[Array, "n d"]:
        """Draw `n` data points (n, d)."""
        which, normal = jax.random.split(key)
        k = jax.random.choice(which, len(self.weights), (n,), p=jnp.asarray(self.weights))
        z = jnp.sqrt(self.variances)[k] * jax.random.normal(normal, (n, self.means.shape[1]))
        return jnp.asarray(self.means)[k] + matmul(jnp.asarray(self.bases)[k], z[..., None])[..., 0]

    def data_moments(self) -> Moments:
        """Return the mean (d,) and the covariance (d, d) of the mixture."""
        weights = jnp.asarray(self.weights)
        mean = matmul(weights, self.means)
        centred = jnp.asarray(self.means) - mean[None]
        covs = jax.vmap(covariance)(jnp.asarray(self.bases), jnp.asarray(self.variances))
        within = jnp.sum(weights[:, None, None] * covs, 0)
        return Moments(mean=mean, cov=within + matmul(centred.T * weights[None], centred))

    def marginal(self, sde: SDE, x: Shaped[Array, "batch d"], t: ArrayLike) -> Marginal:
        """Return everything known of p_t at `x`; see `DataDistribution.marginal`."""
        return mixture_marginal(self, sde, x, t, jnp.log(jnp.asarray(self.weights))[:, None])

    def posterior(
        self, matrix: npt.ArrayLike, y: npt.ArrayLike, noise_cov: npt.ArrayLike | float
    ) -> Posterior:
        """Return the law of x given y = matrix x + noise, a `GaussianMixture`, and log p(y).

        Component k is what `Gaussian.posterior` makes of it, with its weight times its evidence.
        Components whose weight is 0 in float32 are dropped.

        Args:
            matrix: (m, d).
            y: the measurement (m,).
            noise_cov: covariance of the Gaussian noise: a number (that variance in each
                measurement), the variances (m,), or a matrix (m, m). 0 is an exact observation.

        Raises:
            ValueError: shapes disagree, a value is traced or not finite, `noise_cov` is no
                covariance, or y has no density because measurements without noise depend on each
                other.
        """
        measured = Measured.checked(matrix, y, noise_cov, self.means.shape[1])
        parts = [
            measured.condition(*component)
            for component in zip(self.means, self.bases, self.variances, strict=True)
        ]
        means, covs, log_evidences = zip(*parts, strict=True)
        joint = np.log(self.weights) + np.array(log_evidences)
        log_evidence = np.logaddexp.reduce(joint)
        weights = np.exp(joint - log_evidence)
        present = weights > np.finfo(np.float32).tiny  # estimates are computed in float32, too
        data = GaussianMixture(
            weights=weights[present] / np.sum(weights[present]),
            means=np.stack(means)[present],
            covs=np.stack(covs)[present],
        )
        return Posterior(data=data, log_evidence=float(log_evidence))


def mixture_marginal(
    mixture: GaussianMixture,
    sde: SDE,
    x: Shaped[Array, "batch d"],
    t: ArrayLike,
    log_weights: Float[Array, "k n"],
) -> Marginal:
    """Return everything known of p_t at `x` under other weights of the components.

    Args:
        mixture: the components.
        sde: the process.
        x: states (batch, d).
        t: time of shape () or (batch,).
        log_weights: (K, batch), or (K, 1) for all samples; minus infinity leaves a component out.
    """
    x = check_state(x, mixture.means.shape[1])
    part = component_marginals(mixture, sde, x, t)
    joint = log_weights.astype(x.dtype) + part.log_prob
    r = jax.nn.softmax(joint, axis=0)
    score, x0 = (jnp.sum(r[..., None] * value, 0) for value in (part.score, part.x0))
    squares = jnp.sum((part.score - score[None]) ** 2, -1)
    return Marginal(
        log_prob=jax.nn.logsumexp(joint, axis=0),
        score=score,
        x0=x0,
        divergence=jnp.sum(r * (part.divergence + squares), 0),
    )


def component_marginals(
    mixture: GaussianMixture, sde: SDE, x: Shaped[Array, "batch d"], t: ArrayLike
) -> Marginal:
    """Return what is known of each component, with a leading axis K."""
    arrays = tuple(
        jnp.asarray(a, x.dtype) for a in (mixture.means, mixture.bases, mixture.variances)
    )

    def of_component(mean, basis, variances):
        return gaussian_marginal(sde, x, t, mean, basis, variances)

    return jax.vmap(of_component)(*arrays)
