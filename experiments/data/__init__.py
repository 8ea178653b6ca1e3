"""Data sets, and what reads them: batches, blocks of a whole split, statistics."""

from .base import DataSet as DataSet
from .codec import Codec as Codec
from .codec import codec_of as codec_of
from .digits import Digits as Digits
from .fashion_mnist import FashionMNIST as FashionMNIST
from .files import Files as Files
from .pipeline import batches as batches
from .running import Moments as Moments
from .running import moments as moments
from .satellite import Satellite as Satellite
from .streaming import blocks as blocks
from .streaming import evenly_spaced as evenly_spaced
from .summary import Statistics as Statistics
from .summary import statistics as statistics
from .tfds import TFDS as TFDS
from .toy import Toy as Toy
