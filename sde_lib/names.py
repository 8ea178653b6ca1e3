"""Choosing a row of a table by its name.

For a name that others use for one of our rows the error suggests ours.
"""

import difflib
from typing import Any

# What others call our rows -> what they may be here; a table offers only those that it has.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "epsilon": ("noise",),
    "eps": ("noise",),
    "pred_noise": ("noise",),
    "pred_epsilon": ("noise",),
    "ddpm": ("noise", "label"),
    "simple": ("noise",),
    "sample": ("x0",),
    "x_0": ("x0",),
    "x_start": ("x0",),
    "xstart": ("x0",),
    "start_x": ("x0",),
    "pred_x0": ("x0",),
    "pred_x_start": ("x0",),
    "data": ("x0",),
    "clean": ("x0",),
    "denoiser": ("x0",),
    "v_prediction": ("v",),
    "pred_v": ("v",),
    "flow": ("velocity",),
    "flow_prediction": ("velocity",),
    "flow_matching": ("velocity",),
    "vector_field": ("velocity",),
    "rectified_flow": ("velocity",),
    "score_function": ("score",),
    "karras": ("edm", "prediction"),
    "edm": ("prediction",),
    "f": ("edm",),
    "none": ("prediction",),
    "uniform": ("prediction",),
    "constant": ("prediction",),
    "snr": ("noise",),
    "elbo": ("likelihood",),
    "vlb": ("likelihood",),
    "mle": ("likelihood",),
    "min_snr_gamma": ("min_snr",),
    "log_snr": ("edm",),
    "logsnr": ("edm",),
    "c_noise": ("edm",),
    "t": ("time",),
    "continuous": ("time",),
    "timestep": ("label",),
    "timesteps": ("label",),
    "index": ("label",),
    "discrete": ("label",),
    "noise_level": ("sigma",),
    "std": ("sigma",),
    "dsm": ("denoising",),
    "ssm": ("sliced",),
}


def suggestion(name: str, choices: Any) -> str | None:
    """Return the choice that `name` most likely means, or None."""
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    without = plain.removesuffix("_prediction").removesuffix("_pred")
    for candidate in (plain, without):
        if candidate in choices:
            return candidate
        for meant in SYNONYMS.get(candidate, ()):
            if meant in choices:
                return meant
    close = difflib.get_close_matches(plain, [str(choice) for choice in choices], n=1)
    return close[0] if close else None


def check_name(kind: str, name: str, choices: Any) -> None:
    """Raise a ValueError that lists the choices, and the likely one first, unless `name` is one of
    them.
    """
    if isinstance(name, str) and name in choices:
        return
    listed = ", ".join(sorted(str(choice) for choice in choices))
    meant = suggestion(name, choices) if isinstance(name, str) else None
    hint = f"; did you mean {meant!r}?" if meant else ""
    raise ValueError(f"unknown {kind} {name!r}; choose one of {listed}{hint}")
