"""Opening a run directory that training left behind."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ml_collections import ConfigDict

from sde_lib import SDE, Classifier, Denoiser

from ..errors import RunError
from ..storage.saved import read_saved
from ..storage.saved_config import CONFIG, check_belongs
from ..storage.workdir import run_directory
from .build import Run, build
from .exported import load_exported

if TYPE_CHECKING:
    import optax


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
    weights: str = ""  # what identifies them: the hash of their checkpoint's manifest
    classifier: Classifier | None = None


def load(workdir: str | Path, step: int | None = None, *, trust: bool = False) -> Loaded:
    """Open a run: the SDE, the denoiser with averaged (EMA) weights, the configuration.

    A run that trained a classifier has a `classifier` in place of the denoiser, whose `log_prob` is
    what `sde_lib.ClassifierGuidance` takes.

    Args:
        workdir: the run directory, or the file that `--mode=export` made of one.
        step: of the checkpoint; None: the newest, of a file the one that it holds.
        trust: import the classes of one's own that the run names by their path,
            "package.module:Class". Importing executes them, so a directory that somebody sent is
            never allowed to do so by itself.

    Raises:
        RunError: no run directory or exported run, a configuration that is damaged, is not that of
            the weights or names foreign code without `trust`, or no undamaged checkpoint.
    """
    file = Path(workdir).expanduser()
    if file.is_file():
        return load_exported(file, step, trust=trust)
    workdir = run_directory(workdir)
    config = read_saved(workdir, trust=trust)
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
    from ..storage import checkpoint
    from ..storage.checkpoint_folder import find, weights_hash

    folder = find(Path(workdir), step)
    step = int(folder.name)
    check_belongs(Path(workdir), run.config, step)
    template = template_on_one_device(run.parameters(), run.tx)
    weights = weights_hash(folder)
    restored = checkpoint.restore(Path(workdir), template, step).state
    return Loaded(
        sde=run.sde,
        denoiser=cast(Any, None) if run.classifies else run.denoiser(restored.ema),
        config=run.config,
        run=run,
        step=int(restored.step),
        weights=weights,
        classifier=run.classifier(restored.ema) if run.classifies else None,
    )


def template_on_one_device(params: Any, tx: "optax.GradientTransformation") -> Any:
    """Return the shapes and types of a training state, to restore it into; nothing is computed."""
    from ..state import abstract_state
    from ..storage import checkpoint
    from .devices import make_mesh
    from .placement import replicated

    return checkpoint.template_of(abstract_state(params, tx), replicated(make_mesh(1, 1)))
