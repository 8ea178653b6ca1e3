"""A network seen through an SDE: what clean data and what noise does a noisy x contain?

Three tables say how the network is used, so that published networks are reproduced by names and no
code asks which SDE it has: `PREDICTIONS` (what its output estimates), `INPUTS` (what it is fed)
and, in a loss, `WEIGHTINGS` (how much an error counts). EDM (Karras et al. 2022, arXiv:2206.00364,
table 1) is prediction "edm", weighting "prediction", inputs "edm".
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from .arrays import as_state, expand, expand_time, precision
from .base import SDE, check_process
from .checks import check_sigma_data
from .estimate import Estimate, Number
from .evaluations import record_evaluations
from .inputs import INPUTS, network_inputs
from .names import check_name
from .predictions import PREDICTIONS


class Denoiser(eqx.Module):
    """A callable (x, t, cond) -> Estimate made of a network and an SDE.

    Attributes:
        net: any callable (x, time signal (batch,), cond) -> array like x.
        sde: the forward process that the network was, or will be, trained on.
        prediction: what the network predicts, a row of `PREDICTIONS`.
        inputs: what the network is fed, a row of `INPUTS`.
        sigma_data: standard deviation of the data, used by the "edm" rows.
    """

    net: Callable
    sde: SDE
    prediction: str = eqx.field(default="edm", static=True)
    inputs: str = eqx.field(default="edm", static=True)
    sigma_data: float = 0.5

    def __check_init__(self):
        if not callable(self.net):
            raise ValueError(f"need a network (x, time signal, cond) -> array, got {self.net!r}")
        check_process("Denoiser", self.sde)
        check_name("prediction", self.prediction, PREDICTIONS)
        check_name("inputs", self.inputs, INPUTS)
        check_sigma_data(self.sigma_data)
        # A process without discrete noise levels has no labels.
        jax.eval_shape(lambda t: INPUTS[self.inputs][1](self.sde, t), jnp.ones(1))

    def __call__(self, x: Array, t: ArrayLike, cond: Any = None) -> Estimate:
        """Return the clean data and noise expected in `x` (batch, ...) at time `t`.

        Args:
            x: the state (batch, ...).
            t: time of shape () or (batch,).
            cond: conditions, handed to the network.

        Returns:
            An Estimate in the type of `x`, computed in float32 at least. `Estimate.solve` says what
            it is where a prediction carries no information.

        Raises:
            ValueError: a state, time or network output of an impossible shape or value.
        """
        x = as_state(x)
        time = expand_time(t, x)
        alpha, sigma = self.sde.marginal(time)
        a, b = self.combination(time)
        value = self.output(x, t, cond)
        estimate = Estimate.solve(x.astype(precision(x)), alpha, sigma, a, b, value)
        return Estimate(estimate.x0.astype(x.dtype), estimate.noise.astype(x.dtype))

    def output(self, x: Array, t: ArrayLike, cond: Any = None) -> Array:
        """Return the raw network output (batch, ...), the estimate of a x0 + b noise.

        Args:
            x: the state (batch, ...).
            t: time of shape () or (batch,).
            cond: conditions, handed to the network.

        Raises:
            ValueError: the network does not return one array like its input.
        """
        x = as_state(x)
        value = self.net(*network_inputs(self.inputs, self.sde, x, t, self.sigma_data), cond)
        if not hasattr(value, "shape"):
            raise ValueError(
                f"the network returned a {type(value).__name__}; "
                "it must return one array like its input"
            )
        if value.shape != x.shape:
            raise ValueError(
                f"the network returned shape {value.shape} for a state of shape {x.shape}; "
                "it must return one like its input"
            )
        record_evaluations()
        return value

    def score(self, x: Array, t: ArrayLike, cond: Any = None) -> Array:
        """Return the score (batch, ...), the gradient of log p_t at `x`.

        It is minus the expected noise over sigma, so NaN where sigma is 0.
        """
        x = as_state(x)
        noise = self(x, t, cond).noise
        return (-noise / self.sde.marginal(expand(t, x))[1]).astype(x.dtype)

    def combination(self, t: Array) -> tuple[Number, Number]:
        """Return (a, b) of the predicted combination at `t`, elementwise."""
        return PREDICTIONS[self.prediction](self.sde, t, self.sigma_data)
