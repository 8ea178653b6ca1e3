"""How images compare with images, in features of a network: the measures that papers report.

Everything takes features (n, d), or class probabilities (n, classes), as arrays; where they come
from is another matter, see `feature_network`. All is computed in float64 and in blocks, so that the
memory does not grow with the square of the number of images.
"""

from ...data.joint_moments import FeatureMoments as FeatureMoments
from ...data.joint_moments import measure_moments as measure_moments
from ...data.joint_moments import merge as merge
from .frechet import ExtrapolatedDistance as ExtrapolatedDistance
from .frechet import extrapolated_frechet_distance as extrapolated_frechet_distance
from .frechet import frechet_distance as frechet_distance
from .inception import InceptionScore as InceptionScore
from .inception import inception_score as inception_score
from .kernel import KernelDistance as KernelDistance
from .kernel import kernel_distance as kernel_distance
from .manifolds import Manifolds as Manifolds
from .manifolds import compare_manifolds as compare_manifolds
from .memorisation import Memorisation as Memorisation
from .memorisation import draw_nearest as draw_nearest
from .memorisation import nearest_training as nearest_training
from .real_floor import RealFloor as RealFloor
from .real_floor import real_against_real as real_against_real
from .reference import load_reference as load_reference
from .reference import save_reference as save_reference
