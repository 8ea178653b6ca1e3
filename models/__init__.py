"""Networks: `net(x, c_noise, cond=None, *, rngs=None)`.

Here x is ``(batch, *shape)``, the noise input `c_noise` is ``(batch,)``, and `conditions` says what
`cond` may be. The result has the shape of x, of a classifier (batch, num_classes).
"""

from importlib.util import find_spec

if find_spec("flax") is None:
    raise ModuleNotFoundError(
        "models needs flax, an extra of this project: pip install -e .[models]"
    )

from .classifier import ImageClassifier as ImageClassifier
from .classifier import VectorClassifier as VectorClassifier
from .dit import DiT as DiT
from .keys import rngs_of as rngs_of
from .mlp import MLP as MLP
from .mp_unet import MPUNet as MPUNet
from .ncsn import NCSN as NCSN
from .splitting import Split as Split
from .splitting import merge as merge
from .splitting import split as split
from .unet import UNet as UNet
from .unet_settings import AttentionSettings as AttentionSettings
from .unet_settings import ConditioningSettings as ConditioningSettings
from .unet_settings import NormalisationSettings as NormalisationSettings
from .unet_settings import PyramidSettings as PyramidSettings
from .unet_settings import ResamplingSettings as ResamplingSettings
from .unet_settings import ResidualSettings as ResidualSettings
