"""Make a run directory of a checkpoint from another project.

    python -m experiments.convert --from=checkpoint_24.pth --format=score_sde_pytorch \\
        --config=experiments/configs/score_sde.py:ve,ncsnpp --workdir=runs/ncsnpp
    python -m experiments.main --workdir=runs/ncsnpp --mode=sample

Formats: score_sde_pytorch (.pth, or an .npz of its state dict), score_sde (msgpack). --config is one of our configurations, or that of
score_sde as JSON.
"""

import argparse
import sys

import jax

from ..devices import set_up_jax
from ..errors import RunError
from . import FORMATS, convert


def main() -> None:
    """Convert; what a user can mend ends in one message."""
    parser = argparse.ArgumentParser("python -m experiments.convert", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--from", required=True, dest="source", help="the foreign file")
    parser.add_argument("--format", required=True, choices=list(FORMATS))
    parser.add_argument("--config", help="configuration of the network")
    parser.add_argument("--workdir", required=True, help="run directory to make")
    asked = parser.parse_args()
    set_up_jax()
    try:
        run = convert(asked.source, asked.format, asked.workdir, asked.config)
    except (RunError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    count = sum(p.size for p in jax.tree.leaves(run.split.params))
    print(
        f"{count:,} parameters in {asked.workdir}; sample from it with python -m experiments.main --workdir={asked.workdir} --mode=sample"
    )


if __name__ == "__main__":
    main()
