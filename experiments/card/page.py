"""The card as a whole: its sections in their order, written into the run directory.

Each section is made by itself, of the files that it speaks of. One whose files are torn says so,
and the others stand.
"""

from collections.abc import Callable
from pathlib import Path

from ..errors import RunError
from ..run.messages import say
from ..storage.saved_config import CONFIG
from ..storage.writing import write_text
from . import about, comparison, reproducing, results, use

CARD = "card.md"

# Title, and what writes the lines below it; a section without lines is left out.
SECTIONS: tuple[tuple[str, Callable[[Path], list[str]]], ...] = (
    ("", about.heading),
    ("Samples", results.pictures),
    ("Data", about.data),
    ("Network and training", about.training),
    ("Likelihood", results.likelihood),
    ("Samples compared with real data", comparison.evaluation),
    ("Memorisation", use.memorisation),
    ("Health of the score", results.health),
    ("Solvers for few evaluations", results.fits),
    ("Restoration", results.restorations),
    ("Intended use", use.intended_use),
    ("Limits", use.limits),
    ("Configuration", reproducing.configuration),
    ("How to make it again", reproducing.reproduction),
)


def update_card(workdir: Path) -> None:
    """Write the model card of a run anew; a failure is said, and costs the run nothing.

    A folder without a configuration, because only results are written to it, gets no card.
    """
    if not (workdir / CONFIG).exists():
        return
    try:
        write_text(workdir / CARD, make_card(workdir))
    except Exception as error:  # nothing that a card comes up with may end a mode
        say(f"no model card ({type(error).__name__}: {error}); the results are kept")


def make_card(workdir: Path) -> str:
    """Return the model card of a run as Markdown, made of what lies in its directory."""
    parts = [_section(workdir, title, write) for title, write in SECTIONS]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(workdir: Path, title: str, write: Callable[[Path], list[str]]) -> str:
    """Return one section, or why it cannot be made."""
    try:
        lines = write(workdir)
    except Exception as error:  # there is no list of what damaged files make the readers raise
        text = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        reason = " ".join(text.replace(f"{workdir}/", "").split())
        lines = [f"*This part cannot be read: {reason}*"]
    if not lines:
        return ""
    body = "\n".join(lines).strip()
    return f"## {title}\n\n{body}" if title else body
