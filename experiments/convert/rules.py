"""What a foreign checkpoint calls our parameters, as a list of rules.

The same rules read and write.

A rule says: our parameter at `ours` is made of the arrays `theirs`, laid out as `layout`. Reading
names every weight that is missing, left over or of another shape, so that nothing is silently
skipped. Layouts only permute and join numbers: writing undoes reading bit by bit.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ..errors import RunError

Path = tuple[str | int, ...]
Weights = Mapping[str, np.ndarray]


class Layout(NamedTuple):
    """How one of our arrays is made of foreign ones, and back."""

    read: Callable[[list[np.ndarray]], np.ndarray]
    write: Callable[[np.ndarray], list[np.ndarray]]


class Rule(NamedTuple):
    """One of our parameters and what it is made of."""

    ours: Path
    theirs: tuple[str, ...]
    layout: Layout
    may_be_nan: bool = False  # a row that stands for what is not known


def single(
    read: Callable[[np.ndarray], np.ndarray], write: Callable[[np.ndarray], np.ndarray]
) -> Layout:
    """Return the layout of a parameter that is one array there too."""
    return Layout(lambda arrays: read(arrays[0]), lambda array: [write(array)])


def joined(layout: Layout, parts: int) -> Layout:
    """Return the layout of `parts` arrays that lie side by side along our last axis.

    Such arrays are queries, keys and values.
    """
    return Layout(
        lambda arrays: np.concatenate([layout.read([a]) for a in arrays], axis=-1),
        lambda array: [layout.write(a)[0] for a in np.split(array, parts, axis=-1)],
    )


SAME = single(lambda a: a, lambda a: a)
VECTOR = single(np.ravel, lambda a: a)  # (1, 1, 1, C) or (C,)
# (out, in), as PyTorch has the matrix of a linear map.
TRANSPOSED = single(np.transpose, np.transpose)
# (out, in, height, width), as PyTorch has the kernel of a convolution.
OIHW = single(lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))
# (in, out), where we convolve with 1 x 1.
MATRIX_AS_1X1 = single(lambda a: a[None, None], lambda a: a[0, 0])


def read(
    rules: Iterable[Rule], weights: Weights, template: Any, ignored: Iterable[str] = ()
) -> Any:
    """Return our parameters, shaped like `template`, made of foreign weights.

    Raises:
        RunError: a weight is missing, left over, or of another shape than the network of this
            configuration needs; it is named.
    """
    rules = list(rules)
    expected = flatten(template)
    _check_complete(rules, expected)
    needed = {name for rule in rules for name in rule.theirs}
    problems = [f"lacks {name}" for name in sorted(needed - weights.keys(), key=_natural)]
    problems += [
        f"holds {name}, which the network has no place for"
        for name in sorted(weights.keys() - needed - set(ignored), key=_natural)
    ]
    params: dict[Path, np.ndarray] = {}
    for rule in rules:
        if all(name in weights for name in rule.theirs):
            try:
                params[rule.ours] = _parameter(rule, weights, expected[rule.ours])
            except _Problem as problem:
                problems.append(str(problem))
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise RunError(
            "the checkpoint does not fit the network of this configuration: it "
            f"{'; it '.join(problems[:5])}{more}"
        )
    return unflatten(params, template)


def write(rules: Iterable[Rule], params: Any) -> dict[str, np.ndarray]:
    """Return the foreign weights that our parameters are: `read` gives them back bit by bit.

    Raises:
        RunError: the format has no place for one of our parameters; it is named.
    """
    rules = list(rules)
    ours = flatten(params)
    _check_complete(rules, ours)
    weights = {}
    for rule in rules:
        arrays = rule.layout.write(np.asarray(ours[rule.ours]))
        for name, array in zip(rule.theirs, arrays, strict=True):
            weights[name] = np.ascontiguousarray(array)
    return weights


def flatten(tree: Any) -> dict[Path, Any]:
    """Return the leaves of nested dicts by their path."""
    return {
        tuple(k.key for k in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def unflatten(leaves: Mapping[Path, np.ndarray], template: Any) -> Any:
    """Return nested dicts like `template` with these leaves."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: leaves[tuple(k.key for k in path)], template
    )


def _check_complete(rules: list[Rule], params: Mapping[Path, Any]) -> None:
    """Raise a RunError unless there is a rule for every parameter, and none without one."""
    if homeless := params.keys() ^ {rule.ours for rule in rules}:
        raise RunError(
            f"this format has no place for our parameter {_dotted(sorted(homeless, key=str)[0])}"
        )


class _Problem(Exception):
    """A parameter cannot be made of what a file holds; the message says why."""


def _parameter(rule: Rule, weights: Weights, expected: Any) -> np.ndarray:
    """Return one of our parameters, of the shape and type of `expected`.

    Raises:
        _Problem: the weights have another shape, or are not finite.
    """
    try:
        array = rule.layout.read([np.asarray(weights[name]) for name in rule.theirs])
    except ValueError:  # another number of axes
        array = None
    if array is None or array.shape != expected.shape:
        have = ", ".join(f"{name} {weights[name].shape}" for name in rule.theirs)
        raise _Problem(
            f"holds {have}; {_dotted(rule.ours)} of the network has shape {expected.shape}"
        )
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=expected.dtype)
    if not (np.isfinite(array).all() or rule.may_be_nan):
        raise _Problem(f"holds numbers in {', '.join(rule.theirs)} that are not finite")
    return array


def _natural(name: str) -> list:
    """Return the parts of a name, to sort by: numbers by their value, before words."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split(".")]


def _dotted(path: Path) -> str:
    """Return a path as text."""
    return ".".join(map(str, path))
