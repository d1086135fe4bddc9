"""ATen overloads that contract axes: matrix products, einsum, scaled_dot_product_attention."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from .aten_arguments import Arguments, Meaning
from .call import Array
from .rounding import wide


def product(second: str) -> Meaning:
    """self times `second`; matrices stand in the last two axes, the others broadcast."""
    return lambda a: np.matmul(a.wide("self"), a.wide(second))


def added_product(first: str, second: str) -> Meaning:
    """beta self + alpha first second; with beta = 0 self is not read, not even a nan."""

    def run(a: Arguments) -> Array:
        scaled = a.value("alpha", 1) * np.matmul(a.wide(first), a.wide(second))
        beta = a.value("beta", 1)
        return scaled if beta == 0 else beta * a.wide("self") + scaled

    return run


def linear(a: Arguments) -> Array:
    """input weightᵀ + bias"""
    out = np.matmul(a.wide("input"), a.wide("weight").T)
    return out if a.value("bias") is None else out + a.wide("bias")


def einsum(a: Arguments) -> Array:
    tensors = [wide(x) for x in a.tensors("tensors")]
    return np.asarray(np.einsum(str(a.required("equation")), *tensors, optimize=True))


def scaled_dot_product_attention(a: Arguments) -> Array:
    """softmax(scale q kᵀ + mask) v; rows without any key give 0. Causal counts from the top left."""
    q, k, v = a.wide("query"), a.wide("key"), a.wide("value")
    if a.value("dropout_p", 0.0) != 0:
        a.fail("draws random numbers for dropout, which the interpreter does not")
    if a.flag("enable_gqa"):
        k, v = (np.repeat(x, q.shape[-3] // x.shape[-3], axis=-3) for x in (k, v))
    scale = a.value("scale", 1 / math.sqrt(q.shape[-1]))
    scores = np.matmul(q, k.swapaxes(-1, -2)) * scale + _bias(a, (q.shape[-2], k.shape[-2]))
    largest = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(largest == -np.inf, 0.0, largest))
    total = weights.sum(axis=-1, keepdims=True)
    return np.matmul(weights / np.where(total == 0, 1.0, total), v)


def _bias(a: Arguments, shape: tuple[int, int]) -> Array:
    """What is added to the scores: the mask, with -inf where it drops a key."""
    mask = a.value("attn_mask")
    if a.flag("is_causal"):
        if mask is not None:
            a.fail("takes either attn_mask or is_causal, but is given both")
        mask = np.tri(*shape, dtype=np.bool_)
    if mask is None:
        return np.zeros(())
    return np.where(mask, 0.0, -np.inf) if mask.dtype == np.bool_ else wide(mask)


PRODUCTS: Mapping[str, Meaning] = {
    "matmul": product("other"),
    "mm": product("mat2"),
    "bmm": product("mat2"),
    "mv": product("vec"),
    "dot": product("tensor"),
    "outer": lambda a: np.outer(a.wide("self"), a.wide("vec2")),
    "addmm": added_product("mat1", "mat2"),
    "baddbmm": added_product("batch1", "batch2"),
    "linear": linear,
    "einsum": einsum,
    "scaled_dot_product_attention": scaled_dot_product_attention,
}
