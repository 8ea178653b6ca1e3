"""Which package may import what: each import statement is read from the source, wherever in a file it stands."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"sde_lib", "models", "samplers", "experiments", "tests", "notebooks"}
MAY_IMPORT = {
    "sde_lib": {"jax", "numpy", "jaxtyping", "equinox"},
    "models": {"jax", "numpy", "jaxtyping", "flax"},
    "samplers": {"jax", "numpy", "jaxtyping", "equinox", "diffrax", "sde_lib"},
    "experiments": None,  # any library, and the three packages above
}


def violations(source: str, package: str, depth: int = 1) -> list[str]:
    """Return what is wrong with the imports of a module of `package` that lies `depth` folders deep in the checkout."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level > depth:
            found.append(f"line {node.lineno}: a relative import leaves {package}")
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found += _absolute(node, [node.module or ""], package)
        elif isinstance(node, ast.Import):
            found += _absolute(node, [alias.name for alias in node.names], package)
    return found


def _absolute(node: ast.stmt, modules: list[str], package: str) -> list[str]:
    found = []
    for name in (module.partition(".")[0] for module in modules):
        allowed = MAY_IMPORT[package]
        if name == package:
            found.append(f"line {node.lineno}: inside {package} an import is relative")
        elif name in {"tests", "notebooks"} or (allowed is not None and name not in allowed | sys.stdlib_module_names):
            found.append(f"line {node.lineno}: {package} may not import {name}")
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_its_layer_may(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"no module found under {ROOT / package}"
    found = [f"{file.relative_to(ROOT)}, {what}" for file in files for what in violations(file.read_text(), package, _depth(file))]
    assert not found, "\n".join(found)


def _depth(file: Path) -> int:
    return len(file.relative_to(ROOT).parts) - 1


PLANTED = [
    ("import flax", "sde_lib"),
    ("from flax import nnx", "samplers"),
    ("import models.unet", "sde_lib"),
    ("def f():\n    from samplers import sample", "sde_lib"),
    ("from experiments import build", "sde_lib"),
    ("from sde_lib import VP", "models"),
    ("import samplers as s", "models"),
    ("import jax, experiments.data", "models"),
    ("from models import UNet", "samplers"),
    ("from experiments.train import step", "samplers"),
    ("from absl import logging", "samplers"),
    ("import ml_collections", "models"),
    ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ml_collections.config_dict", "sde_lib"),
    ("from sde_lib.base import SDE", "sde_lib"),
    ("from experiments import state", "experiments"),
    ("import tests.conftest", "experiments"),
    ("from notebooks import helpers", "experiments"),
    ("from ..models import UNet", "samplers"),
]


@pytest.mark.parametrize("source, package", PLANTED)
def test_a_planted_violation_is_found(source, package):
    assert len(violations(source, package)) == 1


def test_what_the_layers_allow_is_not_reported():
    assert not violations("import abc\nimport jax.numpy as jnp\nimport equinox as eqx\nfrom .base import SDE", "sde_lib")
    assert not violations("from sde_lib import SDE\nimport diffrax\nfrom . import grids", "samplers")
    assert not violations("import models, samplers, optax\nfrom absl import app\nfrom ..state import TrainState", "experiments", depth=2)
