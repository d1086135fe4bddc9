"""Writes what lies between two products as one program over the positions of a score.

The program follows the weights backwards from their product with the values to the softmax, and
the scores from there to the product of queries and keys. It tells axes apart by the positions they
are read at, never by their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..ir.attributes import Dim, Symbol, f32, index
from ..ir.core import Block, Operation, Value
from ..ir.dialects import attn
from ..ir.dialects.aten import AtenOp
from .attention_parts import Parts
from .contraction import ADDING, Contraction, product_of
from .follow_weights import NOT_ATTENTION, Weighted
from .index_function import Coordinates, IndexFunction, argument_list, tensor_type
from .index_rules import RULES
from .product_axes import ProductAxes, offset_from
from .region_math import Scalar, literal_of
from .score_regions import values_behind
from .softmax_shift import Normalised

UNSUMMED = f"{NOT_ATTENTION}the softmax does not run over the keys that the weights are summed over"


def placeholder(name: str) -> Value:
    """A float that stands for something from outside of a program until its regions are cut."""
    return Block.with_arguments([f32], [name]).arguments[0]


@dataclass(frozen=True)
class Found:
    """A product of queries and keys: what is multiplied, where it is read, what stands for it."""

    contraction: Contraction
    at: Coordinates
    stand_in: Value


@dataclass
class ScoreProgram:
    """One region under construction that computes a score from positions.

    `coordinates` are those of (lead..., query, key). Where it follows a `softmax`, `weight` stands
    for its result, read at `weights_at`, and `beyond` for the key after the last.
    """

    block: Block
    score: Value
    coordinates: Coordinates
    lead: tuple[Dim, ...]
    lengths: tuple[Dim, ...]
    function: IndexFunction
    parts: Parts | None = None
    softmax: Normalised | None = None
    sums: bool = True
    products: dict[Operation, Found] = field(default_factory=dict[Operation, Found])
    weights_at: Coordinates | None = None
    never_nan: bool = False

    def __post_init__(self) -> None:
        self.weight = placeholder("p")
        self.beyond = Block.with_arguments([index], ["beyond"]).arguments[0]

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

    @property
    def key(self) -> Value:
        return self.coordinates[-1]

    # --- from the product with the values to the softmax

    def weights(self, weighted: Weighted, softmax: Normalised) -> Scalar:
        """What is multiplied with the values, computed from `weight`."""
        self.softmax, self.function.score_of = softmax, self._stands_for
        outer = list(self.coordinates[:-2])
        if len(weighted.lead) == 1 < len(outer):
            outer = [self.function.merge(outer, [d for d in self.lead[1:] if isinstance(d, int)])]
        letters = dict(zip((*weighted.lead, weighted.row, weighted.key), (*outer, *self.coordinates[-2:]), strict=True))
        sizes = dict(zip(weighted.einsum.left, tensor_type(weighted.weights).shape, strict=True))
        if len(weighted.lead) == len(self.lead):
            for letter, size in zip(weighted.lead, self.lead, strict=True):
                if sizes[letter] == 1 != size:
                    letters[letter] = self.function.zero()
        return self.function.at(weighted.weights, tuple(letters[c] for c in weighted.einsum.left))

    def finer_lead(self) -> tuple[Dim, ...] | None:
        """The leading sizes of the softmax, where the weights enter their product with all of them in one."""
        if self.softmax is None or self.weights_at is None or len(self.lead) != 1:
            return None
        shape = tensor_type(self.softmax.scores).shape
        outer = [d for place, d in zip(self.weights_at, shape, strict=True) if self._is_outer(place) and d != 1]
        return tuple(outer) if len(outer) > 1 and all(isinstance(d, int) for d in outer[1:]) else None

    def _is_outer(self, place: Value) -> bool:
        return not values_behind(place).intersection(self.coordinates[-2:]) and literal_of(place) is None

    def scores(self) -> Scalar:
        """The scores under the softmax, where the weights are read."""
        assert self.softmax is not None and self.weights_at is not None
        return self.function.at(self.softmax.scores, self.weights_at)

    def sink(self) -> Scalar | str | None:
        """The score of the one key whose weight is dropped; None if there is none, a sentence if it is not read."""
        assert self.softmax is not None and self.weights_at is not None
        axis, at = self.softmax.axis, self.weights_at
        offset: float | None = offset_from(at[axis], self.key)
        if offset is None and self.lengths[1] == 1:
            # The only key may be read at a number, where a view has broadcast its axis.
            offset = literal_of(at[axis])
        if offset is None:
            return UNSUMMED
        total, kept = tensor_type(self.softmax.scores).shape[axis], self.lengths[1]
        if total == kept and offset == 0:
            return None
        if isinstance(total, int) and isinstance(kept, int):
            one = total == kept + 1
        else:
            one = isinstance(kept, Symbol) and total == Symbol(f"{kept.text} + 1")
        if not one or offset not in (0, 1):
            return f"of {total} weights only {kept} are used, so that the others must be dropped by a mask"
        last = self.function.math.builder.index(kept) if isinstance(kept, int) else self.beyond
        place = last if offset == 0 else self.function.zero()
        return self.function.at(self.softmax.scores, (*at[:axis], place, *at[axis + 1 :]))

    # --- what stands for an operator on the way

    def _stands_for(self, operation: Operation, at: Coordinates) -> Value | None:
        op = AtenOp(operation)
        if self.softmax is not None and operation is self.softmax.operation:
            return self._weight(at)
        if self.softmax is not None and operation in self.softmax.shifts:
            found = self.function.at(self.softmax.shifts[operation], at)
            return found if isinstance(found, Value) else None
        match op.packet:
            case "cat":
                return self._joined(op, at)
            case "pad" | "constant_pad_nd":
                return self._padded(op, at)
            case "nan_to_num" | "isnan":
                return self._never_nan(op, at)
            case _:
                return self._product(operation, at)

    def _weight(self, at: Coordinates) -> Value | None:
        if self.weights_at is not None and any(x is not y for x, y in zip(self.weights_at, at, strict=True)):
            return None
        self.weights_at = at
        return self.weight

    def _never_nan(self, op: AtenOp, at: Coordinates) -> Value | None:
        """Weights are nan in rows without a key only, where attention gives 0: nan_to_num(p) is p."""
        if op.packet == "nan_to_num" and op.argument("nan") not in (None, 0, 0.0):
            return None
        x = self.function.argument(op, "self", at)
        if not isinstance(x, Value) or self.weight not in values_behind(x):
            return None
        self.never_nan = True
        return x if op.packet == "nan_to_num" else self.function.math.as_bool(False)

    def _joined(self, op: AtenOp, at: Coordinates) -> Value | None:
        """The part of a concatenation that is read, where one part holds all that is."""
        tensors = [t for t in argument_list(op.argument("tensors")) if isinstance(t, Value)]
        axis = op.argument("dim", 0)
        if not isinstance(axis, int) or any(tensor_type(t).rank != len(at) for t in tensors):
            return None
        axis %= len(at)
        sizes = [tensor_type(t).shape[axis] for t in tensors]
        place = self._part(at[axis], sizes)
        if place is None:
            return None
        part, inside = place
        found = self.function.at(tensors[part], (*at[:axis], inside, *at[axis + 1 :]))
        return found if isinstance(found, Value) else self.function.math.as_float(found)

    def _padded(self, op: AtenOp, at: Coordinates) -> Value | None:
        """What is read of a tensor with one number around it, where that is always the same part."""
        source, pads, value = op.operand("self"), argument_list(op.argument("pad")), op.argument("value", 0.0)
        if source is None or op.argument("mode", "constant") != "constant" or not isinstance(value, int | float | None):
            return None
        inside = list(at)
        for number in range(len(pads) // 2):
            before, behind = pads[2 * number : 2 * number + 2]
            axis = len(at) - 1 - number
            if before == behind == 0:
                continue
            if not isinstance(before, int) or not isinstance(behind, int) or before < 0 or behind < 0:
                return None
            sizes = [before, tensor_type(source).shape[axis], behind]
            place = self._part(at[axis], sizes if behind else sizes[:2])
            if place is None:
                return None
            if place[0] != 1:
                return self.function.math.as_float(float(value or 0.0))
            inside[axis] = place[1]
        found = self.function.at(source, tuple(inside))
        return found if isinstance(found, Value) else self.function.math.as_float(found)

    def _part(self, place: Value, sizes: Sequence[Dim]) -> tuple[int, Value] | None:
        """In which part of `sizes` a coordinate always lies, and where in it."""
        if place is self.beyond:
            return (len(sizes) - 1, self.function.zero()) if sizes[-1] == 1 else None
        known, start = literal_of(place), 0
        extents = dict(zip(self.coordinates, (*self.lead, *self.lengths), strict=True))
        bases = [(base, extent, o) for base, extent in extents.items() if (o := offset_from(place, base)) is not None]
        for part, size in enumerate(sizes):
            if isinstance(known, int):
                if isinstance(size, int) and start <= known < start + size:
                    return part, self.function.math.builder.index(known - start)
            elif bases:
                base, extent, offset = bases[0]
                if offset == start and extent == size is not None:
                    return part, base
                if isinstance(size, int) and isinstance(extent, int) and start <= offset <= start + size - extent:
                    return part, self.function.math.as_index(self.function.math.add(base, offset - start))
            if not isinstance(size, int):
                return None
            start += size
        return None

    def _product(self, operation: Operation, at: Coordinates) -> Value | None:
        """What stands for a product of queries and keys, read at (lead..., query, key) in any order."""
        if operation in self.products:
            found = self.products[operation]
            if any(x is not y for x, y in zip(found.at, at, strict=True)):
                return None
            return self._with_addend(AtenOp(operation), found.stand_in, at)
        einsum = product_of(operation) if self.sums or not self.products else None
        if einsum is None:
            return None
        contraction = ProductAxes(self.function, self.coordinates, self.lead, self.lengths).read(operation, einsum, at)
        if contraction is None:
            return None
        stand_in = placeholder("s") if self.products else self.score
        self.products[operation] = Found(contraction, at, stand_in)
        return self._with_addend(AtenOp(operation), stand_in, at)

    def _with_addend(self, op: AtenOp, product: Value, at: Coordinates) -> Value | None:
        """baddbmm and addmm are beta * self + alpha * product."""
        if op.packet not in ADDING:
            return product
        build, alpha, beta = self.function.math, op.argument("alpha", 1), op.argument("beta", 1)
        if not isinstance(alpha, int | float) or not isinstance(beta, int | float):
            return None
        score = build.mul(product, float(alpha)) if alpha != 1 else product
        if beta == 0:
            return build.as_float(score)
        addend = self.function.argument(op, "self", at)
        return None if addend is None else build.as_float(build.add(score, build.mul(addend, beta)))
