"""Every notebook runs in a fresh kernel without a word on stderr, and stores what it then shows.

To run notebooks and store what they show:

    .venv/bin/python tests/test_notebooks.py notebooks/NAME.ipynb ...
"""

import ast
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.font_manager  # noqa: F401  makes the list of fonts, which says so
import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LIMIT = 600  # seconds a notebook; about ten times what it needs on two quiet cores
LARGEST = 1_000_000  # bytes a notebook
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
PUBLIC = {
    "sde_lib",
    "samplers",
    "models",
}  # import these by their own names; of `experiments`, its modules

NAMESPACES = {"sde_lib.inverse", "samplers.inverse", "samplers.particles"}  # public as they are

STORE = "store it anew with .venv/bin/python tests/test_notebooks.py notebooks/NAME.ipynb"

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


class ThisInterpreter(AsyncKernelManager):
    """Starts the interpreter that runs the tests, whatever kernels the user has installed."""

    @property
    def kernel_spec(self):
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            language="python",
        )


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def execute(notebook, limit=LIMIT):
    """Run a copy of `notebook` within `limit` seconds, with all warnings shown, and return it.

    It runs in an empty folder, as a user starts a notebook from anywhere.
    """
    deadline = time.monotonic() + limit
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
    env.pop("MPLBACKEND", None)  # the kernel draws into the notebook
    # Training gains more from some of the optimisation that tests leave out than that costs.
    flags = env.get("XLA_FLAGS", "")
    env["XLA_FLAGS"] = flags.replace("optimization_level=0", "optimization_level=1")
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            nbformat.from_dict(notebook),
            kernel_manager_class=ThisInterpreter,
            timeout_func=lambda cell: max(1, round(deadline - time.monotonic())),
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        )
        return client.execute(env=env)


def store(path):
    """Run the notebook at `path` and write it back with its outputs and nothing else."""
    fresh = execute(read(path))
    fresh.metadata = nbformat.from_dict(METADATA)
    for cell in fresh.cells:
        cell.metadata = {}
    nbformat.write(fresh, path)


def shape(cell):
    """Return what a cell shows, without its numbers: the text of streams, the kinds of the rest."""
    shown, text = [], ""
    for output in cell.outputs:
        if output.output_type == "stream":
            text += output.text
        else:
            shown.append((output.output_type, *sorted(output.get("data", {}))))
    return [*shown, re.sub(r"\s*[-+]?(\d+(\.\d*)?(e[-+]?\d+)?|nan|inf)", " #", text)]


def test_there_are_notebooks():
    assert {"01_forward_sdes", "02_train_2d_density"} <= {path.stem for path in NOTEBOOKS}


@each_notebook
def test_a_notebook_runs_in_silence_and_shows_what_is_stored(path):
    stored, fresh = read(path), execute(read(path))
    for before, after in zip(code_cells(stored), code_cells(fresh), strict=True):
        told = [output.text for output in after.outputs if output.get("name") == "stderr"]
        assert not told, f"cell {after.id!r} wrote to stderr: {told}"
        assert shape(after) == shape(before), (
            f"cell {after.id!r} no longer shows what is stored; {STORE}"
        )


@each_notebook
def test_a_notebook_is_stored_as_a_run_from_top_to_bottom(path):
    notebook, text = read(path), path.read_text()
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), STORE
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [
        output
        for output in outputs
        if output.output_type == "error" or output.get("name") == "stderr"
    ]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert len(text) < LARGEST, "draw fewer pixels (figure.dpi) or fewer lines"


@each_notebook
def test_a_notebook_tells_nothing_of_the_machine_it_ran_on(path):
    notebook = read(path)
    assert notebook.metadata == METADATA, STORE
    assert not [cell.id for cell in notebook.cells if cell.metadata], STORE
    for cell in code_cells(notebook):
        words = [
            str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
            for output in cell.outputs
        ]
        found = re.findall(r"(?:/[\w.-]+){2,}|[A-Z]:\\\S+", " ".join(words))
        assert not found, f"cell {cell.id!r} shows the path {found[0]}"


@each_notebook
def test_a_notebook_imports_only_public_names(path):
    for cell in code_cells(read(path)):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom):
                package, _, inner = (node.module or "").partition(".")
                inside = inner and node.module not in NAMESPACES
                assert not (package in PUBLIC and inside), (
                    f"cell {cell.id!r}: import from {package}, not from {node.module}"
                )
                assert not [name.name for name in node.names if name.name.startswith("_")], (
                    f"cell {cell.id!r} imports a private name"
                )


def notebook_of(source):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])


def test_a_warning_is_seen():
    (cell,) = execute(
        notebook_of("import warnings\nwarnings.warn('will go away', DeprecationWarning)")
    ).cells
    assert [output.name for output in cell.outputs] == [
        "stderr"
    ] and "will go away" in cell.outputs[0].text


def test_an_error_is_seen():
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(notebook_of("1 / 0"))


def test_a_notebook_that_takes_too_long_is_stopped():
    with pytest.raises(CellTimeoutError):
        execute(notebook_of("import time\ntime.sleep(60)"), limit=3)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        store(Path(name))
