"""Affine maps of images against closed forms, and against SciPy where there is none."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from experiments.run.affine import centred, cubic_weights, reflected, resample

RNG = np.random.default_rng(0)
EYE = np.eye(2)
QUARTER = np.array([[0.0, -1.0], [1.0, 0.0]])  # x becomes y: to the right becomes down


def moved(image, linear, shift=(0.0, 0.0)):
    linear = jnp.asarray(linear, jnp.float32)[None]
    shift = jnp.asarray(shift, jnp.float32)[None]
    return np.asarray(resample(jnp.asarray(image, jnp.float32)[None], linear, shift)[0])


def images(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 5, 3), (1, 6, 2)])
def test_maps_onto_centres_of_pixels_change_no_value(shape):
    image = images(*shape)
    np.testing.assert_array_equal(moved(image, EYE), image)
    np.testing.assert_array_equal(moved(image, np.diag([-1, 1])), image[:, ::-1])
    np.testing.assert_array_equal(moved(image, np.diag([1, -1])), image[::-1])
    np.testing.assert_array_equal(moved(image, -EYE), image[::-1, ::-1])


def test_a_quarter_turn_of_a_square_turns_its_pixels():
    """The pixel on the right goes to the bottom."""
    image = images(6, 6, 2)
    turned = moved(image, QUARTER)
    np.testing.assert_array_equal(turned, np.rot90(image, -1))
    np.testing.assert_array_equal(moved(turned, QUARTER), image[::-1, ::-1])
    marked = np.zeros((5, 5, 1))
    marked[2, 4] = 1
    assert moved(marked, QUARTER)[4, 2, 0] == 1


def test_a_translation_by_whole_pixels_moves_them_and_reflects_at_the_border():
    image = images(6, 7, 1)
    shifted = moved(image, EYE, (2, -1))  # two to the right, one up
    padded = np.pad(image, ((0, 1), (2, 0), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(shifted, padded[1:, :7])


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_reflection_is_that_of_numpy(size):
    index = np.arange(-9, 12)
    if size == 1:
        expected = np.zeros(len(index))
    else:
        expected = np.pad(np.arange(size), (9, 12 - size), mode="reflect")
    np.testing.assert_array_equal(reflected(jnp.asarray(index), size), expected)


def test_the_weights_reproduce_polynomials_of_degree_two():
    """Keys 1981: sum w_k k^n = f^n for n = 0, 1, 2, and at a pixel its value alone."""
    f = jnp.linspace(0, 0.999, 50)
    weights = np.asarray(cubic_weights(f), np.float64)
    pixels = np.arange(-1, 3)
    for power in range(3):
        moment = (weights * pixels[None] ** power).sum(1)
        np.testing.assert_allclose(moment, np.asarray(f) ** power, atol=1e-6)
    np.testing.assert_array_equal(cubic_weights(jnp.zeros(())), [0, 1, 0, 0])
    # half-way between two pixels: -1/16, 9/16, 9/16, -1/16, which is Keys' a = -1/2
    np.testing.assert_allclose(cubic_weights(jnp.asarray(0.5)), [-1 / 16, 9 / 16, 9 / 16, -1 / 16])


def test_a_quadratic_image_is_mapped_exactly_away_from_the_border():
    """At q the image has the value of the polynomial at A^-1 (q - b), in float64."""
    height, width = 24, 30
    x, y = np.meshgrid(np.asarray(centred(width)), np.asarray(centred(height)))

    def polynomial(x, y):
        return 0.3 + 0.05 * x - 0.1 * y + 0.004 * x * y - 0.006 * x**2 + 0.002 * y**2

    linear = np.array([[0.9, -0.35], [0.2, 1.1]])
    shift = np.array([1.3, -0.7])
    result = moved(polynomial(x, y)[..., None], linear, shift)[..., 0]
    source = np.einsum("ij,jhw->ihw", np.linalg.inv(linear), np.stack([x - 1.3, y + 0.7]))
    inside = (abs(source[0]) < width / 2 - 2) & (abs(source[1]) < height / 2 - 2)
    assert inside.mean() > 0.5
    expected = polynomial(*source)
    np.testing.assert_allclose(result[inside], expected[inside], atol=2e-5)


def test_far_outside_the_image_goes_on_by_reflection():
    """SciPy's "mirror" is the same continuation, at points that are pixels."""
    odd = images(5, 5, 1)
    column, row = np.meshgrid(4 * centred(5) + 2, 4 * centred(5) + 2)
    expected = map_coordinates(odd[..., 0], [row, column], order=1, mode="mirror")
    np.testing.assert_allclose(moved(odd, EYE / 4)[..., 0], expected, atol=1e-6)


def test_each_image_has_its_own_map():
    both = images(2, 6, 6, 1)
    maps = jnp.asarray([np.diag([-1, 1]), QUARTER], jnp.float32)
    shifts = jnp.asarray([[0, 0], [0, 1]], jnp.float32)
    result = np.asarray(resample(jnp.asarray(both), maps, shifts))
    np.testing.assert_array_equal(result[0], both[0][:, ::-1])
    np.testing.assert_array_equal(result[1, 1:], np.rot90(both[1], -1)[:-1])


def test_images_keep_their_type():
    image = jnp.asarray(images(1, 4, 4, 1), jnp.bfloat16)
    assert resample(image, jnp.eye(2)[None], jnp.zeros((1, 2))).dtype == jnp.bfloat16
