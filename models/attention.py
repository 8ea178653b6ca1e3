"""Attention: written out, or by the fused kernel of NVIDIA GPUs."""

import jax
from flax import nnx
from jax import Array

from .settings import check_choice


class Attention(nnx.Module):
    r"""Mix values by similarity, :math:`\mathrm{softmax}(q k^\top / \sqrt{d})\, v`.

    Args:
        kernel: "plain" stores all weights, tokens x tokens for each head, and runs anywhere.
            "cudnn" is cuDNN's fused kernel, which stores none. It needs an NVIDIA GPU, bfloat16, an
            even number of tokens and a d of at most 128 that is a multiple of 8. Other devices
            compute the same plainly. Training takes the gradient from cuDNN. A network in
            evaluation has the plain derivatives of every order and direction, as likelihoods need
            them.

    Raises:
        ValueError: `kernel` is none of KERNELS.
    """

    def __init__(self, kernel: str = "plain"):
        check_choice("attention", kernel, KERNELS)
        self.kernel = kernel
        self.deterministic = False

    def set_view(self, deterministic: bool | None = None) -> None:
        """Change from training to evaluation or back; `nnx.view` calls it."""
        if deterministic is not None:
            self.deterministic = deterministic

    def __call__(self, q: Array, k: Array, v: Array) -> Array:
        """Return the mixed values; all arrays are (batch, tokens, heads, d)."""
        train, evaluate = KERNELS[self.kernel]
        attend = evaluate if self.deterministic else train
        return attend(q, k, v)


def check_kernel(kernel: str, dtype: str, tokens: int, features: int) -> None:
    """Raise a ValueError unless the kernel can compute with these sizes.

    Args:
        kernel: a name of KERNELS.
        dtype: the type of the computation.
        tokens: number of tokens.
        features: number of features of a head.
    """
    if kernel != "cudnn":
        return
    if dtype != "bfloat16":
        raise ValueError(
            f"attention 'cudnn' computes in bfloat16 only, got dtype {dtype!r}; "
            "set dtype to 'bfloat16' or attention to 'plain'"
        )
    if tokens % 2 or features > 128 or features % 8:
        raise ValueError(
            "attention 'cudnn' needs an even number of tokens and at most 128 features a head, "
            f"a multiple of 8; got {tokens} tokens and {features} features; "
            "choose others or attention 'plain'"
        )


def plain(q: Array, k: Array, v: Array) -> Array:
    """Return attention written out."""
    return jax.nn.dot_product_attention(q, k, v, implementation="xla")


def on_gpu() -> bool:
    """Tell whether what is traced now is meant for a GPU."""
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    platform = getattr(device, "platform", device) or jax.default_backend()
    return platform in ("gpu", "cuda")


def fused(q: Array, k: Array, v: Array) -> Array:
    """Return attention by cuDNN where there is a GPU.

    It has a gradient, but no derivative along a direction.
    """
    if not on_gpu():
        return plain(q, k, v)
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


@jax.custom_jvp
def fused_without_gradient(q: Array, k: Array, v: Array) -> Array:
    """Return attention by cuDNN, differentiated as if it were plain."""
    return fused(q, k, v)


@fused_without_gradient.defjvp
def _derivative(primals, tangents):
    return jax.jvp(plain, primals, tangents)


# name -> (attention in training, attention in evaluation)
KERNELS = {"plain": (plain, plain), "cudnn": (fused, fused_without_gradient)}
