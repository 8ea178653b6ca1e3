"""A network as plain data: what it is (static) and a dict of its parameters, so that jit, grad, optax and checkpoints just work."""

from typing import Any, NamedTuple, TypeVar

from flax import nnx

Net = TypeVar("Net", bound=nnx.Module)
Params = dict[Any, Any]


class Split(NamedTuple):
    """A network taken apart; `merge(train, params)` or `merge(evaluate, params)` puts it together again."""

    train: nnx.GraphDef  # dropout on: calls need rngs=nnx.Rngs(dropout=key) if the rate is above 0
    evaluate: nnx.GraphDef  # deterministic: calls need no rngs
    params: Params  # nested plain dict of arrays


def split(net: nnx.Module) -> Split:
    """Take `net` apart into its two static definitions and its parameters.

    Everything that changes must be an `nnx.Param`: a network that hides other state (batch statistics, stored random
    streams, bare arrays) raises ValueError, because that state would be lost between calls.
    """
    try:
        train, state = nnx.split(net, nnx.Param)
    except ValueError as error:
        raise ValueError(
            f"{type(net).__name__} holds state that is not an nnx.Param; networks here are pure: use GroupNorm or LayerNorm, "
            f"nnx.Dropout without rngs, and compute constants in the call. ({error})"
        ) from error
    evaluate = nnx.graphdef(nnx.view(net, raise_if_not_found=False, deterministic=True))
    return Split(train, evaluate, nnx.to_pure_dict(state))


def merge(graphdef: "nnx.GraphDef[Net]", params: Params) -> Net:
    """Build the network again. Call it inside the jitted function, outside any scan: it then costs tracing time only."""
    return nnx.merge(graphdef, params)
