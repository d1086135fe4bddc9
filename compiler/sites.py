"""One attention of a model as a program of its own: general in its sizes, independent of the graph."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from ..cost_model.problem import Sizes
from ..ir.attributes import Attribute, Dim, FunctionType, StringAttr, Symbol, TensorType, f32
from ..ir.core import Block, Operation, Region, Value
from ..ir.diagnostics import op_error
from ..ir.dialects.attn import OPERANDS, REGIONS, AttentionOp
from ..ir.dialects.attn_storage import DequantizeOp
from ..ir.dialects.builtin import ModuleOp
from ..ir.dialects.func import FuncOp, ReturnOp
from ..ir.location import UNKNOWN
from ..ir.printer import print_operation
from .custom_op import Runner
from .options import Options
from .report import Variant

B, H, K, M, N, R = (Symbol(name) for name in "BHKMNR")
"""R counts the rows of bytes of values that are packed along tokens."""


Watcher: TypeAlias = Callable[[str, Sequence[tuple[str, str]], str], None]
"""Hears of a kernel: a name among those of its site, the passes with the IR after each, its text."""


class CompiledSite(Protocol):
    """A kernel for one outlined attention.

    `plan` says how it was scheduled, `kernel_source` is its text in `language` ("triton" or
    "mlir"), `steps` are the passes it went through with the IR after each. Where kernels are
    compiled as the sizes of calls ask for them, these are of the first, `variants` grows, and those
    who `watch` hear of each.
    """

    @property
    def runner(self) -> Runner: ...
    @property
    def plan(self) -> Mapping[str, Any]: ...
    @property
    def kernel_source(self) -> str: ...
    @property
    def language(self) -> str: ...
    @property
    def steps(self) -> Sequence[tuple[str, str]]: ...
    @property
    def variants(self) -> Sequence[Variant]: ...
    def watch(self, watcher: Watcher) -> None: ...


class SiteCompiler(Protocol):
    """Compiles an outlined attention for the backend that `options` names; raises CompileError where it cannot.

    `call` is what is known of the first call: all its sizes, how many queries it brings, or nothing.
    """

    def __call__(self, module: Operation, options: Options, call: Sizes | int | None = None) -> CompiledSite: ...


def outline(op: Operation, name: str) -> Operation:
    """A module with one function `@name(q, k, v, captures...) -> (out[, lse])` that computes `op`.

    Batch, heads and lengths become the symbols B, H (K for key heads), M and N; sizes of captures
    become symbols of their own unless they are 1; head dimensions stay constant, and so does how many
    scales a row of codes has. So one program serves every batch size, head count and length. Raises
    CompileError where a head dimension is not constant. `op` is left as it is.
    """
    view = AttentionOp(op)
    scales = _scales(view)
    captures = [_capture_type(i, c, i in scales) for i, c in enumerate(view.captures)]
    arguments = [*_operand_types(view), *captures]
    names = ["q", "k", "v", *capture_names(view)]
    block = Block.with_arguments(arguments, names)
    inner = _retyped(view, block.arguments)
    block.append(inner)
    returned = inner.results if view.lse.uses else inner.results[:1]
    block.append(ReturnOp.create(returned, location=op.location).operation)
    properties: dict[str, Attribute] = {
        "sym_name": StringAttr(name),
        "function_type": FunctionType(tuple(arguments), tuple(r.type for r in returned)),
    }
    function = FuncOp.create((), (), properties, [Region([block])], location=op.location).operation
    module = ModuleOp.create((), (), {}, [Region([Block()])]).operation
    module.regions[0].block.append(function)
    return module


def capture_names(op: AttentionOp) -> list[str]:
    """What the captures are called in the model, or by number."""
    return [c.name_hint or f"capture{i}" for i, c in enumerate(op.captures)]


def _operand_types(op: AttentionOp) -> list[TensorType]:
    return [
        _operand_type(op, name, sizes) for name, sizes in zip(OPERANDS, ((B, H, M), (B, K, N), (B, K, N)), strict=True)
    ]


def _operand_type(op: AttentionOp, name: str, sizes: tuple[Symbol, Symbol, Symbol]) -> TensorType:
    """The type in memory, which is another than that of the numbers where those are stored in few bits."""
    memory, storage = op.operand(name).type, op.stored(name)
    assert isinstance(memory, TensorType)
    # Queries say how wide keys are, too; in few bits each has a width of its own.
    width = memory.shape[3] if storage is not None or name == "value" else op.shapes[0].shape[3]
    rows = R if storage is not None and storage.axis == "tokens" else sizes[2]
    return memory.with_shape(*sizes[:2], rows, _constant(op, "v" if name == "value" else "k", width))


def _constant(op: AttentionOp, name: str, size: Dim) -> int:
    if not isinstance(size, int):
        op_error(op.operation, f"needs a constant head dimension, but that of {name} is {size or 'unknown'}")
    return size


def _scales(op: AttentionOp) -> set[int]:
    """Which captures are scales or zeros of operands in few bits."""
    found: set[int] = set()
    for name in OPERANDS:
        region = op.region(name)
        for read in region.walk() if not region.empty else ():
            if (dequantize := DequantizeOp.match(read)) is not None:
                inside = region.block.arguments[-len(op.captures) :]
                found |= {inside.index(v) for v in dequantize.scales if v in inside}
    return found


def _capture_type(number: int, capture: Value, scales: bool) -> TensorType:
    assert isinstance(capture.type, TensorType)
    sizes = [1 if d == 1 else Symbol(f"c{number}_{axis}") for axis, d in enumerate(capture.type.shape)]
    return capture.type.with_shape(*sizes[:-1], capture.type.shape[-1]) if scales else capture.type.with_shape(*sizes)


def _retyped(op: AttentionOp, arguments: Sequence[Value]) -> Operation:
    """A copy of `op` on `arguments`, its regions and results in their types, without hints but on captures."""
    copy = op.operation.clone(dict(zip(op.operation.operands, arguments, strict=True)))
    copy.set_operands(arguments)
    copy.attributes.clear()
    AttentionOp(copy).tokens = op.tokens
    captures = arguments[3:]
    for region in copy.regions:
        inside = region.block.arguments[-len(captures) :] if captures and not region.empty else []
        for argument, capture in zip(inside, captures, strict=bool(inside)):
            argument.type, argument.name_hint = capture.type, capture.name_hint
    view = AttentionOp(copy)
    for name in OPERANDS:
        if not (region := view.region(name)).empty:
            region.block.arguments[len(REGIONS[name].positions)].type = view.operand(name).type
    out = op.out.type
    assert isinstance(out, TensorType)
    copy.results[0].type = out.with_shape(B, H, M, view.shapes[2].shape[3])
    copy.results[1].type = TensorType((B, H, M), f32)
    copy.results[0].name_hint, copy.results[1].name_hint = "out", "lse"
    return copy


def canonical_text(module: Operation) -> str:
    """The text of a module without names and locations: equal for programs that do the same."""
    copy = module.clone()
    for op in copy.walk():
        op.location = UNKNOWN
        for value in [*op.results, *(a for r in op.regions for b in r.blocks for a in b.arguments)]:
            value.name_hint = None
        op.properties.pop("sym_name", None)
    return print_operation(copy)


def located_text(module: Operation) -> str:
    """The text of a module with locations, but without the names of functions."""
    copy = module.clone()
    for op in copy.walk():
        op.properties.pop("sym_name", None)
    return print_operation(copy, locations=True)


def ir_hash(*texts: str) -> str:
    """A name for canonical texts, in their order: the same from every door a model comes in by."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
