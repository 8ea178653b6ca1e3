"""Refuse a configuration before time is spent on it.

Everything that it names is built, without numbers where those would cost time.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import sde_lib
from samplers import TRACES
from sde_lib import TimeDistribution, check_name

from ..command.schema import AT_LEAST as AT_LEAST
from ..command.schema import check_settings as check_settings
from ..errors import RunError
from .averages import check_averages
from .build import CLASSIFIER, Run, make
from .conditions import guides_by_class
from .guidance import check_guidance
from .messages import quoted
from .objects import naming
from .placement import placement
from .walks import make_walk

if TYPE_CHECKING:
    from ..data import DataSet


def check_run(run: Run) -> None:
    """Raise a ValueError if the denoiser, the objective or a sampler of a run cannot be built.

    They are all checked, though training may not need them yet.
    """
    config = run.config
    with naming("config.denoiser"):
        if run.classifies:
            run.classifier(run.split.params)
        else:
            run.denoiser(run.split.params)
    with naming("config.objective.times"):
        make(sde_lib, config.objective.times, TimeDistribution)
    with naming("config.objective"):
        check_name("weighting", config.objective.weighting, sde_lib.WEIGHTINGS)
        check_name("objective", config.objective.name, [*sde_lib.OBJECTIVES, CLASSIFIER])
    check_averages(config)
    check_guidance(run)
    with naming("config.eval.trace"):
        check_name("trace", config.eval.trace, TRACES)
    for name, setting in config.samplers.items():
        with naming(f"config.samplers.{name}"):
            make_walk(setting, run.sde, config.denoiser.sigma_data).check(run.sde)
    with naming("config.sampling.sampler"):
        check_name("sampler", config.sampling.sampler, config.samplers)
    with naming("config.eval.samplers"):
        for name in config.eval.samplers:
            check_name("sampler", name, config.samplers)
    _check_label(run)


def check_denoises(run: Run, mode: str, workdir: Path) -> None:
    """Raise a RunError if a run trained a classifier, which no mode but training works with."""
    if run.classifies:
        raise RunError(
            f"this run trained a classifier, which --mode={mode} cannot use; it guides the samples "
            "of a denoiser: --config.guidance.name=ClassifierGuidance "
            f"--config.guidance.classifier={quoted(workdir)}"
        )


def _check_label(run: Run) -> None:
    """Raise a ValueError if samples of the label that is set cannot be drawn."""
    label = run.config.sampling.label
    classes = run.facts.num_classes
    by_class = run.config.train.conditional or guides_by_class(run.config)
    if label == -1 or (by_class and 0 <= label < classes):
        return
    expected = "-1, as this run is not conditional on classes"
    if by_class and classes:
        expected = f"0..{classes - 1}, or -1 for all in turn"
    raise ValueError(f"config.sampling.label is {label}, expected {expected}")


def check_data(
    run: Run, dataset: "DataSet", *, other: bool = False, training: bool = False
) -> None:
    """Raise an error if a run cannot work with a data set.

    Args:
        run: the run.
        dataset: the data set.
        other: the data are not those that the run was trained on, and must be like them.
        training: the splits that training reads are checked, too.

    Raises:
        ValueError: a split does not exist, or is empty or too small.
        RunError: the data are of another kind than those that the run was trained on.
    """
    # The libraries that read data take time to import; a dry run of declared facts needs none.
    from ..data import batches

    config = run.config
    if other:
        _check_alike(run, dataset)
    splits = {"eval.split": config.eval.split, "eval.train_split": config.eval.train_split}
    if training:
        splits |= {"train.split": config.train.split, "train.held_out": config.train.held_out}
    for setting, split in splits.items():
        if not split and setting == "train.held_out":
            continue
        with naming(f"config.{setting}"):
            size = len(dataset.source(split))
        if not size:
            raise ValueError(f"config.{setting}: split {split!r} is empty; name another one")
    if training:
        settings = config.train
        batches(
            dataset,
            settings.split,
            settings.batch_size,
            seed=config.seed,
            train=True,
            flip=settings.flip,
            balance=settings.balance,
        )


def _check_alike(run: Run, dataset: "DataSet") -> None:
    """Raise a RunError if data are of another kind than those that a run was trained on."""
    names = ["shape", "levels"]
    if run.config.train.conditional:
        names += ["num_classes", "cond_shape"]
    for name in names:
        have = getattr(dataset, name)
        want = getattr(run.facts, name)
        if name == "shape" and have != want:
            raise RunError(
                f"the network takes data of shape {want}, those of --config have {have}; resample "
                "them, or name others"
            )
        if have != want:
            raise RunError(
                f"the run was trained on data with {name} = {want}, those of --config have {have}; "
                "name data of the same kind"
            )


def check_devices(run: Run) -> None:
    """Raise a ValueError if the devices of the configuration cannot share a batch of training.

    That is so, too, if there are fewer devices, or if they cannot share the weights as told.
    """
    place = placement(run.config, run.config.train.batch_size)
    place.weights(run.parameters())  # each rule is tried
