"""`compile`, `calibrate` and `explain`: what users call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar, cast, overload
from weakref import WeakKeyDictionary

import torch

from ..ir.diagnostics import error
from .backend import Backend, shared_report
from .options import AUTO, AUTOS, Options
from .report import Report
from .tuning import SECONDS

CallableT = TypeVar("CallableT", bound=Callable[..., Any])
_torch_compile = cast("Callable[..., Any]", cast(Any, torch).compile)
_backends: WeakKeyDictionary[object, Backend] = WeakKeyDictionary()


@overload
def compile(
    model: CallableT,
    *,
    backend: str = ...,
    rest: str = ...,
    autotune: str = ...,
    strict: bool = ...,
    max_error: float | None = ...,
    sparsity: Any = ...,
    quantize: Any = ...,
    dynamic: bool | None = ...,
    dump: str | Path | None = ...,
    cache: bool = ...,
    fuse_rows: str = ...,
    backend_options: Mapping[str, Any] | None = ...,
    tune_seconds: float = ...,
) -> CallableT: ...
@overload
def compile(
    model: None = None,
    *,
    backend: str = ...,
    rest: str = ...,
    autotune: str = ...,
    strict: bool = ...,
    max_error: float | None = ...,
    sparsity: Any = ...,
    quantize: Any = ...,
    dynamic: bool | None = ...,
    dump: str | Path | None = ...,
    cache: bool = ...,
    fuse_rows: str = ...,
    backend_options: Mapping[str, Any] | None = ...,
    tune_seconds: float = ...,
) -> Callable[[CallableT], CallableT]: ...
def compile(
    model: Any = None,
    *,
    backend: str = "auto",
    rest: str = "eager",
    autotune: str = "off",
    strict: bool = False,
    max_error: float | None = None,
    sparsity: Any = None,
    quantize: Any = None,
    dynamic: bool | None = None,
    dump: str | Path | None = None,
    cache: bool = True,
    fuse_rows: str = "auto",
    backend_options: Mapping[str, Any] | None = None,
    tune_seconds: float = SECONDS,
) -> Any:
    """Compile the attention in `model` when it is called, and run the rest as it is.

    `model` is an nn.Module, a function, a bound method, or a torch.export.ExportedProgram; without
    it, the result is a decorator. See `Options` for the others. Raises CompileError for options
    that are unknown or not available, and with `strict=True` on the first call for attention that
    was not fused.
    """
    options = Options(
        backend, rest, autotune, strict, max_error, sparsity, quantize, dynamic, dump, cache, fuse_rows,
        backend_options, tune_seconds,
    )  # fmt: skip
    if model is None:
        return partial(_compile, options=options)
    return _compile(model, options)


def _compile(model: Any, options: Options) -> Any:
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    if not callable(model):
        raise error(f"cannot compile {model!r}: expected an nn.Module, a function, a method or an ExportedProgram")
    backend = Backend(options)
    # Without isolation all compiled copies of one function count against one limit on recompiles,
    # beyond which Dynamo silently stops calling any backend. Older versions of PyTorch lack it.
    isolated = {"isolate_recompiles": True} if "isolate_recompiles" in signature(_torch_compile).parameters else {}
    compiled = _torch_compile(model, backend=backend, dynamic=options.dynamic, **isolated)
    _backends[compiled] = backend
    return compiled


def explain(compiled: object, inputs: Sequence[Any] | Mapping[str, Any] | None = None) -> Report:
    """What became of every attention in `compiled`, as far as calls have captured it.

    With `inputs`, positional or by name, `compiled` is called on them twice, and the tiles that each kernel
    computes are counted on what its mask reads then, such as the documents of a batch.

    For callables from `torch.compile(..., backend="attir")` this is the report on all of them
    together. Raises CompileError for what attir has not compiled.
    """
    subject = getattr(compiled, "__func__", compiled)
    if (backend := backend_of(compiled)) is not None:
        if inputs is None:
            return backend.report
        call = cast("Callable[..., Any]", compiled)
        return backend.counted(lambda: call(**inputs) if isinstance(inputs, Mapping) else call(*inputs))
    if hasattr(subject, "_torchdynamo_orig_callable"):
        if inputs is not None:
            raise error("tiles are counted on inputs for what attir.compile returned, not for torch.compile")
        return shared_report()
    raise error(f"cannot explain {compiled!r}: it is not the result of attir.compile")


def calibrate(compiled: object, batches: Iterable[Any]) -> Report:
    """Try on `batches` what "auto" stands for, and let each site take the cheapest within `max_error`.

    A batch is what `compiled` is called on: a tensor, a sequence of positional arguments, or a mapping of those by
    name; caches among them are copied for each call. Each site's output under every candidate is compared with exact
    attention (relative L2 error); the report shows the table.

    With `sparsity="auto"`, `max_error` is the error of each site's own output. With `quantize="auto"` it is that of
    the outputs of `compiled`: of each tensor of floats in them, for each batch. Schemes are given to sites in the order
    of error for predicted time, as far as the error of whole runs stays within 0.8 of `max_error`; the rest is for
    inputs that calibration has not seen, which are not bounded. Where nothing fits, all stays exact. A scheme that was
    asked for by name, with `max_error`, goes to as many sites as fit, faster or not.

    Calling it again chooses anew. Raises CompileError where there is nothing to calibrate.
    """
    backend = backend_of(compiled)
    if backend is None or backend.calibration is None:
        autos = " or ".join(f"{name}='{AUTO}'" for name in AUTOS)
        raise error(f"there is nothing to calibrate: expected what attir.compile(model, ...) returned for {autos}")
    single = isinstance(batches, torch.Tensor | Mapping)
    given: list[Any] = [batches] if single else list(batches)
    if not given:
        raise error("calibration needs at least one batch, but there are none")
    call = cast("Callable[..., Any]", compiled)
    backend.calibration.run([partial(_call, call, batch) for batch in given])
    return backend.report


def _call(compiled: Callable[..., Any], batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return compiled(**{name: _unchanged(value) for name, value in cast("Mapping[str, Any]", batch).items()})
    return compiled(batch) if isinstance(batch, torch.Tensor) else compiled(*map(_unchanged, batch))


def _unchanged(argument: Any) -> Any:
    """A copy of an argument that a call may change, such as a cache, so that the next call finds it as it was."""
    plain = argument is None or isinstance(argument, torch.Tensor | str | int | float | torch.dtype | torch.device)
    if plain:
        return argument
    try:
        return deepcopy(argument)
    except (TypeError, RuntimeError):
        # Whether calls change what cannot be copied shows in two exact runs that differ.
        return argument


def backend_of(compiled: object) -> Backend | None:
    """The backend behind what `compile` returned."""
    try:
        return _backends.get(getattr(compiled, "__func__", compiled))
    except TypeError:
        return None
