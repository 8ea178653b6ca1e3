r"""Heun's method on the probability flow, in the variable where it is simplest (Karras et al. 2022, arXiv:2206.00364, algorithm 1).

In :math:`y = x / \alpha` and :math:`r = \sigma / \alpha` the flow is :math:`dy/dr = \epsilon` for every SDE, so a step is the DDIM step
followed by the trapezoidal correction

.. math:: x_s \leftarrow x_s + \tfrac12 \alpha_s (r_s - r_t)\,\big(\hat\epsilon(x_s, s) - \hat\epsilon(x_t, t)\big).
"""

from typing import ClassVar, NamedTuple

from jax import Array

from sde_lib import SDE

from .base import Sampler


class Row(NamedTuple):
    t: Array
    s: Array
    data: Array  # alpha_s
    noise: Array  # sigma_s
    correct: Array  # alpha_s (r_s - r_t) / 2


class Heun(Sampler):
    """Second-order deterministic sampler; two network calls a step."""

    order: ClassVar[int] = 2

    def plan(self, sde: SDE, ts: Array) -> Row:
        alpha, sigma = sde.marginal(ts)
        r = sigma / alpha
        return Row(ts[:-1], ts[1:], alpha[1:], sigma[1:], 0.5 * alpha[1:] * (r[1:] - r[:-1]))

    def step(self, keys, denoise, x, row, memory, cond):
        del keys
        x0, noise = denoise(x, row.t, cond)
        x = row.data * x0 + row.noise * noise
        return x + row.correct * (denoise(x, row.s, cond).noise - noise), memory
