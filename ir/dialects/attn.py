"""The `attn` dialect: what attention means, before any loop exists."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..attributes import (
    DictAttr,
    FloatAttr,
    IntegerAttr,
    StringAttr,
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
    is_float,
    is_float8,
)
from ..core import Block, Operation, Region, Value
from ..define import Body, Constraint, Hint, Op, Operand, OptionalProp, Prop, Result, Variadic
from ..diagnostics import op_error
from ..dialect import Dialect
from ..storage import Storage
from .attn_storage import FLOATS_4D, STORAGE_OPS, DequantizeOp
from .attn_tokens import TOKEN_OPS

OPERAND_4D = Constraint(
    "a tensor of float or i8 of rank 4 (batch, head, position, dimension)",
    lambda t: isinstance(t, TensorType) and (is_float(t) or t.element == i8) and t.rank == 4,
)
NORMALISERS = ("softmax", "max")
POSITIONS: tuple[str, ...] = ("b", "h", "m", "n")
OPERANDS = ("query", "key", "value")
"""The regions that read q, k and v."""


@dataclass(frozen=True)
class RegionForm:
    """What a region of `attn.attention` takes before the captures, and what it yields.

    `value` names the score, weight or output element it changes, `positions` name the indices,
    `source` the operand whose rows it reads.
    """

    positions: tuple[str, ...]
    value: str = ""
    source: str = ""
    result: Type = f32

    @property
    def names(self) -> list[str]:
        return [*filter(None, [self.value]), *self.positions, *filter(None, [self.source])]

    def types(self, source: Type | None) -> list[Type]:
        """The types before the captures; `source` is that of the operand the region reads."""
        read = [source] if self.source and source is not None else []
        return [*([f32] if self.value else []), *(index for _ in self.positions), *read]


REGIONS: Mapping[str, RegionForm] = {
    "score": RegionForm(POSITIONS, value="s"),
    "mask": RegionForm(POSITIONS, result=i1),
    "weight": RegionForm(POSITIONS, value="p"),
    "sink": RegionForm(("b", "h", "m")),
    "query": RegionForm(("b", "h", "m", "d"), source="q"),
    "key": RegionForm(("b", "h", "n", "d"), source="k"),
    "value": RegionForm(("b", "h", "n", "e"), source="v"),
    "output": RegionForm(("b", "h", "m", "e"), value="o"),
}
"""In the order in which the op holds them."""


class YieldOp(Op, name="attn.yield", terminator=True):
    """The value of a region."""

    value = Operand()

    def verify(self) -> None:
        if self.operation.parent_op is None or self.operation.parent_op.name not in HOLDERS:
            op_error(self.operation, f"must be inside {' or '.join(map(repr, HOLDERS))}")


class RowSumOp(Op, name="attn.row_sum", pure=True):
    """Σ over c in [0, width) of the region's value at c, in f32: a norm's sum over the head dimension.

        %sum = "attn.row_sum"() <{width = 64 : i64}> ({^bb0(%c: index): ... "attn.yield"(%x)}) : () -> f32

    Its region may read the values around it that do not depend on d or e.
    """

    width = Prop(IntegerAttr)
    body = Body()
    out = Result(Constraint("f32", lambda t: t == f32))

    def verify(self) -> None:
        holder = self.operation.parent_op
        if AttentionOp.match(holder) is None:
            op_error(self.operation, "must be inside a region of 'attn.attention'")
        if [a.type for a in self.body.block.arguments] != [index]:
            op_error(self.operation, "its region must take one index")
        end = YieldOp.match(self.body.block.ops[-1]) if self.body.block.ops else None
        if end is None or end.value.type != f32:
            op_error(self.operation, f"its region must yield f32, but yields {end.value.type if end else 'nothing'}")


class AttentionOp(Op, name="attn.attention", pure=True, isolated=True):
    """out = output(Σ weight(normalise(score(scale * query kᵀ), where mask)) value); lse = log Σ exp of the scores kept.

        %out, %lse = "attn.attention"(%q, %k, %v, %captures...) <{scale = 1.25e-01 : f32}>
            ({^bb0(%s: f32, %b: index, %h: index, %m: index, %n: index, %captures...): ...},
             {^bb0(%b: index, %h: index, %m: index, %n: index, %captures...): ...}) : ...

    q is (B, H, M, D), k (B, H / group, N, D), v (B, H / group, N, E), out (B, H, M, E) in q's
    dtype, lse (B, H, M) in f32, natural logarithm. Query head h reads key head h // group. Of 8-bit
    q, k and v the type of out says whether it is f16, bf16 or f32.

    Every region is optional, and those left out at the end need not be written. Scores are f32.

        score   (s, b, h, m, n) -> s    bias, softcap, relative position
        mask    (b, h, m, n) -> i1      whether a key is kept
        weight  (p, b, h, m, n) -> p    what follows the softmax: `p` times something
        sink    (b, h, m) -> s          one more score of each row, with no value behind it
        query   (b, h, m, d, q) -> x    the element of q that enters the product: RoPE, norms
        key     (b, h, n, d, k) -> x    the same of k; here and for values h is the key head
        value   (b, h, n, e, v) -> x    the same of v
        output  (o, b, h, m, e) -> o    gates, casts

    An operand may be stored in few bits (see `ir/storage.py`): its region then reads it with `attn.dequantize`, which
    says how, and what the region yields is rounded to out's element type. Such operands have element types of their
    own; the others have out's. Only v may be packed along tokens: k tells how many there are.

    Each takes the captures last. What `query`, `key` and `value` yield is rounded to the element
    type of their operand, as a tensor of it would be. The lse counts the sink; without one a row
    that keeps no key gives out 0 (before `output`) and lse -inf. With `empty_score` every key of such
    a row has that score instead, as where a model masks with a finite number: the row averages all values.
    Values may have no width: then the lse is all there is to compute. For those the normaliser may be `max`:
    the lse is then the largest score kept.
    `structure` is what mask analysis proved, `schedule` what the planner chose, `decision` what it predicted and which
    candidates came next, `tokens` which captures are
    coordinates of tokens in the order of some boxes (see `passes/known_orders.py`); where the result
    is `positions_first`, it lies in memory as (B, M, H, E). `rows` says in words which regions of rows
    were absorbed, and why.
    """

    q, k, v = Operand(OPERAND_4D), Operand(OPERAND_4D), Operand(OPERAND_4D)
    captures = Variadic(TensorType)
    scale = Prop(FloatAttr, default=FloatAttr(1.0, f32))
    group = Prop(IntegerAttr, default=IntegerAttr(1))
    normaliser = Prop(StringAttr, default=StringAttr("softmax"))
    empty_score = OptionalProp(FloatAttr)
    structure = Hint(DictAttr)
    tokens = Hint(DictAttr)
    schedule = Hint(DictAttr)
    decision = Hint(DictAttr)
    positions_first = Hint(UnitAttr)
    rows = Hint(StringAttr)
    score = Body(optional=True)
    mask = Body(optional=True)
    weight, sink = Body(trailing=True), Body(trailing=True)
    query, key, value = Body(trailing=True), Body(trailing=True), Body(trailing=True)
    output = Body(trailing=True)
    out, lse = Result(FLOATS_4D), Result(TensorType)

    def region(self, name: str) -> Region:
        """The region called `name`, an empty one where there is none."""
        place = list(REGIONS).index(name)
        regions = self.operation.regions
        return regions[place] if place < len(regions) else Region()

    def set_region(self, name: str, region: Region) -> None:
        """Put `region`, which belongs to no operation, in the place of the one called `name`."""
        place, regions = list(REGIONS).index(name), self.operation.regions
        while len(regions) <= place:
            regions.append(Region(parent=self.operation))
        for block in regions[place].blocks:
            for inner in reversed(list(block.ops)):
                inner.erase()
        regions[place], region.parent = region, self.operation
        while len(regions) > MANDATORY_REGIONS and regions[-1].empty:
            regions.pop()

    @property
    def present(self) -> list[tuple[str, Region]]:
        """The regions there are, with their names."""
        return [(name, region) for name in REGIONS if not (region := self.region(name)).empty]

    def stored(self, name: str) -> Storage | None:
        """The storage of the operand that the region called `name` reads; None where it is what it seems."""
        op = next((op for op in self.region(name).walk() if DequantizeOp.match(op) is not None), None)
        return None if op is None else DequantizeOp(op).format

    @property
    def shapes(self) -> tuple[TensorType, TensorType, TensorType]:
        """The types of q, k and v as they enter the products, of those that are stored in few bits too."""
        q, k, v = (self._rows_type(name) for name in ("query", "key", "value"))
        return q, k, v

    def _rows_type(self, name: str) -> TensorType:
        type_, storage, out = self.operand(name).type, self.stored(name), self.out.type
        assert isinstance(type_, TensorType) and isinstance(out, TensorType)
        if storage is None:
            return type_
        k = self.k.type
        assert isinstance(k, TensorType)
        tokens = k.shape[2] if storage.axis == "tokens" else type_.shape[2]
        return TensorType((*type_.shape[:2], tokens, storage.width), out.element)

    def operand(self, name: str) -> Value:
        """What the region called `name` reads: q for "query"."""
        return {"query": self.q, "key": self.k, "value": self.v}[name]

    def region_types(self, region: str) -> list[Type]:
        """The block argument types of the region called `region`."""
        sources = {"q": self.q.type, "k": self.k.type, "v": self.v.type}
        form = REGIONS[region]
        return [*form.types(sources.get(form.source)), *(c.type for c in self.captures)]

    def verify(self) -> None:
        self._verify_shapes()
        self._verify_results()
        for name, region in self.present:
            self._verify_region(name, region, REGIONS[name].result)
        if self.empty_score is not None and (
            self.empty_score.type != f32 or not math.isfinite(self.empty_score.value)
        ):  # fmt: skip
            op_error(self.operation, f"empty_score must be a finite f32, but is {self.empty_score}")
        if self.normaliser.value not in NORMALISERS:
            op_error(
                self.operation, f"normaliser must be one of {', '.join(NORMALISERS)}, but is {self.normaliser.value}"
            )
        if self.normaliser.value == "max" and (self.shapes[2].shape[3] != 0 or not self.sink.empty):
            op_error(
                self.operation,
                f"normaliser max is for values without a width and for no sink, but v is {self.shapes[2]}",
            )
        if self.normaliser.value == "max" and self.empty_score is not None:
            op_error(self.operation, f"normaliser max is for no empty_score, but there is {self.empty_score}")

    def _verify_shapes(self) -> None:
        self._verify_storage()
        q, k, v = self.shapes
        if not q.element == k.element == v.element:
            op_error(self.operation, f"element types differ: q has {q.element}, k has {k.element}, v has {v.element}")
        self._same("head dimensions", "q", q, 3, "k", k, 3)
        self._same("key lengths", "k", k, 2, "v", v, 2)
        self._same("key heads", "k", k, 1, "v", v, 1)
        self._same("batch sizes", "q", q, 0, "k", k, 0)
        self._same("batch sizes", "k", k, 0, "v", v, 0)
        heads, key_heads, group = q.shape[1], k.shape[1], self.group.value
        if isinstance(heads, int) and isinstance(key_heads, int) and heads != key_heads * group:
            op_error(self.operation, f"group {group} times {key_heads} key heads must be {heads} query heads")

    def _verify_storage(self) -> None:
        formats = {name: self.stored(name) for name in ("query", "key", "value")}
        for name, storage in formats.items():
            arguments = self.region(name).block.arguments if storage is not None else []
            for op in self.region(name).walk():
                found = DequantizeOp.match(op)
                if found is not None and (found.format != storage or found.source not in arguments):
                    op_error(op, f"must read the operand of region '{name}', always in one storage: {storage}")
            operand = self.operand(name).type
            if storage is None and isinstance(operand, TensorType) and operand.element == i8:
                op_error(self.operation, f"region '{name}' must read codes with 'attn.dequantize', but is {operand}")
            if storage is not None and storage.axis == "tokens" and name != "value":
                op_error(self.operation, f"only v may be packed along tokens, but region '{name}' reads {storage}")

    def _same(self, what: str, a: str, ta: TensorType, i: int, b: str, tb: TensorType, j: int) -> None:
        x, y = ta.shape[i], tb.shape[j]
        if isinstance(x, int) and isinstance(y, int) and x != y:
            op_error(
                self.operation,
                f"{what} differ: {a} has {x}, {b} has {y}",
                (self.operation.location, f"{a} is {ta}, {b} is {tb}"),
            )

    def _verify_results(self) -> None:
        q, _, v = self.shapes
        out = q.with_shape(*q.shape[:3], v.shape[3])
        if is_float8(q.element) and isinstance(self.out.type, TensorType) and self.out.type.element in (f16, bf16, f32):
            out = out.with_element(self.out.type.element)
        if self.out.type != out:
            op_error(self.operation, f"result 'out' must be {out}, but is {self.out.type}")
        lse = TensorType(q.shape[:3], f32)
        if self.lse.type != lse:
            op_error(self.operation, f"result 'lse' must be {lse}, but is {self.lse.type}")

    def _verify_region(self, name: str, region: Region, result: Type) -> None:
        actual, wanted = [a.type for a in region.block.arguments], self.region_types(name)
        if actual != wanted:
            op_error(
                self.operation,
                f"region '{name}' must take ({', '.join(map(str, wanted))}), but takes ({', '.join(map(str, actual))})",
            )
        end = YieldOp.match(region.block.ops[-1]) if region.block.ops else None
        if end is None or end.value.type != result:
            found = "nothing" if end is None else str(end.value.type)
            op_error(self.operation, f"region '{name}' must yield {result}, but yields {found}")


def region_block(region: str, captures: Sequence[Value], source: Type | None = None) -> Block:
    """An empty block with the arguments of the region called `region`, named as the papers do.

    `source` is the type of the operand that a `query`, `key` or `value` region reads.
    """
    form = REGIONS[region]
    return Block.with_arguments(
        [*form.types(source), *(c.type for c in captures)],
        [*form.names, *(c.name_hint or f"capture{i}" for i, c in enumerate(captures))],
    )


class SelectOp(Op, name="attn.select", pure=True, isolated=True):
    """Which blocks of keys each block of queries attends to, by an estimate of what they weigh.

        %blocks = "attn.select"(%q, %k, %captures...) <{estimator = "quest", parameters = {keep = 1.0e-01 : f64, ...},
            scale = 1.25e-01 : f32, block_m = 64, block_n = 64, group = 4}> ({mask}) : (...) -> tensor<BxKxMBxNBxi1>

    q is (B, H, M, D), k (B, K, N, D) with H = K * group, blocks (B, K, ceil(M / block_m), ceil(N / block_n)):
    the heads of a group share one choice. Two steps:

    - estimate: `estimator` makes a small summary of the keys and gives each pair of blocks an importance,
      a stand-in for the largest scale * q·k of the pair over the group;
    - choose: a `rule` of `parameters` keeps some of the live blocks, those of which `mask` keeps any position for
      any head of the group; the first `sinks` live ones and those within `local` of the diagonal are always
      kept. Blocks that are not live never are.

    `mask` is that of the attention the choice is for; the last `given` captures are tensors of the
    estimator's own, which the region does not read. What estimators and rules mean in numbers is defined by the
    interpreter.
    """

    q, k = Operand(FLOATS_4D), Operand(FLOATS_4D)
    captures = Variadic(TensorType)
    estimator = Prop(StringAttr)
    parameters = Prop(DictAttr, default=DictAttr(()))
    scale = Prop(FloatAttr, default=FloatAttr(1.0, f32))
    block_m = Prop(IntegerAttr, default=IntegerAttr(64))
    block_n = Prop(IntegerAttr, default=IntegerAttr(64))
    group = Prop(IntegerAttr, default=IntegerAttr(1))
    given = Prop(IntegerAttr, default=IntegerAttr(0))
    mask = Body(optional=True)
    blocks = Result(TensorType)

    def verify(self) -> None:
        q, k, blocks = self.q.type, self.k.type, self.blocks.type
        assert isinstance(q, TensorType) and isinstance(k, TensorType) and isinstance(blocks, TensorType)
        if blocks.element != i1 or blocks.rank != 4 or blocks.shape[:2] != k.shape[:2]:
            op_error(
                self.operation,
                f"result 'blocks' must be {k.shape[0]} x {k.shape[1]} x query blocks x key blocks of i1, "
                f"but is {blocks}",
            )
        for name in ("block_m", "block_n", "group"):
            number: IntegerAttr = getattr(self, name)
            if number.value < 1:
                op_error(self.operation, f"{name} must be positive, but is {number.value}")
        if not 0 <= self.given.value <= len(self.captures):
            op_error(self.operation, f"given must count captures, of which there are {len(self.captures)}")
        _verify_mask(self.operation, self.mask, [c.type for c in self.captures])

    @property
    def numbers(self) -> dict[str, int | float | str]:
        """The parameters of the estimator and of the rule, by name."""
        found = ((name, value) for name, value in self.parameters.items)
        return {n: v.value for n, v in found if isinstance(v, IntegerAttr | FloatAttr | StringAttr)}


def _verify_mask(op: Operation, mask: Region, captures: Sequence[Type]) -> None:
    """Fail on a mask region of another form than that of an attention."""
    if mask.empty:
        return
    wanted = [*REGIONS["mask"].types(None), *captures]
    if [a.type for a in mask.block.arguments] != wanted:
        op_error(op, f"region 'mask' must take ({', '.join(map(str, wanted))})")
    end = YieldOp.match(mask.block.ops[-1]) if mask.block.ops else None
    if end is None or end.value.type != i1:
        op_error(op, f"region 'mask' must yield i1, but yields {end.value.type if end else 'nothing'}")


class QueryPositionsOp(Op, name="attn.query_positions", pure=True, isolated=True):
    """At which key position each query stands: at the last key that `mask` lets it see, for any head.

        %positions = "attn.query_positions"(%q, %k, %captures...) ({mask}) : (...) -> tensor<BxMxi64>

    q is (B, H, M, D), k (B, K, N, D). Without a mask queries are the last of the keys: query m stands at m + N - M,
    and at m if there are more queries than keys. So does a query that sees no key.
    """

    q, k = Operand(FLOATS_4D), Operand(FLOATS_4D)
    captures = Variadic(TensorType)
    mask = Body(optional=True)
    positions = Result(TensorType)

    def verify(self) -> None:
        q, found = self.q.type, self.positions.type
        assert isinstance(q, TensorType)
        wanted = TensorType((q.shape[0], q.shape[2]), i64)
        if found != wanted:
            op_error(self.operation, f"result 'positions' must be {wanted}, but is {found}")
        _verify_mask(self.operation, self.mask, [c.type for c in self.captures])


HOLDERS = (AttentionOp.op_name, RowSumOp.op_name, SelectOp.op_name, QueryPositionsOp.op_name)
"""Whose regions end with `attn.yield`."""
MANDATORY_REGIONS = 2
ATTN = Dialect("attn", (AttentionOp, RowSumOp, SelectOp, QueryPositionsOp, *TOKEN_OPS, *STORAGE_OPS, YieldOp))
