"""The convolutions of InceptionV3 as the published Frechet distances use it: names and sizes.

Szegedy et al. 2015 (arXiv:1512.00567), with the names of torchvision and with the 1008 classes of
the weights of 2015-12-05 that Heusel et al. 2017 took.
"""

from typing import NamedTuple

CLASSES = 1008
FEATURES = 2048


class Layer(NamedTuple):
    """One convolution, which is followed by a batch norm and a rectifier."""

    name: str
    features_in: int
    features_out: int
    kernel: tuple[int, int]  # (height, width)


def _stem() -> list[Layer]:
    return [
        Layer("Conv2d_1a_3x3", 3, 32, (3, 3)),
        Layer("Conv2d_2a_3x3", 32, 32, (3, 3)),
        Layer("Conv2d_2b_3x3", 32, 64, (3, 3)),
        Layer("Conv2d_3b_1x1", 64, 80, (1, 1)),
        Layer("Conv2d_4a_3x3", 80, 192, (3, 3)),
    ]


def _fives(name: str, width: int, pool: int) -> list[Layer]:
    """Return the layers of a block at 35 x 35."""
    return [
        Layer(f"{name}.branch1x1", width, 64, (1, 1)),
        Layer(f"{name}.branch5x5_1", width, 48, (1, 1)),
        Layer(f"{name}.branch5x5_2", 48, 64, (5, 5)),
        Layer(f"{name}.branch3x3dbl_1", width, 64, (1, 1)),
        Layer(f"{name}.branch3x3dbl_2", 64, 96, (3, 3)),
        Layer(f"{name}.branch3x3dbl_3", 96, 96, (3, 3)),
        Layer(f"{name}.branch_pool", width, pool, (1, 1)),
    ]


def _to_17() -> list[Layer]:
    """Return the layers of the block from 35 x 35 to 17 x 17."""
    return [
        Layer("Mixed_6a.branch3x3", 288, 384, (3, 3)),
        Layer("Mixed_6a.branch3x3dbl_1", 288, 64, (1, 1)),
        Layer("Mixed_6a.branch3x3dbl_2", 64, 96, (3, 3)),
        Layer("Mixed_6a.branch3x3dbl_3", 96, 96, (3, 3)),
    ]


def _sevens(name: str, inner: int) -> list[Layer]:
    """Return the layers of a block at 17 x 17."""
    return [
        Layer(f"{name}.branch1x1", 768, 192, (1, 1)),
        Layer(f"{name}.branch7x7_1", 768, inner, (1, 1)),
        Layer(f"{name}.branch7x7_2", inner, inner, (1, 7)),
        Layer(f"{name}.branch7x7_3", inner, 192, (7, 1)),
        Layer(f"{name}.branch7x7dbl_1", 768, inner, (1, 1)),
        Layer(f"{name}.branch7x7dbl_2", inner, inner, (7, 1)),
        Layer(f"{name}.branch7x7dbl_3", inner, inner, (1, 7)),
        Layer(f"{name}.branch7x7dbl_4", inner, inner, (7, 1)),
        Layer(f"{name}.branch7x7dbl_5", inner, 192, (1, 7)),
        Layer(f"{name}.branch_pool", 768, 192, (1, 1)),
    ]


def _to_8() -> list[Layer]:
    """Return the layers of the block from 17 x 17 to 8 x 8."""
    return [
        Layer("Mixed_7a.branch3x3_1", 768, 192, (1, 1)),
        Layer("Mixed_7a.branch3x3_2", 192, 320, (3, 3)),
        Layer("Mixed_7a.branch7x7x3_1", 768, 192, (1, 1)),
        Layer("Mixed_7a.branch7x7x3_2", 192, 192, (1, 7)),
        Layer("Mixed_7a.branch7x7x3_3", 192, 192, (7, 1)),
        Layer("Mixed_7a.branch7x7x3_4", 192, 192, (3, 3)),
    ]


def _wide(name: str, width: int) -> list[Layer]:
    """Return the layers of a block at 8 x 8."""
    return [
        Layer(f"{name}.branch1x1", width, 320, (1, 1)),
        Layer(f"{name}.branch3x3_1", width, 384, (1, 1)),
        Layer(f"{name}.branch3x3_2a", 384, 384, (1, 3)),
        Layer(f"{name}.branch3x3_2b", 384, 384, (3, 1)),
        Layer(f"{name}.branch3x3dbl_1", width, 448, (1, 1)),
        Layer(f"{name}.branch3x3dbl_2", 448, 384, (3, 3)),
        Layer(f"{name}.branch3x3dbl_3a", 384, 384, (1, 3)),
        Layer(f"{name}.branch3x3dbl_3b", 384, 384, (3, 1)),
        Layer(f"{name}.branch_pool", width, 192, (1, 1)),
    ]


LAYERS: tuple[Layer, ...] = (
    *_stem(),
    *_fives("Mixed_5b", 192, 32),
    *_fives("Mixed_5c", 256, 64),
    *_fives("Mixed_5d", 288, 64),
    *_to_17(),
    *_sevens("Mixed_6b", 128),
    *_sevens("Mixed_6c", 160),
    *_sevens("Mixed_6d", 160),
    *_sevens("Mixed_6e", 192),
    *_to_8(),
    *_wide("Mixed_7b", 1280),
    *_wide("Mixed_7c", 2048),
)
