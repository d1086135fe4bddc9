"""The attention over one segment of a cache, from that over k and v as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..ir.attributes import FunctionType, Symbol, TensorType, f32, i64, index
from ..ir.builder import Builder
from ..ir.core import Operation, Region, Value
from ..ir.dialects import arith
from ..ir.dialects.attn import REGIONS, AttentionOp, YieldOp, region_block
from ..ir.dialects.attn_storage import DequantizeOp
from ..ir.dialects.func import FuncOp
from ..ir.dialects.tensor import ExtractOp
from ..ir.storage import Storage
from .torch_types import type_of_dtype


@dataclass(frozen=True)
class Way:
    """How a kernel finds a segment: the storage of keys and values, None for numbers of the dtype that was given.

    Scales have `scale_dtype`. Where `shifted`, positions of keys count from where the segment starts in the cache,
    which is a capture. One segment alone takes the sink of the attention, where there is one.
    """

    key: Storage | None
    value: Storage | None
    scale_dtype: torch.dtype
    shifted: bool = False
    sink: bool = False

    @property
    def exact(self) -> bool:
        return self.key is None and self.value is None

    @property
    def numbers(self) -> Way:
        """The same for tokens that are kept as they are."""
        return replace(self, key=None, value=None)

    def __str__(self) -> str:
        if self.exact:
            return "tokens kept as they are"
        key, value = ("as they are" if storage is None else str(storage) for storage in (self.key, self.value))
        return f"keys {key}; values {value}"


def reads_key_positions(module: Operation) -> bool:
    """Whether scores or the mask of an outlined attention depend on where a key stands."""
    shown = [(name, region) for name, region in _attention(module).present if "n" in REGIONS[name].positions]
    return any(_key_position(name, region).uses for name, region in shown)


def has_sink(module: Operation) -> bool:
    """Whether an outlined attention has one more score, with no key behind it."""
    return not _attention(module).sink.empty


def segment_module(module: Operation, way: Way) -> Operation:
    """An outlined attention over tokens kept in that way, with its log-sum-exp as a result.

    Behind the captures come the segment's start, where `way` is shifted, and scales and zeros of keys, then of values.
    """
    module = module.clone()
    attention = _attention(module)
    function = next(FuncOp(op) for op in module.walk() if FuncOp.match(op))
    function.body.block.terminator.set_operands(attention.operation.results)
    if not way.sink:
        attention.set_region("sink", Region())
    if way.shifted:
        start = _capture(function, attention, TensorType((), i64), "start")
        for name, region in attention.present:
            if "n" in REGIONS[name].positions:
                _shift(name, region, start)
    for name, storage in (("key", way.key), ("value", way.value)):
        if storage is not None:
            _store(function, attention, name, storage, way.scale_dtype)
    block = function.body.block
    results = tuple(r.type for r in attention.operation.results)
    function.function_type = FunctionType(tuple(a.type for a in block.arguments), results)
    return module


def _attention(module: Operation) -> AttentionOp:
    return next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op))


def _key_position(name: str, region: Region) -> Value:
    return region.block.arguments[REGIONS[name].names.index("n")]


def _capture(function: FuncOp, attention: AttentionOp, type_: TensorType, name: str) -> int:
    """Capture one more tensor; its place among the captures."""
    argument = function.body.block.add_argument(type_, name)
    attention.operation.set_operands([*attention.operation.operands, argument])
    for _, region in attention.present:
        region.block.add_argument(type_, name)
    return len(attention.captures) - 1


def _shift(name: str, region: Region, start: int) -> None:
    """Let a region see positions of keys in the cache, not in the segment."""
    position = _key_position(name, region)
    if not position.uses:
        return
    builder = Builder.before(region.block.ops[0])
    captures = region.block.arguments[len(REGIONS[name].names) :]
    loaded = builder.create(ExtractOp, [captures[start]], [i64]).out
    offset = builder.create(arith.IndexCastOp, [loaded], [index], name="start").out
    shifted = builder.binary(arith.AddIOp, position, offset)
    position.replace_uses_if(shifted, lambda user: user is not shifted.defining_op)


def _store(function: FuncOp, attention: AttentionOp, name: str, storage: Storage, scale_dtype: torch.dtype) -> None:
    """Let keys or values be stored in few bits."""
    operand = attention.operand(name)
    type_ = operand.type
    assert isinstance(type_, TensorType)
    along_tokens = storage.packed and storage.axis == "tokens"
    rows = Symbol(f"{name}_rows") if along_tokens else type_.shape[2]
    operand.type = TensorType((*type_.shape[:2], rows, storage.stored_width), storage.element)
    batch, heads = type_.shape[:2]
    groups = type_.shape[2] if storage.tokens == 1 else Symbol(f"{name}_groups")
    sizes = (batch, heads, groups, storage.scale_sizes(1)[1])
    scales = TensorType(sizes, type_of_dtype(scale_dtype))
    places = [_capture(function, attention, scales, f"{name}_{what}") for what in ("scale", "zero")[: 1 + storage.zero]]
    block = region_block(name, attention.captures, operand.type)
    *position, source = block.arguments[: len(REGIONS[name].names)]
    captures = block.arguments[len(REGIONS[name].names) :]
    builder = Builder(block)
    operands = [source, *position, *(captures[place] for place in places)]
    number = builder.create(DequantizeOp, operands, [f32], {"storage": storage.to_attr()}).out
    builder.create(YieldOp, [number])
    attention.set_region(name, Region([block]))
