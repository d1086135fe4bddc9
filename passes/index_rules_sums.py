"""How sums over short axes look at one position: part of the table behind `IndexFunction`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..ir.attributes import TensorType, is_float
from ..ir.core import Value
from ..ir.dialects.aten import AtenOp
from .index_function import Coordinates, IndexFunction, Rule, tensor_type
from .region_math import Scalar

LONGEST = 64
"""How many terms a sum may have to be written out."""


def _sum(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    """Σ x over axes of constant size, term by term; in f32 as all that is computed of floats.

    Left alone where a term needs a tensor of as many axes as x: the sum, captured, is then smaller than
    what it is made of. Inside of a function that an operator holds, there is no tensor to capture.
    """
    source, axes = op.operand("self"), op.argument("dim")
    if source is None or not isinstance(source.type, TensorType):
        return None
    rank = source.type.rank
    summed = _axes(axes, rank)
    sizes = [source.type.shape[i] for i in summed]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) < len(sizes) or not 0 < _product(known) <= LONGEST:
        return None
    kept = iter(c for i, c in enumerate(at) if not (op.argument("keepdim", False) and i in summed))
    places: list[Value | None] = [None if i in summed else next(kept) for i in range(rank)]
    before = set(f.captures)
    terms = [f.at(source, _filled(f, places, position)) for position in _positions(known)]
    if not _in_function(op) and any(tensor_type(c).rank >= rank for c in f.captures if c not in before):
        return None
    return _total(f, terms, op.out)


def _in_function(op: AtenOp) -> bool:
    parent = op.operation.parent_op
    return parent is not None and parent.name == "aten.flex_attention"


def _dot(f: IndexFunction, op: AtenOp, at: Coordinates) -> Scalar | None:
    """Σ x[i] y[i] of two short vectors."""
    x, y = op.operand("self"), op.operand("tensor")
    if x is None or y is None:
        return None
    size = tensor_type(x).shape[0]
    if not isinstance(size, int) or not 0 < size <= LONGEST:
        return None
    places = [(f.math.builder.index(i),) for i in range(size)]
    return _total(f, [f.math.mul(f.at(x, place), f.at(y, place)) for place in places], op.out)


def _total(f: IndexFunction, terms: Sequence[Scalar], out: Value) -> Scalar:
    convert = f.math.as_float if is_float(out.type) else f.math.as_integer
    total: Scalar = convert(terms[0])
    for term in terms[1:]:
        total = f.math.add(total, convert(term))
    return total


def _axes(given: object, rank: int) -> list[int]:
    """The axes of a reduction, all of them where none is given."""
    if isinstance(given, int):
        return [given % rank]
    if isinstance(given, list) and given:
        return [i % rank for i in given if isinstance(i, int)]  # pyright: ignore[reportUnknownVariableType]
    return list(range(rank))


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def _positions(sizes: Sequence[int]) -> list[list[int]]:
    """Every position in axes of `sizes`, the last one fastest."""
    found: list[list[int]] = [[]]
    for size in sizes:
        found = [[*position, i] for position in found for i in range(size)]
    return found


def _filled(f: IndexFunction, places: Sequence[Value | None], position: Sequence[int]) -> Coordinates:
    """`places` with the numbers of `position` where there is none."""
    numbers = iter(position)
    return tuple(f.math.builder.index(next(numbers)) if place is None else place for place in places)


SUM_RULES: Mapping[str, Rule] = {"sum": _sum, "dot": _dot}
