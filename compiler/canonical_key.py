"""Names programs for the tuning cache: equal for those that compute the same with tensors of any size."""

from __future__ import annotations

from ..ir.core import Block, Operation, Value
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.func import FuncOp
from ..passes.purity import removable
from .sites import canonical_text, ir_hash, outline


def canonical_key(module: Operation) -> str:
    """The name of a program: equal whatever its values are called, how large they are, and in which order
    independent operations and captured tensors come.

    Head dimensions and constants are of its meaning, and so is which axes of captured tensors have the size 1.
    """
    copy = module.clone()
    attentions = [op for op in copy.walk() if AttentionOp.match(op)]
    for op in attentions:
        for region in op.regions:
            for block in region.blocks:
                _order_by_use(block)
        _order_captures(AttentionOp(op))
    alone = len(attentions) == 1 and not any(_does_more(op) for op in copy.walk() if FuncOp.match(op))
    return ir_hash(canonical_text(outline(attentions[0], "site") if alone else copy))


def _does_more(function: Operation) -> bool:
    """Whether a function is more than one attention and a return."""
    return any(len(block.ops) != 2 for block in function.regions[0].blocks)


def _order_by_use(block: Block) -> None:
    """Put operations in the order in which the last ones need them; drop what nobody needs.

    That order follows from what is computed alone: operands first, from the first to the last.
    """
    for op in block.ops:
        for region in op.regions:
            for inner in region.blocks:
                _order_by_use(inner)
    ordered: dict[Operation, None] = {}
    for root in [op for op in block.ops if op is block.ops[-1] or not removable(op)]:
        pending = [root]
        while pending:
            missing = [o for o in _needed(pending[-1], block) if o not in ordered]
            if missing:
                pending.append(missing[0])
            else:
                ordered[pending.pop()] = None
    for op in [op for op in reversed(block.ops) if op not in ordered]:
        op.drop_operands()
        op.detach()
    block.ops = list(ordered)


def _needed(op: Operation, block: Block) -> list[Operation]:
    """The operations of `block` that `op`, or what is inside it, reads from."""
    makers = (value.defining_op for inner in op.walk() for value in inner.operands)
    return [maker for maker in makers if maker is not None and maker.parent is block and maker is not op]


def _order_captures(op: AttentionOp) -> None:
    """Put captures in the order in which regions read them first, and those that nobody reads behind, by type.

    Where a hint counts captures they stay as they are: the same program may then have two names, which costs a plan.
    """
    captures = list(op.captures)
    if not captures or op.tokens is not None:
        return
    first = len(op.operation.operands) - len(captures)
    read: dict[int, None] = {}
    for region in op.operation.regions:
        for block in region.blocks:
            numbers = {value: i for i, value in enumerate(block.arguments[-len(captures) :])}
            read |= {numbers[v]: None for inner in region.walk() for v in inner.operands if v in numbers}
    unread = sorted(set(range(len(captures))) - set(read), key=lambda i: str(captures[i].type))
    order = [*read, *unread]
    op.operation.set_operands([*op.operation.operands[:first], *(captures[i] for i in order)])
    for region in op.operation.regions:
        for block in region.blocks:
            _permute(block.arguments, order)


def _permute(arguments: list[Value], order: list[int]) -> None:
    """Reorder the last of a block's arguments."""
    first = len(arguments) - len(order)
    arguments[first:] = [arguments[first + i] for i in order]
    for index, argument in enumerate(arguments):
        argument.index = index
