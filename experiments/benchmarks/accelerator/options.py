"""The flags that every part understands."""

import argparse
from collections.abc import Callable


def parse(description: str | None, more: Callable | None = None) -> argparse.Namespace:
    """Read the command line of a part; `more` may add flags of its own."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", default="runs/accelerator", help="folder of the results")
    parser.add_argument(
        "--tiny", action="store_true", help="small networks: to try the script on a CPU"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="of each timing; the median is reported"
    )
    if more is not None:
        more(parser)
    return parser.parse_args()
