r"""How gradients become updates: clipping, an optax optimiser, and its learning rate.

Every optimiser of `optax` and `optax.contrib` that takes a learning rate and needs nothing but
gradients is known by its name: ``adam``, ``adamw``, ``lion``, ``sgd``, ``muon``, ``adafactor`` ...
Its own settings (``b1``, ``weight_decay``, ``momentum`` ...) keep optax's names and defaults. The
learning rate is ours: a linear warm-up from 0 to ``lr``, then one of `SCHEDULES`.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from models.mp_unet import normalised
from sde_lib import check_name

# name -> (lr, steps) -> the learning rate by the number of updates since the warm-up.
SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda lr, steps: optax.constant_schedule(lr),
    "cosine": lambda lr, steps: optax.cosine_decay_schedule(lr, steps),
    "linear": lambda lr, steps: optax.linear_schedule(lr, 0.0, steps),
}
ENDLESS = ("constant",)  # schedules that need no end

# Settings of optax's optimisers whose range is the same wherever they occur: low <= value < high.
RANGES = {
    "b1": (0.0, 1.0),
    "b2": (0.0, 1.0),
    "b3": (0.0, 1.0),
    "momentum": (0.0, 1.0),
    "weight_decay": (0.0, math.inf),
    "eps": (0.0, math.inf),
}


def make_optimizer(
    name: str = "adam",
    *,
    lr: float = 2e-4,
    warmup: int = 5000,
    clip: float = 1.0,
    schedule: str = "",
    decay_steps: int = 0,
    unit_weights: bool = False,
    **settings: Any,
) -> optax.GradientTransformation:
    """Return an optimiser with gradient clipping, a warm-up and a schedule.

    Args:
        name: a function of `optax` or `optax.contrib`.
        lr: the learning rate after the warm-up.
        warmup: updates in which the learning rate grows from 0 to `lr`; the very first update is
            null unless this is 0.
        clip: largest norm of the whole gradient; 0: no clipping.
        schedule: a row of `SCHEDULES`; "": cosine where `decay_steps` is given, otherwise constant.
        decay_steps: the update, counted from the start of training, at which the learning rate
            arrives at 0.
        unit_weights: end every update at weights of unit magnitude, see `ended_at_unit_magnitude`.
        settings: of the optimiser itself, by optax's names.

    Raises:
        ValueError: no such optimiser, schedule or setting, or a value that makes no sense.
    """
    _check_range("lr", lr, low=0.0, above=True)
    _check_range("warmup", warmup, low=0)
    _check_range("clip", clip, low=0.0)
    _check_range("decay_steps", decay_steps, low=0)
    for key, (low, high) in RANGES.items():
        if isinstance(settings.get(key), int | float):
            _check_range(key, settings[key], low=low, high=high)
    given = {  # as a configuration read from JSON has them
        key: tuple(value) if isinstance(value, list) else value
        for key, value in settings.items()
        if value is not None
    }
    steps = [
        optax.clip_by_global_norm(clip) if clip else optax.identity(),
        _named(name, make_schedule(lr, warmup, schedule, decay_steps), given),
    ]
    if unit_weights:
        steps.append(ended_at_unit_magnitude())
    return optax.chain(*steps)


def make_schedule(
    lr: float, warmup: int, schedule: str = "", decay_steps: int = 0
) -> optax.Schedule:
    """Return the learning rate as a function of the number of updates made.

    Raises:
        ValueError: no such schedule, one that has no end though it needs one, or one that ends
            within the warm-up.
    """
    schedule = schedule or ("cosine" if decay_steps else "constant")
    check_name("schedule", schedule, SCHEDULES)
    ends = schedule not in ENDLESS
    if ends and not decay_steps:
        raise ValueError(
            f"the schedule {schedule!r} has to end; give the step at which it arrives at 0 as "
            "decay_steps"
        )
    if ends and decay_steps <= warmup:
        raise ValueError(
            f"the {schedule} schedule ends at decay_steps = {decay_steps}, but the warm-up lasts "
            f"{warmup} steps; make it shorter"
        )
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, lr, max(warmup, 1)),
            SCHEDULES[schedule](lr, decay_steps - warmup),
        ],
        [warmup],
    )


def ended_at_unit_magnitude() -> optax.GradientTransformation:
    """Return the transformation that ends every step at weights of unit magnitude.

    It is for networks in which the direction of the weights alone counts. Otherwise such weights
    grow with every step, and the effective learning rate falls (Karras et al. 2024,
    arXiv:2312.02696, section 2.3).
    """

    def init(params: Any) -> optax.EmptyState:
        if not any(
            getattr(path[-1], "key", None) == "weight"
            for path, _ in jax.tree_util.tree_leaves_with_path(params)
        ):
            raise ValueError(
                "optim.unit_weights is for networks whose weights count by their direction, such "
                "as MPUNet; leave it False"
            )
        return optax.EmptyState()

    def update(updates, state, params):
        ends = normalised(optax.apply_updates(params, updates))
        return jax.tree.map(jnp.subtract, ends, params), state

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def optimizers() -> dict[str, Callable]:
    """Return the optimisers of optax by name.

    They are its public functions whose first argument is the learning rate.
    """
    public = {**vars(optax.contrib), **vars(optax)}
    return {
        name: function
        for name, function in public.items()
        if inspect.isfunction(function)
        and not name.startswith(("_", "scale_by_"))
        and next(iter(inspect.signature(function).parameters), None) == "learning_rate"
    }


def _named(name: str, schedule: optax.Schedule, settings: dict) -> optax.GradientTransformation:
    """Return the optimiser of a name; raise a ValueError if it cannot be used as it is set."""
    known = optimizers()
    check_name("optimizer", name, known)
    parameters = inspect.signature(known[name]).parameters
    takes = [key for key in parameters if key != "learning_rate"]
    if unknown := sorted(settings.keys() - set(takes)):
        ours = [key for key in inspect.signature(make_optimizer).parameters if key != "settings"]
        raise ValueError(
            f"optim.name={name} has no setting {', '.join(unknown)}; it takes {', '.join(takes)}, "
            f"and every optimizer takes {', '.join(ours)}"
        )
    needed = [key for key in takes if parameters[key].default is inspect.Parameter.empty]
    if missing := [key for key in needed if key not in settings]:
        raise ValueError(f"optim.name={name} needs a value for {', '.join(missing)}")
    try:
        optimizer = known[name](schedule, **settings)
        jax.eval_shape(_one_update(optimizer), {"w": jnp.zeros((2, 2))})
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"optim.name={name} with {settings or 'its default settings'} cannot be used here "
            f"({error}); correct its settings, or choose an optimizer that needs nothing but "
            "gradients, such as adam or adamw"
        ) from error
    return optimizer


def _one_update(optimizer: optax.GradientTransformation) -> Callable:
    """Return the function params -> params after an update, which tells what the update needs."""

    def update(params: Any) -> Any:
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    return update


def _check_range(
    name: str, value: Any, *, low: float, high: float = math.inf, above: bool = False
) -> None:
    """Raise a ValueError unless low <= value < high, or with `above` low < value < high."""
    try:
        good = (low < value if above else low <= value) and value < high
    except TypeError:
        good = False
    if not good:
        sign = ">" if above else ">="
        below = f" and < {high:g}" if high < math.inf else ""
        raise ValueError(f"an optimizer needs {name} {sign} {low:g}{below}, got {value}")
