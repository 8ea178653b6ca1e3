"""What is installed is what lies in the checkout, and the packages' common names do no harm to a user's own folders."""

import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("sde_lib", "models", "samplers", "experiments")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_is_imported_from_the_checkout(name):
    assert importlib.import_module(name).__file__ == str(ROOT / name / "__init__.py")


def test_a_script_beside_a_foreign_models_folder_still_imports_the_mathematics(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("foreign = True\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import models, sde_lib, samplers\nprint(models.foreign, sde_lib.__file__, samplers.__file__)\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [
        "True",
        *(str(ROOT / name / "__init__.py") for name in ("sde_lib", "samplers")),
    ]


def test_every_folder_with_code_is_a_package_that_setuptools_knows():
    folders = {
        file.parent.relative_to(ROOT) for name in PACKAGES for file in (ROOT / name).rglob("*.py")
    }
    assert not [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists()]
    listed = set(PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"])
    missing = {".".join(folder.parts) for folder in folders} - listed
    assert not missing, (
        f"name them under [tool.setuptools.packages.find] in pyproject.toml: {sorted(missing)}"
    )


def test_the_version_is_the_newest_of_the_changelog():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and newest[1] == PYPROJECT["project"]["version"]


def test_the_constraints_pin_every_dependency_to_one_version():
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    pins = [Requirement(line) for line in lines]
    assert not [
        str(pin) for pin in pins if pin.url or [spec.operator for spec in pin.specifier] != ["=="]
    ]
    here = [
        canonicalize_name(pin.name) for pin in pins if pin.marker is None or pin.marker.evaluate()
    ]
    assert len(here) == len(set(here))
    project = PYPROJECT["project"]
    own = canonicalize_name(project["name"])
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + extras["all"] + extras["experiments"] + extras["models"]
    lines += extras["notebooks"] + extras["dev"]
    needed = {canonicalize_name(Requirement(line).name) for line in lines} - {own}
    assert needed <= set(here), f"pin them in constraints.txt: {sorted(needed - set(here))}"


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_jax_and_jaxlib_are_pinned_to_one_version_as_the_accelerator_extras_need(version):
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if re.match("jax(lib)?==", line)]
    here = {
        p.name: str(p.specifier) for p in pins if p.marker.evaluate({"python_version": version})
    }
    assert here.keys() == {"jax", "jaxlib"}
    assert here["jax"] == here["jaxlib"]


# What a minimal installation has: the dependencies, and what they bring along.
MINIMAL = """
import sys

ABSENT = {ABSENT}

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hiding(f) if hasattr(f, "find_spec") else f for f in sys.meta_path]
"""


def without(packages, script, tmp_path):
    """Run a script in a process that cannot import `packages`."""
    file = tmp_path / "script.py"
    file.write_text(MINIMAL.replace("{ABSENT}", repr(packages)) + script)
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, str(file)], cwd=tmp_path, env=env, capture_output=True, text=True
    )


def optional_packages():
    """Return the names by which the packages of the extras are imported."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    names = {Requirement(line).name for line in extras["experiments"] + extras["models"]}
    imported = {
        "absl-py": "absl",
        "orbax-checkpoint": "orbax",
        "pillow": "PIL",
        "scikit-learn": "sklearn",
    }
    return {imported.get(name, name.replace("-", "_")) for name in names} - {
        "scipy"
    }  # JAX needs it


def test_sde_lib_and_samplers_work_with_the_dependencies_alone(tmp_path):
    script = """
import jax
import samplers, sde_lib
sde = sde_lib.VP()
denoise = sde_lib.Gaussian([0.0], [[1.0]]).denoiser(sde)
sampler, ts = samplers.recommended(sde, 5)
x = samplers.draw_prior(jax.random.key(0), sde, (4, 1))
print(samplers.sample(jax.random.key(0), sampler, denoise, sde, ts, x).x.shape)
"""
    run = without(optional_packages(), script, tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["(4,", "1)"]


@pytest.mark.parametrize("name, extra", [("models", "models"), ("experiments.main", "experiments")])
def test_a_package_whose_extra_is_not_installed_names_it(tmp_path, name, extra):
    run = without(optional_packages(), f"import {name}", tmp_path)
    assert run.returncode
    assert f"pip install -e .[{extra}]" in run.stderr.splitlines()[-1]
