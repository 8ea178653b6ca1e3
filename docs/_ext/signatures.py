"""Signatures and docstrings as a reader wants them, where Python says less or more than the source does."""

import inspect
import re

from sphinx.util.inspect import stringify_signature

NAME = r"[~\w.]*"  # the modules of a name
# What the names that the source uses stand for: (pattern of what Python prints, the name).
ALIASES = (
    (r"jaxlib\._jax\.Array", "Array"),
    (
        rf"{NAME}Array \| {NAME}ndarray \| {NAME}bool \| {NAME}number \| bool \| int \| float \| complex",
        "ArrayLike",
    ),
    (rf"{NAME}Callable\[\[{NAME}Array, ArrayLike, {NAME}Any\], {NAME}Estimate\]", "Denoise"),
)
UNKNOWN = "(*args: Any, **kwargs: Any)"  # of a class whose metaclass takes everything


def named(app, what, name, obj, options, signature, returned):
    """Return a signature with the names of the source, and that of `__init__` where the class hides it."""
    if what == "class" and signature == UNKNOWN:
        found = inspect.signature(obj.__init__)
        parameters = [p for p in found.parameters.values() if p.name != "self"]
        bare = found.replace(parameters=parameters, return_annotation=found.empty)
        signature = stringify_signature(bare, unqualified_typehints=True)
    for printed, alias in ALIASES:
        signature = signature and re.sub(printed, alias, signature)
        returned = returned and re.sub(printed, alias, returned)
    return signature, returned


def drop_empty_words(app, what, name, obj, options, lines) -> None:
    """Drop what Python says of every field of a named tuple."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()


def setup(app) -> dict:
    app.connect("autodoc-process-signature", named)
    app.connect("autodoc-process-docstring", drop_empty_words)
    return {"parallel_read_safe": True}
