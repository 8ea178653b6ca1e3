"""`--mode=fit`: learn a solver of `config.fit.nfe` calls of the network for a run.

`fits/<name>.json` keeps it, and sampling knows it by its name. With `config.guidance` it is fitted
to the guided flow, each call of which costs what the guidance costs.

python -m experiments.main --config=... --workdir=runs/digits --mode=fit --config.fit.nfe=5
python -m experiments.main --config=... --workdir=runs/digits --mode=sample \\
    --config.sampling.sampler=fit5
"""

import contextlib
import json
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from samplers import draw_prior, fit_solver

from ..card.page import update_card
from ..errors import RunError
from ..run.conditions import sampled_conditions
from ..run.guidance import Guided, guided
from ..run.loading import Loaded
from ..run.messages import progress, say, say_next
from ..run.placement import placement, share
from ..storage.identity import identity
from ..storage.lock import ROOM, locked
from ..storage.reading import read_object
from ..storage.renamed import with_present_names
from ..storage.workdir import check_plain_name
from ..storage.writing import write_json

_NOISES = 1 << 30  # index of the first noise that fitting sees; samples count from 0


def fit(loaded: Loaded, workdir: Path) -> None:
    """Run `--mode=fit`: learn a solver and write it into the run directory.

    Raises:
        RunError: its name is not plain, or already that of another sampler or of a file that is not
            a fit.
    """
    settings = loaded.run.config.fit
    name = settings.save_as or f"fit{settings.nfe}"
    path = _free_place(loaded, workdir, name)
    with locked(workdir, f"fit {name}", room=ROOM):
        start = time.perf_counter()
        steered = guided(loaded)
        solver = _learn(loaded, name, steered)
        seconds = time.perf_counter() - start
        numbers = {
            key: np.asarray(value, np.float64).tolist()
            for key, value in vars(solver.result).items()
        }
        made_for = identity(loaded) | {
            "sde": json.loads(loaded.run.config.sde.to_json()),
            "guidance": steered.identity,
        }
        quality = {
            "start": float(solver.history[0]),
            "distance": solver.distance,
            "seconds": seconds,
        }
        setting = {"name": "FewSteps", **numbers}
        write_json(path, {"setting": setting, "made_for": made_for, "quality": quality})
    update_card(workdir)
    evaluations = f"{settings.nfe} evaluations"
    if steered.identity:
        evaluations = f"{settings.nfe} calls of the guided denoiser"
    say(
        f"{name}: {evaluations}, median distance to the accurate ends "
        f"{quality['start']:.4g} -> {quality['distance']:.4g} on held-out noises, {seconds:.0f} s; "
        f"it is in {path}"
    )
    say_next(workdir, "sample", f"--config.sampling.sampler={name}")


def _learn(loaded: Loaded, name: str, steered: Guided) -> Any:
    """Return the fitted solver."""
    run = loaded.run
    settings = run.config.fit
    place = placement(run.config, settings.noises // 2, fitting=True)
    index = _NOISES + np.arange(settings.noises)
    index = share(place.mesh, index.astype(np.int32))
    denoise = place.put_weights(steered.denoise)
    key = jax.random.key(run.config.sampling.seed)
    x = draw_prior(key, run.sde, (settings.noises, *run.facts.shape), index)
    cond = sampled_conditions(run, index)
    with progress(settings.updates, f"fit {name}", unit="update") as bar:

        def report(done, _):
            bar.update(min(done, settings.updates) - bar.n)

        return fit_solver(
            denoise,
            run.sde,
            x,
            settings.nfe,
            cond=cond,
            updates=settings.updates,
            rate=settings.rate,
            progress=report,
        )


def _free_place(loaded: Loaded, workdir: Path, name: str) -> Path:
    """Return the file of a fit: a new one, or that of an earlier fit of this name."""
    check_plain_name("config.fit.save_as", name)
    path = workdir / "fits" / f"{name}.json"
    if path.exists():
        try:
            read_fit(path)
        except RunError as error:
            raise RunError(
                f"{path} is in the way ({error}); move it, or choose another --config.fit.save_as"
            ) from error
    elif name in loaded.config.samplers:
        raise RunError(
            f"config.fit.save_as is {name!r}, the name of a sampler of the configuration; choose "
            "another"
        )
    return path


def read_fit(path: Path) -> dict[str, Any]:
    """Return what the file of a fit holds: its setting as a sampler, and what it was made for.

    Raises:
        RunError: it is damaged.
    """
    remedy = "remove it and fit anew with --mode=fit"
    content = read_object(path, remedy)
    setting = with_present_names(content.get("setting"))
    made_for = content.get("made_for")
    try:
        if not isinstance(setting, dict) or setting["name"] != "FewSteps":
            raise ValueError("its setting is not that of a fit")
        for key in ("noise_levels", "network_levels", "weights"):
            if not np.isfinite(np.asarray(setting[key], np.float64)).all():
                raise ValueError(f"{key} are not finite")
        if not isinstance(made_for, dict) or not isinstance(made_for["sde"], dict):
            raise ValueError("it does not say what it was made for")
        if not isinstance(made_for["checkpoint"], int):
            raise ValueError("it does not say which checkpoint it was made for")
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}); {remedy}") from error
    return {**content, "setting": setting}


def with_fits(loaded: Loaded, workdir: Path) -> Loaded:
    """Return a loaded run that knows the solvers fitted to it.

    Only the solvers that `config.sampling` or `config.eval` names have to be whole; warn if one of
    them belongs to another checkpoint.

    Raises:
        RunError: one of them is damaged, was fitted under another process, or has the name of
            another sampler.
    """
    config = loaded.config.copy_and_resolve_references().unlock()
    wanted = {config.sampling.sampler, *config.eval.samplers}
    for path in sorted((workdir / "fits").glob("*.json")):
        name = path.stem
        if name in wanted:
            if name in loaded.config.samplers:
                raise RunError(
                    f"{path} has the name of a sampler of the configuration; rename it, or that "
                    "sampler"
                )
            content = read_fit(path)
            _check_fits(path, content["made_for"], loaded)
            config.samplers[name] = content["setting"]
        elif name not in config.samplers:
            with contextlib.suppress(RunError):
                config.samplers[name] = read_fit(path)["setting"]
    return loaded._replace(config=config, run=loaded.run._replace(config=config))


def _check_fits(path: Path, made_for: dict[str, Any], loaded: Loaded) -> None:
    """Raise a RunError if a solver was fitted under another process than the run's.

    Warn if it was for other weights, or under another guidance.
    """
    sde = json.loads(loaded.config.sde.to_json())
    if made_for["sde"] != sde:
        raise RunError(
            f"{path} was fitted for the process {made_for['sde']}, this run has {sde}; fit anew "
            "with --mode=fit"
        )
    here = identity(loaded)
    if any(made_for.get(key) != here[key] for key in ("checkpoint", "weights", "config")):
        other = "this is" if made_for["checkpoint"] != loaded.step else "but to other weights than"
        warnings.warn(
            f"{path} was fitted to checkpoint {made_for['checkpoint']}, {other} {loaded.step}; "
            "--mode=fit fits it anew",
            stacklevel=3,
        )
    before = made_for.get("guidance", {})  # a fit that does not say was made before guidance
    now = guided(loaded).identity
    if before != now:
        warnings.warn(
            f"{path} was fitted under config.guidance = {json.dumps(before)}, but samples are "
            f"drawn under {json.dumps(now)}; its few steps suit the flow that it was fitted to, so "
            "fit another one with this guidance and --config.fit.save_as=...",
            stacklevel=3,
        )
