"""Guidance: denoise functions that wrap others and steer where a walk ends, one method a file.

The scale w means the same everywhere: 1 is the conditional estimate, 0 the unconditional one, and
in between and beyond D = D_u + w (D_c - D_u).
"""

from .autoguidance import Autoguidance as Autoguidance
from .base import Guidance as Guidance
from .base import Guided as Guided
from .classifier import ClassifierGuidance as ClassifierGuidance
from .classifier_free import ClassifierFree as ClassifierFree
from .dynamic_threshold import DynamicThreshold as DynamicThreshold
from .projected import ProjectedGuidance as ProjectedGuidance
from .static_threshold import StaticThreshold as StaticThreshold
