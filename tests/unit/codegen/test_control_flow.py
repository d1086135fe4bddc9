"""Loops, branches and memory as Triton text in its interpreter and, where marked so, as native code."""

from __future__ import annotations

import pytest
import torch
from numeric.closeness import NATIVE
from unit.codegen.kernels import (
    LENGTH,
    RUNS,
    broadcast,
    iota,
    kernel_of,
    load,
    numbers,
    program_id,
    run,
)

from attir.codegen.triton import emit_triton
from attir.ir.attributes import (
    DenseArrayAttr,
    IntegerAttr,
    StringAttr,
    Symbol,
    TensorType,
    UnitAttr,
    f32,
    i1,
    index,
)
from attir.ir.builder import Builder
from attir.ir.core import Block, Operation, Region, Value
from attir.ir.diagnostics import CompileError
from attir.ir.dialects import arith, scf, tile
from attir.ir.dialects.tensor import DimOp, ExtractOp

ROW = TensorType((LENGTH,), f32)
on_both = pytest.mark.parametrize("backend", ["interpret", pytest.param("native", marks=NATIVE)])


def store(builder: Builder, value: Value, target: Value, *boundary: int) -> None:
    starts = [builder.index(0)] * len(getattr(target.type, "shape"))  # noqa: B009 - a tensor
    builder.create(tile.StoreOp, [value, target, *starts], [], {"boundary": DenseArrayAttr(boundary)})


def loop(builder: Builder, lower: Value, upper: Value, step: Value, initial: list[Value]) -> tuple[scf.ForOp, Builder]:
    block = Block.with_arguments([index, *(v.type for v in initial)], ["i", *(v.name_hint for v in initial)])
    op = builder.create(scf.ForOp, [lower, upper, step, *initial], [v.type for v in initial], regions=[Region([block])])
    return op, Builder(block)


@on_both
def test_carried_values_are_exchanged_and_not_overwritten(backend: str) -> None:
    """Fibonacci: (a, b) becomes (b, a + b), both from the old values."""

    def body(builder: Builder, arguments: list[Value]) -> None:
        start = [builder.constant(x, ROW, name) for x, name in ((0.0, "a"), (1.0, "b"))]
        bounds = [builder.index(x) for x in (0, 10, 1)]
        op, inner = loop(builder, bounds[0], bounds[1], bounds[2], start)
        a, b = op.body.block.arguments[1:]
        inner.create(scf.YieldOp, [b, inner.binary(arith.AddFOp, a, b)])
        store(builder, op.results[0], arguments[0])

    out = torch.zeros(LENGTH)
    RUNS[backend](kernel_of("fibonacci", [ROW], body), out)
    assert numbers(out) == [55.0] * LENGTH


@on_both
def test_loops_run_from_and_to_values_and_may_run_not_at_all(backend: str) -> None:
    def body(builder: Builder, arguments: list[Value]) -> None:
        pid = program_id(builder)
        for position, target in enumerate(arguments):
            upper = builder.binary(arith.AddIOp, pid, builder.index(position * 7))
            op, inner = loop(builder, pid, upper, builder.index(3), [builder.constant(0.0, ROW, "total")])
            one = inner.constant(1.0, ROW)
            inner.create(scf.YieldOp, [inner.binary(arith.AddFOp, op.body.block.arguments[1], one)])
            store(builder, op.results[0], target)

    outs = [torch.full((LENGTH,), -1.0) for _ in range(3)]
    RUNS[backend](kernel_of("counts", [ROW] * 3, body), *outs)
    assert [out[0].item() for out in outs] == [0.0, 3.0, 5.0]


def test_nested_loops_keep_outer_values_for_the_next_round() -> None:
    """The inner loop starts from the same outer value in each round: 3 rounds of x + 2."""

    def body(builder: Builder, arguments: list[Value]) -> None:
        x = load(builder, arguments[0], [builder.index(0)], (LENGTH,))
        x.name_hint = "x"
        zero, one = builder.index(0), builder.index(1)
        outer, middle = loop(builder, zero, builder.index(3), one, [builder.constant(0.0, ROW, "total")])
        inner_loop, inner = loop(middle, zero, middle.index(2), one, [x])
        inner.create(
            scf.YieldOp,
            [inner.binary(arith.AddFOp, inner_loop.body.block.arguments[1], inner.constant(1.0, ROW))],
        )
        total = middle.binary(arith.AddFOp, outer.body.block.arguments[1], inner_loop.results[0])
        middle.create(scf.YieldOp, [total])
        store(builder, outer.results[0], arguments[1])

    x, out = torch.arange(float(LENGTH)), torch.zeros(LENGTH)
    run(kernel_of("nested", [ROW, ROW], body), x, out)
    assert torch.equal(out, 3 * (x + 2))


def test_a_variable_is_reused_only_once_nobody_reads_it() -> None:
    """x, then another x that is still read beside the first."""

    def body(builder: Builder, arguments: list[Value]) -> None:
        first = load(builder, arguments[0], [builder.index(0)], (LENGTH,))
        first.name_hint = "x"
        second = builder.binary(arith.MulFOp, first, builder.constant(3.0, ROW), "x")
        third = builder.binary(arith.SubFOp, second, first, "x")
        fourth = builder.binary(arith.AddFOp, third, builder.constant(1.0, ROW), "x")
        store(builder, fourth, arguments[1])

    x, out = torch.arange(float(LENGTH)), torch.zeros(LENGTH)
    source = run(kernel_of("reuse", [ROW, ROW], body), x, out)
    assert torch.equal(out, 2 * x + 1)
    assert "x = x + 1.0" in source and "x_2 = x * 3.0" in source


@on_both
@pytest.mark.parametrize("taken", [True, False])
def test_branches_choose_at_run_time(backend: str, taken: bool) -> None:
    def body(builder: Builder, arguments: list[Value]) -> None:
        wanted = builder.index(0 if taken else 1)
        predicate = {"predicate": arith.CmpIOp.predicate_attr("eq")}
        condition = builder.create(arith.CmpIOp, [program_id(builder), wanted], [i1], predicate).out
        blocks: list[Region] = []
        for value in (1.0, 2.0):
            inner = Builder(Block())
            inner.create(scf.YieldOp, [inner.constant(value, ROW)])
            blocks.append(Region([inner.block]))
        chosen = builder.create(scf.IfOp, [condition], [ROW], regions=blocks).operation.result
        store(builder, chosen, arguments[0])

    out = torch.zeros(LENGTH)
    RUNS[backend](kernel_of("branch", [ROW], body), out)
    assert numbers(out) == [1.0 if taken else 2.0] * LENGTH


@on_both
def test_a_branch_without_results_guards_its_stores(backend: str) -> None:
    def body(builder: Builder, arguments: list[Value]) -> None:
        predicate = {"predicate": arith.CmpIOp.predicate_attr("sgt")}
        condition = builder.create(arith.CmpIOp, [program_id(builder), builder.index(0)], [i1], predicate).out
        inner = Builder(Block())
        store(inner, inner.constant(1.0, ROW), arguments[0])
        inner.create(scf.YieldOp)
        builder.create(scf.IfOp, [condition], [], regions=[Region([inner.block]), Region()])

    out = torch.zeros(LENGTH)
    RUNS[backend](kernel_of("guard", [ROW], body), out)
    assert not out.any()


def test_boundaries_read_as_zero_and_drop_stores() -> None:
    """A 5 by 20 matrix in a 16 by 32 tile."""
    matrix = TensorType((Symbol("M"), 20), f32)

    def body(builder: Builder, arguments: list[Value]) -> None:
        zero, both = builder.index(0), {"boundary": DenseArrayAttr((0, 1))}
        x = builder.create(tile.LoadOp, [arguments[0], zero, zero], [TensorType((16, 32), f32)], both).out
        store(builder, builder.binary(arith.AddFOp, x, builder.constant(1.0, x.type)), arguments[1], 0, 1)

    x = torch.randn(5, 20)
    padded = torch.zeros(5, 30)
    run(kernel_of("edges", [matrix, matrix], body), x, padded[:, :20])
    assert torch.equal(padded[:, :20], x + 1) and not padded[:, 20:].any()


def test_gathered_elements_rows_columns_and_whole_tiles() -> None:
    """table[i, j] with i from rows and j = (i + j) mod 16 of whole tiles, under a mask larger than the index."""
    table, out_type = TensorType((16, 16), f32), TensorType((16, 16), f32)
    positions = TensorType((16, 16), index)

    def body(builder: Builder, arguments: list[Value]) -> None:
        rows, columns = (broadcast(builder, iota(builder, 16), (16, 16), (axis,)) for axis in (1, 0))
        wrapped = builder.binary(
            arith.RemSIOp, builder.binary(arith.AddIOp, rows, columns), builder.constant(16, positions)
        )
        x = builder.create(tile.GatherOp, [arguments[0], rows, wrapped], [out_type]).out
        predicate = {"predicate": arith.CmpIOp.predicate_attr("sle")}
        lower = builder.create(arith.CmpIOp, [columns, rows], [out_type.with_element(i1)], predicate).out
        masked = {"masked": UnitAttr()}
        y = builder.create(tile.GatherOp, [arguments[0], rows, builder.index(3), lower], [out_type], masked).out
        store(builder, builder.binary(arith.AddFOp, x, y), arguments[1])

    values, out = torch.randn(16, 16), torch.zeros(16, 16)
    run(kernel_of("gather", [table, out_type], body), values, out)
    i, j = torch.arange(16)[:, None], torch.arange(16)[None, :]
    assert torch.equal(out, values[i, (i + j) % 16] + torch.where(j <= i, values[i, 3], torch.zeros(())))


def test_reductions_transposes_and_atomic_additions() -> None:
    matrix, row = TensorType((16, 32), f32), TensorType((32,), f32)

    def body(builder: Builder, arguments: list[Value]) -> None:
        zero = builder.index(0)
        x = load(builder, arguments[0], [zero, zero], (16, 32))
        flipped = builder.create(tile.TransposeOp, [x], [TensorType((32, 16), f32)]).out
        kind = {"axis": IntegerAttr(1), "kind": StringAttr("sum")}
        total = builder.create(tile.ReduceOp, [flipped], [row], kind).out
        builder.create(tile.AtomicAddOp, [total, arguments[1], zero])

    x, out = torch.randn(16, 32), torch.ones(32)
    run(kernel_of("sums", [matrix, row], body), x, out)
    torch.testing.assert_close(out, 1 + x.sum(0), rtol=1e-6, atol=1e-6)


def test_sizes_become_parameters_and_single_elements_are_read() -> None:
    vector = TensorType((Symbol("L"),), f32)

    def body(builder: Builder, arguments: list[Value]) -> None:
        size = builder.create(DimOp, [arguments[0], builder.index(0)], [index]).out
        last = builder.binary(arith.SubIOp, size, builder.index(1))
        element = builder.create(ExtractOp, [arguments[0], last], [f32]).out
        store(builder, broadcast(builder, element, (LENGTH,), (0,)), arguments[1])

    out = torch.zeros(LENGTH)
    source = run(kernel_of("last", [vector, ROW], body), torch.arange(10.0), out)
    assert numbers(out) == [9.0] * LENGTH
    assert "    L = x0.shape[0]\n" in source


def test_an_operation_without_a_form_is_refused_at_its_place() -> None:
    def body(builder: Builder, arguments: list[Value]) -> None:
        builder.insert(Operation.create("strange.op"))

    with pytest.raises(CompileError, match=r"'strange\.op' op has no form in Triton"):
        emit_triton(kernel_of("strange", [ROW], body))
    with pytest.raises(CompileError, match=r"only 'tile\.kernel'"):
        emit_triton(Operation.create("strange.op"))


@on_both
@pytest.mark.parametrize("place", [None, (0, 0), (15, 31), (7, 18)])
def test_any_finds_one_true_element(backend: str, place: tuple[int, int] | None) -> None:
    matrix, row = TensorType((16, 32), f32), TensorType((16,), f32)

    def body(builder: Builder, arguments: list[Value]) -> None:
        zero = builder.index(0)
        x = load(builder, arguments[0], [zero, zero], (16, 32))
        predicate = {"predicate": arith.CmpFOp.predicate_attr("ogt")}
        large = builder.create(
            arith.CmpFOp, [x, builder.constant(1.0, x.type)], [TensorType((16, 32), i1)], predicate
        ).out
        some = builder.create(tile.AnyOp, [large], [i1]).out
        number = builder.create(arith.UIToFPOp, [some], [f32]).out
        store(builder, broadcast(builder, number, (16,), (0,)), arguments[1])

    x, out = torch.zeros(16, 32), torch.zeros(16)
    if place is not None:
        x[place] = 2.0
    RUNS[backend](kernel_of("any", [matrix, row], body), x, out)
    assert numbers(out) == [0.0 if place is None else 1.0] * 16
