"""The networks that are measured: those of the papers at 32 x 32 x 3, and a small one."""

from typing import Any, NamedTuple

from ...run.build import Run
from ..accelerator.subjects import make_run, with_numbers


class Subject(NamedTuple):
    """A network, and a batch that two CPU cores make a step of in seconds."""

    network: str  # one of accelerator.subjects.NETWORKS
    settings: dict[str, Any]  # that it is changed by
    batch: int


SUBJECTS = {
    "small": Subject("DDPM++", {"nf": 32, "num_res_blocks": 1}, 64),
    "ddpmpp": Subject("DDPM++", {}, 8),
    "ncsnpp": Subject("NCSN++", {}, 8),
    "dit": Subject("DiT-B/2", {}, 8),
}


def subject_run(name: str, mode: str, *, tiny: bool, **settings: Any) -> Run:
    """Return the run of a subject, with parameters. `tiny`: to try a benchmark."""
    subject = SUBJECTS[name]
    changed = {} if tiny else subject.settings
    return with_numbers(make_run(subject.network, mode, tiny=tiny, **changed, **settings))
