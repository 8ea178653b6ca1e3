"""The data set of a script that has no configuration file: named as in a configuration.

--data=FashionMNIST
--data=Files --config.data.path=my_images --config.data.image_size=32
"""

import argparse
from collections.abc import Sequence

from ml_collections import ConfigDict

from ..configs.common import base_config
from .overrides import apply
from .parse import parse

PLACE = "--config.data."


def add_data(parser: argparse.ArgumentParser, kind: str) -> None:
    """Let a parser know `--data`; `kind` says which data sets the script is for."""
    parser.add_argument(
        "--data",
        required=True,
        help=f"a data set {kind}; its settings as for experiments.main, {PLACE}NAME=VALUE",
    )


def parse_with_data(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> tuple[argparse.Namespace, ConfigDict]:
    """Return what a command line says, and a configuration of the data set that it names.

    Args:
        parser: that knows `--data`.
        arguments: of the command line; None: those of this process.

    Raises:
        RunError: a setting cannot be read.
    """
    known, rest = parser.parse_known_args(arguments)
    strange = [part for part in rest if part.startswith("-") and not part.startswith(PLACE)]
    if strange or (rest and not rest[0].startswith("-")):
        parser.error(f"unrecognized arguments: {' '.join(strange or rest)}")
    config = base_config()
    config.data = {"name": known.data}
    apply(config, parse(rest).overrides)
    return known, config
