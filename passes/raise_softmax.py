"""Raises a softmax between two products, however what surrounds it is spelled."""

from __future__ import annotations

from dataclasses import replace

from ..ir.attributes import Dim, FloatType, TensorType, f32
from ..ir.builder import Builder
from ..ir.core import Operation, Value
from ..ir.dialects.aten import AtenOp
from .attention_parts import Parts, operands_of, result_like
from .build_attention import Between, build_attention
from .contraction import is_product, rows_of
from .follow_weights import NOT_ATTENTION, Weighted, comes_from_product, depends_on, reaches_product, weighted_products
from .index_function import tensor_type
from .pattern import Rewriter, aten_pattern
from .score_program import UNSUMMED, ScoreProgram
from .softmax_shift import Normalised, normalised
from .sum_of_products import concatenated, merge_products
from .views import Views

SOURCES = ("linear", "addmm", "convolution", "conv1d", "conv2d", "layer_norm", "rms_norm", "group_norm", "softmax")
"""Operators whose results are inputs of a computation rather than scores on their way."""


@aten_pattern("softmax.int", "_softmax", "_safe_softmax")
def raise_softmax(softmax: AtenOp, rw: Rewriter) -> bool:
    """softmax(f(q kᵀ)) v  →  attention(q, k, v) {score, mask, weight, sink}"""
    if not softmax.out.uses:
        return False
    site = normalised(softmax)
    if isinstance(site, str):
        return rw.no_match(f"{NOT_ATTENTION}{site}")
    products = weighted_products(softmax.out)
    if isinstance(products, str):
        return rw.no_match(products)
    raised = [_raise(site, product, rw) for product in products]
    return all(raised)


def _raise(site: Normalised, weighted: Weighted, rw: Rewriter) -> bool:
    """Raise the softmax for one of the products that its weights enter."""
    read = _read_once_or_summed(site, weighted)
    if isinstance(read, str):
        return rw.no_match(read)
    program, between, factors = read
    parts = _operands(program, weighted, factors)
    if isinstance(parts, str):
        return rw.no_match(parts)
    program.parts = parts
    natural = [*weighted.lead, weighted.row, weighted.column]
    order = [natural.index(c) for c in weighted.einsum.out]
    result = result_like(program.lead, weighted.sizes(weighted.lead), order)
    return build_attention(site.operation, weighted.operation.results[0], program, between, rw, result)


def _read_once_or_summed(site: Normalised, weighted: Weighted) -> tuple[ScoreProgram, Between, list[float]] | str:
    """The program between the products, and the factor of each product of queries and keys in their sum.

    Where the sum cannot be taken as one product, all but one of its products are tensors of their own.
    """
    read = _read(site, weighted, sums=True)
    if isinstance(read, str) or len(read[0].products) == 1:
        return read if isinstance(read, str) else (*read, [1.0])
    program, between = read
    merged = merge_products(program.function.math, between.score, [f.stand_in for f in program.products.values()])
    if merged is not None:
        return program, replace(between, score=merged[0]), merged[1]
    alone = _read(site, weighted, sums=False)
    return alone if isinstance(alone, str) else (*alone, [1.0])


def _read(site: Normalised, weighted: Weighted, *, sums: bool) -> tuple[ScoreProgram, Between] | str:
    """The program over the leading sizes that the weights have, or those of the softmax where it has more."""
    lead, lengths = _lead(weighted), weighted.sizes(weighted.row + weighted.key)
    program = ScoreProgram.start(lead, lengths)
    weight = program.weights(weighted, site)
    finer = program.finer_lead()
    if finer is not None:
        program = ScoreProgram.start(finer, lengths)
        weight = program.weights(weighted, site)
    program.sums = sums
    if program.weights_at is None:
        return "the attention weights meet the values through an operator that is not understood"
    sink = program.sink()
    if sink == UNSUMMED and reaches_product(weighted.operation):
        return f"the attention weights are mixed over heads by '{weighted.operation.name}'"
    if isinstance(sink, str):
        return sink
    score = program.scores()
    if not program.products:
        return _why_no_product(program)
    for captured in program.function.captures:
        if captured.defining_op is not None and depends_on(captured, site.operation):
            return f"the attention weights are used by '{captured.defining_op.name}', so they must exist as a tensor"
    plain = AtenOp(site.operation).packet != "_safe_softmax" and not program.never_nan
    return program, Between(score, weight, sink, scores_type(site.scores), plain)


def scores_type(scores: Value) -> FloatType:
    """The type that the model rounds its scores to before it widens them for the softmax."""
    op, element = scores.defining_op, tensor_type(scores).element
    while op is not None and op.dialect == "aten" and AtenOp(op).packet in ("to", "_to_copy"):
        source = AtenOp(op).operand("self")
        if source is None or not isinstance(tensor_type(source).element, FloatType):
            break
        op, element = source.defining_op, tensor_type(source).element
    return element if isinstance(element, FloatType) else f32


def _lead(weighted: Weighted) -> tuple[Dim, ...]:
    """The leading sizes of the weights, or those of the result that they are broadcast to."""
    result = tensor_type(weighted.operation.results[0]).shape
    return tuple(result[weighted.einsum.out.index(c)] for c in weighted.lead)


def _operands(program: ScoreProgram, weighted: Weighted, factors: list[float]) -> Parts | str:
    """The operands of the attention; several products become one over a joined head dimension."""
    builder = Builder.before(weighted.operation)
    values = rows_of(
        weighted.einsum.tensors[1], weighted.einsum.right, list(weighted.lead), weighted.key, weighted.column
    )
    found: list[Parts] = []
    for product in program.products.values():
        rows = [product.contraction.lhs, product.contraction.rhs, values]
        parts = operands_of(rows, program.lead, builder)
        if isinstance(parts, str):
            return parts
        found.append(parts)
    return found[0] if len(found) == 1 else concatenated(found, factors, Views(builder))


def _why_no_product(program: ScoreProgram) -> str:
    """Names the operator that hides a product from the softmax, if there is one."""
    for captured in program.function.captures:
        mixing = captured.defining_op
        if mixing is not None and _mixes(mixing, program.lengths):
            return f"the scores are mixed over heads by '{mixing.name}'"
        hidden = product_behind(captured, program.lengths)
        if hidden is not None and captured.defining_op is not None:
            if hidden is captured.defining_op:
                return f"the axes of '{hidden.name}' are not those of the scores {tensor_type(captured)}"
            return f"the scores reach the softmax through '{captured.defining_op.name}', which is not understood"
    return f"{NOT_ATTENTION}no matrix product was found behind the scores"


def _mixes(op: Operation, lengths: tuple[Dim, ...]) -> bool:
    """Whether an operator multiplies scores with something else than values."""
    if op.dialect != "aten" or not (is_product(op) or AtenOp(op).packet in SOURCES):
        return False
    return bool(op.operands) and comes_from_product(op.operands[0], lengths)


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
