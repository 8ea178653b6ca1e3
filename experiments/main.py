"""Command line of the toolkit.

    python -m experiments.main --config=experiments/configs/digits.py:vp --workdir=runs/digits --mode=train
    python -m experiments.main --config=... --workdir=runs/digits --mode=sample --config.sampling.number=256
    python -m experiments.main --workdir=runs/digits --mode=evaluate
    python -m experiments.main --workdir=runs/digits --mode=likelihood    # also diagnose, dequantise

Every setting of a configuration can be overridden: --config.train.steps=10000. --dry_run prints the resolved configuration and stops.
"""

import contextlib
import sys
import traceback
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from .build import Loaded, build, flops, load, make_dataset, measure
from .check import check_run, check_settings
from .dequantise import dequantise
from .devices import set_up_jax
from .diagnose import diagnose
from .errors import RunError
from .evaluate import evaluate
from .fit import fit, with_fits
from .likelihood import likelihood
from .sample import sample, with_settings
from .train import FREE, train

FLAGS = flags.FLAGS
MODES = {
    f.__name__: f for f in (sample, evaluate, likelihood, diagnose, dequantise, fit)
}  # all but training
config_flags.DEFINE_config_file(
    "config",
    None,
    "Configuration file, with a variant after a colon: experiments/configs/digits.py:ve.",
    lock_config=False,  # so that a section {name, **settings} can be given more settings; `check_settings` finds the misspelt ones
    accept_new_attributes=True,
)
flags.DEFINE_string(
    "workdir", None, "Run directory: checkpoints, logs and results; made if missing."
)
flags.DEFINE_enum("mode", "train", ["train", *MODES], "What to do.")
flags.DEFINE_bool(
    "dry_run",
    False,
    "Print the resolved configuration, the number of parameters and of operations per image, then stop.",
)


def dry_run() -> None:
    """Print what a run would use."""
    config = FLAGS.config
    check_settings(config)
    run = build(
        config, None if config.facts else measure(config, make_dataset(config)), abstract=True
    )
    check_run(run)
    print(run.config)
    count = sum(p.size for p in jax.tree.leaves(run.split.params))
    print(
        f"{count:,} parameters, {flops(run):.3g} floating-point operations per image in one evaluation"
    )


def execute() -> None:
    """Do what the flags say."""
    if FLAGS.mode == "train" or FLAGS.dry_run:
        if FLAGS.config is None:
            raise RunError(
                "--mode=train and --dry_run need --config, such as --config=experiments/configs/digits.py:vp"
            )
    if FLAGS.dry_run:
        return dry_run()
    if not FLAGS.workdir:
        raise RunError("name a run directory with --workdir=runs/...")
    workdir = Path(FLAGS.workdir)
    if FLAGS.mode == "train":
        return train(FLAGS.config, workdir)
    loaded = load(workdir)
    free = FREE if knows_its_data(loaded, FLAGS.config) else (*FREE, "data")
    loaded = with_fits(with_settings(loaded, FLAGS.config, free), workdir)
    check_settings(loaded.config)
    check_run(loaded.run)
    MODES[FLAGS.mode](loaded, workdir)


def knows_its_data(loaded: Loaded, config: ConfigDict | None) -> bool:
    """Tell whether a run says which data it is about; a converted one need not, and takes those of `config`, the command line's.

    Raises:
        RunError: they have another shape.
    """
    missing = "path" in loaded.config.data and loaded.config.data.path is None
    if missing and config is not None and config.data.get("path", "") is not None:
        have, want = make_dataset(config).shape, loaded.run.facts.shape
        if have != want:
            raise RunError(
                f"the network takes data of shape {want}, those of --config have {have}; resample them, or name others"
            )
    return not missing


def parse(argv: list[str]) -> list[str]:
    """Parse the flags; end in one message where a configuration file or an override is wrong."""
    try:
        others = app.parse_flags_with_usage(argv)
        if FLAGS.config is not None:
            FLAGS.config.items()  # a file that could not be read is an error only when it is used
        return others
    except (RunError, OSError, KeyError, AttributeError) as error:
        reason = " ".join(str(error.args[0]).split()) if isinstance(error, KeyError) else error
        print(f"error: cannot use this --config or an override of it: {reason}", file=sys.stderr)
        sys.exit(1)


def main(argv: list[str]) -> None:
    """Run; what a user can mend ends in one message, with the traceback kept beside the run."""
    if len(argv) > 1:
        raise app.UsageError(
            f"unexpected argument {argv[1]!r}; settings are given as --config.section.name=value"
        )
    set_up_jax()
    logging.set_verbosity(logging.FATAL)  # what libraries log as errors they raise as well
    try:
        execute()
    except (RunError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        if FLAGS.workdir and Path(FLAGS.workdir).is_dir():
            with contextlib.suppress(OSError):  # the disk may be what is wrong
                (Path(FLAGS.workdir) / "error.txt").write_text(traceback.format_exc())
        sys.exit(1)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
