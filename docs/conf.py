"""Settings of Sphinx: `make docs` builds the site into docs/_build/html, without a network."""

import os
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS / "_ext")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import api  # noqa: E402

project = "score-sde-toolkit"
author = "the authors of score-sde-toolkit"
html_title = project
html_theme = "furo"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "command_line",
    "mathml",
    "signatures",
]
html_static_path = ["_static"]
html_css_files = ["site.css"]
exclude_patterns = ["_build", "_ext", "_static"]

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
html_math_renderer = "mathml"

default_role = "py:obj"  # what docstrings name in backquotes; a link where the API has it
autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False


def copy_notebooks() -> None:
    """Copy the notebooks, which lie outside of docs/, to where Sphinx finds them."""
    place = DOCS / "_notebooks"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        shutil.copy2(notebook, place)


copy_notebooks()
api.write(DOCS / "_api")
