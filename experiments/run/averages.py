"""Which averages of the parameters a run keeps beside that of `config.ema`, and how one is named.

`config.average` names the one that every mode but training uses: "ema", the moving average of the
rate `config.ema`; "ema=0.9999", one of `config.averages.rates`; "sigma_rel=0.15", the power-function
average of that relative width, which is made of those that were kept.
"""

from functools import partial
from typing import Any, NamedTuple

from jaxtyping import Array, Int
from ml_collections import ConfigDict

from ..state import AverageFn, ema_update
from .power_average import exponent, power_update

EMA = "ema"
SIGMA_REL = "sigma_rel"


class Choice(NamedTuple):
    """An average by its kind and its number."""

    kind: str  # EMA or SIGMA_REL
    value: float | None  # its rate or its relative width; None: the rate is `config.ema`

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind}={self.value:g}"


def choice_of(average: str) -> Choice:
    """Return the average that a setting names.

    Raises:
        ValueError: it names none.
    """
    kind, equals, text = average.partition("=")
    try:
        choice = Choice(kind, float(text) if equals else None)
    except ValueError:
        choice = Choice("", None)
    if choice.kind not in (EMA, SIGMA_REL) or (choice.kind == SIGMA_REL and choice.value is None):
        raise ValueError(
            f"config.average is {average!r}; expected ema, a rate such as ema=0.9999, or a relative "
            "width such as sigma_rel=0.15"
        )
    return choice


def kept(config: ConfigDict) -> tuple[Choice, ...]:
    """Return the averages that a run keeps beside that of `config.ema`, in their order."""
    settings = config.averages
    rates = tuple(Choice(EMA, float(rate)) for rate in settings.rates)
    widths = tuple(Choice(SIGMA_REL, float(width)) for width in settings.sigma_rel)
    return rates + (widths if settings.snapshot_every else ())


def rules(config: ConfigDict) -> tuple[AverageFn, ...]:
    """Return the rules of the averages of `kept`, for `make_train_step`."""
    return tuple(_rule(choice) for choice in kept(config))


def check_averages(config: ConfigDict) -> None:
    """Raise a ValueError if averages cannot be kept, or the one that is chosen cannot be had."""
    there = kept(config)
    if len(set(there)) < len(there):
        raise ValueError(
            f"config.averages keeps {', '.join(map(str, there))}; leave out the one that is twice "
            "there"
        )
    if config.averages.snapshot_every and not config.averages.sigma_rel:
        raise ValueError(
            "config.averages.snapshot_every is set, but config.averages.sigma_rel names no widths "
            "to take snapshots of; name two, such as 0.05,0.1, or set it to 0"
        )
    choice = choice_of(config.average)
    if choice.kind == SIGMA_REL:
        exponent(choice.value or 0.0)
        if not config.averages.snapshot_every:
            raise ValueError(
                f"config.average is {config.average}, but this run keeps no power-function "
                "averages (config.averages.snapshot_every is 0); train one that does"
            )
    elif choice.value not in (None, config.ema) and choice not in there:
        rates = [config.ema, *config.averages.rates]
        raise ValueError(
            f"config.average is {config.average}, but this run keeps the rates "
            f"{', '.join(f'{rate:g}' for rate in rates)}; choose one of them"
        )


def _rule(choice: Choice) -> AverageFn:
    """Return the rule by which an average moves in a step."""
    if choice.kind == SIGMA_REL:
        return partial(_power, exponent(choice.value or 0.0))
    return partial(_moving, choice.value or 0.0)


def _moving(rate: float, average: Any, params: Any, step: Int[Array, ""]) -> Any:
    return ema_update(average, params, rate, step)


def _power(gamma: float, average: Any, params: Any, step: Int[Array, ""]) -> Any:
    return power_update(average, params, gamma, step)
