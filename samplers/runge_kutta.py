r"""Runge-Kutta samplers: k network calls a step, the first at its start, the others at points in between or at its end.

With F the predicted combination of a sampler, :math:`F = a \hat x_0 + b \hat\epsilon`, target i = 1 ... k - 1 the point of call i and
target k the end of the step,

.. math:: x_i = \text{data}_i\,\hat x_0 + \text{noise}_i\,\hat\epsilon + \sum_{0 < j < i} w_{ij} F_j + \sum_{j < i} \text{spread}_{ij} z_j,

where :math:`\hat x_0, \hat\epsilon` are those at the start. The z are shared by the targets: increments of one Brownian path.
"""

from typing import Any, NamedTuple

from jax import Array

from .base import Sampler, fold, normal


class Row(NamedTuple):
    """Coefficients of one step; the leading axis of a plan counts the steps."""

    t: Array  # (k,) times of the calls
    data: Array  # (k,)
    noise: Array  # (k,)
    a: Array  # (k - 1,) of the calls after the first
    b: Array  # (k - 1,)
    w: Array  # (k, k - 1)
    spread: Array  # (k, k)


class RungeKutta(Sampler):
    """A sampler that only has to plan rows of `Row`."""

    def step(self, keys, denoise, x: Array, row: Row, memory: Any, cond: Any) -> tuple[Array, Any]:
        k = row.t.shape[0]
        z = [normal(fold(keys, j), x) for j in range(k)] if self.stochastic else []
        x0, noise = denoise(x, row.t[0], cond)
        values: list[Array] = []
        for i in range(k):
            x = row.data[i] * x0 + row.noise[i] * noise
            x = x + sum(row.w[i, j] * value for j, value in enumerate(values))
            x = x + sum(row.spread[i, j] * z[j] for j in range(min(i + 1, len(z))))
            if i < k - 1:
                at = denoise(x, row.t[i + 1], cond)
                values.append(row.a[i] * at.x0 + row.b[i] * at.noise)
        return x, memory
