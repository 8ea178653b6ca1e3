"""Opening a run directory that training left behind."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jax
from ml_collections import ConfigDict

from sde_lib import SDE, Classifier, Denoiser

from ..errors import RunError
from ..storage.saved import read_saved
from ..storage.saved_config import CONFIG, check_belongs
from ..storage.workdir import run_directory
from .averages import check_averages, kept
from .build import Run, build
from .exported import load_exported

if TYPE_CHECKING:
    import optax

    from ..state import TrainState


class Loaded(NamedTuple):
    """A trained run, with the averaged weights.

    Of a run that trained a classifier (`objective.name` = "classifier") `denoiser` is None, and of
    others `classifier`.
    """

    sde: SDE
    denoiser: Denoiser
    config: ConfigDict
    run: Run
    step: int
    weights: str = ""  # what identifies them: the hash of their checkpoint's manifest, of most
    classifier: Classifier | None = None
    average: str = ""  # says which average of the weights it is


def load(
    workdir: str | Path,
    step: int | None = None,
    *,
    average: str | None = None,
    trust: bool = False,
) -> Loaded:
    """Open a run: the SDE, the denoiser with averaged weights, the configuration.

    A run that trained a classifier has a `classifier` in place of the denoiser, whose `log_prob` is
    what `sde_lib.ClassifierGuidance` takes.

    Args:
        workdir: the run directory, or the file that `--mode=export` made of one.
        step: of the checkpoint; None: the newest, of a file the one that it holds.
        average: of the weights, as the setting config.average: "ema", "ema=0.9999",
            "sigma_rel=0.15"; None: the one that the run names.
        trust: import the classes of one's own that the run names by their path,
            "package.module:Class". Importing executes them, so a directory that somebody sent is
            never allowed to do so by itself.

    Raises:
        RunError: no run directory or exported run, a configuration that is damaged, is not that of
            the weights or names foreign code without `trust`, or no undamaged checkpoint.
    """
    file = Path(workdir).expanduser()
    if file.is_file():
        return load_exported(file, step, average=average, trust=trust)
    workdir = run_directory(workdir)
    config = read_saved(workdir, trust=trust)
    if average is not None:
        config.average = average
    check_belongs(workdir, config, step)
    try:
        run = build(config, abstract=True)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise RunError(f"{workdir / CONFIG} cannot be used: {error}") from error
    return restore_run(run, workdir, step)


def restore_run(run: Run, workdir: str | Path, step: int | None = None) -> Loaded:
    """Return a run with the averaged weights of a checkpoint (None: the newest).

    Raises:
        RunError: the configuration does not fit the checkpoint, or there is none that is whole.
    """
    from .chosen_average import choose

    check_averages(run.config)
    workdir = Path(workdir)
    state = restore_state(run, workdir, step)
    chosen = choose(run, workdir, state, run.config.average)
    return Loaded(
        sde=run.sde,
        denoiser=cast(Any, None) if run.classifies else run.denoiser(chosen.params),
        config=run.config,
        run=run,
        step=int(state.step),
        weights=chosen.identity,
        classifier=run.classifier(chosen.params) if run.classifies else None,
        average=chosen.text,
    )


def restore_state(run: Run, workdir: Path, step: int | None = None) -> "TrainState":
    """Return the training state of a checkpoint (None: the newest), without the optimiser's part.

    It is on one device, or on a group of them that shares the weights, where there are as many.

    Raises:
        RunError: the configuration does not fit the checkpoint, or there is none that is whole.
    """
    from ..state import abstract_state
    from ..storage import checkpoint
    from ..storage.checkpoint_folder import find
    from .devices import make_mesh
    from .placement import Placement, groups

    folder = find(workdir, step)
    step = int(folder.name)
    check_belongs(workdir, run.config, step)
    abstract = abstract_state(run.parameters(), run.tx, kept_at(run, folder))
    shared = run.config.placement.fsdp <= jax.device_count()
    place = groups(run.config, 1)[0] if shared else Placement(make_mesh(1, 1))
    template = checkpoint.template_of(abstract, place.state(abstract))
    return checkpoint.restore(workdir, template, step, without=["opt"]).state


def kept_at(run: Run, folder: Path) -> int:
    """Return how many averages a checkpoint of a run holds beside that of `config.ema`.

    One that experiments.convert made holds none, whatever the run is to keep.
    """
    from ..storage.checkpoint import holds

    return len(kept(run.config)) if holds(folder, "averages") else 0


def template_on_one_device(params: Any, tx: "optax.GradientTransformation") -> Any:
    """Return the shapes and types of a training state, to restore it into; nothing is computed."""
    from ..state import abstract_state
    from ..storage import checkpoint
    from .devices import make_mesh
    from .placement import replicated

    abstract = abstract_state(params, tx)
    return checkpoint.template_of(abstract, replicated(make_mesh(1, 1)))
