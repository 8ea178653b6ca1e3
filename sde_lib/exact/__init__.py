"""Data distributions whose noised densities are known in closed form, under any SDE.

Everything else is tested against them.
"""

from .base import DataDistribution as DataDistribution
from .base import ExactDenoiser as ExactDenoiser
from .base import Marginal as Marginal
from .base import Moments as Moments
from .empirical import Empirical as Empirical
from .gaussian import Gaussian as Gaussian
from .labelled import LabelledDenoiser as LabelledDenoiser
from .labelled import LabelledMixture as LabelledMixture
from .mixture import GaussianMixture as GaussianMixture
from .posterior import Posterior as Posterior
