r"""A network seen through an SDE: what clean data and what noise does a noisy x contain?

Three tables say how the network is used, so that published networks are reproduced by names and no code asks which SDE it has.
With :math:`\alpha, \sigma` the marginal at t, :math:`s` the standard deviation of the data and :math:`h = \sqrt{\sigma^2 + \alpha^2 s^2}`
that of :math:`x_t`:

- `PREDICTIONS`: the network output F estimates :math:`a x_0 + b \epsilon`; a row gives (a, b), see `Estimate.solve`.
- `WEIGHTINGS`: the factor w of the loss :math:`w (F - a x_0 - b \epsilon)^2`. As the error of the noise is :math:`|\alpha/\Delta|` times
  that of F, :math:`w = (\alpha/\Delta)^2` is DDPM's loss and :math:`w = (g/\sigma)^2 (\alpha/\Delta)^2` the likelihood weighting.
- `INPUTS`: how x is scaled for the network and what the network is told of the time, as one number a sample.

EDM (Karras et al. 2022, arXiv:2206.00364, table 1) is prediction "edm", weighting "prediction", inputs "edm".
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from .base import SDE, expand
from .estimate import Estimate, Number
from .evaluations import evaluated


def _edm(sde: SDE, t: Array, sd: ArrayLike) -> tuple[Array, Array]:
    alpha, sigma = sde.marginal(t)
    h = jnp.hypot(sigma, alpha * sd)
    return sigma / (sd * h), -alpha * sd / h


def _v(sde: SDE, t: Array, sd: ArrayLike) -> tuple[Array, Array]:
    alpha, sigma = sde.marginal(t)
    return -sigma / jnp.hypot(alpha, sigma), alpha / jnp.hypot(alpha, sigma)


# name -> (sde, t, sd) -> (a, b), the combination a x0 + b noise that the network predicts.
PREDICTIONS: dict[str, Callable] = {
    "edm": _edm,  # = -v on data scaled to unit variance
    "v": _v,  # normalised, so bounded for VE too (Salimans and Ho 2022, arXiv:2202.00512)
    "x0": lambda sde, t, sd: (1.0, 0.0),
    "noise": lambda sde, t, sd: (0.0, 1.0),
    "score": lambda sde, t, sd: (0.0, -1 / sde.marginal(t)[1]),
    "unit_score": lambda sde, t, sd: (
        0.0,
        -2 / sde.marginal(t)[1],
    ),  # the score of (x + 1) / 2, whose noise is half as large
    "velocity": lambda sde, t, sd: sde.marginal_rate(
        t
    ),  # flow matching (Lipman et al. 2023, arXiv:2210.02747)
}

# name -> (sde, t, det) -> w, the factor of the squared error of the network output.
WEIGHTINGS: dict[str, Callable] = {
    "prediction": lambda sde, t, det: 1.0,
    "noise": lambda sde, t, det: (
        (sde.marginal(t)[0] / det) ** 2
    ),  # DDPM; sigma^2-weighted score matching
    "x0": lambda sde, t, det: (sde.marginal(t)[1] / det) ** 2,
    "likelihood": lambda sde, t, det: (
        (sde.coefficients(t)[1] / sde.marginal(t)[1] * sde.marginal(t)[0] / det) ** 2
    ),
}

WEIGHTINGS |= {
    # gamma = 5 (Hang et al. 2023, arXiv:2303.09556, eq. 6)
    "min_snr": lambda sde, t, det: (
        jnp.minimum(jnp.exp(sde.log_snr(t)), 5.0) * WEIGHTINGS["x0"](sde, t, det)
    ),
    # bias 2, made for times uniform in the log-SNR (Kingma and Gao 2023, arXiv:2303.00848, section 4)
    "sigmoid": lambda sde, t, det: (
        jax.nn.sigmoid(2.0 - sde.log_snr(t)) * WEIGHTINGS["noise"](sde, t, det)
    ),
}

# name -> (scale of x: (sde, t, sd) -> array like t, time signal: (sde, t) -> array like t).
INPUTS: dict[str, tuple[Callable, Callable]] = {
    "edm": (
        lambda sde, t, sd: 1 / jnp.hypot(sde.marginal(t)[1], sde.marginal(t)[0] * sd),
        lambda sde, t: -sde.log_snr(t) / 8,
    ),
    "time": (lambda sde, t, sd: 1.0, lambda sde, t: 999 * t),  # score_sde's VP and sub-VP networks
    "sigma": (
        lambda sde, t, sd: 1.0,
        lambda sde, t: sde.marginal(t)[1],
    ),  # score_sde's VE networks, which take the log themselves
    "unit_sigma": (
        lambda sde, t, sd: 0.5,
        lambda sde, t: sde.marginal(t)[1] / 2,
    ),  # the same, trained on images in [0, 1]
    "log_sigma": (
        lambda sde, t, sd: 1.0,
        lambda sde, t: jnp.log(sde.marginal(t)[1] / 2),
    ),  # EDM's retrained VE networks
    "label": (
        lambda sde, t, sd: 1.0,
        lambda sde, t: sde.label(t),
    ),  # DDPM: 0 = cleanest level of a `Discrete` process
    # SMLD: 0 = noisiest level, whole numbers
    "reversed_label": (
        lambda sde, t, sd: 1.0,
        lambda sde, t: jnp.round(sde.label(jnp.ones_like(t)) - sde.label(t)),
    ),
}
INPUTS["unit_reversed_label"] = (
    INPUTS["unit_sigma"][0],
    INPUTS["reversed_label"][1],
)  # the same, trained on images in [0, 1]

# name -> what is added to the scaled x, of networks whose data are not centred at 0.
SHIFTS: dict[str, float] = {"unit_sigma": 0.5, "unit_reversed_label": 0.5}


def check_name(kind: str, name: str, choices: Any) -> None:
    """Raise a ValueError that lists the choices unless `name` is one of them."""
    if name not in choices:
        raise ValueError(f"unknown {kind} {name!r}; choose one of {', '.join(sorted(choices))}")


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
        check_name("prediction", self.prediction, PREDICTIONS)
        check_name("inputs", self.inputs, INPUTS)
        jax.eval_shape(
            lambda t: INPUTS[self.inputs][1](self.sde, t), jnp.ones(1)
        )  # a process without levels has no labels

    def __call__(self, x: Array, t: ArrayLike, cond: Any = None) -> Estimate:
        """Return the clean data and noise expected in `x` (batch, ...) at time `t`, of shape () or (batch,)."""
        alpha, sigma = self.sde.marginal(expand(t, x))
        a, b = self.combination(expand(t, x))
        return Estimate.solve(x, alpha, sigma, a, b, self.output(x, t, cond))

    def output(self, x: Array, t: ArrayLike, cond: Any = None) -> Array:
        """Return the raw network output, the estimate of a x0 + b noise."""
        scale, signal = INPUTS[self.inputs]
        time = jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1])
        seen = scale(self.sde, expand(t, x), self.sigma_data) * x
        if self.inputs in SHIFTS:
            seen = seen + SHIFTS[self.inputs]
        value = self.net(seen, signal(self.sde, time), cond)
        if value.shape != x.shape:
            raise ValueError(
                f"the network returned shape {value.shape} for a state of shape {x.shape}; it must return one like its input"
            )
        evaluated()
        return value

    def score(self, x: Array, t: ArrayLike, cond: Any = None) -> Array:
        """Return the score, the gradient of log p_t at `x`: minus the expected noise over sigma."""
        return -self(x, t, cond).noise / self.sde.marginal(expand(t, x))[1]

    def combination(self, t: Array) -> tuple[Number, Number]:
        """Return (a, b) of the predicted combination, elementwise in t."""
        return PREDICTIONS[self.prediction](self.sde, t, self.sigma_data)
