"""Operators of inverse problems against NumPy and SciPy, and their adjoints against their matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from sde_lib.inverse import Blur, Diagonal, Fourier, Grey, Mask, Pool, Projection, Whitened, measure

SHAPE = (6, 4, 3)
RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=SHAPE).astype(np.float32)
MASK = RNG.random(SHAPE) < 0.4
KERNEL = RNG.random((3, 5)).astype(np.float32)
FREQUENCIES = RNG.random(SHAPE[:2]) < 0.5
MATRIX = RNG.normal(size=(7, IMAGE.size)).astype(np.float32)
WEIGHTS = RNG.normal(size=SHAPE).astype(np.float32)
OPERATORS = {
    "mask": Mask(MASK),
    "diagonal": Diagonal(jnp.asarray(WEIGHTS)),
    "grey": Grey((0.2, 0.7, 0.1)),
    "pool": Pool(2),
    "blur": Blur(jnp.asarray(KERNEL)),
    "projection": Projection(jnp.asarray(MATRIX)),
    "fourier": Fourier(FREQUENCIES),
    "whitened": Whitened(Mask(MASK), np.diag(1.0 + np.arange(MASK.sum()))),
}


def expected(name: str) -> np.ndarray:
    """Return what each operator measures of the image, by other means."""
    if name == "mask":
        return IMAGE[MASK]
    if name == "diagonal":
        return WEIGHTS * IMAGE
    if name == "grey":
        return np.einsum("hwc,c->hw", IMAGE, [0.2, 0.7, 0.1])[..., None]
    if name == "pool":
        rows = [
            [IMAGE[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((0, 1)) for j in range(2)]
            for i in range(3)
        ]
        return np.array(rows)
    if name == "blur":
        channels = [ndimage.correlate(IMAGE[..., c], KERNEL, mode="mirror") for c in range(3)]
        return np.stack(channels, -1)
    if name == "projection":
        return MATRIX @ IMAGE.reshape(-1)
    if name == "fourier":
        spectrum = np.fft.fft2(IMAGE, axes=(0, 1), norm="ortho")[FREQUENCIES]
        return np.stack([spectrum.real, spectrum.imag], -1).swapaxes(0, 1)
    return IMAGE[MASK] / np.sqrt(1.0 + np.arange(MASK.sum()))


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_measures_what_numpy_does(name):
    got = OPERATORS[name](jnp.asarray(IMAGE))
    np.testing.assert_allclose(got, expected(name), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_linear_and_has_an_adjoint(name):
    operator = OPERATORS[name]
    x = jnp.asarray(IMAGE)
    other = jnp.asarray(RNG.normal(size=SHAPE), jnp.float32)
    y = operator(x)
    np.testing.assert_allclose(operator(2 * x - other), 2 * y - operator(other), atol=2e-4)
    weights = jnp.asarray(RNG.normal(size=y.shape), jnp.float32)
    (back,) = jax.linear_transpose(operator, x)(weights)
    np.testing.assert_allclose(jnp.vdot(back, other), jnp.vdot(weights, operator(other)), rtol=1e-4)


@pytest.mark.parametrize(
    ("boundary", "mode"), [("reflect", "mirror"), ("wrap", "wrap"), ("edge", "nearest"), ("constant", "constant")]
)  # fmt: skip
def test_a_blur_goes_on_beyond_the_border_as_its_boundary_says(boundary, mode):
    got = Blur(jnp.asarray(KERNEL), boundary)(jnp.asarray(IMAGE))[..., 0]
    np.testing.assert_allclose(
        got, ndimage.correlate(IMAGE[..., 0], KERNEL, mode=mode), rtol=2e-5, atol=2e-6
    )


def test_a_gaussian_blur_is_that_of_scipy():
    wide = RNG.normal(size=(9, 9, 1)).astype(np.float32)
    got = Blur.gaussian(0.8, radius=3)(jnp.asarray(wide))[..., 0]
    want = ndimage.gaussian_filter(wide[..., 0], 0.8, mode="mirror", radius=3)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_measured_noise_has_its_standard_deviation():
    x = jnp.zeros((2000, 6))
    y = measure(jax.random.key(0), Mask(np.array([1, 0, 1, 1, 0, 0])), x, 0.3)
    # 6000 numbers: the relative error of their standard deviation is 0.0091, 5 of which are 3e-7
    assert abs(float(jnp.std(y)) / 0.3 - 1) < 5 * 0.0091


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mask(np.zeros(3)), "measures nothing"),
        (lambda: Mask(np.array([0.5, 1.0])), "true .measured. and false"),
        (lambda: Mask(np.ones((2, 2)))(jnp.zeros(4)), r"made for samples of shape \(2, 2\)"),
        (lambda: Diagonal(jnp.ones(3))(jnp.zeros(4)), "made for samples of shape"),
        (lambda: Grey((1.0,))(jnp.zeros((2, 2, 3))), "1 weights"),
        (lambda: Pool(2)(jnp.zeros((5, 4, 1))), "does not divide"),
        (lambda: Pool(2)(jnp.zeros((2, 4, 4, 1))), "map it over a batch"),
        (lambda: Blur(jnp.ones((2, 3))), "odd numbers"),
        (lambda: Blur(jnp.ones((3, 3)), "mirror"), "boundary"),
        (lambda: Blur.gaussian(0.0), "above 0"),
        (lambda: Blur.gaussian(3.0)(jnp.zeros((8, 8, 1))), "smaller radius"),
        (lambda: Projection(jnp.ones((2, 3)))(jnp.zeros(4)), "4 columns"),
        (lambda: Fourier(np.ones((4, 4)))(jnp.zeros((2, 4, 1))), "mask of shape"),
        (lambda: Whitened(Grey(), np.array([[1.0, 2.0], [2.0, 1.0]])), "positive definite"),
    ],
)
def test_what_an_operator_cannot_do_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()
