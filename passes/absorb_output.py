"""Finds what follows an attention element by element, such as gates, and writes it as its output region."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, permutations

from ..ir.attributes import Dim, TensorType
from ..ir.core import Block, Operation, Value
from ..ir.dialects import attn
from ..ir.dialects.aten import AtenOp
from ..ir.dialects.attn import AttentionOp
from .index_function import Coordinates, tensor_type
from .region_math import literal_of
from .row_function import RowFunction, RowSource
from .row_paths import NOTHING, Follower, finish, is_view
from .row_rules import ELEMENTWISE, ROW_RULES

REARRANGED = frozenset({
    "alias", "clone", "contiguous", "detach", "transpose", "t", "permute", "unsqueeze", "squeeze", "view",
    "_unsafe_view", "reshape", "flatten", "unflatten", "mT",
})  # fmt: skip
"""Views that keep every element."""


@dataclass(frozen=True)
class OutputPath:
    """What can be fused behind an attention: `chain` are the operators from its result on, in order.

    `fused` are those of them that compute, and what only they need; `block` is the region and
    `captures` what it reads.
    """

    chain: Sequence[Operation]
    fused: Sequence[Operation]
    block: Block
    captures: Sequence[Value]
    region: str = "output"

    @property
    def last(self) -> Operation:
        return self.chain[-1]


class _OutputFunction(RowFunction):
    """Writes what becomes of an element of the output."""

    def _load_row(self, source: RowSource, coordinates: Coordinates) -> Value:
        shape = tensor_type(source.value).shape
        pairs = zip(coordinates, source.arrange(()), shape, strict=True)
        if any(c is not own and not (size == 1 and literal_of(c) == 0) for c, own, size in pairs):
            self.problem = "it is computed from elements at other places"
        return source.argument


def output_path(attention: AttentionOp) -> OutputPath | str:
    """The path behind the output; a sentence where there is none that can be fused."""
    chain = _chain(attention)
    if not chain:
        return NOTHING
    if attention.lse.uses:
        return "the log-sum-exp is used too"
    follower = Follower(attention, "output", attention.out)
    if not follower.required(follower.block()):
        return "it has one row, which nothing tells from a table of positions"
    reason = "it cannot be told which element becomes which"
    for labels in _layouts(attention, tensor_type(chain[-1].results[0])):
        found = _written(follower, chain, labels)
        if isinstance(found, OutputPath):
            return found
        reason = found
    return reason


def _chain(attention: AttentionOp) -> list[Operation]:
    """The operators that follow one another from the output on, up to the last that computes in its type."""
    chain: list[Operation] = []
    value, kept = attention.out, 0
    while len(value.uses) == 1 and _keeps_elements(value.users[0], value):
        chain.append(value.users[0])
        value = chain[-1].results[0]
        if not is_view(chain[-1]) and tensor_type(value).element == tensor_type(attention.out).element:
            kept = len(chain)
    return chain[:kept]


def _keeps_elements(op: Operation, value: Value) -> bool:
    """Whether an operator has a result for each element of `value`, and no other."""
    if op.dialect != "aten" or len(op.results) != 1 or not isinstance(op.results[0].type, TensorType):
        return False
    packet = AtenOp(op).packet
    if packet in REARRANGED:
        return True
    return packet in ELEMENTWISE and tensor_type(op.results[0]).shape == tensor_type(value).shape


Labels = tuple[tuple[str, ...], ...]


def _layouts(attention: AttentionOp, type_: TensorType) -> Iterator[Labels]:
    """How the axes of a result may be those of the output, by their sizes: the usual orders first."""
    sizes = dict(zip("bhme", tensor_type(attention.out).shape, strict=True))
    orders = sorted(permutations("bhme"), key=lambda order: "".join(order) not in ("bmhe", "bhme"))
    for order in orders:
        for cuts in combinations(range(1, 4), type_.rank - 1) if 0 < type_.rank <= 4 else ():
            axes = tuple(order[start:end] for start, end in pairwise((0, *cuts, 4)))
            if all(_may_be(axis, size, sizes) for axis, size in zip(axes, type_.shape, strict=True)):
                yield axes


def _may_be(labels: Sequence[str], size: Dim, sizes: Mapping[str, Dim]) -> bool:
    """Whether an axis of `size` may be those that `labels` name, merged: all but the first must be constants."""
    first, *rest = labels
    return all(isinstance(sizes[label], int) for label in rest) and (bool(rest) or sizes[first] == size)


def _written(follower: Follower, chain: Sequence[Operation], labels: Labels) -> OutputPath | str:
    """The region that computes the last of `chain`, whose axes `labels` name."""
    result = chain[-1].results[0]
    function, _ = _follow(follower, result, labels, None)
    if function.problem:
        return function.problem
    others = [op for op in function.followed if op not in chain]
    allowed = {*chain, *follower.only_needed_by(others, chain)}
    function, block = _follow(follower, result, labels, allowed)
    if function.problem:
        return function.problem
    finish(block, function)
    fused = [op for op in function.followed if not is_view(op)]
    captures = list(function.captures)[len(follower.attention.captures) :]
    return OutputPath(chain, fused, block, captures)


def _follow(
    follower: Follower, result: Value, labels: Labels, allowed: set[Operation] | None
) -> tuple[RowFunction, Block]:
    block = follower.block()
    required, positions = follower.required(block), follower.positions(block)

    def reads(value: Value, at: Coordinates) -> bool:
        op = value.defining_op
        return op is None or (allowed is not None and op not in allowed) or not follower.is_row(value, at, required)

    attention = follower.attention
    source = RowSource(attention.out, block.arguments[0], lambda _at: tuple(positions))
    function = _OutputFunction(
        block, ROW_RULES, lambda _op, _at: None, follower.captured(block), reads=reads, source=source
    )
    sizes = dict(zip("bhme", follower.shape, strict=True))
    named = dict(zip("bhme", positions, strict=True))
    coordinates = tuple(
        function.merge([named[x] for x in axis], [s for x in axis[1:] if isinstance(s := sizes[x], int)])
        for axis in labels
    )
    found = function.at(result, coordinates)
    function.math.builder.create(attn.YieldOp, [function.math.as_float(found)])
    return function, block
