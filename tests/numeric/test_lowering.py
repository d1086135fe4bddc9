"""Lowered kernels, run in the reference interpreter, against attention in float64.

Bound: twice the error of attention computed plainly in the same dtype, plus what storing the
softmax weights in the dtype of v may cost, its unit roundoff times the largest |v|.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from attir.cost_model.schedule import Schedule
from attir.ir.attributes import (
    FloatAttr,
    FloatType,
    FunctionType,
    IntegerAttr,
    StringAttr,
    Symbol,
    TensorType,
    Type,
    bf16,
    f16,
    f32,
    i1,
    i32,
    i64,
)
from attir.ir.builder import Builder
from attir.ir.core import Block, Operation, Region, Value
from attir.ir.define import Op
from attir.ir.dialects import arith, math
from attir.ir.dialects.attn import AttentionOp, YieldOp, region_block
from attir.ir.dialects.builtin import ModuleOp
from attir.ir.dialects.func import FuncOp, ReturnOp
from attir.ir.dialects.scf import ForOp
from attir.ir.dialects.tensor import ExtractOp
from attir.ir.dialects.tile import KernelOp
from attir.ir.interpreter import interpret
from attir.ir.location import Location
from attir.ir.printer import print_operation
from attir.passes.analyze_mask import AnalyzeMask
from attir.passes.lower_attention import LowerAttention
from attir.passes.manager import PassContext
from attir.passes.tile_lists import TileLists, tile_lists
from attir.passes.tile_tables import TileTables, mask_plan

Array = NDArray[Any]
ROUNDOFF = {"f16": 2.0**-11, "bf16": 2.0**-8, "f32": 2.0**-24}


@dataclass(frozen=True)
class Element:
    """The inside of a region under construction: where, at what position, with what captured."""

    builder: Builder
    score: Value | None
    b: Value
    h: Value
    m: Value
    n: Value
    captures: list[Value]

    def binary(self, kind: type[Op], x: Value, y: Value | float) -> Value:
        return self.builder.binary(kind, x, y if isinstance(y, Value) else self.builder.constant(y, x.type))

    def compare(self, predicate: str, x: Value, y: Value | int) -> Value:
        y = y if isinstance(y, Value) else self.builder.constant(y, x.type)
        properties = {"predicate": arith.CmpIOp.predicate_attr(predicate)}
        return self.builder.create(arith.CmpIOp, [x, y], [i1], properties).out

    def cast(self, kind: type[Op], x: Value, type_: Type) -> Value:
        return self.builder.create(kind, [x], [type_]).operation.result

    def load(self, capture: int, *indices: Value) -> Value:
        source = self.captures[capture]
        assert isinstance(source.type, TensorType)
        return self.builder.create(ExtractOp, [source, *indices], [source.type.element]).out

    def as_float(self, position: Value) -> Value:
        return self.cast(arith.SIToFPOp, self.cast(arith.IndexCastOp, position, i32), f32)

    @property
    def zero(self) -> Value:
        return self.builder.index(0)

    @property
    def raw(self) -> Value:
        assert self.score is not None
        return self.score


Rule = Callable[[Element], Value]


@dataclass(frozen=True)
class Case:
    """One attention: sizes, dtype, regions, the shapes of captured tensors."""

    m: int
    n: int
    d: int = 16
    e: int | None = None
    group: int = 1
    key_heads: int = 1
    batch: int = 1
    dtype: FloatType = f32
    scale: float = 0.25
    mask: Rule | None = None
    score: Rule | None = None
    captures: tuple[tuple[tuple[int, ...], Type], ...] = ()
    magnitude: float = 1.0
    block_m: int = 16
    block_n: int = 16
    lse: bool = True
    schedule: Schedule | None = None
    """In place of tiles of `block_m` and `block_n` for a GPU."""

    def capture_types(self) -> list[TensorType]:
        """Sizes of 1 stay, the others become symbols, as the outliner leaves them."""
        return [
            TensorType(tuple(1 if s == 1 else Symbol(f"c{i}_{j}") for j, s in enumerate(shape)), element)
            for i, (shape, element) in enumerate(self.captures)
        ]

    def module(self) -> Operation:
        b, h, k, m, n = (Symbol(x) for x in "BHKMN")
        q = TensorType((b, h, m, self.d), self.dtype)
        key = TensorType((b, k, n, self.d), self.dtype)
        value = TensorType((b, k, n, self.e or self.d), self.dtype)
        inputs: list[TensorType] = [q, key, value, *self.capture_types()]
        results = [q.with_shape(b, h, m, self.e or self.d), TensorType((b, h, m), f32)]
        names = ["q", "k", "v", *(f"capture{i}" for i in range(len(self.captures)))]
        block = Block.with_arguments(inputs, names)
        regions = [self.region("score", self.score, block), self.region("mask", self.mask, block)]
        properties = {"scale": FloatAttr(self.scale), "group": IntegerAttr(self.group)}
        attention = AttentionOp.create(block.arguments, results, properties, regions)
        block.append(attention.operation)
        returned = attention.operation.results[: 1 + self.lse]
        Builder(block).create(ReturnOp, returned)
        type_ = FunctionType(tuple(inputs), tuple(v.type for v in returned))
        function = FuncOp.create(
            [], [], {"sym_name": StringAttr("attention"), "function_type": type_}, [Region([block])]
        )
        attention.schedule = (self.schedule or Schedule(self.block_m, self.block_n, 4, 2)).to_attr()
        return wrap(function)

    def region(self, name: str, rule: Rule | None, outer: Block) -> Region:
        if rule is None:
            return Region([])
        block = region_block(name, outer.arguments[3:])
        score = block.arguments[0] if name == "score" else None
        b, h, m, n, *captures = block.arguments[1 if score else 0 :]
        builder = Builder(block)
        builder.create(YieldOp, [rule(Element(builder, score, b, h, m, n, captures))])
        return Region([block])

    def inputs(self, seed: int = 0) -> list[Array]:
        random = np.random.default_rng(seed)
        heads = self.key_heads * self.group
        shapes = [(heads, self.m, self.d), (self.key_heads, self.n, self.d), (self.key_heads, self.n, self.e or self.d)]
        floats = [random.standard_normal((self.batch, *s)) * self.magnitude for s in shapes]
        captured = [
            random.random(shape) < 0.6 if element == i1 else random.standard_normal(shape)
            for shape, element in self.captures
        ]
        types = [self.dtype] * 3 + [t.element for t in self.capture_types()]
        return [rounded(x, t) for x, t in zip([*floats, *captured], types, strict=True)]

    def outputs(self) -> list[Array]:
        shape = (self.batch, self.key_heads * self.group, self.m)
        nothing = float("nan")
        out = np.full((*shape, self.e or self.d), nothing, numpy_type(self.dtype))
        return [out, np.full(shape, nothing, np.float32)][: 1 + self.lse]


def wrap(function: FuncOp) -> Operation:
    module = ModuleOp.create(regions=[Region([Block()])])
    module.body.block.append(function.operation)
    return module.operation


def numpy_type(element: Type) -> Any:
    """bf16 is held as float32 of the same value."""
    return {"f16": np.float16, "i1": np.bool_}.get(str(element), np.float32)


def rounded(x: Array, element: Type) -> Array:
    if element == bf16:
        bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
        return (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16).astype(np.uint32).view(np.float32)
    return x.astype(numpy_type(element))


def lower(module: Operation) -> Operation:
    for step in (AnalyzeMask(), LowerAttention()):
        step.run(module, PassContext())
    return module


def error(actual: Array, exact: Array) -> float:
    """The largest difference; equal infinities and nans agree."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(actual.astype(np.float64) - exact)
    same = (actual == exact) | (np.isnan(actual) & np.isnan(exact))
    return float(np.max(np.where(same, 0.0, difference), initial=0.0))


def run(case: Case, module: Operation, inputs: list[Array]) -> list[Array]:
    """What the lowered kernel stores."""
    outputs, lists = case.outputs(), lists_of(module)
    lowered = lower(module)
    interpret(lowered, "attention", *inputs, *found_before(lowered, inputs, lists), *outputs)
    return outputs


def lists_of(module: Operation) -> TileLists | None:
    """The lists of tiles that the schedule asks for."""
    attention = next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op))
    schedule, plan = Schedule.of(attention), mask_plan(attention)
    tables = None if plan is None else TileTables.of(plan, schedule, attention.group.value)
    return tile_lists(attention, plan, schedule, tables)


def found_before(lowered: Operation, inputs: list[Array], lists: TileLists | None = None) -> list[Array]:
    """What the main kernel takes from those that run before it, if there are any."""
    found, (q, k, _, *captures) = tables_before(lowered, inputs), inputs
    if lists is None:
        return found
    sizes = [lists.own_sizes(name, q.shape[0], q.shape[1], q.shape[2], k.shape[2]) for name in lists.written]
    spans, tiles, *work = [np.full(size, -(2**30), np.int32) for size in sizes]
    interpret(lowered, "attention_list", q, k, *captures, *found, spans, tiles, *work)
    programs = lists.programs(q.shape[0], q.shape[1], q.shape[2])
    return [spans, tiles, *(np.argsort(-np.broadcast_to(x, programs).reshape(-1), kind="stable") for x in work)]


def tables_before(lowered: Operation, inputs: list[Array]) -> list[Array]:
    """The extremes of captured tensors, if anything needs them."""
    kernel = next(
        (k for op in lowered.walk() if (k := KernelOp.match(op)) and k.sym_name.value == "attention_tables"), None
    )
    if kernel is None:
        return []
    type_ = kernel.function_type.inputs[-1]
    assert isinstance(type_, TensorType)
    slots, batch, heads, _ = type_.shape
    q, k, _, *captures = inputs
    assert isinstance(slots, int)
    # More tiles than any test has.
    sizes = (slots, 1 if batch == 1 else q.shape[0], 1 if heads == 1 else q.shape[1], q.shape[2] + k.shape[2] + 1)
    found = np.zeros(sizes, np.int32)
    interpret(lowered, "attention_tables", q, k, *captures, found)
    return [found]


def check(case: Case, run: Callable[[Case, Operation, list[Array]], list[Array]] = run) -> None:
    module, inputs = case.module(), case.inputs()
    exact = interpret(module, "attention", *inputs, precise=True)
    plain = interpret(module, "attention", *inputs)
    outputs = run(case, module, inputs)
    unit = ROUNDOFF[case.dtype.name]
    largest = float(np.max(np.abs(inputs[2].astype(np.float64)), initial=0.0))
    bounds = [2 * error(plain[0], exact[0]) + unit * largest]
    if case.lse:
        finite = np.abs(exact[1][np.isfinite(exact[1])])
        bounds.append(2 * error(plain[1], exact[1]) + 2.0**-22 * max(1.0, float(np.max(finite, initial=0.0))))
    for actual, wanted, bound in zip(outputs, exact, bounds, strict=False):
        assert error(actual, wanted) <= bound


# --- regions


def causal(offset: int = 0) -> Rule:
    return lambda x: x.compare("sle", x.n, x.binary(arith.AddIOp, x.m, offset))


def window(width: int, *, bounded: bool = True) -> Rule:
    """The last `width` keys up to the query's own, or all from there on."""

    def rule(x: Element) -> Value:
        recent = x.compare("sgt", x.n, x.binary(arith.SubIOp, x.m, width))
        return x.binary(arith.AndIOp, recent, x.compare("sge", x.m, x.n)) if bounded else recent

    return rule


def distance(width: int) -> Rule:
    """Keys within `width` on either side."""
    return lambda x: x.compare("sle", x.builder.unary(math.AbsIOp, x.binary(arith.SubIOp, x.m, x.n)), width)


def prefix(count: int) -> Rule:
    return lambda x: x.compare("slt", x.n, count)


def suffix(first: int) -> Rule:
    return lambda x: x.compare("sge", x.n, first)


def padding(x: Element) -> Value:
    return x.load(0, x.b, x.zero, x.zero, x.n)


def causal_padding(x: Element) -> Value:
    return x.binary(arith.AndIOp, causal()(x), x.load(0, x.b, x.n))


def some_rows(x: Element) -> Value:
    """No key for the rows from 5 on: a condition on the query alone."""
    return x.compare("slt", x.m, 5)


def lengths(x: Element) -> Value:
    """Keys below a length that each batch holds in memory, in i64 arithmetic."""
    length = x.cast(arith.FPToSIOp, x.binary(arith.MulFOp, x.load(0, x.b), 8.0), i64)
    return x.compare("slt", x.cast(arith.IndexCastOp, x.n, i64), length)


def alibi(x: Element) -> Value:
    distance = x.as_float(x.binary(arith.SubIOp, x.n, x.m))
    slope = x.binary(arith.MulFOp, x.load(0, x.h), 0.125)
    return x.binary(arith.AddFOp, x.raw, x.binary(arith.MulFOp, distance, slope))


def softcap(x: Element) -> Value:
    return x.binary(arith.MulFOp, x.builder.unary(math.TanhOp, x.binary(arith.DivFOp, x.raw, 2.0)), 2.0)


def bias(x: Element) -> Value:
    return x.binary(arith.AddFOp, x.raw, x.load(0, x.zero, x.h, x.m, x.n))


def half_bias(x: Element) -> Value:
    return x.binary(arith.AddFOp, x.raw, x.cast(arith.ExtFOp, x.load(0, x.b, x.zero, x.zero, x.n), f32))


def row_bias(x: Element) -> Value:
    return x.binary(arith.AddFOp, x.raw, x.load(0, x.m))


def relative_bias(x: Element) -> Value:
    """A table indexed by n - m + M - 1: in range for positions that exist, and only for those."""
    position = x.binary(arith.AddIOp, x.binary(arith.SubIOp, x.n, x.m), 36)
    return x.binary(arith.AddFOp, x.raw, x.load(0, position))


def infinite_bias(x: Element) -> Value:
    """-inf on all keys of the first three rows, and on every third key elsewhere."""
    third = x.compare("eq", x.binary(arith.RemSIOp, x.n, 3), 0)
    dropped = x.binary(arith.OrIOp, third, x.compare("slt", x.m, 3))
    minus_infinity = x.builder.constant(float("-inf"), f32)
    return x.builder.create(arith.SelectOp, [dropped, minus_infinity, x.raw], [f32]).out


def constant_scores(x: Element) -> Value:
    return x.builder.constant(0.5, f32)


MASKS: dict[str, Case] = {
    "none": Case(37, 53),
    "causal": Case(37, 53, mask=causal()),
    "causal, more queries": Case(53, 20, mask=causal()),
    "causal from the end": Case(20, 53, mask=causal(33)),
    "causal, rows without keys": Case(53, 20, mask=causal(-33)),
    "strictly causal": Case(40, 40, mask=causal(-1)),
    "window": Case(70, 70, mask=window(21)),
    "window of one": Case(40, 40, mask=window(1)),
    "window in one tile": Case(40, 40, mask=window(3), block_n=64),
    "window, wide": Case(70, 70, mask=window(1000)),
    "from a distance on": Case(70, 70, mask=window(21, bounded=False)),
    "from a distance on, past all keys": Case(70, 10, mask=window(5, bounded=False)),
    "both sides": Case(70, 70, mask=distance(18)),
    "prefix": Case(30, 70, mask=prefix(35)),
    "prefix past all keys": Case(30, 70, mask=prefix(350)),
    "prefix of nothing": Case(30, 70, mask=prefix(0)),
    "suffix": Case(30, 70, mask=suffix(35)),
    "suffix past all keys": Case(30, 70, mask=suffix(350)),
    "padding": Case(30, 45, mask=padding, captures=(((2, 1, 1, 45), i1),), batch=2),
    "causal padding": Case(45, 45, mask=causal_padding, captures=(((2, 45), i1),), batch=2),
    "some rows": Case(30, 45, mask=some_rows),
    "lengths": Case(30, 45, mask=lengths, captures=(((3,), f32),), batch=3),
}
SCORES: dict[str, Case] = {
    "alibi": Case(37, 53, score=alibi, mask=causal(), captures=(((4,), f32),), key_heads=2, group=2),
    "softcap": Case(37, 53, score=softcap),
    "softcap, negative scale": Case(37, 53, score=softcap, scale=-0.5),
    "bias": Case(37, 53, score=bias, captures=(((1, 4, 37, 53), f32),), key_heads=2, group=2, batch=2),
    "bias, causal": Case(37, 53, score=bias, mask=causal(), captures=(((1, 1, 37, 53), f32),)),
    "half bias": Case(37, 53, score=half_bias, captures=(((2, 1, 1, 53), f16),), batch=2, dtype=f16),
    "row bias": Case(37, 53, score=row_bias, captures=(((37,), f32),)),
    "relative bias": Case(37, 53, score=relative_bias, captures=(((89,), f32),), mask=window(20)),
    "minus infinity": Case(37, 53, score=infinite_bias),
    "minus infinity, causal": Case(37, 53, score=infinite_bias, mask=causal()),
    "constant": Case(20, 20, score=constant_scores),
}
SHAPES: dict[str, Case] = {
    "one query": Case(1, 53, mask=causal(52)),
    "one key": Case(20, 1),
    "one of each": Case(1, 1, mask=causal()),
    "no query": Case(0, 5),
    "no key": Case(5, 0),
    "no key, causal": Case(5, 0, mask=causal()),
    "whole tiles": Case(32, 48, d=16),
    "wide rows": Case(100, 64, block_m=64, block_n=16, mask=causal()),
    "wide keys": Case(64, 100, block_m=16, block_n=64, mask=causal(36)),
    "heads": Case(20, 33, key_heads=3, group=4, batch=2, mask=causal()),
    "negative scale": Case(20, 33, scale=-0.25, mask=causal()),
    "zero scale": Case(20, 33, scale=0.0, mask=causal()),
    "tiny scale": Case(20, 33, scale=1e-42, mask=causal()),
    "large logits": Case(20, 33, magnitude=30.0, scale=1.0, mask=causal()),
    "without log-sum-exp": Case(20, 33, lse=False),
}
WIDTHS = [1, 16, 40, 64, 72, 80, 96, 192, 256]


@pytest.mark.parametrize("case", [pytest.param(c, id=name) for name, c in {**MASKS, **SCORES, **SHAPES}.items()])
def test_kernel_agrees_with_attention(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("dtype", [f16, bf16, f32], ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_head_dimension(width: int, dtype: FloatType) -> None:
    check(Case(20, 37, d=width, dtype=dtype, mask=causal(17), scale=width**-0.5, block_n=32))


@pytest.mark.parametrize(("d", "e"), [(16, 64), (192, 128), (72, 1), (1, 72)])
def test_value_width_differs(d: int, e: int) -> None:
    check(Case(20, 37, d=d, e=e, dtype=f16, scale=d**-0.5))


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
@pytest.mark.parametrize("name", ["window", "causal, rows without keys", "alibi", "large logits"])
def test_low_precision(name: str, dtype: FloatType) -> None:
    case = {**MASKS, **SCORES, **SHAPES}[name]
    check(replace(case, dtype=dtype))


def test_nan_scores_give_nan() -> None:
    case = Case(20, 37, mask=causal(17))
    inputs, outputs = case.inputs(), case.outputs()
    inputs[0][0, 0, 3, 0] = float("nan")
    interpret(lower(case.module()), "attention", *inputs, *outputs)
    rows = [m for m in range(case.m) if np.isnan(outputs[0][0, 0, m]).any()]
    assert rows == [3]


@dataclass
class Shape:
    """What a lowered kernel is made of."""

    kernel: KernelOp
    loops: list[ForOp] = field(default_factory=list[ForOp])

    @staticmethod
    def of(case: Case) -> Shape:
        module = lower(case.module())
        kernel = next(k for op in module.walk() if (k := KernelOp.match(op)))
        return Shape(kernel, [loop for op in kernel.operation.walk() if (loop := ForOp.match(op))])

    def masked(self) -> list[bool]:
        """For each loop, whether it drops scores."""
        return [any(op.name == "arith.select" for op in loop.operation.walk()) for loop in self.loops]


@pytest.mark.parametrize(
    ("name", "masked"),
    [
        ("none", [False, True]),
        ("causal", [False, True]),
        ("prefix", [False, True]),
        ("window", [True, False, True]),
        ("from a distance on", [True, False, True]),
        ("suffix", [True, False, True]),
        ("padding", [True]),
        ("causal padding", [True]),
    ],
)
def test_only_the_loops_needed(name: str, masked: list[bool]) -> None:
    assert Shape.of(MASKS[name]).masked() == masked


def test_whole_tiles_are_loaded_without_boundary() -> None:
    full, partial = Shape.of(Case(37, 53, d=64)).loops
    boundaries = [
        [str(op.properties["boundary"]) for op in loop.operation.walk() if op.name == "tile.load"]
        for loop in (full, partial)
    ]
    assert boundaries == [["array<i64>", "array<i64>"], ["array<i64: 0>", "array<i64: 0>"]]


def test_what_no_loop_changes_is_computed_before() -> None:
    for loop in Shape.of(SCORES["row bias"]).loops:
        assert not any(op.name == "tile.gather" for op in loop.operation.walk())


def test_the_kernel_names_its_source() -> None:
    case = Case(8, 8)
    module = case.module()
    for op in module.walk():
        op.location = Location("model.py", 12)
    kernel = next(k for op in lower(module).walk() if (k := KernelOp.match(op)))
    assert kernel.source == StringAttr("model.py:12")


@pytest.mark.parametrize("name", [*MASKS, *SCORES])
def test_the_real_parser_accepts_every_kernel(name: str) -> None:
    text = print_operation(lower({**MASKS, **SCORES}[name].module()))
    mlir: Any = importlib.import_module("torch_mlir.ir")
    with mlir.Context() as context:
        context.allow_unregistered_dialects = True
        assert mlir.Module.parse(text).operation.verify()
