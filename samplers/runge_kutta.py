r"""Runge-Kutta samplers: k network calls a step, the first at its start.

The samplers remember the predictions :math:`F = a \hat x_0 + b \hat\epsilon` of the calls after the
first. With target i = 1 ... k - 1 the point of call i and target k the end of the step,

.. math:: x_i = \text{data}_i\,\hat x_0 + \text{noise}_i\,\hat\epsilon
    + \sum_{0 < j < i} \text{weights}_{ij} F_j + \sum_{j < i} \text{noise\_scale}_{ij} z_j,

where :math:`\hat x_0, \hat\epsilon` are those at the start. The z are shared by the targets: they
are increments of one Brownian path.
"""

from typing import Any, NamedTuple

from jax import Array

from .base import Sampler, fold, normal


class RungeKuttaCoefficients(NamedTuple):
    """The coefficients of one step of k calls; in a plan each has the leading axis `steps`."""

    t: Array  # (k,) times of the calls
    data: Array  # (k,) of the clean data expected at the start, for each target
    noise: Array  # (k,) of the noise expected at the start
    prediction_data: Array  # (k - 1,) a of F = a x0 + b noise, of the calls after the first
    prediction_noise: Array  # (k - 1,) b of F
    weights: Array  # (k, k - 1) of F_1 ... F_{k - 1}
    noise_scale: Array  # (k, k) of the fresh noise z_0 ... z_{k - 1}


class RungeKutta(Sampler):
    """A sampler that only has to plan `RungeKuttaCoefficients`."""

    def step(
        self,
        keys,
        denoise,
        x: Array,
        coefficients: RungeKuttaCoefficients,
        memory: Any,
        cond: Any,
    ) -> tuple[Array, Any]:
        """Take one step of k network calls; see `Sampler.step`."""
        calls = coefficients.t.shape[0]
        z = [normal(fold(keys, j), x) for j in range(calls)] if self.stochastic else []
        x0, noise = denoise(x, coefficients.t[0], cond)
        predictions: list[Array] = []
        for i in range(calls):
            x = coefficients.data[i] * x0 + coefficients.noise[i] * noise
            x = x + sum(coefficients.weights[i, j] * F for j, F in enumerate(predictions))
            x = x + sum(coefficients.noise_scale[i, j] * z_j for j, z_j in enumerate(z[: i + 1]))
            if i < calls - 1:
                estimate = denoise(x, coefficients.t[i + 1], cond)
                predictions.append(
                    coefficients.prediction_data[i] * estimate.x0
                    + coefficients.prediction_noise[i] * estimate.noise
                )
        return x, memory
