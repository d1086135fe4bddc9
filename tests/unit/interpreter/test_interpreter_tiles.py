"""What `tile` means in the interpreter: each op on its own, and a flash-attention kernel by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from unit.interpreter.programs import evaluate, function, kernel

from attir.ir.attributes import (
    Attribute,
    DenseArrayAttr,
    IntegerAttr,
    StringAttr,
    Symbol,
    TensorType,
    Type,
    UnitAttr,
    bf16,
    f16,
    f32,
    i1,
    i8,
    i64,
    index,
)
from attir.ir.builder import Builder
from attir.ir.core import Block, Operation, Region, Value
from attir.ir.diagnostics import CompileError
from attir.ir.dialects import arith, scf, tensor, tile
from attir.ir.dialects import math as elementary
from attir.ir.interpreter import interpret

MATRIX = np.arange(20, dtype=np.float32).reshape(4, 5) + 1
INF = math.inf


def memory(*shape: int | None, element: Type = f32) -> TensorType:
    return TensorType(shape, element)


def boundary(*axes: int) -> dict[str, Attribute]:
    return {"boundary": DenseArrayAttr(axes)}


def load(start: tuple[int, int], axes: Sequence[int]) -> Any:
    offsets = [(x, index) for x in start]
    return evaluate("tile.load", [(MATRIX, memory(None, 5)), *offsets], memory(2, 4), boundary(*axes))


def test_load_inside() -> None:
    np.testing.assert_array_equal(load((1, 1), []), MATRIX[1:3, 1:5])


# Past the end on a boundary axis there are zeros, also when the whole tile lies outside.
@pytest.mark.parametrize(("start", "rows", "columns"), [((3, 0), 1, 4), ((3, 3), 1, 2), ((4, 0), 0, 4), ((9, 9), 0, 0)])
def test_load_past_the_end(start: tuple[int, int], rows: int, columns: int) -> None:
    wanted = np.zeros((2, 4))
    wanted[:rows, :columns] = MATRIX[start[0] :, start[1] :][:rows, :columns]
    np.testing.assert_array_equal(load(start, [0, 1]), wanted)


@pytest.mark.parametrize(
    ("start", "axes", "message"),
    [
        ((3, 0), [1], r"touches positions 3 to 4 of axis 0, which has size 4 and is not listed in 'boundary'"),
        ((0, 2), [0], r"touches positions 2 to 5 of axis 1, which has size 5 and is not listed in 'boundary'"),
        ((-1, 0), [0, 1], r"touches positions -1 to 0 of axis 0, which has size 4"),
    ],
)
def test_load_outside_is_an_error(start: tuple[int, int], axes: list[int], message: str) -> None:
    with pytest.raises(CompileError, match=f"'tile.load' op {message}"):
        load(start, axes)


def codes(start: tuple[int, int], axes: Sequence[int], out: TensorType) -> Any:
    """A tile of rows of 5 codes of 4 bits: channels 0 to 2 are the low halves of 3 bytes, 3 and 4 high ones."""
    packed = np.array([[0x4A, 0x1F, 0x08], [0x21, 0x43, 0x05]], np.uint8).view(np.int8)
    properties = {"bits": IntegerAttr(4), "signed": IntegerAttr(1, i1), "width": IntegerAttr(5), **boundary(*axes)}
    offsets = [(x, index) for x in start]
    return evaluate("tile.load_codes", [(packed, memory(None, 3, element=i8)), *offsets], out, properties)


@pytest.mark.parametrize("element", [f16, bf16, f32, i8])
def test_codes_are_unpacked_less_their_bias(element: Type) -> None:
    """Rows past the end and channels past the width read as zero."""
    found = codes((0, 0), [0], memory(4, 8, element=element))
    wanted = np.zeros((4, 8))
    wanted[:2, :5] = np.array([[10, 15, 8, 4, 1], [1, 3, 5, 2, 4]]) - 8
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(codes((1, 2), [], memory(1, 2, element=element)), wanted[1:2, 2:4])


def test_rows_of_codes_outside_are_an_error() -> None:
    with pytest.raises(CompileError, match="touches positions 1 to 2 of axis 0, which has size 2"):
        codes((1, 0), [], memory(2, 5))
    with pytest.raises(CompileError, match="touches positions -1 to 3 of axis 1, which has size 5"):
        codes((0, -1), [0], memory(2, 5))


def store(
    name: str, start: int, axes: Sequence[int], element: Type = f32, target: Any = None, precise: bool = False
) -> Any:
    """A vector of 5 after a kernel stores (or adds) 1, 2, 3 at `start`."""
    target = np.full(5, 9.0, np.float32) if target is None else target

    def body(builder: Builder, arguments: list[Value]) -> list[Value]:
        steps = builder.create(tile.IotaOp, [], [memory(3, element=index)]).out
        as_integer = builder.create(arith.IndexCastOp, [steps], [memory(3, element=i64)]).out
        numbers = builder.create(arith.SIToFPOp, [as_integer], [memory(3, element=element)]).out
        ones = builder.constant(1.0, memory(3, element=element))
        data = builder.binary(arith.AddFOp, numbers, ones)
        builder.insert(Operation.create(name, [data, arguments[0], builder.index(start)], [], boundary(*axes)))
        return []

    module = kernel([memory(None, element=element)], lambda b, _: [b.index(1)], body)
    assert interpret(module, "main", target, precise=precise) == []
    return target


def test_store() -> None:
    np.testing.assert_array_equal(store("tile.store", 1, []), [9, 1, 2, 3, 9])
    np.testing.assert_array_equal(store("tile.store", 3, [0]), [9, 9, 9, 1, 2])
    np.testing.assert_array_equal(store("tile.store", 7, [0]), [9, 9, 9, 9, 9])


def test_atomic_add() -> None:
    np.testing.assert_array_equal(store("tile.atomic_add", 1, []), [9, 10, 11, 12, 9])
    np.testing.assert_array_equal(store("tile.atomic_add", 3, [0]), [9, 9, 9, 10, 11])
    large = np.full(5, 256, np.float32)
    np.testing.assert_array_equal(store("tile.atomic_add", 0, [], bf16, large), [256, 258, 260, 256, 256])


# A caller's array of another type is written as well, in the numbers of the declared type.
@pytest.mark.parametrize("element", [f16, bf16, f32])
@pytest.mark.parametrize("precise", [False, True])
def test_stores_reach_the_caller(element: Type, precise: bool) -> None:
    for dtype in (np.float16, np.float32, np.float64):
        given = np.full(5, 9, dtype)
        np.testing.assert_array_equal(store("tile.store", 1, [], element, given, precise), [9, 1, 2, 3, 9])


@pytest.mark.parametrize("name", ["tile.store", "tile.atomic_add"])
def test_store_outside_is_an_error(name: str) -> None:
    with pytest.raises(CompileError, match=f"'{name}' op touches positions 3 to 5 of axis 0, which has size 5"):
        store(name, 3, [])


GATHERED = memory(3, element=index)


def test_gather() -> None:
    rows = np.array([0, 3, 2])
    result = evaluate("tile.gather", [(MATRIX, memory(4, 5)), (rows, GATHERED), (1, index)], memory(3))
    np.testing.assert_array_equal(result, MATRIX[rows, 1])
    assert evaluate("tile.gather", [(MATRIX, memory(4, 5)), (3, index), (4, index)], f32) == 20.0


def test_gather_with_a_mask() -> None:
    rows, mask = (np.array([0, 7, -2]), GATHERED), (np.array([True, False, False]), memory(3, element=i1))
    operands = [(MATRIX, memory(4, 5)), rows, (1, index)]
    result = evaluate("tile.gather", [*operands, mask], memory(3), {"masked": UnitAttr()})
    np.testing.assert_array_equal(result, [2, 0, 0])
    with pytest.raises(CompileError, match=r"'tile.gather' op reads index 7 of axis 0, which has size 4"):
        evaluate("tile.gather", operands, memory(3))
    with pytest.raises(CompileError, match=r"'tile.gather' op reads index 7 of axis 0"):
        evaluate("tile.gather", [*operands, (True, i1)], memory(3), {"masked": UnitAttr()})


# f16 factors are multiplied and summed in the type of acc: 2049 is no f16.
def test_dot() -> None:
    a, b = np.array([[2048.0, 1.0]], np.float16), np.ones((2, 1), np.float16)
    half, acc = (a, memory(1, 2, element=f16)), (np.full((1, 1), 0.25), memory(1, 1))
    assert evaluate("tile.dot", [half, (b, memory(2, 1, element=f16)), acc], memory(1, 1)) == 2049.25


@pytest.mark.parametrize(("precision", "expected"), [("ieee", 1 + 2**-12), ("tf32", 1.0), ("tf32x3", 1 + 2**-12)])
def test_dot_precision(precision: str, expected: float) -> None:
    one = memory(1, 1)
    operands = [(np.array([[1 + 2**-12]]), one), (np.ones((1, 1)), one), (np.zeros((1, 1)), one)]
    properties = {"precision": StringAttr(precision)}
    assert evaluate("tile.dot", operands, one, properties) == np.float32(expected)
    assert evaluate("tile.dot", operands, one, properties, precise=True) == 1 + 2**-12


def test_reduce() -> None:
    x = np.array([[1.0, math.nan, 3.0], [-INF, -INF, -INF]])
    operands, axis = [(x, memory(2, 3))], IntegerAttr(1)
    largest = evaluate("tile.reduce", operands, memory(2), {"axis": axis, "kind": StringAttr("max")})
    np.testing.assert_array_equal(largest, [3, -INF])
    total = evaluate("tile.reduce", operands, memory(2), {"axis": axis, "kind": StringAttr("sum")})
    np.testing.assert_array_equal(total, [math.nan, -INF])
    halves = (np.full((4096, 1), 1.0), memory(4096, 1, element=f16))
    result = evaluate(
        "tile.reduce", [halves], memory(1, element=f16), {"axis": IntegerAttr(0), "kind": StringAttr("sum")}
    )
    assert result == 4096


def test_any() -> None:
    for truth in (False, True):
        x = np.zeros((2, 3), np.bool_)
        x[1, 2] = truth
        assert evaluate("tile.any", [(x, memory(2, 3, element=i1))], i1) == truth


def test_reshaping() -> None:
    row = (np.array([1.0, 2.0]), memory(2))
    columns = evaluate("tile.broadcast", [row], memory(2, 3), {"axes": DenseArrayAttr((1,))})
    np.testing.assert_array_equal(columns, [[1, 1, 1], [2, 2, 2]])
    rows = evaluate("tile.broadcast", [row], memory(3, 2), {"axes": DenseArrayAttr((0,))})
    np.testing.assert_array_equal(rows, columns.T)
    filled = evaluate("tile.broadcast", [(7.0, f32)], memory(2, 3), {"axes": DenseArrayAttr((0, 1))})
    np.testing.assert_array_equal(filled, np.full((2, 3), 7))
    np.testing.assert_array_equal(evaluate("tile.transpose", [(MATRIX, memory(4, 5))], memory(5, 4)), MATRIX.T)
    np.testing.assert_array_equal(evaluate("tile.iota", [], GATHERED), [0, 1, 2])


# Every program runs once, axis 0 fastest, and knows its place.
def test_grid() -> None:
    def body(builder: Builder, arguments: list[Value]) -> list[Value]:
        x, y = (builder.create(tile.ProgramIdOp, [], [index], {"axis": IntegerAttr(i)}).out for i in range(2))
        column = builder.create(tile.SliceOp, [arguments[0], y], [memory(None, element=index)]).out
        one = builder.create(tile.BroadcastOp, [x], [memory(1, element=index)], {"axes": DenseArrayAttr((0,))}).out
        ten = builder.constant(10, memory(1, element=index))
        builder.create(tile.StoreOp, [builder.binary(arith.AddIOp, one, ten), column, x])
        return []

    module = kernel([memory(None, None, element=index)], lambda b, _: [b.index(2), b.index(3)], body)
    out = np.zeros((3, 2), np.int64)
    interpret(module, "main", out)
    np.testing.assert_array_equal(out, [[10, 11]] * 3)
    with pytest.raises(CompileError, match=r"'tile.slice' op reads index 2 of axis 0, which has size 2"):
        interpret(module, "main", np.zeros((2, 2), np.int64))


def test_program_id_outside_of_the_grid() -> None:
    def body(builder: Builder, _arguments: list[Value]) -> list[Value]:
        return [builder.create(tile.ProgramIdOp, [], [index], {"axis": IntegerAttr(1)}).out]

    with pytest.raises(CompileError, match=r"'tile.program_id' op axis is 1, but the grid has 1 axes"):
        interpret(kernel([], lambda b, _: [b.index(1)], body), "main")
    with pytest.raises(CompileError, match=r"'tile.program_id' op axis is 1, but the grid has 0 axes"):
        interpret(function([], body), "main")


ROWS, KEYS, WIDTH, HEAD_DIM = 4, 8, 8, 5
"""The tiles of the kernel below: 4 queries by 8 keys, a head dimension of 5 padded to 8."""

Q = TensorType((Symbol("B"), Symbol("M"), HEAD_DIM), f16)
K = TensorType((Symbol("B"), Symbol("N"), HEAD_DIM), f16)


class FlashAttention:
    """A causal flash-attention forward over (batch, position, dimension), one batch entry a program."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder

    def op(self, kind: type[Any], operands: Sequence[Value], result: Type, /, **properties: Attribute) -> Value:
        return self.builder.create(kind, operands, [result], properties).operation.result

    def size(self, source: Value, axis: int) -> Value:
        return self.op(tensor.DimOp, [source, self.builder.index(axis)], index)

    def spread(self, value: Value, like: TensorType, *axes: int) -> Value:
        element = value.type.element if isinstance(value.type, TensorType) else value.type
        return self.op(tile.BroadcastOp, [value], like.with_element(element), axes=DenseArrayAttr(axes))

    def positions(self, start: Value, count: int) -> Value:
        steps = self.op(tile.IotaOp, [], memory(count, element=index))
        return self.builder.binary(arith.AddIOp, self.spread(start, memory(count), 0), steps)

    def less(self, name: str, lhs: Value, rhs: Value) -> Value:
        assert isinstance(lhs.type, TensorType)
        predicate = arith.CmpIOp.predicate_attr(name)
        return self.op(arith.CmpIOp, [lhs, rhs], lhs.type.with_element(i1), predicate=predicate)

    def load(self, source: Value, start: Value, count: int) -> Value:
        type_ = memory(count, WIDTH, element=f16)
        return self.op(tile.LoadOp, [source, start, self.builder.index(0)], type_, boundary=DenseArrayAttr((0, 1)))

    def fold(self, x: Value, kind: str) -> Value:
        return self.op(tile.ReduceOp, [x], memory(ROWS), axis=IntegerAttr(1), kind=StringAttr(kind))

    def dot(self, a: Value, b: Value, acc: Value) -> Value:
        return self.op(tile.DotOp, [a, b, acc], acc.type)

    def scores(self, q: Value, k: Value, rows: Value, keys: Value, length: Value) -> Value:
        b, shape = self.builder, memory(ROWS, KEYS)
        transposed = self.op(tile.TransposeOp, [k], memory(WIDTH, KEYS, element=f16))
        product = self.dot(q, transposed, b.constant(0.0, shape))
        scaled = b.binary(arith.MulFOp, product, b.constant(0.5 * math.log2(math.e), shape))
        row, key = self.spread(rows, shape, 1), self.spread(keys, shape, 0)
        causal = self.less("sle", key, row)
        inside = self.less("slt", key, self.spread(length, shape, 0, 1))
        kept = b.binary(arith.AndIOp, causal, inside)
        return self.op(arith.SelectOp, [kept, scaled, b.constant(-INF, shape)], shape)

    def step(self, s: Value, v: Value, acc: Value, m: Value, l: Value) -> list[Value]:
        """One online softmax step over a tile of scores in base 2."""
        b = self.builder
        m_new = b.binary(arith.MaximumFOp, m, self.fold(s, "max"))
        shift = b.binary(arith.SubFOp, s, self.spread(m_new, memory(ROWS, KEYS), 1))
        p = b.unary(elementary.Exp2Op, shift)
        alpha = b.unary(elementary.Exp2Op, b.binary(arith.SubFOp, m, m_new))
        l_new = b.binary(arith.AddFOp, b.binary(arith.MulFOp, l, alpha), self.fold(p, "sum"))
        kept = b.binary(arith.MulFOp, acc, self.spread(alpha, memory(ROWS, WIDTH), 1))
        narrow = self.op(arith.TruncFOp, [p], memory(ROWS, KEYS, element=f16))
        return [self.dot(narrow, v, kept), m_new, l_new]

    def loop(self, q: Value, k: Value, v: Value, rows: Value) -> Sequence[Value]:
        outer, length = self.builder, self.size(k, 0)
        shapes = [memory(ROWS, WIDTH), memory(ROWS), memory(ROWS)]
        start = [outer.constant(x, t) for x, t in zip((0.0, -INF, 0.0), shapes, strict=True)]
        block = Block.with_arguments([index, *shapes])
        n0, *carried = block.arguments
        self.builder = Builder(block)
        scores = self.scores(q, self.load(k, n0, KEYS), rows, self.positions(n0, KEYS), length)
        self.builder.create(scf.YieldOp, self.step(scores, self.load(v, n0, KEYS), *carried))
        self.builder = outer
        bounds = [outer.index(0), length, outer.index(KEYS)]
        return outer.create(scf.ForOp, [*bounds, *start], shapes, {}, [Region([block])]).results

    def program(self, arguments: Sequence[Value]) -> None:
        b = self.builder
        axis, batch = (self.op(tile.ProgramIdOp, [], index, axis=IntegerAttr(i)) for i in range(2))
        matrices = [(x, x.type) for x in arguments if isinstance(x.type, TensorType)]
        q, k, v, out = (self.op(tile.SliceOp, [x, batch], t.with_shape(*t.shape[1:])) for x, t in matrices[:4])
        m0 = b.binary(arith.MulIOp, axis, b.index(ROWS))
        acc, m, l = self.loop(self.load(q, m0, ROWS), k, v, self.positions(m0, ROWS))
        mean = b.binary(arith.DivFOp, acc, self.spread(l, memory(ROWS, WIDTH), 1))
        edges = {"boundary": DenseArrayAttr((0, 1))}
        narrow = self.op(arith.TruncFOp, [mean], memory(ROWS, WIDTH, element=f16))
        b.create(tile.StoreOp, [narrow, out, m0, b.index(0)], [], edges)
        log2 = b.binary(arith.AddFOp, m, b.unary(elementary.Log2Op, l))
        lse = b.binary(arith.MulFOp, log2, b.constant(math.log(2), memory(ROWS)))
        row = self.op(tile.SliceOp, [arguments[4], batch], TensorType((Symbol("M"),), f32))
        b.create(tile.StoreOp, [lse, row, m0], [], {"boundary": DenseArrayAttr((0,))})


def flash_attention() -> Operation:
    def grid(builder: Builder, arguments: list[Value]) -> list[Value]:
        helper = FlashAttention(builder)
        rounded = builder.binary(arith.AddIOp, helper.size(arguments[0], 1), builder.index(ROWS - 1))
        tiles = builder.binary(arith.FloorDivSIOp, rounded, builder.index(ROWS))
        return [tiles, helper.size(arguments[0], 0)]

    def body(builder: Builder, arguments: list[Value]) -> list[Value]:
        FlashAttention(builder).program(arguments)
        return []

    return kernel([Q, K, K, Q, TensorType((Symbol("B"), Symbol("M")), f32)], grid, body)


def causal_attention(q: Any, k: Any, v: Any) -> tuple[Any, Any]:
    """out and lse in float64."""
    scores = np.matmul(q, k.swapaxes(1, 2)) * 0.5
    scores = np.where(np.tri(*scores.shape[1:], dtype=bool), scores, -INF)
    weights = np.exp(scores)
    total = weights.sum(-1, keepdims=True)
    return np.matmul(weights, v) / total, np.log(total)[..., 0]


# The kernel agrees with attention on ragged tiles, in float64 up to the constants it holds in f32,
# and in its own types within the rounding of p and of the result to f16.
@pytest.mark.parametrize(("rows", "keys"), [(1, 1), (4, 8), (7, 13), (13, 3)])
def test_flash_attention(rows: int, keys: int) -> None:
    random = np.random.default_rng(0)
    q, k, v = (random.standard_normal((2, n, HEAD_DIM)).astype(np.float16) for n in (rows, keys, keys))
    wanted = causal_attention(*(x.astype(np.float64) for x in (q, k, v)))
    out, lse = np.zeros((2, rows, HEAD_DIM)), np.zeros((2, rows))
    interpret(flash_attention(), "main", q, k, v, out, lse, precise=True)
    np.testing.assert_allclose(out, wanted[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(lse, wanted[1], rtol=1e-6, atol=1e-6)
    narrow, lse = np.zeros(q.shape, np.float16), np.zeros((2, rows), np.float32)
    interpret(flash_attention(), "main", q, k, v, narrow, lse)
    assert np.abs(narrow - wanted[0]).max() <= 2.0**-10 * np.abs(v).max()
    np.testing.assert_allclose(lse, wanted[1], rtol=1e-6, atol=1e-6)


QUERIES = np.arange(2 * 6 * 4 * 3, dtype=np.float32).reshape(2, 6, 4, 3)


def group_rows(b: int, key_head: int, group: int = 3) -> Any:
    operands = [(QUERIES, memory(None, 6, None, 3)), (b, index), (key_head, index)]
    return evaluate("tile.group_rows", operands, memory(None, 3), {"group": IntegerAttr(group)})


# Row r is query r // group of head key_head * group + r % group.
def test_group_rows() -> None:
    rows = group_rows(1, 1)
    assert rows.shape == (12, 3)
    np.testing.assert_array_equal(rows[0:12, 0:3], QUERIES[1, 3:6].swapaxes(0, 1).reshape(12, 3))


@pytest.mark.parametrize(
    ("b", "key_head", "message"), [(2, 0, "reads index 2 of axis 0"), (0, 2, "reads index 6 of axis 1")]
)
def test_group_rows_outside_is_an_error(b: int, key_head: int, message: str) -> None:
    with pytest.raises(CompileError, match=f"'tile.group_rows' op {message}"):
        group_rows(b, key_head)


# Loads, gathers and stores reach the memory itself, whatever its strides; a slice of rows does too.
def test_group_rows_is_no_copy() -> None:
    def body(builder: Builder, arguments: list[Value]) -> list[Value]:
        source, target = arguments
        zero, one, two = (builder.index(i) for i in range(3))
        group: dict[str, Attribute] = {"group": IntegerAttr(2)}
        rows = builder.create(tile.GroupRowsOp, [target, zero, one], [memory(None)], group).out
        wide = builder.create(tile.GroupRowsOp, [source, zero, one], [memory(None, 3)], group).out
        row = builder.create(tile.SliceOp, [wide, two], [memory(3)]).out
        builder.create(tile.StoreOp, [builder.create(tile.LoadOp, [row, zero], [memory(3)]).out, rows, one])
        steps = builder.create(tile.IotaOp, [], [memory(2, element=index)]).out
        ones = builder.constant(1, memory(2, element=index))
        column = builder.create(tile.GatherOp, [wide, steps, ones], [memory(2)]).out
        builder.create(tile.StoreOp, [column, rows, builder.index(6)], [], boundary(0))
        return []

    types = [memory(None, None, None, 3), memory(None, None, None)]
    module = kernel(types, lambda b, _: [b.index(1)], body)
    source = np.ascontiguousarray(QUERIES.swapaxes(1, 2)).swapaxes(1, 2)
    target = np.zeros((4, 2, 6), np.float32).transpose(1, 2, 0)
    interpret(module, "main", source, target)
    wanted = np.zeros((2, 6, 4), np.float32)
    heads = wanted[0, 2:4]
    heads[1, 0], heads[0, 1], heads[1, 1] = QUERIES[0, 2, 1]
    heads[:, 3] = QUERIES[0, 2:4, 0, 1]
    np.testing.assert_array_equal(target, wanted)
