"""The mathematics: forward SDEs, denoisers, objectives, exact data distributions."""

import warnings
from importlib import import_module
from typing import Any

import jax

# Forward processes
from .base import SDE as SDE
from .vp import VP as VP
from .ve import VE as VE
from .sub_vp import SubVP as SubVP
from .edm import EDM as EDM
from .cosine import Cosine as Cosine
from .rectified import Rectified as Rectified
from .discrete import Discrete as Discrete
from .retimed import Retimed as Retimed

# Denoisers: a network, what it predicts and what it is fed
from .protocols import Denoise as Denoise
from .denoise_check import check_denoise as check_denoise
from .denoiser import Denoiser as Denoiser
from .memory import Remembering as Remembering
from .memory import init_memory as init_memory
from .memory import recall as recall
from .estimate import Estimate as Estimate
from .predictions import PREDICTIONS as PREDICTIONS
from .inputs import INPUTS as INPUTS

# Noise-conditional classifiers, which guidance follows
from .classifier import Classifier as Classifier
from .classifier import classification_loss as classification_loss

# Guidance: denoise functions that wrap others and steer them
from .guidance import Guidance as Guidance
from .guidance import Guided as Guided
from .guidance import ClassifierFree as ClassifierFree
from .guidance import Autoguidance as Autoguidance
from .guidance import ClassifierGuidance as ClassifierGuidance
from .guidance import ProjectedGuidance as ProjectedGuidance
from .guidance import StaticThreshold as StaticThreshold
from .guidance import DynamicThreshold as DynamicThreshold

# Training: losses, their weights and their times
from .objectives import denoising_loss as denoising_loss
from .objectives import sliced_loss as sliced_loss
from .objectives import OBJECTIVES as OBJECTIVES
from .weightings import WEIGHTINGS as WEIGHTINGS
from .times import TimeDistribution as TimeDistribution
from .times import Uniform as Uniform
from .times import LogUniform as LogUniform
from .times import LogNormal as LogNormal
from .times import Levels as Levels
from .times import Binned as Binned
from .times import draw_times as draw_times
from .times import draw_quantiles as draw_quantiles
from .times import reweighted as reweighted
from .loss_uncertainty import uncertainty as uncertainty
from .loss_uncertainty import uncertainty_loss as uncertainty_loss

# Data whose scores are known exactly
from .exact import DataDistribution as DataDistribution
from .exact import Gaussian as Gaussian
from .exact import GaussianMixture as GaussianMixture
from .exact import LabelledMixture as LabelledMixture
from .exact import LabelledDenoiser as LabelledDenoiser
from .exact import Empirical as Empirical
from .exact import ExactDenoiser as ExactDenoiser
from .exact import Moments as Moments
from .exact import Posterior as Posterior

# Counting network evaluations
from .evaluations import count_evaluations as count_evaluations
from .evaluations import evaluate as evaluate
from .evaluations import record_evaluations as record_evaluations
from .evaluations import repeat_evaluations as repeat_evaluations

# For code built on top
from .arrays import expand as expand
from .arrays import in_float64 as in_float64
from .checks import check_increasing as check_increasing
from .names import check_name as check_name

if jax.lib.__version__ == "0.10.2":  # pyright: ignore[reportPrivateImportUsage]
    warnings.warn(
        "jaxlib 0.10.2 computes some vmapped matrix products wrongly on CPU "
        "(jax-ml/jax issue 39103); install another version",
        stacklevel=2,
    )

NAMESPACES = ("inverse",)  # public as they are, and imported at their first use


def __getattr__(name: str) -> Any:
    """Import a namespace at its first use: a start does not need it."""
    if name not in NAMESPACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f".{name}", __name__)
