"""Checkpoints of other projects, in and out: python -m experiments.convert --help.

Nothing in a foreign file is executed, and nothing in it is silently skipped.
"""

from .export import export as export
from .formats import FORMATS as FORMATS
from .formats import Converted as Converted
from .own import open_exported as open_exported
from .run import convert as convert
from .run import write_run as write_run
