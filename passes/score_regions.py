"""Turns one raw score region into attention's scale, score region and mask region."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..ir.attributes import FloatAttr, f32, i1
from ..ir.builder import Builder
from ..ir.core import Operation, Region, Value
from ..ir.dialects import arith, attn, is_pure
from ..ir.dialects.attn import AttentionOp
from .affine import affine_of
from .analyze_mask import analyze_mask
from .canonicalize import Canonicalize
from .cse import CommonSubexpressionElimination
from .manager import PassContext
from .region_math import RegionMath, literal_of
from .split_scores import Split, split_conditions, take_scale


def finish_regions(op: AttentionOp, ctx: PassContext) -> None:
    """Split `op`'s score region into what it is made of, and drop what nothing needs."""
    tidy(op.operation)
    split_mask(op, ctx)
    move_scale(op)
    tidy(op.operation)
    drop_identity_score(op)
    drop_unused_captures(op)


def tidy(operation: Operation) -> None:
    """Canonicalize and merge inside one operation until that changes nothing more to fold."""
    quiet = PassContext()
    for step in (Canonicalize(), CommonSubexpressionElimination(), Canonicalize()):
        step.run(operation, quiet)


def split_mask(op: AttentionOp, ctx: PassContext) -> None:
    """score {select(c, s, -inf)}  →  score {s} mask {c}

    For a finite stand-in of -inf only where every row provably keeps a key: in an empty row the
    model averages all values, which a mask would not.
    """
    trial = op.score.clone()
    end = attn.YieldOp(trial.block.terminator)
    build, split = RegionMath(Builder(trial.block, end.operation)), Split()
    end.value = split_conditions(build, end.value, split)
    if not split.conditions:
        return
    mask = _mask_region(trial, split.conditions)
    if not split.exact and not _never_empty(op, mask):
        ctx.remark(
            op.operation,
            "the mask adds a finite number where -inf is meant, and a row may have no key: kept as a score, "
            "so that such a row averages all values as the model does; no key tile is skipped",
        )
        return
    op.set_region("score", trial)
    op.set_region("mask", mask)


def _never_empty(op: AttentionOp, mask: Region) -> bool:
    """Whether every row provably has a key: by the bounds of its affine part, or by the diagonal."""
    queries, keys = op.shapes[0].shape[2], op.shapes[1].shape[2]
    if analyze_mask(mask).every_row_has_key(queries, keys):
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
        if difference.is_constant and (held := _HOLDS.get(compare.predicate_name)) is not None:
            constant = Builder.before(op).constant(held(difference.constant), i1)
            compare.out.replace_all_uses_with(constant)


_HOLDS: dict[str, Callable[[int], bool]] = {
    "eq": lambda d: d == 0,
    "ne": lambda d: d != 0,
    "slt": lambda d: d < 0,
    "sle": lambda d: d <= 0,
    "sgt": lambda d: d > 0,
    "sge": lambda d: d >= 0,
}


def _mask_region(score: Region, conditions: Sequence[Value]) -> Region:
    """A mask region that computes the conjunction of `conditions`, values of `score`."""
    block = attn.region_block("mask", [])
    mapping: dict[Value, Value] = {}
    for old, new in zip(score.block.arguments[1:5], block.arguments, strict=True):
        mapping[old] = new
    for capture in score.block.arguments[5:]:
        mapping[capture] = block.add_argument(capture.type, capture.name_hint)
    needed = _slice_of(conditions)
    for inner in score.block.ops:
        if inner in needed:
            block.append(inner.clone(mapping))
    build = RegionMath(Builder(block))
    kept = mapping[conditions[0]]
    for condition in conditions[1:]:
        kept = build.logical(arith.AndIOp, kept, mapping[condition])
    build.builder.create(attn.YieldOp, [kept])
    return Region([block])


def _slice_of(values: Sequence[Value]) -> set[Operation]:
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
    for op in _slice_of([value]):
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
