"""Runs Triton kernels on CPU tensors, in Triton's interpreter, inside a process that may also compile.

Triton means its interpreter for processes started with TRITON_INTERPRET=1, and gets bfloat16 wrong
there (dots and arithmetic work on bit patterns, casts truncate), and casts to 8-bit floats. Here the
language is switched over only while a kernel runs, under a lock, with those mended. Of elementwise
arithmetic on bfloat16 that is so for sums, differences, products and quotients.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import threading
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from ..ir.diagnostics import error

language_lock = threading.RLock()
"""Held while `triton.language` is switched over. Compiling or launching elsewhere must hold it too."""


def interpreted(module: ModuleType) -> ModuleType:
    """Make every `@triton.jit` function of a freshly imported module run in the interpreter."""
    check_versions()
    mend_is_verified()
    for name, member in list(vars(module).items()):
        if (function := _python_function(member)) is not None:
            setattr(module, name, InterpretedKernel(function))
    return module


class InterpretedKernel:
    """`kernel[grid](arguments, options)` as Triton has it, and a plain call from another kernel."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._body = _rewritten(function)
        self.__name__ = function.__name__

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return functools.partial(self.run, grid)

    def __call__(self, *arguments: Any) -> Any:
        return self._body(*arguments)

    def run(self, grid: tuple[int, ...], *arguments: Any, **options: object) -> None:
        """One program after the other. Options steer compilation and mean nothing here."""
        interpreter = _interpreter()
        with language_switched_over():
            values = [interpreter._implicit_cvt(a) for a in arguments]
            builder, sizes = interpreter.interpreter_builder, (*grid, 1, 1)[:3]
            builder.set_grid_dim(*sizes)
            for position in itertools.product(*map(range, sizes)):
                builder.set_grid_idx(*position)
                self._body(*values)


@contextmanager
def language_switched_over() -> Generator[None]:
    """Make `triton.language` compute on numpy arrays, and put everything back afterwards."""
    import triton.language as tl

    interpreter = _interpreter()
    with language_lock, ExitStack() as undo:
        language = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
        undo.callback(interpreter._patch_lang(language).restore)
        for namespace, name, function in _standard_functions():
            undo.callback(setattr, namespace, name, getattr(namespace, name))
            setattr(namespace, name, function)
        for name, method in _mended_methods().items():
            undo.callback(delattr, interpreter.interpreter_builder, name)
            setattr(interpreter.interpreter_builder, name, method)
        # Masked lanes overflow, and rows without a key have no maximum: both as on a GPU.
        # Triton 3.6 itself warns about numpy at every step of a loop.
        undo.enter_context(np.errstate(all="ignore"))
        undo.enter_context(warnings.catch_warnings())
        for category in (RuntimeWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)
        yield


@functools.cache
def _interpreter() -> Any:
    # Triton imports Gluon when it first looks at a tensor, which must not happen while switched over.
    importlib.import_module("triton.experimental.gluon")
    return importlib.import_module("triton.runtime.interpreter")


def _python_function(member: object) -> Callable[..., None] | None:
    """The function inside a `@triton.jit` object, which is of either class depending on the environment."""
    from triton.runtime.jit import JITFunction

    kinds: tuple[type, ...] = (JITFunction, _interpreter().InterpretedFunction)
    return getattr(member, "fn") if isinstance(member, kinds) else None  # noqa: B009 - untyped member


@functools.cache
def _rewritten(function: Callable[..., None]) -> Callable[..., Any]:
    """`function` with assignments that turn Python numbers into tensors, as compiled code has them."""
    return _interpreter().InterpretedFunction(function).rewrite()


@functools.cache
def _standard_functions() -> tuple[tuple[Any, str, Callable[..., Any]], ...]:
    """What `triton.language` itself wrote in Triton (`tl.max`, `tl.sum`, ...): where, name, Python function."""
    import triton.language as tl

    found: list[tuple[Any, str, Callable[..., Any]]] = []
    for namespace in (tl, tl.standard):
        for name, member in list(vars(namespace).items()):
            if (function := _python_function(member)) is not None:
                found.append((namespace, name, _rewritten(function)))
    return tuple(found)


# --- bfloat16 ------------------------------------------------------------------------------


@functools.cache
def _mended_methods() -> dict[str, Callable[..., Any]]:
    """Methods of the interpreter's builder that understand bfloat16, kept by it as uint16."""
    import triton.language as tl

    interpreter = _interpreter()
    builder, handle = interpreter.interpreter_builder, interpreter.TensorHandle
    shipped_dot, shipped_cast, shipped_conversion = builder.create_dot, builder.cast_impl, builder.create_fp_to_fp
    shipped_operator = builder.binary_op

    def widened(x: Any) -> Any:
        return handle(bfloat16_to_float32(x.data), tl.float32) if x.dtype.scalar == tl.bfloat16 else x

    def create_dot(a: Any, b: Any, d: Any, *options: Any) -> Any:
        return shipped_dot(widened(a), widened(b), d, *options)

    def binary_op(a: Any, b: Any, operator: Callable[..., Any]) -> Any:
        if a.dtype.scalar != tl.bfloat16:
            return shipped_operator(a, b, operator)
        return cast_impl(shipped_operator(widened(a), widened(b), operator), tl.bfloat16)

    def to_8_bits(x: Any, type_: Any) -> Any:
        """f32 as the nearest 8-bit float, None for other types."""
        name = FLOATS_OF_8_BITS.get(str(type_.scalar))
        return (
            None
            if name is None or x.dtype.scalar != tl.float32
            else handle(float32_to_float8(x.data, name), type_.scalar)
        )

    def create_fp_to_fp(x: Any, type_: Any, rounding: Any) -> Any:
        found = to_8_bits(x, type_)
        return shipped_conversion(x, type_, rounding) if found is None else found

    def cast_impl(x: Any, type_: Any) -> Any:
        if (found := to_8_bits(x, type_)) is not None:
            return found
        if type_.scalar != tl.bfloat16 or x.dtype.scalar == tl.bfloat16:
            return shipped_cast(widened(x), type_) if type_.scalar != tl.bfloat16 else x
        single = x.data.astype(np.float32)
        return handle(float32_to_bfloat16(single), tl.bfloat16)

    def get_bf16(value: float) -> Any:
        """A number as bfloat16, which Triton 3.6 cannot make."""
        return handle(float32_to_bfloat16(np.array([value], np.float32)), tl.bfloat16)

    return {
        "create_dot": create_dot, "binary_op": binary_op, "cast_impl": cast_impl, "create_fp_to_fp": create_fp_to_fp,
        "get_bf16": get_bf16,
    }  # fmt: skip


FLOATS_OF_8_BITS: Mapping[str, str] = {"fp8e4nv": "float8_e4m3fn", "fp8e5": "float8_e5m2"}
"""PyTorch's names for Triton's."""


def float32_to_float8(values: Any, name: str) -> Any:
    """The bit patterns (uint8) of the nearest values of a type of PyTorch's, ties to even."""
    torch: Any = importlib.import_module("torch")
    single = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    return single.to(getattr(torch, name)).view(torch.uint8).numpy().reshape(np.shape(values))


def bfloat16_to_float32(bits: Any) -> Any:
    """The values of bfloat16 bit patterns (uint16), exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bfloat16(values: Any) -> Any:
    """The bit patterns of the nearest bfloat16 values, ties to even; nan stays nan."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded).reshape(np.shape(values))


@functools.cache
def mend_is_verified() -> None:
    """Compare a bfloat16 dot and cast with exact ones, once a process; fail if a new Triton breaks the mend."""
    import triton.language as tl

    interpreter = _interpreter()
    handle, builder = interpreter.TensorHandle, interpreter.interpreter_builder
    values = np.array([[1.0, -2.5], [0.15625, 1.9999]], dtype=np.float32)
    with language_switched_over():
        halves = builder.create_fp_trunc(handle(values, tl.float32), tl.bfloat16)
        back = builder.create_fp_ext(halves, tl.float32).data
        zeros = handle(np.zeros((2, 2), dtype=np.float32), tl.float32)
        product = builder.create_dot(halves, halves, zeros, None, 0).data
    expected = np.array([[1.0, -2.5], [0.15625, 2.0]], dtype=np.float32)
    if not (np.array_equal(back, expected) and np.array_equal(product, expected @ expected)):
        raise error("bfloat16 in Triton's interpreter could not be mended for this version of Triton; use float32")


def check_versions() -> None:
    """Refuse the pair of versions whose interpreter fails on every loop."""
    import triton

    triton_version, numpy_version = (_version(m.__version__) for m in (triton, np))
    if triton_version < (3, 7) and numpy_version >= (2, 4):
        raise error(
            f"the interpreter of triton {triton.__version__} does not work with numpy {np.__version__}: "
            "install numpy < 2.4, or triton >= 3.7"
        )


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)
