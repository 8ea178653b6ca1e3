"""The mathematics: forward SDEs, denoisers, objectives, exact data distributions."""

import warnings

import jax

from .arrays import expand as expand
from .arrays import in_float64 as in_float64
from .base import SDE as SDE
from .checks import check_increasing as check_increasing
from .cosine import Cosine as Cosine
from .denoiser import Denoiser as Denoiser
from .discrete import Discrete as Discrete
from .edm import EDM as EDM
from .estimate import Estimate as Estimate
from .evaluations import counting as counting
from .evaluations import evaluated as evaluated
from .evaluations import repeated as repeated
from .exact import DataDistribution as DataDistribution
from .exact import Empirical as Empirical
from .exact import ExactDenoiser as ExactDenoiser
from .exact import Gaussian as Gaussian
from .exact import GaussianMixture as GaussianMixture
from .exact import Moments as Moments
from .inputs import INPUTS as INPUTS
from .names import check_name as check_name
from .objectives import OBJECTIVES as OBJECTIVES
from .objectives import denoising_loss as denoising_loss
from .objectives import sliced_loss as sliced_loss
from .predictions import PREDICTIONS as PREDICTIONS
from .rectified import Rectified as Rectified
from .retimed import Retimed as Retimed
from .sub_vp import SubVP as SubVP
from .times import Binned as Binned
from .times import Levels as Levels
from .times import LogNormal as LogNormal
from .times import LogUniform as LogUniform
from .times import TimeDistribution as TimeDistribution
from .times import Uniform as Uniform
from .times import adapted as adapted
from .times import draw_quantiles as draw_quantiles
from .times import draw_times as draw_times
from .uncertainty import balanced as balanced
from .uncertainty import uncertainty as uncertainty
from .ve import VE as VE
from .vp import VP as VP
from .weightings import WEIGHTINGS as WEIGHTINGS

if jax.lib.__version__ == "0.10.2":  # pyright: ignore[reportPrivateImportUsage]
    warnings.warn(
        "jaxlib 0.10.2 computes some vmapped matrix products wrongly on CPU (jax-ml/jax issue 39103); install another version",
        stacklevel=2,
    )
