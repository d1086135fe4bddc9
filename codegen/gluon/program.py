"""Recognises the one shape of tile program that has a warp-specialised form: a forward pass with bounds alone.

That is a prologue, a loop over tiles that are kept whole, one over tiles that a mask cuts, and stores. Both
loops must be steps of an online softmax, whose order does not matter, and touch no memory but keys and values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from ...ir.attributes import FloatAttr, IntegerAttr, SplatAttr, TensorType, bf16, f16, i8, is_float8
from ...ir.core import Operation, Value
from ...ir.diagnostics import op_error
from ...ir.dialects.arith import (
    AddFOp,
    CmpFOp,
    ConstantOp,
    DivSIOp,
    MaximumFOp,
    MulFOp,
    MulIOp,
    SelectOp,
    SubFOp,
    TruncFOp,
)
from ...ir.dialects.math import Exp2Op
from ...ir.dialects.scf import ForOp, YieldOp
from ...ir.dialects.tensor import DimOp
from ...ir.dialects.tile import (
    BroadcastOp,
    DotOp,
    IotaOp,
    KernelOp,
    LoadOp,
    ProgramIdOp,
    ReduceOp,
    ReturnOp,
    SliceOp,
    StoreOp,
    TransposeOp,
)

ROWS, KEYS, WIDTHS = 128, 128, (64, 128)
"""Queries of a program and keys of a tile, and the head dimensions, for which the form is written."""

MINUS_INFINITY = float("-inf")
_ON_TILES = frozenset(op.op_name for op in (BroadcastOp, IotaOp, ReduceOp, DimOp, ProgramIdOp))


@dataclass(frozen=True)
class Step:
    """What one loop does with a tile of keys: `softmax` takes `scores` to `weights`, and to what it carries on.

    `carried` are the maximum and the sum of each row as they come in, `row_max` and `row_sum` as they
    go out; `alpha` is what the output so far is multiplied with.
    """

    start: Value
    scores: Value
    softmax: tuple[Operation, ...]
    weights: Value
    alpha: Value
    carried: tuple[Value, Value]
    row_max: Value
    row_sum: Value
    keys: SliceOp
    values: SliceOp
    queries: Value


@dataclass(frozen=True)
class Forward:
    """The parts of a recognised program, in their order.

    `scalars` and `vectors` (of one number a row) come before the loops, `epilogue` after them. Tiles
    start at 0; those before `full_end` are whole, and those from there to `end` are cut.
    """

    width: int
    scalars: tuple[Operation, ...]
    vectors: tuple[Operation, ...]
    queries: SliceOp
    start: Value
    whole: Step
    cut: Step
    full_end: Value
    end: Value
    results: tuple[Value, Value, Value]
    epilogue: tuple[Operation, ...]


def recognise(kernel: KernelOp) -> Forward:
    """The parts of `kernel`; CompileError with the reason where it has another shape."""
    return _Recogniser(kernel).program()


@dataclass(frozen=True)
class _Recogniser:
    kernel: KernelOp

    def refuse(self, reason: str) -> NoReturn:
        op_error(self.kernel.operation, f"has no warp-specialised form in Gluon: {reason}")

    def need(self, holds: bool, reason: str) -> None:
        if not holds:
            self.refuse(reason)

    def program(self) -> Forward:
        width = self._check_arguments()
        ops = [op for op in self.kernel.body.block.ops if ReturnOp.match(op) is None]
        places = [i for i, op in enumerate(ops) if op.regions]
        loops = [loop for i in places if (loop := ForOp.match(ops[i])) is not None]
        self.need(len(places) == len(loops) == 2, f"it has {len(places)} loops and branches, expected 2 loops")
        first, second = loops
        whole, cut = self._step(first, width), self._step(second, width)
        self._check_order(first, second)
        self.need(whole.queries is cut.queries, "its loops read different queries")
        before = [op for op in ops[: places[1]] if not op.regions]
        load = self._load(whole.queries, 0, (ROWS, width))
        prologue = [op for op in before if SliceOp.match(op) is None and op is not load.operation]
        vectors = tuple(op for op in prologue if isinstance(op.result.type, TensorType))
        scalars = tuple(op for op in prologue if not isinstance(op.result.type, TensorType))
        epilogue = tuple(ops[places[1] + 1 :])
        self._check_elementwise(prologue)
        self._check_rows(vectors)
        for step in (whole, cut):
            self._check_elementwise(step.softmax)
            self._check_columns(step)
        self._check_stores(epilogue, load.offsets[0])
        acc, row_max, row_sum = second.results
        queries = self._slice(load.source, 0)
        return Forward(
            width, scalars, vectors, queries, load.offsets[0], whole, cut, first.upper, second.upper,
            (acc, row_max, row_sum), epilogue,
        )  # fmt: skip

    def _check_arguments(self) -> int:
        """The head dimension."""
        kernel = self.kernel
        self.need(kernel.swapped is None, "its products are transposed")
        self.need(kernel.persistent is None, "its programs take one tile after the other")
        types = kernel.function_type.inputs
        stored = [t for t in types[:3] if isinstance(t, TensorType) and (t.element == i8 or is_float8(t.element))]
        self.need(not stored, f"it reads codes of {_words(stored)}")
        self.need(len(types) in (4, 5), f"it takes {len(types)} tensors, expected q, k, v, out and perhaps lse")
        for type_ in types[:4]:
            known = isinstance(type_, TensorType) and type_.rank == 4 and type_.element in (f16, bf16)
            self.need(known, f"expected tensors of rank 4 of f16 or bf16, found {type_}")
        shapes = [t.shape for t in types[:4] if isinstance(t, TensorType)]
        widths = {shape[-1] for shape in shapes}
        (width, *others) = widths
        self.need(not others and width in WIDTHS, f"its head dimensions are {_words(widths)}, expected 64 or 128")
        assert isinstance(width, int)
        return width

    def _check_order(self, first: ForOp, second: ForOp) -> None:
        """Tiles follow each other from 0, and nothing was added up before the first."""
        self.need(_number(first.lower) == 0, "its tiles do not start with the first key")
        self.need(second.lower is first.upper, "its loops do not follow each other")
        steps = {_number(first.step), _number(second.step)}
        self.need(steps == {KEYS}, f"its loops go by {_words(steps)} keys, expected {KEYS}")
        product = MulIOp.producing(first.upper)
        whole = product is not None and _number(product.rhs) == KEYS and DivSIOp.producing(product.lhs) is not None
        self.need(whole, f"whole tiles do not end at a multiple of {KEYS}")
        starts = tuple(map(_number, first.initial))
        self.need(starts == (0, MINUS_INFINITY, 0), "rows do not start with nothing added up")
        self.need(list(second.initial) == list(first.results), "its loops do not follow each other")

    def _step(self, loop: ForOp, width: int) -> Step:
        block = loop.body.block
        self.need(len(block.arguments) == 4, f"a loop carries {len(block.arguments) - 1} values, expected 3")
        start, acc, row_max, row_sum = block.arguments
        new_acc, new_max, new_sum = YieldOp(block.terminator).values
        dots = [dot for op in block.ops if (dot := DotOp.match(op)) is not None]
        self.need(len(dots) == 2 and dots[1].out is new_acc, "a loop has other products than those of attention")
        first, second = dots
        alpha = self._row_factor(second.acc, acc)
        transposed = TransposeOp.producing(first.b)
        self.need(transposed is not None and _number(first.acc) == 0, "a product is not that of queries and keys")
        assert transposed is not None
        loads = [self._load(transposed.x, 1, (KEYS, width)), self._load(second.b, 2, (KEYS, width))]
        self.need(all(load.offsets[0] is start for load in loads), "a loop loads other keys than those of its tile")
        self._check_online(first.out, second.a, alpha, (row_max, row_sum), (new_max, new_sum))
        scaled = second.acc.defining_op
        apart = {first.operation, second.operation, transposed.operation, scaled, *(x.operation for x in loads)}
        spread = [v.defining_op for v in (scaled.operands if scaled else ())]
        apart |= {op for op in spread if op is not None and BroadcastOp.match(op) and len(op.result.uses) == 1}
        softmax = tuple(op for op in block.ops[:-1] if op not in apart)
        keys, values = (self._slice(load.source, i + 1) for i, load in enumerate(loads))
        return Step(
            start, first.out, softmax, second.a, alpha, (row_max, row_sum), new_max, new_sum, keys, values, first.a
        )

    def _row_factor(self, scaled: Value, acc: Value) -> Value:
        """alpha of acc * alpha[:, None]"""
        product = MulFOp.producing(scaled)
        spread = BroadcastOp.producing(product.rhs) if product is not None and product.lhs is acc else None
        self.need(spread is not None and spread.axes.values == (1,), "a loop changes the output so far by more")
        assert spread is not None
        return spread.x

    def _check_online(
        self, scores: Value, weights: Value, alpha: Value, old: tuple[Value, Value], new: tuple[Value, Value]
    ) -> None:
        """That a loop is a step of an online softmax, so that tiles may come in any order."""
        narrowed = TruncFOp.producing(weights)
        p = Exp2Op.producing(narrowed.x) if narrowed is not None else None
        decay, total, largest = Exp2Op.producing(alpha), AddFOp.producing(new[1]), MaximumFOp.producing(new[0])
        self.need(None not in (p, decay, total, largest) and largest is not None, "its weights are no softmax")
        assert p is not None and decay is not None and total is not None and largest is not None
        shift, difference = SubFOp.producing(p.x), SubFOp.producing(decay.x)
        kept, added = MulFOp.producing(total.lhs), ReduceOp.producing(total.rhs)
        spread = BroadcastOp.producing(shift.rhs) if shift is not None else None
        self.need(None not in (spread, difference, kept, added), "its weights are no softmax")
        assert spread is not None and difference is not None and kept is not None and added is not None
        holds = (
            largest.lhs is old[0] and difference.lhs is old[0] and difference.rhs is spread.x
            and spread.axes.values == (1,) and _finite(spread.x) is new[0]
            and kept.lhs is old[1] and kept.rhs is alpha and added.x is p.out and added.kind.value == "sum"
            and _computed_from(p.out, scores)
        )  # fmt: skip
        self.need(holds, "its weights are no softmax")

    def _load(self, tile: Value, argument: int, shape: tuple[int, int]) -> LoadOp:
        """The load of a tile of rows of one head of q, k or v."""
        load = LoadOp.producing(tile)
        fits = load is not None and isinstance(load.out.type, TensorType) and load.out.type.shape == shape
        self.need(fits, f"a tile of argument {argument} has type {tile.type}, expected a load of {shape}")
        assert load is not None
        self._slice(load.source, argument)
        rows = len(load.offsets) == 2 and _number(load.offsets[1]) == 0 and "by_column" not in load.operation.properties
        self.need(rows, f"a tile of argument {argument} is not made of whole rows")
        return load

    def _slice(self, memory: Value, argument: int) -> SliceOp:
        """One head of an argument."""
        view = SliceOp.producing(memory)
        head = view is not None and len(view.indices) == 2
        self.need(head and view is not None, f"a tile is not read from one head of argument {argument}")
        assert view is not None
        self.need(view.source is self.kernel.body.block.arguments[argument], "a tile is read from another tensor")
        return view

    def _check_elementwise(self, ops: Sequence[Operation]) -> None:
        for op in ops:
            known = op.dialect in ("arith", "math") or op.name in _ON_TILES
            self.need(known and not op.regions, f"it needs '{op.name}' beside bounds")

    def _check_rows(self, vectors: tuple[Operation, ...]) -> None:
        """That what is computed before the loops is one number a row."""
        for op in vectors:
            if IotaOp.match(op) is None and ConstantOp.match(op) is None:
                self.need(_spread_axes(op.result) <= {(1,)}, "numbers of a column are computed before its loops")

    def _check_columns(self, step: Step) -> None:
        """That positions inside a tile, where a loop counts them itself, are those of keys."""
        for op in step.softmax:
            if any(IotaOp.producing(v) is not None for v in op.operands):
                axes = {BroadcastOp(op).axes.values} if BroadcastOp.match(op) else _spread_axes(op.result)
                self.need(axes <= {(0,)}, "a loop counts the rows of its tile")

    def _check_stores(self, epilogue: tuple[Operation, ...], start: Value) -> None:
        """That rows are stored where they were loaded from, in out and lse."""
        arguments = self.kernel.body.block.arguments
        stores = [store for op in epilogue if (store := StoreOp.match(op)) is not None]
        self.need(len(stores) == len(arguments) - 3, f"it stores {len(stores)} tiles, expected one of each result")
        for store, argument in zip(stores, range(3, 5), strict=False):
            self._slice(store.target, argument)
            self.need(store.offsets[0] is start, "it stores other rows than it loads")
            self.need(all(_number(offset) == 0 for offset in store.offsets[1:]), "it stores a part of its rows")
        others = [op for op in epilogue if StoreOp.match(op) is None and SliceOp.match(op) is None]
        self._check_elementwise(others)


def _finite(value: Value) -> Value:
    """m of m == -inf ? 0 : m"""
    choice = SelectOp.producing(value)
    if choice is None or _number(choice.x) != 0:
        return value
    test = CmpFOp.producing(choice.condition)
    guarded = test is not None and test.lhs is choice.y and _number(test.rhs) == MINUS_INFINITY
    return choice.y if guarded else value


def _computed_from(value: Value, source: Value) -> bool:
    """Whether `source` is what a value is computed from, along operations on tiles."""
    known, pending = {value}, [value]
    while pending:
        op = pending.pop().defining_op
        operands = [] if op is None or DotOp.match(op) else [v for v in op.operands if v not in known]
        known.update(operands)
        pending += operands
    return source in known


def _spread_axes(value: Value) -> set[tuple[int, ...]]:
    """Along which axes a vector is repeated to a tile, wherever it goes."""
    axes: set[tuple[int, ...]] = set()
    for user in value.users:
        if (spread := BroadcastOp.match(user)) is not None:
            axes.add(spread.axes.values)
        elif user.dialect in ("arith", "math") and user.results and _rank(user.result) == _rank(value) == 1:
            axes |= _spread_axes(user.result)
    return axes


def _rank(value: Value) -> int:
    return value.type.rank if isinstance(value.type, TensorType) else 0


def _number(value: Value) -> float | None:
    """The number a constant has, everywhere if it is a tile."""
    constant = ConstantOp.producing(value)
    if constant is None:
        return None
    held = constant.value.value if isinstance(constant.value, SplatAttr) else constant.value
    return held.value if isinstance(held, FloatAttr | IntegerAttr) else None


def _words(values: Iterable[object]) -> str:
    return " and ".join(sorted(map(str, values)))
