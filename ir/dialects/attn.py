"""The `attn` dialect: what attention means, before any loop exists."""

from __future__ import annotations

from ..attributes import (
    DictAttr,
    FloatAttr,
    IntegerAttr,
    StringAttr,
    TensorType,
    Type,
    f32,
    i1,
    index,
    is_float,
)
from ..core import Block, Region, Value
from ..define import Body, Constraint, Hint, Op, Operand, Prop, Result, Variadic
from ..diagnostics import op_error
from ..dialect import Dialect

FLOAT_TENSOR_4D = Constraint(
    "a tensor of float of rank 4 (batch, head, position, dimension)",
    lambda t: isinstance(t, TensorType) and is_float(t) and t.rank == 4,
)
NORMALISERS = ("softmax",)
POSITIONS: tuple[str, ...] = ("b", "h", "m", "n")


class YieldOp(Op, name="attn.yield", terminator=True):
    """The value of a region."""

    value = Operand()

    def verify(self) -> None:
        if AttentionOp.match(self.operation.parent_op) is None:
            op_error(self.operation, "must be inside 'attn.attention'")


class AttentionOp(Op, name="attn.attention", pure=True, isolated=True):
    """out = normalise(score(scale * q kᵀ), where mask) v; lse = log Σ exp of the scores kept.

        %out, %lse = "attn.attention"(%q, %k, %v, %captures...) <{scale = 1.25e-01 : f32}>
            ({^bb0(%s: f32, %b: index, %h: index, %m: index, %n: index, %captures...): ...},
             {^bb0(%b: index, %h: index, %m: index, %n: index, %captures...): ...}) : ...

    q is (B, H, M, D), k (B, H / group, N, D), v (B, H / group, N, E), out (B, H, M, E) in q's
    dtype, lse (B, H, M) in f32, natural logarithm. Query head h reads key head h // group.
    Both regions are optional: no score region keeps scores as they are, no mask region keeps
    every key. Scores are f32. A row without any key gives out 0 and lse -inf.
    `structure` is what mask analysis proved, `schedule` what the planner chose.
    """

    q, k, v = Operand(FLOAT_TENSOR_4D), Operand(FLOAT_TENSOR_4D), Operand(FLOAT_TENSOR_4D)
    captures = Variadic(TensorType)
    scale = Prop(FloatAttr, default=FloatAttr(1.0, f32))
    group = Prop(IntegerAttr, default=IntegerAttr(1))
    normaliser = Prop(StringAttr, default=StringAttr("softmax"))
    structure = Hint(DictAttr)
    schedule = Hint(DictAttr)
    score = Body(optional=True)
    mask = Body(optional=True)
    out, lse = Result(FLOAT_TENSOR_4D), Result(TensorType)

    @property
    def shapes(self) -> tuple[TensorType, TensorType, TensorType]:
        """The types of q, k and v."""
        q, k, v = self.q.type, self.k.type, self.v.type
        assert isinstance(q, TensorType) and isinstance(k, TensorType) and isinstance(v, TensorType)
        return q, k, v

    def region_types(self, region: str) -> list[Type]:
        """The block argument types of region `score` or `mask`."""
        scores: list[Type] = [f32] if region == "score" else []
        return [*scores, index, index, index, index, *(c.type for c in self.captures)]

    def verify(self) -> None:
        self._verify_shapes()
        self._verify_results()
        self._verify_region("score", self.score, f32)
        self._verify_region("mask", self.mask, i1)
        if self.normaliser.value not in NORMALISERS:
            op_error(
                self.operation, f"normaliser must be one of {', '.join(NORMALISERS)}, but is {self.normaliser.value}"
            )

    def _verify_shapes(self) -> None:
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
        if self.out.type != out:
            op_error(self.operation, f"result 'out' must be {out}, but is {self.out.type}")
        lse = TensorType(q.shape[:3], f32)
        if self.lse.type != lse:
            op_error(self.operation, f"result 'lse' must be {lse}, but is {self.lse.type}")

    def _verify_region(self, name: str, region: Region, result: Type) -> None:
        if region.empty:
            return
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


def region_block(region: str, captures: list[Value]) -> Block:
    """An empty block with the arguments of region `score` or `mask`, named as the papers do."""
    names = ["s"] if region == "score" else []
    types: list[Type] = [f32] if region == "score" else []
    return Block.with_arguments(
        [*types, index, index, index, index, *(c.type for c in captures)],
        [*names, *POSITIONS, *(c.name_hint or f"capture{i}" for i, c in enumerate(captures))],
    )


ATTN = Dialect("attn", (AttentionOp, YieldOp))
