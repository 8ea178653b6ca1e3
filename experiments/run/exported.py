"""An exported run, in one file, as an open one; see `storage.exported`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import jax
import numpy as np

from ..errors import RunError
from ..storage.exported import REMEDY, Exported, read_exported, unpack
from ..storage.saved import refuse_foreign_code
from ..storage.saved_config import form_errors, with_defaults
from .build import build

if TYPE_CHECKING:
    from .loading import Loaded


def named_arrays(tree: Any) -> dict[str, Any]:
    """Return the arrays of nested dictionaries by their places, such as "conv/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def filled(template: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return nested dictionaries like `template` with these arrays, on one device."""
    from .devices import make_mesh
    from .placement import replicated

    one = replicated(make_mesh(1, 1))
    leaves = [jax.device_put(arrays[name], one) for name in named_arrays(template)]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def exported_config(exported: Exported, *, trust: bool = False) -> Any:
    """Return the configuration of an exported run; see `load` for the errors."""
    place = f"config.json of {exported.path}"
    try:
        saved = json.loads(exported.parts["config.json"])
    except (KeyError, ValueError, RecursionError) as error:
        raise RunError(f"{place} is damaged ({error}); {REMEDY}") from error
    wrong = form_errors(saved) if isinstance(saved, dict) else ["it is no object"]
    if wrong:
        raise RunError(f"{place} is damaged: {'; '.join(wrong[:3])}; {REMEDY}")
    if not trust:
        refuse_foreign_code(saved, Path(place))
    return with_defaults(saved)


def load_exported(
    path: Path, step: int | None = None, *, average: str | None = None, trust: bool = False
) -> "Loaded":
    """Open the file of an exported run; see `load`.

    Raises:
        RunError: no exported run, or it is damaged, of another version, of another step or names
            foreign code without `trust`.
    """
    from .loading import Loaded

    exported = read_exported(path)
    if step not in (None, exported.step):
        raise RunError(
            f"{path} holds the weights of step {exported.step} and no others, not {step}"
        )
    config = exported_config(exported, trust=trust)
    if average not in (None, config.average):
        raise RunError(
            f"{path} holds the average {config.average} and no others, not {average}; take the run "
            "directory that it was exported from"
        )
    try:
        run = build(config, abstract=True)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise RunError(f"the config.json of {path} cannot be used: {error}") from error
    template = run.split.params
    params = filled(template, unpack(exported, named_arrays(template)))
    return Loaded(
        sde=run.sde,
        denoiser=cast(Any, None) if run.classifies else run.denoiser(params),
        config=run.config,
        run=run,
        step=exported.step,
        weights=exported.weights,
        classifier=run.classifier(params) if run.classifies else None,
        average=f"the average {config.average} of an exported run",
    )
