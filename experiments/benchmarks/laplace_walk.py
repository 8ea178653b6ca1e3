r"""A random walk with Laplace increments, and its exact denoiser.

:math:`x_i = x_{i-1} + w_i` from :math:`x_0 = 0`, each :math:`w_i` with density
:math:`k(w) = e^{-|w| / b} / 2b`. Given its noised values the walk is a hidden Markov chain, so that
the posterior mean of every :math:`x_i` follows from messages along the chain,

.. math:: f_i(s) = L_i(s) \int k(s - s') f_{i-1}(s')\, ds', \qquad
    g_{i-1}(s') = \int k(s - s') L_i(s)\, g_i(s)\, ds, \qquad
    p(x_i = s \mid x_t) \propto f_i(s)\, g_i(s),

with :math:`L_i(s) = \mathcal{N}(x_{t,i};\, \alpha s, \sigma^2)`. They are sums over uniform nodes
of spacing h: the trapezoidal rule, which converges faster than any power for what is smooth. The
kink of k would leave an error of :math:`h^2 B_2(\theta) / 2` times the jump of the slope, where
:math:`\theta` is its place between two nodes and :math:`B_2(\theta) = \theta^2 - \theta + 1/6`
(Euler and Maclaurin). It is taken off the two nodes. What is left is below 5e-4 of the posterior's standard deviation. All
coordinates share one wide range of nodes
where the noise is broad, and each has its own around :math:`x_{t,i} / \alpha` where it is narrow.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Key, Shaped

from sde_lib import SDE, DataDistribution, Moments
from sde_lib.arrays import expand_time
from sde_lib.checks import check_numbers
from sde_lib.exact.base import Marginal, check_state

from .laplace_steps import LOWEST, SameNodes, Step, step_between

RANGE = 40  # of the wide nodes, in units of b: 16 steps leave it once in 3e7 walks
SPACING = 1 / 4  # of the wide nodes, in units of b
NARROW = 0.7  # below this noise-to-signal ratio, in units of b, the nodes are local
LOCAL_RANGE = 7.0  # of the local nodes, in units of the noise-to-signal ratio
LOCAL_NODES = 41


class Messages(NamedTuple):
    """What is known of one walk."""

    log_prob: Array  # ()
    x0: Array  # (d,), the posterior mean
    noise: Array  # (d,), the posterior mean
    variance: Array  # (d,), of the noise


class Steps(NamedTuple):
    """The steps from each coordinate to the next, with a leading axis (d - 1,)."""

    onward: Step | SameNodes
    back: Step | SameNodes


class LaplaceWalk(DataDistribution):
    """Walks (d,) with independent Laplace increments, from 0.

    Estimates are finite at any state. In float32 their gradients are finite where no step of the
    state is much longer than 40 b, which a walk takes with probability e^-40: beyond, products of
    what two steps weigh overflow.

    Attributes:
        scale: b, a standard deviation of an increment over sqrt(2).
        size: d.
    """

    scale: Float[np.ndarray, ""]
    size: int = eqx.field(static=True)

    def __init__(self, scale: float, size: int):
        """Take walks of `size` increments of scale `scale`.

        Raises:
            ValueError: one of them is not positive.
        """
        check_numbers("scale > 0 and size >= 1", lambda b, d: b > 0 and d >= 1, scale, size)
        self.scale = np.asarray(scale, np.float64)
        self.size = int(size)

    def sample(self, key: Key[Array, ""], n: int) -> Float[Array, "n d"]:
        """Draw `n` walks (n, d)."""
        increments = jax.random.laplace(key, (n, self.size))
        return jnp.cumsum(jnp.asarray(self.scale) * increments, 1)

    def data_moments(self) -> Moments:
        """Return the mean (d,) and the covariance (d, d): 2 b^2 min(i, j)."""
        steps = jnp.arange(1.0, self.size + 1)
        cov = 2 * jnp.asarray(self.scale) ** 2 * jnp.minimum(steps[:, None], steps[None])
        return Moments(mean=jnp.zeros(self.size), cov=cov)

    def marginal(self, sde: SDE, x: Shaped[Array, "batch d"], t: ArrayLike) -> Marginal:
        """Return everything known of p_t at `x`; see `DataDistribution.marginal`.

        Where sigma is 0 the score is that of the data, 0 on its kinks.
        """
        x = check_state(x, self.size)
        scale = jnp.asarray(self.scale, x.dtype)
        alpha, sigma = (
            jnp.broadcast_to(jnp.reshape(value, -1), x.shape[:1])
            for value in sde.marginal(expand_time(t, x))
        )
        noised = sigma > 0
        narrow = noised & (sigma < NARROW * scale * alpha)
        broad = noised & ~narrow
        local = _of_some(partial(_local, scale), narrow, x, alpha, sigma, NARROW * scale)
        wide = _of_some(partial(_wide, scale), broad, x, alpha, sigma, scale)

        def choose(a, b):
            return jnp.where(narrow.reshape((-1,) + (1,) * (a.ndim - 1)), a, b)

        messages = jax.tree.map(choose, local, wide)
        return self._noised_or_clean(x, alpha, sigma, messages)

    def _noised_or_clean(self, x: Array, alpha: Array, sigma: Array, messages: Messages):
        """Return the marginal, which is that of the data where sigma is 0."""
        noised = sigma > 0
        width = jnp.where(noised, sigma, 1.0)
        clean = x / jnp.where(noised, 1.0, alpha)[:, None]
        scale = jnp.asarray(self.scale, x.dtype)
        increments = jnp.diff(clean, axis=1, prepend=0)
        log_density = -jnp.sum(jnp.abs(increments) / scale + jnp.log(2 * scale), 1)
        slopes = -jnp.sign(increments) / scale
        clean_score = slopes - jnp.pad(slopes[:, 1:], ((0, 0), (0, 1)))
        divergence = jnp.sum(messages.variance - 1, 1) / width**2
        return Marginal(
            log_prob=jnp.where(noised, messages.log_prob, log_density - self.size * jnp.log(alpha)),
            score=jnp.where(
                noised[:, None], -messages.noise / width[:, None], clean_score / alpha[:, None]
            ),
            x0=jnp.where(noised[:, None], messages.x0, clean),
            divergence=jnp.where(noised, divergence, 0.0),
        )


def _of_some(
    known: Callable[[Array, Array, Array], Messages],
    chosen: Array,
    x: Array,
    alpha: Array,
    sigma: Array,
    harmless: Array,
) -> Messages:
    """Return what is known of the chosen walks; nothing is computed where there are none.

    The others are replaced by what is harmless, so that gradients stay finite.

    Args:
        known: takes one walk (d,), alpha and sigma.
        chosen: (batch,).
        x: (batch, d).
        alpha: (batch,).
        sigma: (batch,).
        harmless: sigma of the others, with alpha = 1 and x = 0.
    """

    def compute() -> Messages:
        return jax.vmap(known)(
            jnp.where(chosen[:, None], x, 0.0),
            jnp.where(chosen, alpha, 1.0),
            jnp.where(chosen, sigma, harmless),
        )

    def skip() -> Messages:
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(compute))

    return jax.lax.cond(jnp.any(chosen), compute, skip)


def _wide(scale: Array, x: Array, alpha: Array, sigma: Array) -> Messages:
    """Return what is known of one walk `x` (d,) under broad noise, on nodes for all coordinates."""
    half = int(RANGE / SPACING)
    spacing = SPACING * scale
    nodes = spacing * jnp.arange(-half, half + 1, dtype=x.dtype)
    noise = (x[:, None] - alpha * nodes[None]) / sigma
    kernel = spacing * _kernel(scale, spacing, nodes[:, None] - nodes[None])
    step = SameNodes(jnp.broadcast_to(kernel, (len(x) - 1, *kernel.shape)))
    first = spacing * _kernel(scale, spacing, nodes)
    moments = _smooth(first, Steps(step, step), noise, jnp.broadcast_to(nodes, noise.shape))
    log_normaliser = len(x) * jnp.log(jnp.sqrt(2 * jnp.pi) * sigma)
    return moments._replace(log_prob=moments.log_prob - log_normaliser)


def _local(scale: Array, x: Array, alpha: Array, sigma: Array) -> Messages:
    """Return what is known of one walk `x` (d,) under narrow noise, on nodes of each coordinate."""
    ratio = jax.lax.stop_gradient(sigma / alpha)  # the nodes stay where they are when x moves
    centre = jax.lax.stop_gradient(x / alpha)
    offsets = jnp.linspace(-LOCAL_RANGE, LOCAL_RANGE, LOCAL_NODES, dtype=x.dtype)
    spacing = ratio * 2 * LOCAL_RANGE / (LOCAL_NODES - 1)
    nodes = centre[:, None] + ratio * offsets[None]
    noise = ((x - alpha * centre)[:, None] - alpha * ratio * offsets[None]) / sigma
    moved = jnp.diff(centre)  # (d - 1,)
    # The smallest step of each factor is taken out, or long steps would underflow.
    between = moved[:, None] + spacing * np.arange(1 - LOCAL_NODES, LOCAL_NODES)[None]
    nearest = jnp.min(jnp.abs(between), 1)
    nearest_first = jnp.min(jnp.abs(nodes[0]))

    def steps(moved: Array, nearest: Array) -> Step:
        return step_between(scale, spacing, moved, nearest, LOCAL_NODES)

    there_and_back = Steps(jax.vmap(steps)(moved, nearest), jax.vmap(steps)(-moved, nearest))
    first = spacing * _kernel(scale, spacing, nodes[0], nearest_first)
    moments = _smooth(first, there_and_back, noise, nodes)
    log_normaliser = len(x) * jnp.log(jnp.sqrt(2 * jnp.pi) * sigma)
    log_taken = -(nearest_first + jnp.sum(nearest)) / scale
    return moments._replace(log_prob=moments.log_prob + log_taken - log_normaliser)


def _kernel(scale: Array, spacing: Array, step: Array, nearest: ArrayLike = 0.0) -> Array:
    """Return k(step) e^(nearest / b), as the trapezoidal rule of this spacing has to weigh it."""
    place = jnp.minimum(jnp.abs(step) / spacing, 1.0)
    bernoulli = place**2 - place + 1 / 6
    kink = spacing / scale * bernoulli * (1 - place) * jnp.exp(place * spacing / scale)
    log_size = jnp.maximum((nearest - jnp.abs(step)) / scale, LOWEST)
    return jnp.exp(log_size) / (2 * scale) * (1 - kink)


def _smooth(first: Array, steps: Steps, noise: Array, nodes: Array) -> Messages:
    """Pass the messages along the chain, forward and backward.

    Args:
        first: prior masses of the first coordinate at its nodes (n,).
        steps: prior masses of steps from one coordinate's nodes to the next's, and back.
        noise: what the noise would be if the data were at the nodes (d, n).
        nodes: values of the data (d, n).
    """
    log_likelihood = -0.5 * noise**2
    highest = jax.lax.stop_gradient(jnp.max(log_likelihood, 1))
    likelihood = jnp.exp(log_likelihood - highest[:, None])

    def forward(message, inputs):
        step, seen = inputs
        product, log_size = _scaled(seen * step.take(message))
        return product, (product, log_size)

    def backward(message, inputs):
        step, seen = inputs
        product, _ = _scaled(seen * message)
        product, _ = _scaled(step.take(product))
        return product, product

    start, log_start = _scaled(first * likelihood[0])
    onward = (steps.onward, likelihood[1:])
    end, (after, log_sizes) = jax.lax.scan(forward, start, onward)
    last = jnp.ones_like(start)
    _, before = jax.lax.scan(backward, last, (steps.back, likelihood[1:]), reverse=True)
    product = jnp.concatenate([start[None], after]) * jnp.concatenate([before, last[None]])
    product, _ = jax.vmap(_scaled)(product)
    mass = product / jnp.sum(product, 1, keepdims=True)
    mean = jnp.sum(mass * noise, 1)
    return Messages(
        log_prob=jnp.log(jnp.sum(end)) + log_start + jnp.sum(log_sizes) + jnp.sum(highest),
        x0=jnp.sum(mass * nodes, 1),
        noise=mean,
        variance=jnp.sum(mass * (noise - mean[:, None]) ** 2, 1),
    )


def _scaled(message: Array) -> tuple[Array, Array]:
    """Return the message (n,) scaled to a largest value of 1, and the log of the scale.

    The scale counts as a constant, whose square would overflow in a derivative.
    """
    size = jax.lax.stop_gradient(jnp.max(message))
    return message / size, jnp.log(size)
