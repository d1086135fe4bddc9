"""Which way tiles of one axis lie: nothing in their type says whether they follow queries or keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ...ir.attributes import DenseArrayAttr
from ...ir.core import Operation, Value
from .expressions import COLUMNS, ROWS
from .values import shape_of


def find_needs(ops: Sequence[Operation], needs: dict[Value, set[int]], without: Collection[Operation] = ()) -> None:
    """Note along which axis of score tiles each tile of one axis is read: the rows, the columns or both.

    What the operations `without` read does not count.
    """
    for op in reversed(ops):
        if op in without:
            continue
        for region in op.regions:
            if not region.empty:
                find_needs(region.block.ops, needs, without)
        for operand in op.operands:
            if len(shape_of(operand.type)) == 1:
                needs.setdefault(operand, set()).update(_read_along(op, needs))


def _read_along(op: Operation, needs: Mapping[Value, set[int]]) -> set[int]:
    if op.name == "tile.broadcast":
        missing = op.properties["axes"]
        assert isinstance(missing, DenseArrayAttr)
        return {ROWS if COLUMNS in missing.values else COLUMNS}
    if op.name in ("scf.for", "scf.yield", "tile.store", "tile.any"):
        return {ROWS}
    return needs.get(op.result, set()) if op.results else set()
