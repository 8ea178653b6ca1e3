"""The standard deviation of the data: given, known to the denoiser, or 1."""

import jax
import numpy as np
import pytest

from samplers.data_size import data_sd
from sde_lib import VP, Denoiser, Empirical, Gaussian


def test_it_is_what_is_given_or_what_the_denoiser_knows_or_one():
    exact = Gaussian([5.0, 0.0], [[9.0, 0.0], [0.0, 1.0]]).denoiser(VP())
    network = Denoiser(lambda x, signal, cond: x, VP(), sigma_data=0.3)
    np.testing.assert_allclose(data_sd(exact), np.sqrt(5.0), rtol=1e-6)
    assert data_sd(network) == 0.3 and data_sd(network, 2.0) == 2.0
    assert data_sd(lambda x, t, cond: x) == 1.0
    assert data_sd(Empirical([[1.0, 2.0]]).denoiser(VP())) == 1.0
    np.testing.assert_allclose(jax.jit(data_sd)(exact), np.sqrt(5.0), rtol=1e-6)
    assert jax.jit(lambda sd: data_sd(exact, sd))(0.1) == np.float32(0.1)


@pytest.mark.parametrize("sd", [0.0, -1.0, np.nan, np.inf, np.ones(2)])
def test_impossible_sizes_are_refused(sd):
    with pytest.raises(ValueError, match="need one sd > 0, the standard deviation of the data"):
        data_sd(None, sd)
