"""Settings of the whole test session; they come before the first import of the packages under test.

Four CPU devices are forced, so that sharding is tested on any machine; the rest runs on the first.
x64 is off, as for users; oracles switch it on where they need it.
Every shape in a signature of `sde_lib` and `samplers` (`Float[Array, "batch *dims"]`) is checked.
Most of a test's time is compiling: XLA's CPU backend is asked for little optimisation, in one part,
which takes a sixth. It compiles for the same instructions on every x86 machine, and waits long for
devices that share a busy core.
"""

import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # subprocesses inherit these
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    " --xla_cpu_collective_call_terminate_timeout_seconds=600"
    + (" --xla_cpu_max_isa=AVX2" if platform.machine() == "x86_64" else "")
    # A later jaxlib ends at a flag that it no longer has.
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""),
)
os.environ["MPLBACKEND"] = "Agg"
# Neither the user's settings of matplotlib nor an old list of fonts, in subprocesses as well.
if "PYTEST_XDIST_WORKER" not in os.environ:
    matplotlib_folder = tempfile.TemporaryDirectory()
    os.environ["MPLCONFIGDIR"] = matplotlib_folder.name
os.environ.setdefault(
    "TF_CPP_MIN_LOG_LEVEL", "3"
)  # as experiments/__init__.py: JAX, once imported, would hand down its own level

import jax
import pytest
from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import install_import_hook

from experiments.run.compile_cache import remove_torn

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_enable_x64", False)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Only shapes are checked: for plain `Array` and `float`, in_float64 passes NumPy, and JAX a tracer.
check_shapes = beartype(
    conf=BeartypeConf(hint_overrides=FrozenDict({jax.Array: object, float: object}))
)
install_import_hook(["sde_lib", "samplers"], f"{__name__}.check_shapes")


def keep_compilations(folder: Path):
    """Keep compiled programs in `folder` from one session to the next, if it can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        remove_torn(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


keep_compilations(
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    / "score-sde-toolkit"
    / f"jax-{jax.__version__}"
)


MOST_MAPS = 15_000  # of the 65,530 that Linux grants a process, which ends in a segmentation fault


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_make_room():
    """Forget what was compiled once it fills the process's memory map, by several entries each."""
    yield
    if _memory_maps() > MOST_MAPS:
        jax.clear_caches()


def _memory_maps() -> int:
    """Return the number of entries in the memory map, 0 where the system does not tell."""
    try:
        with open("/proc/self/maps") as maps:
            return sum(1 for _ in maps)
    except OSError:
        return 0


LONGEST = ("test_notebooks.py", "test_end_to_end.py", "test_unet.py", "test_command.py")


def pytest_collection_modifyitems(items: list):
    """Put the files that take longest first, so that no process is left alone with one."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
