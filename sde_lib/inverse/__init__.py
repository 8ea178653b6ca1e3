"""Inverse problems y = A(x) + noise: operators, measurements and denoisers of the posterior."""

from .base import PosteriorDenoiser as PosteriorDenoiser
from .covariance import Covariance as Covariance
from .ddnm import DDNM as DDNM
from .diffpir import DiffPIR as DiffPIR
from .jfps import JFPS as JFPS
from .measurement import Measurement as Measurement
from .measurement import PriorDenoiser as PriorDenoiser
from .measurement import measure as measure
from .mmps import MMPS as MMPS
from .operators import Blur as Blur
from .operators import Diagonal as Diagonal
from .operators import Fourier as Fourier
from .operators import Grey as Grey
from .operators import Mask as Mask
from .operators import Pool as Pool
from .operators import Projection as Projection
from .pigdm import PiGDM as PiGDM
from .tmpd import TMPD as TMPD
from .whitened import Whitened as Whitened
