"""ATen overloads on complex numbers, and lengths of vectors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .aten_arguments import Arguments, Meaning
from .call import Array


def polar(a: Arguments) -> Array:
    """Numbers of these lengths at these angles."""
    return a.wide("abs") * np.exp(1j * a.wide("angle"))


def as_complex(a: Arguments) -> Array:
    """Pairs along the last axis, read as real and imaginary parts."""
    x = a.wide("self")
    return x[..., 0] + 1j * x[..., 1]


def as_real(a: Arguments) -> Array:
    x = a.wide("self")
    return np.stack((np.real(x), np.imag(x)), axis=-1)


def vector_norm(a: Arguments) -> Array:
    """(Σ |x|^ord)^(1/ord) along `dim`; 2 without `ord`."""
    axes = tuple(a.integers("dim", [])) or None
    order = float(a.value("ord", 2))
    total = np.sum(np.abs(a.wide("self")) ** order, axis=axes, keepdims=a.flag("keepdim"))
    return np.asarray(total ** (1 / order))


COMPLEX: Mapping[str, Meaning] = {
    "polar": polar,
    "view_as_complex": as_complex,
    "view_as_real": as_real,
    "linalg_vector_norm": vector_norm,
}
