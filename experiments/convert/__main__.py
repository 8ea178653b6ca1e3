"""Make a run directory of a checkpoint from another project, or the other way round.

    python -m experiments.convert --from=checkpoint_24.pth --format=score_sde_pytorch \\
        --config=experiments/configs/score_sde.py:ve,ncsnpp --workdir=runs/ncsnpp
    python -m experiments.main --workdir=runs/ncsnpp --mode=sample

    python -m experiments.convert --workdir=runs/ncsnpp --to=folder
    python -m experiments.convert --from=export.zip --workdir=runs/digits

The third command writes a folder that diffusers' UNet2DModel.from_pretrained reads. The last one
makes a run directory of the file that --mode=export made of another; it has no --format.

Formats: score_sde_pytorch (.pth, or an .npz of its state dict), score_sde (msgpack), diffusers
(.safetensors of a UNet2DModel, with its config.json beside it), edm (.pkl of a network snapshot).
--config is one of our configurations, or that of score_sde as JSON.
"""

import argparse
import sys

import jax

from ..errors import RunError
from ..run.devices import set_up_jax
from ..run.signals import end_at_once
from . import FORMATS, convert, export, open_exported


def main() -> None:
    """Convert as the command line says; what a user can mend ends in one message."""
    parser = argparse.ArgumentParser(
        "python -m experiments.convert",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "--from", dest="source", help="the foreign file, or that of an exported run"
    )
    parser.add_argument("--to", help="folder to write a UNet2DModel of diffusers to")
    parser.add_argument("--format", choices=list(FORMATS))
    parser.add_argument("--config", help="configuration of the network")
    parser.add_argument("--workdir", required=True, help="run directory to make")
    parser.add_argument("--trust", action="store_true", help="import classes that export.zip names")
    arguments = parser.parse_args()
    if bool(arguments.to) == bool(arguments.source):
        parser.error("give either --from and --format, or --to")
    set_up_jax()
    try:
        if arguments.to:
            export(arguments.workdir, arguments.to)
            print(f"a UNet2DModel in {arguments.to}")
            return
        if arguments.format:
            run = convert(arguments.source, arguments.format, arguments.workdir, arguments.config)
        else:
            run = open_exported(arguments.source, arguments.workdir, trust=arguments.trust)
    except (RunError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    count = sum(p.size for p in jax.tree.leaves(run.split.params))
    print(
        f"{count:,} parameters in {arguments.workdir}; sample from it with "
        f"python -m experiments.main --workdir={arguments.workdir} --mode=sample"
    )


if __name__ == "__main__":
    end_at_once()
    main()
