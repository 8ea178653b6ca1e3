"""Every SDE that `sde_lib` exports, and one as a user would write it: a test that asks for `sde` meets them all."""

import inspect

import pytest

import sde_lib


class Straight(sde_lib.SDE):
    """Rectified flow by its marginal alone: alpha = 0 at t = 1, where f and g do not exist, and sigma = 0 at t = 0."""

    def marginal(self, t):
        return 1 - t, t * 1.0


def plain(cls):
    """Tell whether `cls` is a process that needs no argument; `Discrete`, which wraps one, has tests of its own."""
    return (
        issubclass(cls, sde_lib.SDE) and not inspect.isabstract(cls) and cls is not sde_lib.Discrete
    )


EXPORTED = [c for _, c in inspect.getmembers(sde_lib, inspect.isclass) if plain(c)]


@pytest.fixture(params=[*EXPORTED, Straight], ids=lambda c: c.__name__)
def sde(request):
    return request.param()
