"""The ways back from noise to data."""

from . import grids as grids
from .ancestral import Ancestral as Ancestral
from .base import Sampler as Sampler
from .base import Samples as Samples
from .base import draw_prior as draw_prior
from .base import sample as sample
from .ddim import DDIM as DDIM
from .dpm import DPMpp2M as DPMpp2M
from .euler_maruyama import EulerMaruyama as EulerMaruyama
from .heun import Heun as Heun
from .langevin import AnnealedLangevin as AnnealedLangevin
from .langevin import Langevin as Langevin
from .ode import LogLikelihood as LogLikelihood
from .ode import log_likelihood as log_likelihood
from .ode import probability_flow as probability_flow
from .predictor_corrector import PredictorCorrector as PredictorCorrector
from .reverse_diffusion import ReverseDiffusion as ReverseDiffusion
