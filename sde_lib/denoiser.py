"""A network seen through an SDE: what clean data and what noise does a noisy x contain?

Three tables say how the network is used, so that published networks are reproduced by names and no
code asks which SDE it has: `PREDICTIONS` (what its output estimates), `INPUTS` (what it is fed)
and, in a loss, `WEIGHTINGS` (how much an error counts). EDM (Karras et al. 2022, arXiv:2206.00364,
table 1) is prediction "edm", weighting "prediction", inputs "edm".

With self-conditioning (Chen et al. 2022, arXiv:2208.04202, section 3) the network also sees the
clean data that it expected at its last call, over their standard deviation, or zeros at its first
call.
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
from .memory import Remembering
from .names import check_name
from .predictions import PREDICTIONS


class Denoiser(Remembering):
    """A callable (x, t, cond) -> Estimate made of a network and an SDE.

    Attributes:
        net: any callable (x, time signal (batch,), cond) -> array like x; with self-conditioning
            (x, time signal, cond, last estimate like x).
        sde: the forward process that the network was, or will be, trained on.
        prediction: what the network predicts, a row of `PREDICTIONS`.
        inputs: what the network is fed, a row of `INPUTS`.
        sigma_data: standard deviation of the data, used by the "edm" rows and by self-conditioning.
        self_conditioning: whether the network is given its last estimate of the clean data.
    """

    net: Callable
    sde: SDE
    prediction: str = eqx.field(default="edm", static=True)
    inputs: str = eqx.field(default="edm", static=True)
    sigma_data: float = 0.5
    self_conditioning: bool = eqx.field(default=False, static=True)

    def __check_init__(self):
        if not callable(self.net):
            raise ValueError(f"need a network (x, time signal, cond) -> array, got {self.net!r}")
        check_process("Denoiser", self.sde)
        check_name("prediction", self.prediction, PREDICTIONS)
        check_name("inputs", self.inputs, INPUTS)
        check_sigma_data(self.sigma_data)
        # A process without discrete noise levels has no labels.
        jax.eval_shape(lambda t: INPUTS[self.inputs][1](self.sde, t), jnp.ones(1))

    def init(self, x: Array) -> Any:
        """Return a last estimate of zeros (batch, ...), () without self-conditioning."""
        return jnp.zeros_like(as_state(x)) if self.self_conditioning else ()

    def recall(self, x: Array, t: ArrayLike, cond: Any, memory: Any) -> tuple[Estimate, Any]:
        """Return the clean data and noise expected in `x` (batch, ...) at time `t`, and the memory.

        Args:
            x: the state (batch, ...).
            t: time of shape () or (batch,).
            cond: conditions, handed to the network.
            memory: the last estimate of the clean data (batch, ...), () without self-conditioning.

        Returns:
            An Estimate in the type of `x`, computed in float32 at least, and its clean data as the
            memory. `Estimate.solve` says what it is where a prediction carries no information.

        Raises:
            ValueError: a state, time or network output of an impossible shape or value.
        """
        x = as_state(x)
        time = expand_time(t, x)
        alpha, sigma = self.sde.marginal(time)
        a, b = self.combination(time)
        value = self.output(x, t, cond, memory if self.self_conditioning else None)
        estimate = Estimate.solve(x.astype(precision(x)), alpha, sigma, a, b, value)
        x0 = estimate.x0.astype(x.dtype)
        memory = x0 if self.self_conditioning else ()
        return Estimate(x0=x0, noise=estimate.noise.astype(x.dtype)), memory

    def output(self, x: Array, t: ArrayLike, cond: Any = None, last: Array | None = None) -> Array:
        """Return the raw network output (batch, ...), the estimate of a x0 + b noise.

        Args:
            x: the state (batch, ...).
            t: time of shape () or (batch,).
            cond: conditions, handed to the network.
            last: with self-conditioning, the last estimate of the clean data (batch, ...); None:
                zeros.

        Raises:
            ValueError: the network does not return one array like its input.
        """
        x = as_state(x)
        inputs = network_inputs(self.inputs, self.sde, x, t, self.sigma_data)
        if self.self_conditioning:
            last = jnp.zeros_like(x) if last is None else last
            value = self.net(*inputs, cond, (last / self.sigma_data).astype(x.dtype))
        else:
            value = self.net(*inputs, cond)
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
