"""A feature network in one .npz file: float16 weights, its settings, and the hash of both.

The hash is the network's name, by which reference moments know it: a distance to the moments of
other features is refused.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from ...errors import RunError
from ...storage.identity import digest
from ...storage.jobs import save_arrays
from ...storage.reading import read_arrays
from .feature_network import FeatureNetwork, FeatureSettings, check_settings, shape_of

REMEDY = "train it anew with python -m experiments.train_features"
FACTS = "facts"
DATA = "data"  # among the facts: the data set that the network was trained on
DATA_SETTINGS = "data_settings"  # likewise: the settings of it that were given
HASH = "hash"


class SavedNetwork(NamedTuple):
    """A feature network as it was read from a file."""

    network: FeatureNetwork
    name: str  # of the extractor: "feature_network " and the hash of its weights
    facts: dict[str, Any]  # settings, and what it was trained on


def save_network(
    path: Path, network: FeatureNetwork, settings: FeatureSettings, facts: dict[str, Any]
) -> None:
    """Write a network to a file, in one piece.

    The weights are rounded to float16. Measure with the network as `load_network` reads it, so that
    everybody has the same features.

    Args:
        path: an .npz file.
        network: the network.
        settings: what it was made of.
        facts: what else is worth knowing, as plain JSON: data, split, accuracy.

    Raises:
        ValueError: a weight is not finite in float16.
    """
    with np.errstate(over="ignore"):  # what is too large is refused below
        weights = {name: np.asarray(leaf, np.float16) for name, leaf in _leaves(network).items()}
    bad = [name for name, weight in weights.items() if not np.isfinite(weight).all()]
    if bad:
        raise ValueError(f"weights {', '.join(bad)} are not finite in float16; train with care")
    text = json.dumps({"settings": settings._asdict(), **facts}, sort_keys=True, allow_nan=False)
    save_arrays(path, **weights, **{FACTS: np.array(text), HASH: np.array(_hash(text, weights))})


def load_network(path: Path) -> SavedNetwork:
    """Return the network in a file of `save_network`.

    Raises:
        RunError: the file cannot be read, is damaged, or of another kind.
    """
    if not path.exists():
        raise RunError(f"there is no {path}; {REMEDY}")
    arrays = read_arrays(path)
    if arrays is None:
        raise RunError(f"{path} is no feature network, or damaged (it is torn); {REMEDY}")
    try:
        text = str(arrays.pop(FACTS))
        claimed = str(arrays.pop(HASH))
        facts = json.loads(text)
        settings = FeatureSettings(**facts["settings"])
        settings = settings._replace(shape=shape_of(settings.shape))
        check_settings(settings)
    except Exception as error:  # there is no list of what strange facts make the readers raise
        reason = str(error) or type(error).__name__
        raise RunError(f"{path} is no feature network, or damaged ({reason}); {REMEDY}") from error
    if _hash(text, arrays) != claimed:
        raise RunError(f"{path} is damaged: its weights have another hash than it says; {REMEDY}")
    network = nnx.eval_shape(lambda: FeatureNetwork(settings, rngs=nnx.Rngs(0)))
    _fill(path, network, arrays)
    return SavedNetwork(network=network, name=f"feature_network {claimed[:16]}", facts=facts)


def data_facts(section: ConfigDict) -> dict[str, Any]:
    """Return what to write of a data set, given its section of a configuration."""
    settings = {k: v for k, v in plain_section(section).items() if v is not None}
    return {DATA: settings.pop("name"), DATA_SETTINGS: settings}


def plain_section(section: ConfigDict) -> dict[str, Any]:
    """Return a section of a configuration as plain JSON."""
    return json.loads(section.to_json_best_effort())


def _fill(path: Path, network: FeatureNetwork, arrays: dict[str, np.ndarray]) -> None:
    """Put the weights of a file into a network without any."""
    graph_state = nnx.state(network, nnx.Param)
    expected = {name: leaf.shape for name, leaf in _leaves(network).items()}
    given = {name: array.shape for name, array in arrays.items()}
    if given != expected:
        wrong = sorted(n for n in expected | given if given.get(n) != expected.get(n))
        raise RunError(f"{path} has other weights than its settings say ({wrong}); {REMEDY}")
    filled = jax.tree_util.tree_map_with_path(
        lambda place, _: jnp.asarray(arrays[_name(place)], jnp.float32), graph_state
    )
    nnx.update(network, filled)


def _leaves(network: FeatureNetwork) -> dict[str, Any]:
    """Return the parameters of a network by name."""
    state = nnx.state(network, nnx.Param)
    return {_name(place): leaf for place, leaf in jax.tree_util.tree_leaves_with_path(state)}


def _name(place: Any) -> str:
    """Return the name of a parameter, such as "convs.0.kernel"."""
    keys = [str(getattr(key, "key", getattr(key, "name", key))) for key in place]
    return ".".join(key for key in keys if key != "value")


def _hash(text: str, weights: dict[str, np.ndarray]) -> str:
    """Return the hash of facts and weights."""
    parts = [text.encode()]
    for name in sorted(weights):
        weight = np.ascontiguousarray(weights[name])
        parts += [f"{name} {weight.dtype.str} {weight.shape} ".encode(), weight.tobytes()]
    return digest(b"".join(parts))
