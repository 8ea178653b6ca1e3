"""Formulas as MathML, which browsers draw themselves: the site needs no network and no script, and a formula that cannot be read fails
the build."""

import re

from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)

# What docutils does not know, or reads otherwise than TeX, in what it does: (pattern, replacement).
SPELLINGS = (
    (r"\\[bB]ig(?![a-zA-Z])", ""),
    (r"\\dots(?![a-zA-Z])", r"\\ldots"),
    (r"'", r"^{\\prime}"),
    (r"\\tfrac\s*(\w)\s*(\w)", r"\\tfrac{\1}{\2}"),
    (r"\\frac\s*(\w)\s*(\w)", r"\\frac{\1}{\2}"),
)


def mathml(formula: str, block: bool, place: object) -> str:
    """Return a formula of TeX as MathML."""
    for pattern, replacement in SPELLINGS:
        formula = re.sub(pattern, replacement, formula)
    if block and "&" in formula and r"\begin" not in formula:
        formula = rf"\begin{{aligned}}{formula}\end{{aligned}}"
    try:
        return tex2mathml(formula, as_block=block)
    except Exception as error:  # whatever the converter comes up with
        LOGGER.warning("cannot read the formula %r: %s", formula, error, location=place)
        return formula


def visit_inline(translator, node) -> None:
    translator.body.append(mathml(node.astext(), False, node))


def visit_block(translator, node) -> None:
    translator.body.append(f'<div class="math">{mathml(node.astext(), True, node)}</div>')


def leave(translator, node) -> None:
    """Do nothing: `visit_inline` and `visit_block` have written all."""


def skip(visit):
    """Return a visitor that leaves out what is below the node."""
    from docutils import nodes

    def visitor(translator, node) -> None:
        visit(translator, node)
        raise nodes.SkipNode

    return visitor


def setup(app) -> dict:
    app.add_html_math_renderer("mathml", (skip(visit_inline), leave), (skip(visit_block), leave))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
