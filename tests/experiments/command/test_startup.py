"""What is imported when: --help needs no library of numbers, drawing chooses no backend, and no
foreign folder is taken for ours.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.command.help import CONFIGS, SETTINGS, help_text
from experiments.command.overrides import value_at
from experiments.configs.common import base_config
from experiments.modes import MODES, function_of

ROOT = Path(__file__).parents[3]
SLOW = (
    "jax",
    "numpy",
    "flax",
    "equinox",
    "optax",
    "diffrax",
    "orbax",
    "grain",
    "matplotlib",
    "sklearn",
    "tensorflow_datasets",
)


def python(code, *, folder=ROOT, **environment):
    """Run Python code in a process of its own; return what it wrote."""
    variables = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    variables |= {"PYTHONPATH": str(ROOT)} | environment
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=variables, capture_output=True, text=True
    )
    return run.returncode, run.stdout, run.stderr


def test_help_and_wrong_arguments_are_answered_without_importing_a_library_of_numbers():
    code = (
        "import sys\nfrom experiments.main import run\n"
        "assert run(['--help']) == 0 and run(['--mode=fly']) == 1\n"
        "assert run(['--config=experiments/configs/toy.py', '--config.train.stepz=1']) == 1\n"
        f"loaded = [name for name in {SLOW} if name in sys.modules]\nassert not loaded, loaded"
    )
    status, out, err = python(code)
    assert status == 0, err
    assert "--mode=MODE" in out


def test_help_names_every_mode_and_configuration_and_settings_that_exist():
    text = help_text()
    for name, mode in MODES.items():
        assert any(name in line and mode.summary in line for line in text.splitlines()), name
        assert callable(function_of(name))
    for file in CONFIGS.glob("*.py"):
        if file.stem not in ("__init__", "common"):
            lines = iter(text.splitlines())
            first = next(line for line in lines if line.strip().startswith(file.name))
            assert len(first.split()) > 4
            assert "ariant" not in file.read_text() or "ariant" in next(lines), file
    missing = object()
    named_by_objects = {"data.path", "net.name", "guidance.name"}
    for path in SETTINGS.keys() - named_by_objects:
        assert value_at(base_config(), path, missing) is not missing, path


def test_a_dry_run_of_declared_facts_imports_no_reader_of_data_or_checkpoints():
    code = (
        "import sys\nfrom experiments.main import run\n"
        'facts = [\'--config.facts={"shape": (2,), "levels": None, "num_classes": 8, "sd": 1.0}\']\n'
        "small = ['--config.net.width=8', '--config.net.depth=1']\n"
        "assert run(['--config=experiments/configs/toy.py', '--dry_run', *small, *facts]) == 0\n"
        "slow = ('orbax', 'grain', 'matplotlib', 'sklearn', 'tensorflow_datasets', 'PIL',\n"
        "        'tensorboardX')\n"
        "loaded = [name for name in slow if name in sys.modules]\n"
        "assert not loaded, loaded"
    )
    status, out, err = python(code)
    assert status == 0, err
    assert "parameters" in out


def test_drawing_leaves_the_backend_of_pyplot_to_the_script_that_imports_it():
    code = (
        "import os, sys\nimport numpy as np\nfrom experiments.storage import pictures\n"
        "image = pictures.scatter(np.ones((3, 2)))\n"
        "assert image.shape[-1] == 3 and image.min() < 200\n"
        "assert 'MPLBACKEND' not in os.environ and 'matplotlib.pyplot' not in sys.modules"
    )
    status, _, err = python(code)
    assert status == 0, err


def test_no_module_imports_pyplot_or_names_a_backend():
    for file in (ROOT / "experiments").rglob("*.py"):
        assert (
            "pyplot import" not in file.read_text() and "import pyplot" not in file.read_text()
        ), file
        assert "MPLBACKEND" not in file.read_text(), file


@pytest.mark.parametrize("name", ["models", "samplers", "sde_lib"])
def test_a_folder_that_hides_a_package_is_named_with_the_remedy(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise SystemExit('executed')")
    script = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport experiments.run.build"
    status, out, err = python(script, folder=tmp_path)
    last = err.strip().splitlines()[-1]
    assert status == 1 and last.startswith("ImportError") and "executed" not in err
    assert str(tmp_path / name) in last and str(ROOT / name) in last and "rename" in last
