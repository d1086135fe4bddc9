"""What the block lists of a captured flex_attention say about which positions are kept.

A position is kept where its block is in the list of full blocks, or in the list of others and
mask_mod holds. Lists that say no more than mask_mod are dropped; of the others a table with the
state of every block is made, one small integer a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.attributes import Dim, IntegerType, TensorType, Type, i1, i8, i64
from ..ir.builder import Builder
from ..ir.core import Operation, Value
from ..ir.dialects import arith
from ..ir.dialects.aten import Argument, AtenOp, aten_op
from .index_function import Coordinates, IndexFunction, tensor_type
from .region_math import Scalar, literal_of

EVERYWHERE = 1 << 30
"""The block size that stands for one block over all positions."""
PARTIAL, FULL = 1, 2
"""States of a block: mask_mod decides there, or all of it is kept; 0 where nothing is."""


@dataclass(frozen=True)
class BlockList:
    """For each row of blocks how many are listed, (B, H, rows), and which, (B, H, rows, slots)."""

    counts: Value
    columns: Value


@dataclass(frozen=True)
class Blocks:
    """The block lists of one call; sizes are in positions."""

    call: AtenOp
    partial: BlockList
    full: BlockList | None
    query_size: int
    key_size: int

    @staticmethod
    def of(call: AtenOp) -> Blocks | str:
        """The block lists of `call`; a sentence where they have no form here."""
        rows, width = call.argument("q_block"), call.argument("kv_block")
        lists = [
            call.operand(name) for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
        ]
        counts, columns, full_counts, full_columns = lists
        if counts is None or columns is None or not isinstance(rows, int) or not isinstance(width, int):
            return "the block sizes are not constants"
        full = None if full_counts is None or full_columns is None else BlockList(full_counts, full_columns)
        blocks = Blocks(call, BlockList(counts, columns), full, rows, width)
        return blocks.problem() or blocks

    def problem(self) -> str:
        """Why the lists do not fit the queries; empty where they do as far as sizes are known."""
        batch, heads, length, _ = tensor_type(self.query).shape
        given = tensor_type(self.partial.counts).shape
        for what, size, wanted in (("batches", given[0], batch), ("heads", given[1], heads)):
            if isinstance(size, int) and isinstance(wanted, int) and size not in (1, wanted):
                return f"the block mask has {size} {what}, but the query has {wanted}"
        if isinstance(given[2], int) and isinstance(length, int) and given[2] * self.query_size < length:
            return f"the block mask has {given[2]} rows of {self.query_size} queries, but there are {length} queries"
        return ""

    @property
    def query(self) -> Value:
        query = self.call.operand("query")
        assert query is not None, "flex_attention has a query"
        return query

    @property
    def key(self) -> Value:
        key = self.call.operand("key")
        assert key is not None, "flex_attention has a key"
        return key

    def kept(self, mask: Scalar, at: Coordinates, function: IndexFunction) -> Scalar:
        """Whether the position `at` (b, h, m, n) is kept, where `mask` is what mask_mod says of it."""
        if self._is_one_block(function) or self._made_from(mask, at, function):
            return mask
        build, table = function.math, self._table()
        row, column = build.floor_divide(at[2], self.query_size), build.floor_divide(at[3], self.key_size)
        outer = [function.zero() if d == 1 else c for d, c in zip(tensor_type(table).shape, at[:2], strict=False)]
        # Read as it is: a tile within one block can then take the state as one number.
        state = function.load(table, (*outer, build.as_index(row), build.as_index(column)))
        partly = build.logical(arith.AndIOp, build.compare("eq", state, PARTIAL), mask)
        if self.full is None:
            return partly
        return build.logical(arith.OrIOp, build.compare("eq", state, FULL), partly)

    def _is_one_block(self, function: IndexFunction) -> bool:
        """Whether the lists are known to name one block that holds every position."""
        if self.full is not None or not (self._spans(0) and self._spans(1)):
            return False
        shape = tensor_type(self.partial.columns).shape
        if shape != (1, 1, 1, 1):
            return False
        zero = function.zero()
        count = function.at(self.partial.counts, (zero,) * 3)
        return literal_of(count) == 1 and literal_of(function.at(self.partial.columns, (zero,) * 4)) == 0

    def _spans(self, side: int) -> bool:
        size = (self.query_size, self.key_size)[side]
        length = tensor_type((self.query, self.key)[side]).shape[2]
        return size >= EVERYWHERE or (isinstance(length, int) and size >= length)

    def _made_from(self, mask: Scalar, at: Coordinates, function: IndexFunction) -> bool:
        """Whether the lists were computed in this graph from a mask tensor that is mask_mod at every position.

        Then a full block is one where mask_mod holds throughout, a block in no list one where it
        holds nowhere, and so the lists add nothing.
        """
        sums = counted(self.partial, self.full, self.query_size * self.key_size)
        tensor = None if sums is None else self._summed(sums)
        if tensor is None:
            return False
        found = function.broadcast(tensor, at)
        return found is not None and _same(function.math.as_bool(found), function.math.as_bool(mask))

    def _summed(self, sums: Value) -> Value | None:
        """The mask (B, H, M, N) whose blocks were counted: sum(permute(view(pad(mask))))."""
        order = produced(summed(sums, [-2, -1]), "permute")
        if order is None or order.argument("dims") != [0, 1, 2, 4, 3, 5]:
            return None
        blocks = produced(order.operand("self"), "view")
        padded = None if blocks is None else blocks.operand("self")
        if blocks is None or padded is None or tensor_type(padded).rank != 4:
            return None
        split, whole = tensor_type(blocks.out).shape, tensor_type(padded).shape
        if split[:2] != whole[:2] or (split[3], split[5]) != (self.query_size, self.key_size):
            return None
        mask = unpadded(padded)
        lengths = tensor_type(self.query).shape[2], tensor_type(self.key).shape[2]
        fits = mask is not None and tensor_type(mask).element == i1 and tensor_type(mask).shape[2:] == lengths
        return mask if fits and None not in lengths else None

    def _table(self) -> Value:
        """The state of every block, i8 (B or 1, H or 1, query blocks, key blocks), in front of the call."""
        views = _Graph(Builder.before(self.call.operation))
        blank = self._blank(views)
        table = views.listed(blank, self.partial, PARTIAL)
        if self.full is not None:
            table = views.listed(table, self.full, FULL)
        size = tensor_type(table).shape[3]
        columns = size - 1 if isinstance(size, int) else None
        shape = [*tensor_type(table).shape[:3], columns]
        table = views.make("slice.Tensor", {"self": table, "dim": 3, "start": 1}, shape)
        table.name_hint = "blocks"
        return table

    def _blank(self, views: _Graph) -> Value:
        """Zeros (B, H, query blocks, 1 + key blocks), with sizes taken from the counts and the keys themselves."""
        length = tensor_type(self.key).shape[2]
        columns = -(-length // self.key_size) if isinstance(length, int) else None
        row = self.key
        for axis in (3, 1, 0):
            shape = [d for i, d in enumerate(tensor_type(row).shape) if i != axis]
            row = views.make("select.int", {"self": row, "dim": axis, "index": 0}, shape)
        row = views.make("slice.Tensor", {"self": row, "dim": 0, "step": self.key_size}, [columns])
        row = views.make("zeros_like", {"self": row, "dtype": i8}, [columns], i8)
        wider = columns + 1 if isinstance(columns, int) else None
        row = views.make("constant_pad_nd", {"self": row, "pad": [1, 0]}, [wider])
        counts = tensor_type(self.partial.counts).shape
        rows = views.make("unsqueeze", {"self": self.partial.counts, "dim": 3}, [*counts, 1])
        rows = views.make("zeros_like", {"self": rows, "dtype": i8}, [*counts, 1], i8)
        return views.make("add.Tensor", {"self": rows, "other": row}, [*counts, wider])


@dataclass(frozen=True)
class _Graph:
    """Inserts ATen operators in front of one operation."""

    builder: Builder

    def make(
        self, name: str, arguments: dict[str, Argument], shape: Sequence[Dim], element: Type | None = None
    ) -> Value:
        source = arguments["self"]
        assert isinstance(source, Value)
        kind = tensor_type(source).element if element is None else element
        return self.builder.insert(aten_op(name, arguments, [TensorType(tuple(shape), kind)])).result

    def listed(self, table: Value, blocks: BlockList, state: int) -> Value:
        """`table` with `state` at the listed blocks. Column c is at c + 1: slots that list nothing write to 0."""
        slots = tensor_type(blocks.columns).shape
        counts = self.make("unsqueeze", {"self": blocks.counts, "dim": 3}, [*slots[:3], 1])
        number = self.make("ones_like", {"self": blocks.columns, "dtype": i64}, slots, i64)
        number = self.make("cumsum", {"self": number, "dim": 3}, slots)
        used = self.make("le.Tensor", {"self": number, "other": counts}, slots, i1)
        columns = self.make("_to_copy", {"self": blocks.columns, "dtype": i64}, slots, i64)
        columns = self.make("add.Tensor", {"self": columns, "other": 1}, slots)
        columns = self.make("mul.Tensor", {"self": columns, "other": used}, slots)
        arguments: dict[str, Argument] = {"self": table, "dim": 3, "index": columns, "value": state}
        return self.make("scatter.value", arguments, tensor_type(table).shape)


def counted(partial: BlockList, full: BlockList | None, size: int) -> Value | None:
    """How many positions of each block a mask keeps, where the lists were made from just that.

    With full blocks listed apart, these have all `size` positions and the others between 1 and
    `size - 1`; without, a listed block has at least 1.
    """
    some = listed_where(partial)
    if some is None:
        return None
    if full is None:
        return _compared(some, "gt", 0)
    every, both = listed_where(full), produced(some, "__and__", "logical_and", "bitwise_and")
    if every is None or both is None:
        return None
    sums = [
        _compared(both.operand("self"), "gt", 0),
        _compared(both.operand("other"), "lt", size),
        _compared(every, "eq", size),
    ]
    return sums[0] if sums[0] is sums[1] is sums[2] else None


def listed_where(blocks: BlockList) -> Value | None:
    """The truth values (B, H, rows, columns) whose trues the list names: their sums and their stable order."""
    total = summed(uncast(blocks.counts), [-1])
    order = produced(uncast(blocks.columns), "argsort.stable")
    if total is None or order is None or order.argument("descending") is not True:
        return None
    if order.operand("self") is not total or order.argument("dim", -1) not in (-1, 3):
        return None
    truth = uncast(total)
    return truth if truth is not None and tensor_type(truth).element == i1 else None


def summed(value: Value | None, axes: list[int]) -> Value | None:
    """x where `value` is the sum of x over `axes`."""
    total = produced(value, "sum.dim_IntList")
    if total is None or total.argument("keepdim", False) or total.argument("dtype") is not None:
        return None
    return total.operand("self") if total.argument("dim") == axes else None


def produced(value: Value | None, *names: str) -> AtenOp | None:
    """The ATen operator behind `value` if it is one of `names`, given with or without an overload."""
    op = None if value is None else value.defining_op
    if op is None or op.dialect != "aten":
        return None
    view = AtenOp(op)
    return view if view.name in names or view.packet in names else None


def uncast(value: Value | None) -> Value | None:
    """What `value` was converted from, through conversions that keep truth values and numbers below 2**31."""
    while (cast := produced(value, "_to_copy", "to")) is not None:
        source = cast.operand("self")
        if source is None or not _keeps(tensor_type(source).element, tensor_type(cast.out).element):
            return value
        value = source
    return value


def _keeps(source: Type, target: Type) -> bool:
    if not isinstance(source, IntegerType) or not isinstance(target, IntegerType) or target == i1:
        return False
    return source == i1 or target.width >= min(source.width, 32)


def unpadded(value: Value) -> Value | None:
    """The mask that was filled up with false at the ends of its last two axes; `value` itself if it was not."""
    pad = produced(value, "pad", "constant_pad_nd")
    if pad is None:
        return value
    amounts = pad.argument("pad")
    at_ends = isinstance(amounts, list) and len(amounts) == 4 and amounts[0] == amounts[2] == 0
    constant = pad.argument("mode", "constant") == "constant" and not pad.argument("value", 0)
    return pad.operand("self") if at_ends and constant else None


def _compared(value: Value | None, relation: str, number: int) -> Value | None:
    """x where `value` is the comparison of x with `number`."""
    compare = produced(value, relation)
    return compare.operand("self") if compare is not None and compare.argument("other") == number else None


def _same(x: Value, y: Value) -> bool:
    """Whether two values of one region are computed in the same way from the same values."""
    return _same_value(x, y, {})


def _same_value(x: Value, y: Value, known: dict[tuple[Value, Value], bool]) -> bool:
    if x is y:
        return True
    if (x, y) not in known:
        a, b = x.defining_op, y.defining_op
        known[x, y] = a is not None and b is not None and _same_op(a, b) and x.index == y.index
        known[x, y] = (
            known[x, y]
            and a is not None
            and b is not None
            and all(_same_value(p, q, known) for p, q in zip(a.operands, b.operands, strict=True))
        )
    return known[x, y]


def _same_op(a: Operation, b: Operation) -> bool:
    types = [r.type for r in a.results] == [r.type for r in b.results]
    same = a.name == b.name and a.properties == b.properties and types
    return same and len(a.operands) == len(b.operands) and not a.regions and not b.regions
