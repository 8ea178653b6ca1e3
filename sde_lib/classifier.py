r"""A noise-conditional classifier: of which class are the clean data in a noisy state?

It is trained by cross-entropy on states :math:`x_t` of all noise levels (Song et al. 2021,
arXiv:2011.13456, section 5; Dhariwal and Nichol 2021, arXiv:2105.05233, section 4), so that it knows
:math:`p(c \mid x_t)`, whose gradient `ClassifierGuidance` follows.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Key, Shaped

from .arrays import as_state
from .base import SDE, check_process
from .checks import check_sigma_data
from .evaluations import record_evaluations
from .inputs import INPUTS, network_inputs
from .names import check_name


class Classifier(eqx.Module):
    """A callable (x, t) -> logits made of a network and an SDE.

    Attributes:
        net: any callable (x, time signal (batch,), None) -> logits (batch, classes).
        sde: the forward process that the network was, or will be, trained on.
        inputs: what the network is fed, a row of `INPUTS`.
        sigma_data: standard deviation of the data, used by the "edm" inputs.
    """

    net: Callable
    sde: SDE
    inputs: str = eqx.field(default="edm", static=True)
    sigma_data: float = 0.5

    def __check_init__(self):
        if not callable(self.net):
            raise ValueError(f"need a network (x, time signal, None) -> logits, got {self.net!r}")
        check_process("Classifier", self.sde)
        check_name("inputs", self.inputs, INPUTS)
        check_sigma_data(self.sigma_data)

    def __call__(self, x: Array, t: ArrayLike) -> Array:
        """Return the logits (batch, classes) of states `x` (batch, ...) at time `t`.

        Args:
            x: the states.
            t: time of shape () or (batch,).

        Raises:
            ValueError: a state, time or network output of an impossible shape or value.
        """
        x = as_state(x)
        logits = self.net(*network_inputs(self.inputs, self.sde, x, t, self.sigma_data), None)
        if jnp.ndim(logits) != 2 or len(logits) != len(x):
            raise ValueError(
                f"the network returned shape {jnp.shape(logits)} for {len(x)} states; "
                "it must return logits (batch, classes)"
            )
        record_evaluations()
        return logits

    def log_prob(self, x: Array, t: ArrayLike, label: ArrayLike) -> Float[Array, " batch"]:
        """Return log p(label | x) at time `t`, in nats, for each sample.

        The label after the last class means "no label" and gives 0. Others out of range give NaN,
        which is loud where a traced value cannot raise.

        Args:
            x: states (batch, ...).
            t: time of shape () or (batch,).
            label: whole numbers (batch,).

        Raises:
            ValueError: labels that are not whole numbers (batch,).
        """
        logits = self(x, t)
        label = jnp.asarray(label)
        dtype = label.dtype
        if label.shape != (len(logits),) or not jnp.issubdtype(dtype, jnp.integer):
            raise ValueError(
                f"labels are {dtype}{label.shape}, expected whole numbers ({len(logits)},)"
            )
        classes = logits.shape[1]
        chosen = jax.nn.one_hot(label, classes)  # zeros for "no label"
        log_prob = jnp.sum(chosen * jax.nn.log_softmax(logits), axis=1)
        return jnp.where((label >= 0) & (label <= classes), log_prob, jnp.nan)


def classification_loss(
    key: Key[Array, ""],
    classifier: Classifier,
    x0: Shaped[Array, "batch ..."],
    t: ArrayLike,
    label: Any,
) -> Float[Array, " batch"]:
    """Return the cross-entropy, in nats, of each sample after noise was added to it.

    Args:
        key: draws the noise.
        classifier: the network and its process.
        x0: clean data (batch, ...).
        t: times of shape () or (batch,).
        label: classes (batch,).
    """
    x, _ = classifier.sde.perturb(key, as_state(x0), t)
    return -classifier.log_prob(x, t, label)
