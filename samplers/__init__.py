"""The ways back from noise to data."""

from importlib import import_module
from typing import Any

# Walking over a grid of times
from .base import Sampler as Sampler
from .walk import Samples as Samples
from .base import draw_prior as draw_prior
from .walk import sample as sample
from . import grids as grids
from .measured_grids import measured_grid as measured_grid

# Which sampler and grid for a number of evaluations
from .recommendation import Recommendation as Recommendation
from .recommendation import recommended as recommended

# Samplers of the probability flow
from .ddim import DDIM as DDIM
from .heun import Heun as Heun
from .dpm_2 import DPM2 as DPM2
from .dpm_single import DPMSolver as DPMSolver
from .dpm import DPMSolverM as DPMSolverM
from .dpm import DPMpp2M as DPMpp2M
from .dpm import DPMpp3M as DPMpp3M
from .dpm_single import DPMpp2S as DPMpp2S
from .dpm_single import DPMpp3S as DPMpp3S
from .deis import DEIS as DEIS
from .deis import LMS as LMS
from .adams_bashforth import AdamsBashforth as AdamsBashforth
from .unipc import UniPC as UniPC

# Samplers of the reverse SDE
from .euler_maruyama import EulerMaruyama as EulerMaruyama
from .reverse_diffusion import ReverseDiffusion as ReverseDiffusion
from .ancestral import Ancestral as Ancestral
from .dpm_single import DPMppSDE as DPMppSDE
from .dpm import DPMpp2MSDE as DPMpp2MSDE
from .dpm import DPMpp3MSDE as DPMpp3MSDE
from .dpm_single import SEEDS as SEEDS
from .sa import SASolver as SASolver

# Correctors
from .langevin import Langevin as Langevin
from .langevin import AnnealedLangevin as AnnealedLangevin
from .predictor_corrector import PredictorCorrector as PredictorCorrector

# Walks with adaptive steps
from .ode import probability_flow as probability_flow
from .adaptive import reverse_sde as reverse_sde
from .adaptive_dpm import dpm_adaptive as dpm_adaptive

# All steps at once, and solvers learned for few steps
from .parallel import ParallelSamples as ParallelSamples
from .parallel import sample_parallel as sample_parallel
from .few_steps import FewSteps as FewSteps
from .fit import Fit as Fit
from .fit import fit_grid as fit_grid
from .fit import fit_solver as fit_solver

# Likelihoods and bounds
from .likelihood import LogLikelihood as LogLikelihood
from .likelihood import log_likelihood as log_likelihood
from .likelihood import prior_mismatch as prior_mismatch
from .likelihood import TRACES as TRACES
from .bound import Bound as Bound
from .bound import variational_bound as variational_bound

# Latent codes of the probability flow
from .latent import encode as encode
from .latent import decode as decode
from .latent import slerp as slerp
from .latent import with_temperature as with_temperature
from .latent import nearest_codes as nearest_codes
from .latent import outlier_scores as outlier_scores

NAMESPACES = ("inverse", "particles")  # public as they are, and imported at their first use


def __getattr__(name: str) -> Any:
    """Import a namespace at its first use: a start does not need it."""
    if name not in NAMESPACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f".{name}", __name__)
