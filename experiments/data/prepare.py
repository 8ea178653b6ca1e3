"""Download a data set of the TFDS catalogue and write it for random access.

    python -m experiments.data.prepare cifar10

It needs the network, and TensorFlow, whose encoders write the files; reading them needs neither.
"""

import argparse
import importlib.util
import sys

import tensorflow_datasets as tfds
from tensorflow_datasets.core.registered import DatasetNotFoundError

from ..errors import RunError
from ..run.signals import end_at_once
from ..storage.lock import locked
from .tfds import data_directory


def prepare(name: str, data_dir: str | None = None) -> str:
    """Prepare a data set and return its folder.

    Raises:
      SystemExit: TensorFlow is missing, there is no such data set, or it could not be downloaded or
          written; the message says which.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise SystemExit(
            "preparing a data set needs TensorFlow: install the extra with\n"
            '  pip install -e ".[tfds-prepare]"'
        )
    try:
        directory = data_directory(data_dir)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    try:
        builder = tfds.builder(name, data_dir=directory, file_format="array_record")
    except DatasetNotFoundError:
        raise SystemExit(
            f"{name!r} is not in the catalogue of TFDS; see "
            "https://www.tensorflow.org/datasets/catalog"
        ) from None
    except ValueError as error:
        raise SystemExit(f"cannot prepare {name} in {directory}: {error}") from error
    try:
        with locked(directory, f"prepare {name}"):
            builder.download_and_prepare()
    except RunError as error:  # another process prepares it
        raise SystemExit(str(error)) from None
    except Exception as error:  # whatever a site, a disk or a missing package comes up with
        raise SystemExit(
            f"preparing {name} in {directory} failed: {type(error).__name__}: {error}\nCheck the "
            "network and the disk and run the command again. Some data sets ask for files fetched "
            "by hand: the catalogue page https://www.tensorflow.org/datasets/catalog says so."
        ) from error
    return str(builder.data_dir)


def main() -> None:
    """Prepare the data set that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.data.prepare",
        description="Download and prepare a TFDS data set.",
    )
    parser.add_argument("name", help="for example cifar10, celeb_a or lsun/bedroom")
    parser.add_argument(
        "--data_dir",
        help="where data sets are kept (default: TFDS_DATA_DIR, else ~/tensorflow_datasets)",
    )
    arguments = parser.parse_args()
    print(f"prepared {prepare(arguments.name, arguments.data_dir)}", file=sys.stderr)


if __name__ == "__main__":
    end_at_once()
    main()
