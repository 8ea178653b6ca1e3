"""Settings that do nothing while another one is off.

Giving such a setting on the command line alone is a mistake, and is refused.
"""

from typing import Any

from ..errors import RunError
from .overrides import value_at
from .parse import Override

# setting -> the one that has to be on for it to be read
SWITCHES = {
    "train.label_dropout": "train.conditional",
    "train.held_out_every": "train.held_out",
    "averages.sigma_rel": "averages.snapshot_every",
    "objective.adapt_bins": "objective.adapt_every",
    "eval.number": "eval.samplers",
}


def check_switches(config: Any, overrides: tuple[Override, ...]) -> None:
    """Raise a RunError if a command line gives a setting whose switch is off."""
    for override in overrides:
        switch = SWITCHES.get(override.path)
        if switch and not value_at(config, switch):
            off = value_at(config, switch)
            raise RunError(
                f"{override} has no effect while config.{switch} is {off!r}; set "
                f"--config.{switch}=..., too, or leave it out"
            )
