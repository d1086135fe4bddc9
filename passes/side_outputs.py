"""What else an attention knows, each as an attention of its own: nothing of the size of queries times keys is kept.

With s the scores, p = exp(s - lse) the weights, and values without a width, so that a kernel computes nothing but
the log-sum-exp of a row:

    log Σ_n exp s[m,n]                                  the lse itself
    log Σ_n exp (log p[m,n] + log -log p[m,n])          of the entropy of a row: its terms -p log p are positive
    log Σ_m exp (a log p[m,n])                          of the column mass (a = 1): keys take the place of queries
    max_n s[m,n], or log p[m,n]                         a block of keys at a time; the larger of rows is taken outside

So masks, scores, tiles, lists and decompositions of attention serve them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..ir.attributes import Attribute, FunctionType, IntegerAttr, StringAttr, Symbol, TensorType, f32, i64, index
from ..ir.builder import Builder
from ..ir.core import Block, Operation, Region, Value
from ..ir.diagnostics import error, op_error
from ..ir.dialects.arith import AddFOp, AddIOp, IndexCastOp, MaximumFOp, MinimumFOp, MulFOp, MulIOp, NegFOp, SubFOp
from ..ir.dialects.attn import REGIONS, AttentionOp, YieldOp, region_block
from ..ir.dialects.func import FuncOp, ReturnOp
from ..ir.dialects.math import LogOp
from ..ir.dialects.tensor import ExtractOp
from .manager import Pass, PassContext
from .score_regions import tidy

LSE, ENTROPY, COLUMN, LARGEST = "lse", "entropy", "column", "largest"
SIDE_OUTPUTS = (LSE, ENTROPY, COLUMN, LARGEST)
AXES = ("b", "h", "m", "n")
TINY, FAR = 1e-37, -1e30
"""The least -log p that is told from 0, and the least log p; exp of one or times the other is 0 in f32."""

SIZES = tuple(map(Symbol, "BHMN"))


@dataclass(frozen=True)
class SideOutput(Pass):
    """Turn each function around one attention into the one whose log-sum-exp is the statistic `of` it.

    Before: `func.func @f(q, k, v, captures...) -> (out[, lse])`. After, with r of the shape (..., 0):

    - `lse`, `entropy`: `@f(q, k, r, captures..., place[, lse]) -> (r', lse)`
    - `column`: `@f(k, q, r, captures..., place, lse) -> (r', lse)`, of the query heads that come at one place in
      their groups, the weights to the power of `power`
    - `largest`: `@f(q, k, r, captures..., place[, lse]) -> (r', lse)`, where the batches of k are blocks of `block`
      keys, for each of which q is there once, and the lse is the largest score, or log p with `weights`

    `place` (4 of i64: b, h, m, n) says which part of the attention the tensors are: of rows from m on where
    `part`; of heads at place h in their groups; of blocks from number n on, of batch b and of rows from m on. The
    lse is that of the tensors given. It must be inf where the row keeps no key. Sinks are part of it and of nothing
    else, and rows without a key count for nothing, whatever `empty_score` says.
    """

    name: ClassVar[str] = "side-output"
    of: str = LSE
    power: int = 1
    block: int = 64
    weights: bool = True
    part: bool = False

    def run(self, module: Operation, ctx: PassContext) -> None:
        if self.of not in SIDE_OUTPUTS:
            raise error(f"there is no side output '{self.of}'; expected {', '.join(SIDE_OUTPUTS)}")
        for name, number in (("power", self.power), ("block", self.block)):
            if number < 1:
                raise error(f"{name} must be positive, but is {number}")
        for operation in list(module.walk()):
            function = FuncOp.match(operation)
            found = [AttentionOp(op) for op in operation.walk() if AttentionOp.match(op)] if function else []
            if function is None or not found:
                continue
            if len(function.body.block.ops) != len(found) + 1 or len(found) > 1:
                op_error(operation, "must hold one 'attn.attention' and nothing else for a statistic of it")
            assert operation.parent is not None
            operation.parent.insert_before(operation, _Derived(self, found[0]).function(function.sym_name.value))
            operation.erase()
            ctx.statistics["side outputs derived"] += 1


@dataclass(frozen=True)
class _Derived:
    """Writes the attention that computes one statistic of another."""

    wanted: SideOutput
    source: AttentionOp

    @property
    def _swapped(self) -> bool:
        return self.wanted.of == COLUMN

    @property
    def _reads_lse(self) -> bool:
        of = self.wanted.of
        return of in (ENTROPY, COLUMN) or (of == LARGEST and self.wanted.weights)

    def function(self, name: str) -> Operation:
        """The function in place of the one called `name`."""
        types, names = self._arguments()
        block = Block.with_arguments(types, names)
        location = self.source.operation.location
        attention = self._attention(Builder(block, location=location), block.arguments)
        tidy(attention.operation)
        results = attention.operation.results
        block.append(ReturnOp.create(results, location=location).operation)
        type_ = FunctionType(tuple(types), tuple(r.type for r in results))
        properties: dict[str, Attribute] = {"sym_name": StringAttr(name), "function_type": type_}
        return FuncOp.create((), (), properties, [Region([block])], location=location).operation

    def _arguments(self) -> tuple[list[TensorType], list[str]]:
        q, k, _ = self.source.shapes
        rows, keys = (k, q) if self._swapped else (q, k)
        batch, heads, queries, length = SIZES
        key_heads = heads if self._swapped else Symbol("K")
        none = keys.with_shape(batch, key_heads, length, 0)
        captures = [c.type for c in self.source.captures if isinstance(c.type, TensorType)]
        types = [
            rows.with_shape(batch, heads, queries, rows.shape[3]),
            keys.with_shape(batch, key_heads, length, keys.shape[3]),
            none,
            *captures,
            TensorType((4,), i64),
        ]
        names = [*("q", "k", "v"), *(c.name_hint or f"capture{i}" for i, c in enumerate(self.source.captures)), "place"]
        if self._reads_lse:
            types.append(TensorType((Symbol("b"), Symbol("h"), Symbol("m")), f32))
            names.append("row_lse")
        return types, names

    def _attention(self, builder: Builder, arguments: Sequence[Value]) -> AttentionOp:
        q, v = arguments[0].type, arguments[2].type
        assert isinstance(q, TensorType) and isinstance(v, TensorType)
        properties: dict[str, Attribute] = {
            "scale": self.source.scale,
            "group": IntegerAttr(1) if self._swapped else self.source.group,
            "normaliser": StringAttr("max" if self.wanted.of == LARGEST else "softmax"),
        }
        types = [q.with_shape(*q.shape[:3], 0), TensorType(q.shape[:3], f32)]
        op = builder.create(AttentionOp, arguments, types, properties, [Region(), Region()], name="out")
        op.lse.name_hint = "lse"
        for name, region in self._regions(arguments):
            op.set_region(name, region)
        return op

    def _regions(self, arguments: Sequence[Value]) -> list[tuple[str, Region]]:
        captures, found = arguments[3:], list[tuple[str, Region]]()
        if not self.source.score.empty or self._reads_lse:
            found.append(("score", self._region("score", "score", captures)))
        if not self.source.mask.empty:
            found.append(("mask", self._region("mask", "mask", captures)))
        if not self.source.sink.empty and self.wanted.of == LSE:
            found.append(("sink", self._region("sink", "sink", captures)))
        for name, operand in (("query", arguments[0]), ("key", arguments[1])):
            original = {"query": "key", "key": "query"}[name] if self._swapped else name
            if not self.source.region(original).empty:
                found.append((name, self._region(name, original, captures, operand)))
        return found

    def _region(self, name: str, original: str, captures: Sequence[Value], operand: Value | None = None) -> Region:
        """The region called `name`: the `original` one, at the positions that those of the new one stand for."""
        block = region_block(name, captures, None if operand is None else operand.type)
        builder = Builder(block, location=self.source.operation.location)
        form, count = REGIONS[name], len(self.source.captures)
        given = dict(zip(form.names, block.arguments, strict=False))
        inside = block.arguments[len(block.arguments) - len(captures) :]
        meant = self._meant(builder, given, inside[count], original)
        if self.source.region(original).empty:
            value = given["s"]
        else:
            arguments = [*(meant[x] for x in REGIONS[original].names), *inside[:count]]
            known = dict(zip(self.source.region(original).block.arguments, arguments, strict=True))
            value = self._copied(original, builder, known, given)
        if name == "score":
            value = self._statistic(builder, value, given, inside[-1])
        builder.create(YieldOp, [value])
        return Region([block])

    def _meant(self, builder: Builder, given: dict[str, Value], place: Value, original: str) -> dict[str, Value]:
        """The arguments of the `original` region but for captures, in terms of what is `given` by name."""
        found, of = dict(given), self.wanted.of
        if self._swapped:
            renamed = {"m": "n", "n": "m", "q": "k", "k": "q"}
            found = {renamed.get(name, name): value for name, value in given.items()}
            if original != "key" and self.source.group.value > 1:
                first = builder.binary(MulIOp, given["h"], builder.index(self.source.group.value))
                found["h"] = builder.binary(AddIOp, first, _placed(builder, place, "h"))
        if of == LARGEST:
            found["b"] = _placed(builder, place, "b")
            if "n" in given:
                block = builder.binary(AddIOp, given["b"], _placed(builder, place, "n"))
                first = builder.binary(MulIOp, block, builder.index(self.wanted.block))
                found["n"] = builder.binary(AddIOp, given["n"], first)
        if "m" in found and (self.wanted.part or of == LARGEST):
            found["m"] = builder.binary(AddIOp, found["m"], _placed(builder, place, "m"))
        return found

    def _copied(self, original: str, builder: Builder, known: dict[Value, Value], given: dict[str, Value]) -> Value:
        """What the `original` region yields for arguments that are `known`; rows are read where they are `given`."""
        source = next((given[name] for name in ("q", "k") if name in given), None)
        own = [value for name, value in given.items() if name in AXES]
        terminator = YieldOp(self.source.region(original).block.terminator)
        for op in self.source.region(original).block.ops[:-1]:
            for inner in builder.insert(op.clone(known)).walk():
                if (extract := ExtractOp.match(inner)) is not None and extract.source is source:
                    inner.set_operands([extract.source, *own, *extract.indices[len(own) :]])
        return known[terminator.value]

    def _statistic(self, builder: Builder, s: Value, given: dict[str, Value], lse: Value) -> Value:
        """The score of the new attention for the score `s` of the original one."""
        if not self._reads_lse:
            return s
        row = [given[axis] for axis in (("b", "h", "n") if self._swapped else ("b", "h", "m"))]
        log_p = builder.binary(SubFOp, s, builder.create(ExtractOp, [lse, *row], [f32]).out)
        if self.wanted.of == COLUMN:
            power = float(self.wanted.power)
            return log_p if power == 1 else builder.binary(MulFOp, log_p, builder.constant(power, f32))
        if self.wanted.of == LARGEST:
            return log_p
        log_p = builder.binary(MinimumFOp, log_p, builder.constant(0.0, f32))
        log_p = builder.binary(MaximumFOp, log_p, builder.constant(FAR, f32))
        surprise = builder.binary(MaximumFOp, builder.unary(NegFOp, log_p), builder.constant(TINY, f32))
        return builder.binary(AddFOp, log_p, builder.unary(LogOp, surprise))


def _placed(builder: Builder, place: Value, axis: str) -> Value:
    """Where the tensors begin along an axis of the whole attention."""
    found = builder.create(ExtractOp, [place, builder.index(AXES.index(axis))], [i64]).out
    return builder.create(IndexCastOp, [found], [index]).out
