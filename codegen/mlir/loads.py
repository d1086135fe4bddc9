"""Tiles that are still in memory: what a load says of them, and what becomes of it as they are converted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...ir.attributes import IntegerAttr, element_type, i8
from ...ir.core import Operation, Value
from ...ir.diagnostics import op_error
from ...ir.dialects.arith import ConstantOp
from ...ir.dialects.tile import LoadCodesOp, LoadOp
from .expressions import COLUMNS, CONVERSIONS
from .state import State
from .values import Codes, Loaded, shape_of
from .writer import Ssa


def loaded_tile(state: State, op: Operation) -> Loaded:
    """The tile of a `tile.load` or `tile.load_codes`."""
    if (packed := LoadCodesOp.match(op)) is not None:
        return _codes(state, packed)
    load = LoadOp(op)
    return Loaded(state.view(load.source), _scalars(state, load.offsets), shape_of(load.out.type), _rows_cut(load))


def loaded_row(state: State, op: Operation, row: Ssa) -> Loaded:
    """One row of such a tile, which exists."""
    tile = loaded_tile(state, op)
    return replace(
        tile, offsets=(state.w.add(tile.offsets[0], row), *tile.offsets[1:]), shape=(1, tile.shape[1]), boundary=()
    )


def converted_tile(state: State, op: Operation) -> Loaded | None:
    """The result of an operation that changes how a tile in memory is read, and no more; None of others."""
    source = state.loaded(op.operands[0]) if op.name in ("tile.transpose", *CONVERSIONS) else None
    if source is None or op.name == "arith.extf":
        return source
    if op.name == "tile.transpose":
        return replace(source, transposed=not source.transposed)
    return as_numbers(source) if source.view.element == "i8" else None


def as_numbers(tile: Loaded) -> Loaded:
    """A tile of bytes or of codes whose elements are read as f32."""
    return replace(tile, view=replace(tile.view, element="int8")) if tile.view.codes is None else tile


def _codes(state: State, load: LoadCodesOp) -> Loaded:
    storage, view = load.storage, state.view(load.source)
    row, channel = _scalars(state, load.offsets)
    boundary = _rows_cut(load)
    if storage.packed:
        first = _constant(load.offsets[1])
        if first is None:
            op_error(load.operation, "must begin with a constant channel to run on a CPU")
        view, channel = replace(view, codes=Codes(storage, first)), state.w.index(0)
    elif storage.signed or element_type(load.out.type) != i8:
        view = replace(view, element="int8" if storage.signed else "uint8")
    else:
        op_error(load.operation, "unsigned codes of 8 bits do not fit i8")
    return Loaded(view, (row, channel), shape_of(load.out.type), boundary)


def _constant(value: Value) -> int | None:
    constant = ConstantOp.producing(value)
    return constant.value.value if constant is not None and isinstance(constant.value, IntegerAttr) else None


def _scalars(state: State, values: Sequence[Value]) -> tuple[Ssa, ...]:
    return tuple(state.scalar(v) for v in values)


def _rows_cut(load: LoadOp | LoadCodesOp) -> tuple[int, ...]:
    """The axes that may run past the end: rows at most, for tiles are as wide as what they read."""
    if COLUMNS in load.boundary.values:
        op_error(
            load.operation, "has columns beyond the tensor's; tiles of kernels for CPUs are as wide as what they read"
        )
    return tuple(load.boundary.values)
