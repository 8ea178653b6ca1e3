"""Which package may import what: each import statement is read from the source, wherever in a file it stands.

Imports are relative inside a package and absolute across packages. A file of `experiments/configs` is loaded by its path,
outside any package, so there every import is absolute.
"""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOADED_BY_PATH = "experiments/configs"
MAY_IMPORT = {
    "sde_lib": {"jax", "numpy", "jaxtyping", "equinox"},
    "models": {"jax", "numpy", "jaxtyping", "flax"},
    "samplers": {"jax", "numpy", "jaxtyping", "equinox", "diffrax", "optax", "sde_lib"},
    "experiments": None,  # any library, and the three packages above
}


def violations(source: str, folder: str) -> list[str]:
    """Return what is wrong with the imports of a module in `folder` of the checkout, such as "experiments/data"."""
    package, *inner = folder.split("/")
    depth = 0 if folder == LOADED_BY_PATH else 1 + len(inner)
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level > depth:
            found.append(
                f"line {node.lineno}: a relative import leaves {folder if depth == 0 else package}"
            )
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found += _absolute(node, [node.module or ""], folder)
        elif isinstance(node, ast.Import):
            found += _absolute(node, [alias.name for alias in node.names], folder)
    return found


def _absolute(node: ast.stmt, modules: list[str], folder: str) -> list[str]:
    package = folder.split("/")[0]
    allowed = MAY_IMPORT[package]
    found = []
    for name in (module.partition(".")[0] for module in modules):
        if name == package and folder != LOADED_BY_PATH:
            found.append(f"line {node.lineno}: inside {package} an import is relative")
        elif name in {"tests", "notebooks"} or (
            allowed is not None and name not in allowed | sys.stdlib_module_names
        ):
            found.append(f"line {node.lineno}: {package} may not import {name}")
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_its_layer_may(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"no module found under {ROOT / package}"
    found = [
        f"{file.relative_to(ROOT)}, {what}"
        for file in files
        for what in violations(file.read_text(), _folder(file))
    ]
    assert not found, "\n".join(found)


def _folder(file: Path) -> str:
    return file.parent.relative_to(ROOT).as_posix()


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
    (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ml_collections.config_dict",
        "sde_lib",
    ),
    ("from sde_lib.base import SDE", "sde_lib"),
    ("from experiments import state", "experiments"),
    ("import tests.conftest", "experiments"),
    ("from notebooks import helpers", "experiments"),
    ("from ..models import UNet", "samplers"),
    ("from ...models import UNet", "experiments/data"),
    ("from experiments.state import TrainState", "experiments/data"),
    ("from .common import base", "experiments/configs"),
    ("import tests.conftest", "experiments/configs"),
]


@pytest.mark.parametrize("source, folder", PLANTED)
def test_a_planted_violation_is_found(source, folder):
    assert len(violations(source, folder)) == 1


def test_what_the_layers_allow_is_not_reported():
    assert not violations(
        "import abc\nimport jax.numpy as jnp\nimport equinox as eqx\nfrom .base import SDE",
        "sde_lib",
    )
    assert not violations(
        "from sde_lib import SDE\nimport diffrax\nfrom . import grids", "samplers"
    )
    assert not violations(
        "import models, samplers, optax\nfrom absl import app\nfrom ..state import TrainState",
        "experiments/data",
    )
    assert not violations("from experiments.configs import common", "experiments/configs")
