"""`--mode=export`: a trained run as one file, `export.zip`, for another place or another person.

    python -m experiments.main --workdir=runs/digits --mode=export
    loaded = experiments.load("digits.zip")       # wherever the file is, whatever it is called
    python -m experiments.convert --from=digits.zip --workdir=runs/digits

It holds the averaged weights of the newest checkpoint, the configuration, the solvers that were
fitted, the dequantiser, and the model card with the results that it shows. It holds no state of the
optimiser, and no data.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..card.files import present
from ..card.page import CARD, make_card, update_card
from ..errors import RunError
from ..run.exported import named_arrays
from ..run.loading import Loaded
from ..run.messages import quoted, say
from ..run.opening import plain_config
from ..storage.checkpoint import latest
from ..storage.exported import as_json, is_exported, pack, write_exported
from ..storage.lock import ROOM, locked
from ..storage.saved import needs_trust
from ..storage.training_record import METRICS, TRAINING
from .dequantise import FOLDER, restore_dequantiser

EXPORT = "export.zip"
# What the card is made of, and what it shows.
RESULTS = (
    TRAINING,
    METRICS,
    "evaluation.json",
    "evaluation.png",
    "likelihood/*/summary.json",
    "diagnose/report.json",
    "diagnose/report.png",
    "samples/*.png",
    "samples/*/grid.png",
    "samples/*/nearest.png",
    "samples/*/summary.json",
    "restored/*/restored.png",
    "restored/*/summary.json",
)


def export(loaded: Loaded, workdir: Path) -> None:
    """Run `--mode=export`: write the run into one file of its directory.

    Raises:
        RunError: what lies there under that name is no exported run, or weights are not finite.
    """
    path = workdir / EXPORT
    if path.exists() and not is_exported(path):
        raise RunError(f"{path} is no exported run, or it is damaged; move it away")
    with locked(workdir, "export", room=ROOM):
        update_card(workdir)
        parts = _parts(loaded, workdir)
        write_exported(path, loaded.step, loaded.weights, parts)
    trust = ", trust=True" if needs_trust(workdir) else ""
    size = path.stat().st_size / 2**20
    say(
        f"step {loaded.step} of the run is in {path}, {size:.1f} MiB; "
        f"experiments.load({str(path)!r}{trust}) opens it anywhere. To go on with all modes: "
        f"python -m experiments.convert --from={quoted(path)} --workdir=runs/..."
    )


def _parts(loaded: Loaded, workdir: Path) -> dict[str, bytes]:
    """Return the parts of the file by name."""
    owner: Any = loaded.classifier if loaded.run.classifies else loaded.denoiser
    parts = pack(_on_host(owner.net.params))
    parts["config.json"] = as_json(plain_config(loaded.config))
    parts[CARD] = make_card(workdir).encode()
    for pattern in RESULTS:
        for file in present(workdir, pattern):
            parts[file.relative_to(workdir).as_posix()] = file.read_bytes()
    if latest(workdir / FOLDER) is not None:
        redraw = restore_dequantiser(loaded, workdir)
        parts |= pack(_on_host(redraw.params), f"{FOLDER}/weights")
        parts[f"{FOLDER}/settings.json"] = as_json(redraw.dequantiser.settings)
    return parts


def _on_host(params: Any) -> dict[str, np.ndarray]:
    """Return parameters by their places, as arrays of NumPy."""
    return {name: np.asarray(jax.device_get(leaf)) for name, leaf in named_arrays(params).items()}
