"""Every SDE that `sde_lib` exports or the documents show, and one more: a test that asks for `sde` meets them all."""

import pytest

import sde_lib
from tests.processes import DOCUMENTED, EXPORTED


class Straight(sde_lib.SDE):
    """Rectified flow by its marginal alone: alpha = 0 at t = 1, where f and g do not exist, and sigma = 0 at t = 0."""

    def marginal(self, t):
        return 1 - t, t * 1.0


@pytest.fixture(params=[*EXPORTED, *DOCUMENTED, Straight], ids=lambda c: c.__name__)
def sde(request):
    return request.param()
