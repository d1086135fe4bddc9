"""How differences and running sums look at one position, where they come out in closed form.

Libraries find packed sequences by `cumsum(diff(position_ids) != 1)`. Where the positions are simply
counted, that is zero everywhere, and the mask made of it keeps everything.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.attributes import TensorType, is_float
from ..ir.core import Value
from ..ir.dialects import arith
from ..ir.dialects.aten import AtenOp
from .affine import HOLDS, Affine, affine_of
from .index_function import Coordinates, IndexFunction, Rule, tensor_type
from .region_math import Scalar, literal_of


def _diff(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    """x[i] - x[i - 1], where x goes on before its start as the prepended element says."""
    source, before, axis = op.operand("self"), op.operand("prepend"), _axis_of(op, at)
    if source is None or axis is None or op.argument("n", 1) != 1 or op.argument("append") is not None:
        return None
    if is_float(op.out.type) or str(tensor_type(source).element) == "i1":
        return None
    place = at[axis]
    if before is None:
        later, here = f.math.as_index(f.math.add(place, 1)), place
    else:
        later, here = place, f.math.as_index(f.math.sub(place, 1))
    upper, lower = (f.at(source, (*at[:axis], i, *at[axis + 1 :])) for i in (later, here))
    if before is not None:
        first = f.at(before, (*at[:axis], f.zero(), *at[axis + 1 :]))
        line, start = _line(lower, place), _line(first, place)
        if tensor_type(before).shape[axis] != 1 or line is None or start != Affine(constant=line.constant):
            return None
    ends = _line(upper, place), _line(lower, place)
    if ends[0] is None or ends[1] is None:
        return f.math.sub(upper, lower) if before is None else None
    difference = ends[0].plus(ends[1], -1)
    return difference.constant if difference.is_constant else f.math.sub(upper, lower)


def _cumsum(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    """The sum of one whole number up to a position: the number times how many there are."""
    source, axis = op.operand("self"), _axis_of(op, at)
    if source is None or axis is None or is_float(source.type):
        return None
    number = _settled(f.at(source, at), at[axis])
    if number is None:
        return None
    return 0 if number == 0 else f.math.mul(f.math.add(at[axis], 1), number)


def _axis_of(op: AtenOp, at: Coordinates) -> int | None:
    dim = op.argument("dim", -1)
    return dim % len(at) if isinstance(dim, int) and at and isinstance(op.out.type, TensorType) else None


def _line(x: Scalar, place: Value) -> Affine | None:
    """A whole number as a line along `place`, which must be its only variable."""
    if not isinstance(x, Value):
        return Affine(constant=x) if isinstance(x, int) else None
    return affine_of(x, place, place)


def _settled(x: Scalar, place: Value) -> int | None:
    """The whole number or truth that `x` is at every position."""
    number = literal_of(x)
    if number is not None:
        return int(number) if number == int(number) else None
    compare = arith.CmpIOp.producing(x) if isinstance(x, Value) else None
    if compare is None or compare.predicate_name not in HOLDS:
        return None
    left, right = _line(compare.lhs, place), _line(compare.rhs, place)
    difference = left.plus(right, -1) if left is not None and right is not None else None
    if difference is None or not difference.is_constant:
        return None
    return int(HOLDS[compare.predicate_name](difference.constant))


SCAN_RULES: Mapping[str, Rule] = {"diff": _diff, "cumsum": _cumsum}
