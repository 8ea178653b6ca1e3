"""Samplers of inverse problems that bring in the measurement themselves."""

from .daps import DAPS as DAPS
from .dps import DPS as DPS
from .repaint import RePaint as RePaint
from .replacement import Replacement as Replacement
from .split_gibbs import SplitGibbs as SplitGibbs
from .twisted import TwistedSamples as TwistedSamples
from .twisted import twisted as twisted
