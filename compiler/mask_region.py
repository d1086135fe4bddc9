"""A mask of `attir.masks` as region code: alone, or in addition to the mask of a site.

The predicate is traced once on single positions and read by the same rules as a `mask_mod` of
flex_attention. Tensors that it reads become captures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from ..ir.attributes import FunctionType, Symbol, TensorType, i64, index
from ..ir.builder import Builder
from ..ir.core import Block, Operation, Region, Value
from ..ir.diagnostics import error, op_error
from ..ir.dialects import arith
from ..ir.dialects.attn import AttentionOp, QueryPositionsOp, YieldOp, region_block
from ..ir.dialects.func import FuncOp
from ..ir.dialects.tensor import ExtractOp
from ..passes.index_function import IndexFunction
from ..passes.index_rules import RULES
from ..passes.query_positions import last_key
from ..passes.score_regions import tidy
from .fx_import import import_graph
from .mask_algebra import Mask
from .torch_types import type_of_value

POSITIONS = 4
"""The arguments of a predicate: b, h, m and n."""


def restrict(module: Operation, mask: Mask, *, same_lengths: bool = True) -> tuple[Operation, tuple[torch.Tensor, ...]]:
    """A copy of a site's module whose attention keeps a key only where `mask` keeps it, too.

    `module` has one `func.func` with one `attn.attention` and no other operation that reads its mask.
    The tensors that the mask reads become the last arguments of the function, and the last captures of
    the attention; they are returned in this order. Rows that keep no key give zeros, as PyTorch's
    scaled_dot_product_attention does for a bool mask, whatever the site did for its own empty rows.

    The query position that `mask` is asked about is the last key that the site's own mask lets a query see, where
    it says so (n <= m + c, or n <= a position that is captured); else m. Where it does not say so, and there
    need not be as many queries as keys (`same_lengths` is False), an `attn.query_positions` finds that key.
    """
    module = module.clone()
    functions = [FuncOp(op) for op in module.walk() if FuncOp.match(op)]
    attentions = [AttentionOp(op) for op in module.walk() if AttentionOp.match(op)]
    if len(functions) != 1 or len(attentions) != 1:
        raise error(f"a mask restricts one attention in one function, but there are {len(attentions)} attentions")
    (function,), (attention,), tensors = functions, attentions, mask.tensors
    captured = [_add_capture(function, attention, t) for t in tensors]
    aligned = None if same_lengths or _tells(attention) else _add_positions(attention)
    if attention.mask.empty:
        attention.set_region("mask", Region([region_block("mask", attention.captures)]))
        kept = None
    else:
        end = YieldOp(attention.mask.block.terminator)
        kept = end.value
        end.operation.erase()
    block = attention.mask.block
    first = len(block.arguments) - len(captured) - (aligned is not None)
    own = block.arguments[first : first + len(captured)]
    position = _position(block, kept, block.arguments[-1] if aligned is not None else None)
    _finish(mask, block, own, kept, position)
    attention.empty_score = None
    tidy(attention.operation)
    return module, tensors


def mask_region(mask: Mask) -> tuple[Region, tuple[torch.Tensor, ...]]:
    """The mask region of an attention under `mask` alone, and the tensors behind its captures."""
    types = [_general(i, type_of_value(t)) for i, t in enumerate(mask.tensors)]
    names = [f"table{i}" for i, _ in enumerate(types)]
    block = region_block("mask", Block.with_arguments(types, names).arguments)
    _finish(mask, block, block.arguments[POSITIONS:], None)
    region = Region([block])
    tidy(Operation.create("builtin.module", regions=[region]))
    return region, mask.tensors


def _tells(attention: AttentionOp) -> bool:
    """Whether the mask says in closed form which key is the last that a query sees."""
    if attention.mask.empty:
        return False
    block = attention.mask.clone({}).block
    return last_key(block, block.terminator.operands[0], *block.arguments[2:POSITIONS]) is not None


def _add_positions(attention: AttentionOp) -> Value:
    """A last capture (B, M) that tells at which key each query stands."""
    q, builder = attention.shapes[0], Builder.before(attention.operation)
    operands = [attention.q, attention.k, *attention.captures]
    type_, mask = TensorType((q.shape[0], q.shape[2]), i64), attention.mask.clone({})
    positions = builder.create(QueryPositionsOp, operands, [type_], {}, [mask], name="query_positions").positions
    attention.operation.set_operands([*attention.operation.operands, positions])
    for _, region in attention.present:
        region.block.add_argument(type_, "query_positions")
    return positions


def _position(block: Block, kept: Value | None, positions: Value | None) -> Value:
    """At which key position query m stands, written at the end of the mask region's block."""
    b, _, m, n = block.arguments[:POSITIONS]
    if kept is not None and (known := last_key(block, kept, m, n)) is not None:
        return known
    if positions is None:
        return m
    builder = Builder(block)
    found = builder.create(ExtractOp, [positions, b, m], [i64]).operation.result
    return builder.create(arith.IndexCastOp, [found], [index], name="position").out


def _finish(
    mask: Mask, block: Block, captures: Sequence[Value], kept: Value | None, position: Value | None = None
) -> None:
    """Write `mask` at the end of a mask region's block without its end, and yield both conditions.

    `position` is where query m stands, if it is not at m.
    """
    function = IndexFunction(block, RULES, lambda _op, _at: None)
    own = _written(mask, function, captures, position or block.arguments[2])
    both = own if kept is None else function.math.builder.binary(arith.AndIOp, kept, own)
    function.math.builder.create(YieldOp, [both])


def _written(mask: Mask, function: IndexFunction, captures: Sequence[Value], position: Value) -> Value:
    """The code of the predicate at the positions of the block of `function`, with query m at `position`."""
    main = import_graph(_traced(mask)).main.body.block
    positions, tables = main.arguments[:POSITIONS], main.arguments[POSITIONS:]
    b, h, _, n = function.block.arguments[:POSITIONS]
    for argument, place in zip(positions, (b, h, position, n), strict=True):
        function.memo[argument, ()] = place
    function.captures.update(zip(tables, captures, strict=True))
    count = len(function.captures)
    (result,) = main.terminator.operands
    kept = function.math.as_bool(function.at(result, ()))
    for value in [*list(function.captures)[count:], *function.numbers]:
        if (stop := value.defining_op) is not None:
            op_error(stop, f"is not understood in the mask {mask}")
    return kept


def _traced(mask: Mask) -> torch.fx.GraphModule:
    """The graph of (b, h, m, n, tensors...) -> kept, on tensors without axes for the positions."""
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    def predicate(b: Any, h: Any, m: Any, n: Any, *tensors: torch.Tensor) -> Any:
        return (mask.with_tensors(tensors)(b, h, m, n),)

    # Indexing by a tensor without axes would read its number otherwise.
    with TransformGetItemToIndex(), torch.no_grad():
        positions = [torch.zeros((), dtype=torch.int64) for _ in range(POSITIONS)]
        return make_fx(predicate, tracing_mode="fake")(*positions, *mask.tensors)


def _add_capture(function: FuncOp, attention: AttentionOp, tensor: torch.Tensor) -> Value:
    """An argument behind the others of the function that the attention captures."""
    type_ = _general(len(attention.captures), type_of_value(tensor))
    name = f"mask{len(attention.captures)}"
    argument = function.body.block.add_argument(type_, name)
    before = function.function_type
    function.function_type = FunctionType((*before.inputs, type_), before.results)
    attention.operation.set_operands([*attention.operation.operands, argument])
    for _, region in attention.present:
        region.block.add_argument(type_, name)
    return argument


def _general(number: int, type_: Any) -> TensorType:
    """The type of capture `number` with symbols for its sizes, as sites have them."""
    assert isinstance(type_, TensorType)
    sizes = [1 if d == 1 else Symbol(f"c{number}_{axis}") for axis, d in enumerate(type_.shape)]
    return type_.with_shape(*sizes)
