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
    needed = {
        canonicalize_name(Requirement(line).name)
        for line in project["dependencies"] + project["optional-dependencies"]["dev"]
    }
    assert needed <= set(here), f"pin them in constraints.txt: {sorted(needed - set(here))}"
