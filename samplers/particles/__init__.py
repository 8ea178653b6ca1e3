"""Weighted particles: many walks that stand for one law together, and are resampled on the way."""

from .feynman_kac import guided_particles as guided_particles
from .feynman_kac import tempered_particles as tempered_particles
from .resampling import Resampled as Resampled
from .resampling import effective_sample_size as effective_sample_size
from .resampling import log_mean_weight as log_mean_weight
from .resampling import resample as resample
from .resampling import systematic as systematic
from .weighted_walk import Particles as Particles
