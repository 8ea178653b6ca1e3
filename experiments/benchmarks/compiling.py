"""Seconds of compiling: cold, and from a persistent cache that the cold start has left."""

import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache


class CompileSeconds(NamedTuple):
    """Seconds of one start, from Python to the result."""

    cold: float
    warm: float  # with the persistent cache that the cold start has left


def compile_seconds(prepare: Callable[[], Callable[[], object]]) -> CompileSeconds:
    """Return the seconds of a call, nothing of which is compiled yet.

    `prepare` is not timed, and returns the call; it is used twice.
    """

    def seconds() -> float:
        jax.clear_caches()
        call = prepare()
        start = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - start

    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    with tempfile.TemporaryDirectory() as folder:
        _use_cache(folder)
        result = CompileSeconds(cold=seconds(), warm=seconds())
    _use_cache(before)
    return result


def _use_cache(folder: str) -> None:
    """Make JAX keep compiled programs in a folder."""
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()
