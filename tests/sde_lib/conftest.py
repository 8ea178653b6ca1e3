"""Every SDE that `sde_lib` exports, and three as a user would write them: a test that asks for `sde` meets them all."""

import inspect

import jax.numpy as jnp
import pytest

import sde_lib


class EDM(sde_lib.SDE):
    """Karras et al. 2022 on t in [0, 1]: the noise grows linearly to 80."""

    def marginal(self, t):
        return jnp.ones_like(t), 80 * t


class Cosine(sde_lib.SDE):
    """A quarter of a circle, left just before alpha is 0."""

    angle: float = 1.5

    def marginal(self, t):
        return jnp.cos(self.angle * t), jnp.sin(self.angle * t)


class Straight(sde_lib.SDE):
    """Rectified flow: alpha = 0 at t = 1, where f and g do not exist, and sigma = 0 at t = 0."""

    def marginal(self, t):
        return 1 - t, t * 1.0


EXPORTED = [c for _, c in inspect.getmembers(sde_lib, inspect.isclass) if issubclass(c, sde_lib.SDE) and not inspect.isabstract(c)]


@pytest.fixture(params=[*EXPORTED, EDM, Cosine, Straight], ids=lambda c: c.__name__)
def sde(request):
    return request.param()
