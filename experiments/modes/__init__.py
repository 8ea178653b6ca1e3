"""What the command line can do: one row a mode, with the settings that it reads beside those that a run was trained with.

A run keeps what it was trained with. `reads` names what a command line may change for a mode: whole sections ("fit") or single settings
("eval.split"); `samplers` names the entries of `config.samplers` that it walks with. Whatever else a command line changes would do nothing,
and `resolve` refuses it. The functions are imported when a mode is run, so that reading a command line takes no time.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

LIKELIHOOD = (
    "eval.split",
    "eval.train_split",
    "eval.batch_size",
    "eval.probes",
    "eval.trace",
    "eval.bound_draws",
    "eval.dequantise",
    "eval.rtol",
)


class Mode(NamedTuple):
    """One thing to do with a run directory."""

    summary: str
    reads: tuple[str, ...]
    samplers: Callable[[Any], tuple[str, ...]] = lambda config: ()
    needs_data: bool = False

    def takes(self, path: str, config: Any) -> bool:
        """Tell whether this mode reads the setting `path`, "train.steps" say, of a configuration."""
        section, _, rest = path.partition(".")
        if section == "samplers":
            return rest.partition(".")[0] in self.samplers(config)
        return any(path == known or path.startswith(known + ".") for known in self.reads)


def _asked(config: Any) -> tuple[str, ...]:
    return (config.sampling.sampler,)


def _compared(config: Any) -> tuple[str, ...]:
    return tuple(config.eval.samplers)


def _diagnosed(config: Any) -> tuple[str, ...]:
    return ("ddim",) if "ddim" in config.samplers else _asked(config)


# Training saves the whole configuration, so that a setting that it does not read is the default of the modes that do.
EVERYTHING = (
    "seed",
    "devices",
    "data",
    "facts",
    "sde",
    "net",
    "denoiser",
    "objective",
    "optim",
    "ema",
    "train",
    "dequantise",
    "sampling",
    "fit",
    "eval",
)

MODES = {
    "train": Mode(
        "train a network, or go on with the training of a run directory",
        EVERYTHING,
        samplers=lambda config: tuple(config.samplers),
        needs_data=True,
    ),
    "sample": Mode(
        "draw samples with one of the samplers",
        ("sampling", "devices"),
        samplers=_asked,
    ),
    "evaluate": Mode(
        "likelihood of held-out data, and samples compared with real data",
        (
            *LIKELIHOOD,
            "eval.samplers",
            "eval.number",
            "eval.latency",
            "sampling.seed",
            "sampling.batch_size",
            "sampling.label",
            "devices",
            "data",
        ),
        samplers=_compared,
        needs_data=True,
    ),
    "likelihood": Mode(
        "bits per dimension of every held-out example, with errors and a bound",
        (*LIKELIHOOD, "sampling.seed", "devices", "data"),
        needs_data=True,
    ),
    "diagnose": Mode(
        "a health report of the learned score, as a picture and numbers",
        (
            "eval.split",
            "eval.train_split",
            "sampling.seed",
            "sampling.sampler",
            "sampling.label",
            "devices",
            "data",
        ),
        samplers=_diagnosed,
        needs_data=True,
    ),
    "dequantise": Mode(
        "train a flow that places grey levels, for tighter likelihoods",
        ("dequantise", "train.log_every", "train.checkpoint_every", "devices", "data"),
        needs_data=True,
    ),
    "fit": Mode(
        "learn a sampler of few evaluations for this network",
        ("fit", "sampling.seed", "sampling.label", "devices"),
    ),
}


def function_of(name: str) -> Callable:
    """Import and return the function (loaded run, run directory) of a mode; of training it is (configuration, run directory)."""
    return getattr(importlib.import_module(f".{name}", __package__), name)
