"""Turns one raw score region into attention's scale, score region and mask region."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..ir.attributes import FloatAttr, FloatType, f16, f32, i1, is_float
from ..ir.builder import Builder
from ..ir.core import Operation, Region, Value
from ..ir.dialects import arith, attn, is_pure
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.tensor import ExtractOp
from .affine import HOLDS, affine_of
from .analyze_mask import analyze_mask
from .canonicalize import Canonicalize
from .cse import CommonSubexpressionElimination
from .manager import PassContext
from .region_math import RegionMath, literal_of
from .split_scores import LARGE, Split, score_where_masked, split_conditions, take_scale


def finish_regions(op: AttentionOp, ctx: PassContext, element: FloatType = f32) -> None:
    """Split `op`'s score region into what it is made of, and drop what nothing needs.

    `element` is the type in which the model holds the scores with their masks.
    """
    tidy(op.operation)
    split_mask(op, ctx, element)
    move_scale(op)
    tidy(op.operation)
    drop_identity_score(op)
    drop_unused_captures(op)


def tidy(operation: Operation) -> None:
    """Canonicalize and merge inside one operation until that changes nothing more to fold."""
    quiet = PassContext()
    for step in (Canonicalize(), CommonSubexpressionElimination(), Canonicalize()):
        step.run(operation, quiet)


def split_mask(op: AttentionOp, ctx: PassContext, element: FloatType = f32) -> None:
    """score {select(c, s, -inf)}  →  score {s} mask {c}

    A finite stand-in of -inf is one where every row provably keeps a key. Elsewhere all keys of an empty
    row have one score, `empty_score`, if that can be said; else what is added stays a score.
    """
    trial, split = _split(op, Split())
    if not split.conditions:
        return
    mask = _mask_region(trial, split.conditions)
    if not split.exact and not _never_empty(op, mask):
        op.empty_score = _empty_score(op, trial)
        if op.empty_score is None:
            ctx.remark(
                op.operation,
                "the mask adds a finite number where -inf is meant, and a row may have no key: kept as a score, "
                "so that such a row averages all values as the model does; no key tile is skipped",
            )
            split_infinities(op, element)
            return
        ctx.remark(
            op.operation,
            f"the mask adds {op.empty_score.value:.6g} where -inf is meant, and a row may have no key: "
            "such a row averages all values as the model does",
        )
    op.set_region("score", trial)
    op.set_region("mask", mask)


def split_infinities(op: AttentionOp, element: FloatType) -> None:
    """Move the conditions that drop keys by -inf into the mask, and leave finite numbers in the score.

    Scores that the model holds in f16 are rounded to it: there `finfo.min` takes all but a few bits of
    a score away, and may overflow. In bf16 and f32 it does the same in f32.
    """
    trial, split = _split(op, Split(only_exact=True))
    if split.conditions:
        mask = _mask_region(trial, split.conditions)
        op.set_region("score", trial)
        op.set_region("mask", mask)
    if element == f16:
        end = attn.YieldOp(op.score.block.terminator)
        builder = Builder.before(end.operation)
        narrow = builder.create(arith.TruncFOp, [end.value], [f16]).out
        end.value = builder.create(arith.ExtFOp, [narrow], [f32]).out


def may_be_empty(op: AttentionOp) -> bool:
    """Whether a row may keep no key and then give 0, as far as its mask says."""
    return not op.mask.empty and op.empty_score is None and not _never_empty(op, op.mask)


def _split(op: AttentionOp, split: Split) -> tuple[Region, Split]:
    """The score region without the conditions that `split` takes."""
    trial = op.score.clone()
    end = attn.YieldOp(trial.block.terminator)
    end.value = split_conditions(RegionMath(Builder(trial.block, end.operation)), end.value, split)
    return trial, split


def _empty_score(op: AttentionOp, score: Region) -> FloatAttr | None:
    """The score that all keys of a row without any have in the model; None where they may differ.

    `score` is what is left without the mask. Where it may be -inf itself, a row that keeps only such
    keys would be taken for one without any.
    """
    numbers = score_where_masked(attn.YieldOp(op.score.block.terminator).value)
    number = numbers.pop() if len(numbers) == 1 else None
    if number is None or not math.isfinite(number) or _may_be_infinite(score) or op.lse.uses:
        return None
    return FloatAttr(number, f32)


def _may_be_infinite(score: Region) -> bool:
    """Whether a score region reads floats, which may be infinite, or holds an infinite number."""
    return any(
        (op.name == ExtractOp.op_name and is_float(op.result.type))
        or (op.name == arith.ConstantOp.op_name and is_float(op.result.type) and not _is_ordinary(op.result))
        for op in slice_of([attn.YieldOp(score.block.terminator).value])
    )


def _is_ordinary(value: Value) -> bool:
    number = literal_of(value)
    return number is not None and abs(number) < LARGE


def _never_empty(op: AttentionOp, mask: Region) -> bool:
    """Whether every row provably has a key: by its bounds, by one that is named for it, or by the diagonal."""
    from .row_has_key import every_row_has_key

    queries, keys = op.shapes[0].shape[2], op.shapes[1].shape[2]
    if analyze_mask(mask).every_row_has_key(queries, keys) or every_row_has_key(mask, queries, keys):
        return True
    fits = queries == keys is not None or (isinstance(queries, int) and isinstance(keys, int) and queries <= keys)
    return fits and holds_on_diagonal(mask)


def holds_on_diagonal(mask: Region) -> bool:
    """Whether the key at the query's own position is always kept.

    Found by asking for it: with n replaced by m, the region folds to true. This covers packed
    sequences, whose segment of m is compared with the segment of n.
    """
    trial = mask.clone()
    m, n = trial.block.arguments[2:4]
    n.replace_all_uses_with(m)
    _fold_comparisons(trial, m)
    holder = Operation.create("builtin.module", regions=[trial])
    tidy(holder)
    return literal_of(attn.YieldOp(trial.block.terminator).value) == 1


def _fold_comparisons(region: Region, m: Value) -> None:
    """m > m - 7  →  true"""
    for op in list(region.block.ops):
        compare = arith.CmpIOp.match(op)
        sides = [affine_of(side, m, m) for side in op.operands] if compare is not None else []
        if compare is None or any(side is None for side in sides):
            continue
        left, right = (side for side in sides if side is not None)
        difference = left.plus(right, -1)
        if difference.is_constant and (held := HOLDS.get(compare.predicate_name)) is not None:
            constant = Builder.before(op).constant(held(difference.constant), i1)
            compare.out.replace_all_uses_with(constant)


def _mask_region(score: Region, conditions: Sequence[Value]) -> Region:
    """A mask region that computes the conjunction of `conditions`, values of `score`."""
    block = attn.region_block("mask", [])
    mapping: dict[Value, Value] = {}
    for old, new in zip(score.block.arguments[1:5], block.arguments, strict=True):
        mapping[old] = new
    for capture in score.block.arguments[5:]:
        mapping[capture] = block.add_argument(capture.type, capture.name_hint)
    needed = slice_of(conditions)
    for inner in score.block.ops:
        if inner in needed:
            block.append(inner.clone(mapping))
    build = RegionMath(Builder(block))
    kept = mapping[conditions[0]]
    for condition in conditions[1:]:
        kept = build.logical(arith.AndIOp, kept, mapping[condition])
    build.builder.create(attn.YieldOp, [kept])
    return Region([block])


def slice_of(values: Sequence[Value]) -> set[Operation]:
    """The operations that compute `values`."""
    needed: set[Operation] = set()
    work = [v.defining_op for v in values]
    while work:
        op = work.pop()
        if op is not None and op not in needed:
            needed.add(op)
            work += [v.defining_op for v in op.operands]
    return needed


def values_behind(value: Value) -> set[Value]:
    """`value` and every value it is computed from."""
    found = {value}
    for op in slice_of([value]):
        found.update(op.operands)
    return found


def move_scale(op: AttentionOp) -> None:
    """attention {s * c}  →  attention(scale * c) {s}"""
    block = op.score.block
    _drop_dead(block.ops)
    end = attn.YieldOp(block.terminator)
    value, factor = take_scale(end.value, block.arguments[0])
    if value is not end.value:
        end.value = value
    op.scale = FloatAttr(op.scale.value * factor, f32)


def _drop_dead(ops: Sequence[Operation]) -> None:
    for op in reversed(list(ops)):
        if is_pure(op) and not any(r.uses for r in op.results):
            op.erase()


def drop_identity_score(op: AttentionOp) -> None:
    """score {s}  →  no score region"""
    if not op.score.empty and attn.YieldOp(op.score.block.terminator).value is op.score.block.arguments[0]:
        op.set_region("score", Region())


def drop_unused_captures(op: AttentionOp) -> None:
    """A capture that no region reads is no operand of attention."""
    regions = [region for _, region in op.present]
    for position in reversed(range(len(op.captures))):
        places = [len(region.block.arguments) - len(op.captures) + position for region in regions]
        if any(region.block.arguments[place].uses for region, place in zip(regions, places, strict=True)):
            continue
        for region, place in zip(regions, places, strict=True):
            region.block.erase_argument(place)
        values = list(op.operation.operands)
        del values[3 + position]
        op.operation.set_operands(values)
