"""What the command line can do: one `Mode` each, with the settings that it reads.

A run keeps what it was trained with; a mode reads some settings beside that, which a command line
may change. Whatever else a command line changes would do nothing, and `resolve` refuses it. The
functions are imported when a mode is run, so that reading a command line takes no time.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

LIKELIHOOD = (
    "eval.split",
    "eval.train_split",
    "eval.batch_size",
    "eval.examples",
    "eval.probes",
    "eval.trace",
    "eval.bound_draws",
    "eval.dequantise",
    "eval.rtol",
)


class Mode(NamedTuple):
    """One thing to do with a run directory."""

    summary: str
    reads: tuple[str, ...]  # sections, such as "fit", and single settings, such as "eval.split"
    samplers: Callable[[Any], tuple[str, ...]] = lambda config: ()  # those that it walks with
    needs_data: bool = False
    takes_classifiers: bool = False  # beside runs that trained a denoiser

    def takes(self, path: str, config: Any) -> bool:
        """Tell whether this mode reads the setting `path`, such as "train.steps"."""
        section, _, rest = path.partition(".")
        if section == "samplers":
            return rest.partition(".")[0] in self.samplers(config)
        return any(path == known or path.startswith(known + ".") for known in self.reads)


def _sampling_sampler(config: Any) -> tuple[str, ...]:
    return (config.sampling.sampler,)


def _eval_samplers(config: Any) -> tuple[str, ...]:
    return tuple(config.eval.samplers)


def _diagnose_sampler(config: Any) -> tuple[str, ...]:
    return ("ddim",) if "ddim" in config.samplers else _sampling_sampler(config)


# Training saves the whole configuration, so that a setting that it does not read is the default of
# the modes that do.
EVERYTHING = (
    "seed",
    "devices",
    "placement",
    "data",
    "facts",
    "sde",
    "net",
    "denoiser",
    "objective",
    "optim",
    "ema",
    "averages",
    "average",
    "train",
    "dequantise",
    "sampling",
    "guidance",
    "fit",
    "inverse",
    "eval",
)

MODES = {
    "train": Mode(
        "train a network, or go on with the training of a run directory",
        EVERYTHING,
        samplers=lambda config: tuple(config.samplers),
        needs_data=True,
        takes_classifiers=True,
    ),
    "sample": Mode(
        "draw samples with one of the samplers",
        ("average", "sampling", "guidance", "devices", "placement"),
        samplers=_sampling_sampler,
    ),
    "restore": Mode(
        "restore what a degraded observation was made of, with samples of the posterior",
        (
            "average",
            "inverse",
            "sampling.seed",
            "sampling.batch_size",
            "sampling.label",
            "sampling.condition",
            "devices",
            "placement",
        ),
    ),
    "evaluate": Mode(
        "likelihood of held-out data, and samples compared with real data",
        (
            "average",
            *LIKELIHOOD,
            "eval.samplers",
            "eval.number",
            "eval.features",
            "eval.reference",
            "eval.latency",
            "sampling.seed",
            "sampling.batch_size",
            "sampling.block",
            "sampling.label",
            "sampling.condition",
            "guidance",
            "devices",
            "placement",
            "data",
        ),
        samplers=_eval_samplers,
        needs_data=True,
    ),
    "likelihood": Mode(
        "bits per dimension of every held-out example, with errors and a bound",
        ("average", *LIKELIHOOD, "sampling.seed", "devices", "placement", "data"),
        needs_data=True,
    ),
    "diagnose": Mode(
        "a health report of the learned score, as a picture and numbers",
        (
            "average",
            "eval.split",
            "eval.train_split",
            "sampling.seed",
            "sampling.sampler",
            "sampling.label",
            "sampling.condition",
            "guidance",
            "devices",
            "placement",
            "data",
        ),
        samplers=_diagnose_sampler,
        needs_data=True,
    ),
    "dequantise": Mode(
        "train a flow that places grey levels, for tighter likelihoods",
        (
            "average",
            "dequantise",
            "train.log_every",
            "train.checkpoint_every",
            "devices",
            "placement",
            "data",
        ),
        needs_data=True,
    ),
    "fit": Mode(
        "learn a sampler of few evaluations for this network",
        (
            "average",
            "fit",
            "sampling.seed",
            "sampling.label",
            "sampling.condition",
            "guidance",
            "devices",
            "placement",
        ),
    ),
    "export": Mode(
        "write the run into one file, which experiments.load opens anywhere",
        ("average",),
        takes_classifiers=True,
    ),
}


def function_of(name: str) -> Callable:
    """Import and return the function (loaded run, run directory) of a mode.

    The function of training takes (configuration, run directory).
    """
    return getattr(importlib.import_module(f".{name}", __package__), name)
