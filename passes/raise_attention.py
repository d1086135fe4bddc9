"""raise-attention: a normalised product between two contractions becomes one attn.attention.

One shape is matched, whatever the spelling: softmax(scores) v, where following the scores
backwards meets a contraction of q and k. A scaled_dot_product_attention call is the same shape
with its parts named. Masks and biases on the way become regions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.attributes import Dim, FloatAttr, IntegerAttr, TensorType, f32, i1
from ..ir.builder import Builder
from ..ir.core import Block, Operation, Region, Value
from ..ir.dialects import attn
from ..ir.dialects.aten import AtenOp
from .attention_parts import Finished, Parts, operands_of, result_like
from .contraction import Contraction, Rows, is_product, multiplies_rows, score_product, value_product
from .index_function import Coordinates, IndexFunction, tensor_type
from .index_rules import RULES
from .manager import Pass, PassContext
from .pattern import Rewriter, apply_greedily, aten_pattern
from .region_math import Scalar, literal_of
from .score_regions import finish_regions, values_behind
from .views import RESHAPES, Views, same_elements

NOT_ATTENTION = "not attention: "
SOURCES = ("linear", "addmm", "convolution", "conv1d", "conv2d", "layer_norm", "rms_norm", "group_norm", "softmax")
"""Operators whose results are inputs of a computation rather than scores on their way."""


@aten_pattern("softmax.int", "_softmax", "_safe_softmax")
def raise_softmax(softmax: AtenOp, rw: Rewriter) -> bool:
    """softmax(f(q kᵀ)) v  →  attention(q, k, v) {score, mask}"""
    if not softmax.out.uses:
        return False
    scores = softmax.operand("self")
    if scores is None or not isinstance(scores.type, TensorType) or scores.type.rank < 2:
        return rw.no_match(f"{NOT_ATTENTION}the softmax is not over a matrix")
    if softmax.argument("dim") not in (-1, scores.type.rank - 1):
        return rw.no_match(f"{NOT_ATTENTION}the softmax is over axis {softmax.argument('dim')}, not the last")
    found = follow_weights(softmax.out)
    if isinstance(found, str):
        return rw.no_match(found)
    return _raise(softmax.operation, scores, found, rw)


@aten_pattern("scaled_dot_product_attention")
def raise_sdpa(call: AtenOp, rw: Rewriter) -> bool:
    """scaled_dot_product_attention(q, k, v, ...)  →  attention(q, k, v) {score, mask}"""
    q, k, v = (call.operand(name) for name in ("query", "key", "value"))
    if q is None or k is None or v is None or min(tensor_type(t).rank for t in (q, k, v)) < 2:
        return rw.no_match("query, key and value must be tensors of rank 2 or more")
    if call.argument("dropout_p", 0.0) != 0.0:
        return rw.no_match(f"dropout of {call.argument('dropout_p')} is not expressible yet")
    scale = call.argument("scale")
    width = tensor_type(q).shape[-1]
    if scale is None and isinstance(width, int):
        scale = 1.0 / math.sqrt(width) if width else 1.0
    if not isinstance(scale, int | float):
        return rw.no_match("the scale is not a constant")
    rows = [Rows.of(t) for t in (q, k, v)]
    mask = call.operand("attn_mask")
    shapes = [tensor_type(t).shape[:-2] for t in (q, k, v, mask) if t is not None]
    lead = _broadcast_lead(shapes, bool(call.argument("enable_gqa", False)))
    if lead is None:
        return rw.no_match("the leading sizes of query, key, value and mask do not broadcast")
    parts = operands_of(rows, lead, Builder.before(call.operation))
    if isinstance(parts, str):
        return rw.no_match(parts)
    parts.scale *= float(scale)
    program = ScoreProgram.start(lead, (tensor_type(q).shape[-2], tensor_type(k).shape[-2]), parts)
    score = sdpa_score(call, program)
    return _finish(call.operation, call.out, program, score, rw, result_like(call.out, lead))


def sdpa_score(call: AtenOp, program: ScoreProgram) -> Scalar:
    """The score of one position with the call's own masks applied."""
    build, score = program.function.math, program.score
    if call.argument("is_causal", False):
        # PyTorch aligns the triangle with the first key, whatever the two lengths.
        m, n = program.coordinates[-2:]
        score = build.select(build.compare("le", n, m), score, -math.inf)
    mask = call.operand("attn_mask")
    if mask is None:
        return score
    at_mask = program.function.broadcast(mask, program.coordinates)
    assert at_mask is not None, "attn_mask is a tensor"
    if tensor_type(mask).element == i1:
        return build.select(at_mask, score, -math.inf)
    return build.add(score, at_mask)


@dataclass(frozen=True)
class Weighted:
    """The contraction that softmax's weights enter, and the leading sizes they have there."""

    product: Contraction
    operation: Operation


def follow_weights(weights: Value) -> Weighted | str:
    """Follow the softmax's result through casts and views to the product with v; else why not."""
    while True:
        users = [u for u in weights.users if u.name != "aten._assert_tensor_metadata"]
        if not users:
            return f"{NOT_ATTENTION}nothing is computed from the attention weights"
        if len(users) > 1:
            names = ", ".join(sorted({f"'{u.name}'" for u in users}))
            return f"the attention weights have {len(users)} uses ({names}), so they must exist as a tensor"
        (user,) = users
        product = value_product(user, weights)
        if product is not None:
            return Weighted(product, user)
        if user.name == "aten.einsum" and not multiplies_rows(user, weights):
            return f"{NOT_ATTENTION}'{user.name}' is no product of two matrices"
        if not _passes_weights(user):
            if _hides_rows(user, weights):
                return f"{NOT_ATTENTION}the rows of the softmax are not the rows of a product"
            if user.name == "aten.dropout":
                return f"dropout of {AtenOp(user).argument('p')} on the attention weights is not expressible yet"
            what = "are returned" if user.name == "func.return" else f"are used by '{user.name}'"
            return f"the attention weights {what}, so they must exist as a tensor"
        weights = user.results[0]


def _hides_rows(op: Operation, weights: Value) -> bool:
    """Whether a view puts an axis of size 1 among the last two, as a router's weights have in a sum of experts."""
    if AtenOp(op).packet not in ("unsqueeze", *RESHAPES):
        return False
    old, new = tensor_type(weights).shape, tensor_type(op.results[0]).shape
    return len(new) > len(old) and 1 in new[-2:] and old[-2:] != new[-2:]


def _passes_weights(op: Operation) -> bool:
    """Whether an op on the attention weights leaves their values as they are."""
    view = AtenOp(op)
    if op.dialect != "aten":
        return False
    if view.packet == "dropout":
        return view.argument("train") is False or view.argument("p") == 0.0
    if view.packet in ("to", "_to_copy", "type_as"):
        return True
    if same_elements(op) is not None:
        return True
    source = view.operand("self")
    if view.packet == "expand":
        return source is not None and source.type == view.out.type
    if view.packet in RESHAPES and source is not None:
        old, new = tensor_type(source).shape, tensor_type(view.out).shape
        return len(new) >= 2 and old[-2:] == new[-2:]
    return False


@dataclass
class ScoreProgram:
    """One region under construction that computes a score from positions."""

    block: Block
    score: Value
    coordinates: Coordinates
    lead: tuple[Dim, ...]
    lengths: tuple[Dim, ...]
    function: IndexFunction
    parts: Parts | None = None
    product: Operation | None = None
    contraction: Contraction | None = None

    @staticmethod
    def start(lead: tuple[Dim, ...], lengths: tuple[Dim, ...], parts: Parts | None = None) -> ScoreProgram:
        """A program over leading axes `lead`, the last of which is the head, and (query, key) `lengths`."""
        block = attn.region_block("score", [])
        score, b, h, m, n = block.arguments
        program = ScoreProgram(
            block, score, (), lead, lengths, IndexFunction(block, RULES, lambda _op, _at: None), parts
        )
        outer = program.outer_coordinates(b, h)
        program.coordinates = (*outer, m, n)
        return program

    def outer_coordinates(self, b: Value, h: Value) -> tuple[Value, ...]:
        """Coordinates of the leading axes: none, (b), (b, h) or a split b followed by h."""
        if len(self.lead) <= 1:
            return (b,)[: len(self.lead)]
        inner = [d for d in self.lead[1:-1] if isinstance(d, int)]
        assert len(inner) == max(len(self.lead) - 2, 0), "only the first leading size may be a symbol"
        return (*self.function.split(b, inner), h)

    def stands_for_score(self, operation: Operation, at: Coordinates) -> Value | None:
        """The score, where `operation` is a contraction read at (…, m, n)."""
        contraction = score_product(operation)
        if contraction is None or not contraction.natural:
            return None
        if self.product is not None and operation is not self.product:
            return None
        shape = tensor_type(operation.results[0]).shape
        inner = [c if d != 1 else None for c, d in zip(at[-2:], shape[-2:], strict=True)]
        if self._walks(inner, shape[-2:], self.coordinates[-2:], self.lengths):
            found = contraction
        elif self._walks(inner[::-1], shape[:-3:-1], self.coordinates[-2:], self.lengths):
            found = contraction.transposed()
        else:
            return None
        if not self._same_lead(at[:-2], shape[:-2]) or self.contraction not in (None, found):
            return None
        self.product, self.contraction = operation, found
        return self._with_addend(AtenOp(operation), at)

    @staticmethod
    def _walks(
        at: Sequence[Value | None], shape: Sequence[Dim], coordinates: Sequence[Value], lengths: Sequence[Dim]
    ) -> bool:
        """Whether a product of `shape` read `at` is read at our query and key; None is an axis of size 1."""
        return tuple(shape) == tuple(lengths) and all(x is None or x is y for x, y in zip(at, coordinates, strict=True))

    def _same_lead(self, at: Coordinates, shape: Sequence[Dim]) -> bool:
        """Whether `at` walks the leading axes in order: as they are, merged or split."""
        own = [(c, d) for c, d in zip(self.coordinates, self.lead, strict=False) if d != 1]
        other = [(c, d) for c, d in zip(at, shape, strict=True) if d != 1]
        ours, theirs = [c for c, _ in own], [c for c, _ in other]
        if len(ours) == len(theirs) or not theirs:
            # A product that is not repeated along an axis stands for the score of all of it.
            return all(x is y for x, y in zip(ours, theirs, strict=False)) or self._skips_axes(ours, at)
        sizes_own, sizes_other = ([d for _, d in pairs[1:] if isinstance(d, int)] for pairs in (own, other))
        if len(theirs) == 1 and len(sizes_own) == len(own) - 1:
            merged = theirs[0] is self.function.merge(ours, sizes_own)
            return merged or self._skips_axes(ours, at)
        if len(ours) == 1 and len(sizes_other) == len(other) - 1:
            return all(x is y for x, y in zip(self.function.split(ours[0], sizes_other), theirs, strict=True))
        return self._skips_axes(ours, at)

    def _skips_axes(self, ours: Sequence[Value], at: Coordinates) -> bool:
        """Whether `at` is our coordinates with some axes left to broadcasting."""
        kept = [c for c in at if any(c is x for x in ours)]
        rest = [c for c in at if all(c is not x for x in ours)]
        return all(literal_of(c) == 0 for c in rest) and kept == [c for c in ours if any(c is x for x in kept)]

    def _with_addend(self, op: AtenOp, at: Coordinates) -> Value | None:
        """baddbmm is beta * self + alpha * (batch1 batch2)."""
        if op.packet != "baddbmm":
            return self.score
        build, alpha, beta = self.function.math, op.argument("alpha", 1), op.argument("beta", 1)
        if not isinstance(alpha, int | float) or not isinstance(beta, int | float):
            return None
        score = build.mul(self.score, float(alpha)) if alpha != 1 else self.score
        if beta == 0:
            return build.as_float(score)
        addend = self.function.argument(op, "self", at)
        return None if addend is None else build.as_float(build.add(score, build.mul(addend, beta)))


def _raise(softmax: Operation, scores: Value, found: Weighted, rw: Rewriter) -> bool:
    lead = tensor_type(scores).shape[:-2]
    if any(not isinstance(d, int) for d in lead[1:-1]):
        return rw.no_match(f"more than one leading size of the scores {scores.type} is unknown")
    program = ScoreProgram.start(lead, tensor_type(scores).shape[-2:])
    program.function.score_of = program.stands_for_score
    score = program.function.at(scores, program.coordinates)
    contraction = program.contraction
    if contraction is None:
        return rw.no_match(_why_no_product(program))
    rows = [contraction.lhs, contraction.rhs, found.product.rhs.swapped()]
    parts = operands_of(rows, lead, Builder.before(found.operation))
    if isinstance(parts, str):
        return rw.no_match(parts)
    program.parts = parts
    result = result_like(found.operation.results[0], lead, found.product.out_order)
    return _finish(softmax, found.operation.results[0], program, score, rw, result)


def _why_no_product(program: ScoreProgram) -> str:
    """Names the operator that hides a product from the softmax, if there is one."""
    for captured in program.function.captures:
        hidden = product_behind(captured, program.lengths)
        if hidden is not None and captured.defining_op is not None:
            if hidden is captured.defining_op:
                return f"the axes of '{hidden.name}' are not those of the scores {tensor_type(captured)}"
            return f"the scores reach the softmax through '{captured.defining_op.name}', which is not understood"
    return f"{NOT_ATTENTION}no matrix product was found behind the scores"


def product_behind(value: Value, lengths: tuple[Dim, ...]) -> Operation | None:
    """A matrix product with rows for the queries that `value` is computed from without another product between."""
    seen: set[Operation] = set()
    work = [value.defining_op]
    while work:
        op = work.pop()
        if op is None or op in seen or op.dialect != "aten" or AtenOp(op).packet in SOURCES:
            continue
        seen.add(op)
        result = op.results[0].type if op.results else None
        if not is_product(op):
            work += [v.defining_op for v in op.operands]
        elif isinstance(result, TensorType) and lengths[0] in result.shape[-2:]:
            return op
    return None


def _finish(
    origin: Operation, replaced: Value, program: ScoreProgram, score: Scalar, rw: Rewriter, result: Finished
) -> bool:
    """Build the attention in front of the op that `replaced` comes from, and put it in its place."""
    parts, target = program.parts, replaced.defining_op
    assert parts is not None and target is not None
    build = program.function.math
    captures = list(program.function.captures)
    end = build.builder.create(attn.YieldOp, [build.as_float(score)])
    if program.score not in values_behind(end.value):
        return rw.no_match("the scores reach the softmax through an operator that is not understood")
    q, _, v = (tensor_type(x) for x in (parts.q, parts.k, parts.v))
    out = q.with_shape(*q.shape[:3], v.shape[3])
    properties = {"scale": FloatAttr(parts.scale, f32), "group": IntegerAttr(parts.group)}
    op = attn.AttentionOp.create(
        [parts.q, parts.k, parts.v, *captures],
        [out, TensorType(q.shape[:3], f32)],
        properties,
        [Region([program.block]), Region()],
        location=origin.location,
    )
    target_builder = Builder.before(target)
    target_builder.insert(op.operation)
    finish_regions(op, rw.ctx)
    final = result(op.out, Views(target_builder))
    if final is None or final.type != replaced.type:
        found = "sizes that cannot be told apart" if final is None else str(final.type)
        op.operation.erase()
        return rw.no_match(f"the result would be {found}, but the model has {replaced.type}")
    rw.ctx.statistics["attention sites raised"] += 1
    return rw.replace(target, final)


def _broadcast_lead(shapes: Sequence[tuple[Dim, ...]], gqa: bool) -> tuple[Dim, ...] | None:
    """The leading sizes that those of query, key, value and mask broadcast to; heads are q's under GQA."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(s)) + s for s in shapes]
    lead: list[Dim] = []
    for axis in range(rank):
        sizes = [s[axis] for s in padded[: 1 if gqa and axis == rank - 1 else None]]
        wide = {s for s in sizes if s != 1}
        if len(wide) > 1:
            return None
        lead.append(wide.pop() if wide else 1)
    return tuple(lead)


@dataclass(frozen=True)
class RaiseAttention(Pass):
    """Replace attention, however it is spelled, by attn.attention with score and mask regions."""

    name = "raise-attention"

    def run(self, module: Operation, ctx: PassContext) -> None:
        apply_greedily(module, PATTERNS, ctx)


PATTERNS = (raise_softmax, raise_sdpa)
