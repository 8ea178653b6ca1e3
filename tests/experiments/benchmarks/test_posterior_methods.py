"""What the benchmark of posteriors does so that problems share their programs."""

import jax
import numpy as np
import pytest

from experiments.benchmarks.posterior_methods import alike
from experiments.benchmarks.posterior_problems import kept_aside, problems
from experiments.benchmarks.posteriors import groups
from sde_lib import VP

PROBLEMS = problems()


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_law_written_alike_is_the_same_law(name):
    data = PROBLEMS[name].data
    x = data.sample(jax.random.key(0), 5)
    for t in (1e-3, 0.3):
        got, expected = (law.denoiser(VP())(x, t) for law in (alike(data), data))
        np.testing.assert_allclose(got.x0, expected.x0, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got.noise, expected.noise, rtol=1e-4, atol=1e-4)


def test_problems_of_one_group_have_laws_of_one_shape():
    for chosen in (PROBLEMS, kept_aside(1), kept_aside(2)):
        of_shape = groups(chosen)
        assert sorted(p.name for group in of_shape for p in group) == sorted(chosen)
        for group in of_shape:
            laws = [alike(problem.data) for problem in group]
            shapes = {str(jax.tree.map(np.shape, law)) for law in laws}
            assert len(shapes) == 1
            assert len({problem.matrix.shape for problem in group}) == 1


def test_the_dearest_problem_comes_first():
    assert groups(PROBLEMS)[0][0].cost == max(p.cost for p in PROBLEMS.values())
