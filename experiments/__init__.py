"""The runnable part: data sets, configurations, training, sampling and evaluation.

`experiments.load(workdir)` opens a run, `experiments.restore(run, y, operator, std)` restores what
was measured with it as the prior.
"""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .packages import check_packages

# One package stands for the extra; asking for each of them would take as long as importing some.
if find_spec("ml_collections") is None:
    raise ModuleNotFoundError(
        "experiments needs packages of an extra of this project: pip install -e .[experiments]"
    )

check_packages()

# Without it XLA writes 5 kB of alarm for every program that it finds in the compilation cache: the
# cache notes settings of the code generator among the abilities of the machine. Read when JAX is
# imported, so it has to be here; the environment has the last word.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

PUBLIC = {"load": ".run.loading", "restore": ".run.restoration"}


def __getattr__(name: str) -> Any:
    """Import a function at its first use: a configuration file should not have to import JAX."""
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name], __name__), name)
