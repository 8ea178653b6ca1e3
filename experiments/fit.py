"""`--mode=fit`: learn a solver of `config.fit.nfe` evaluations for a run; `fits/<name>.json` keeps it, and sampling knows it by its name.

python -m experiments.main --config=... --workdir=runs/digits --mode=fit --config.fit.nfe=5
python -m experiments.main --config=... --workdir=runs/digits --mode=sample --config.sampling.sampler=fit5
"""

import json
import time
import warnings
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from samplers import draw_prior, fit_solver

from .build import Loaded
from .devices import fitting_mesh, replicate, share
from .errors import RunError
from .messages import progress, say, say_next
from .sample import labels
from .writing import write_json

_NOISES = 1 << 30  # index of the first noise that fitting sees; samples count from 0


def fit(loaded: Loaded, workdir: Path) -> None:
    """Learn and keep a solver."""
    run, settings = loaded.run, loaded.run.config.fit
    name, index = settings.save_as or f"fit{settings.nfe}", _NOISES + np.arange(settings.noises)
    mesh, start = fitting_mesh(settings.noises // 2, run.config.devices), time.perf_counter()
    index, denoiser = share(mesh, index.astype(np.int32)), replicate(mesh, loaded.denoiser)
    x = draw_prior(
        jax.random.key(run.config.sampling.seed),
        run.sde,
        (settings.noises, *run.facts.shape),
        index,
    )
    cond = labels(run, index) if run.config.train.conditional else None
    with progress(settings.updates, f"fit {name}", unit="update") as bar:

        def report(done, _):
            bar.update(min(done, settings.updates) - bar.n)

        found = fit_solver(
            denoiser, run.sde, x, settings.nfe, cond=cond, updates=settings.updates, rate=settings.rate,
            progress=report,
        )  # fmt: skip
    numbers = {
        key: np.asarray(value, np.float64).tolist() for key, value in vars(found.found).items()
    }
    made_for = {"checkpoint": loaded.step, "sde": json.loads(run.config.sde.to_json())}
    quality = {
        "start": float(found.history[0]),
        "distance": found.distance,
        "seconds": time.perf_counter() - start,
    }
    write_json(
        workdir / "fits" / f"{name}.json",
        {"setting": {"name": "FewSteps", **numbers}, "made_for": made_for, "quality": quality},
    )
    say(
        f"{name}: {settings.nfe} evaluations, median distance to the accurate ends {quality['start']:.4g} -> {quality['distance']:.4g} on "
        f"held-out noises, {quality['seconds']:.0f} s; it is in {workdir / 'fits' / f'{name}.json'}"
    )
    say_next(workdir, "sample", f"--config.sampling.sampler={name}")


def with_fits(loaded: Loaded, workdir: Path) -> Loaded:
    """Return a loaded run that knows the solvers fitted to it; warn of one asked for that belongs to another checkpoint.

    Raises:
        RunError: a solver asked for was fitted under another process.
    """
    config = ConfigDict(loaded.config).unlock()
    asked = {config.sampling.sampler, *config.eval.samplers}
    for path in sorted((workdir / "fits").glob("*.json")):
        name, kept = path.stem, json.loads(path.read_text())
        if kept["setting"].get("name") != "FewSteps":  # the only one that --mode=fit writes
            raise RunError(
                f"{path} holds no fitted sampler; remove it, or fit anew with --mode=fit"
            )
        config.samplers[name] = kept["setting"]
        if name not in asked:
            continue
        sde, step = kept["made_for"]["sde"], kept["made_for"]["checkpoint"]
        if sde != json.loads(config.sde.to_json()):
            raise RunError(
                f"{path} was fitted for the process {sde}, this run has {dict(config.sde)}; fit anew with --mode=fit"
            )
        if step != loaded.step:
            warnings.warn(
                f"{path} was fitted to checkpoint {step}, this is {loaded.step}; --mode=fit fits it anew",
                stacklevel=2,
            )
    return loaded._replace(config=config, run=loaded.run._replace(config=config))
