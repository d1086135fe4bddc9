"""Into which tiles of columns the head dimensions of an attention are cut."""

from __future__ import annotations

from dataclasses import dataclass

from ..cost_model.resources import LEAST_WIDTH, LEAST_WIDTH_8_BITS, padded_width, width_pieces
from ..ir.attributes import TensorType, is_float8
from ..ir.diagnostics import op_error
from ..ir.dialects.attn import AttentionOp
from ..ir.storage import Storage
from .stored_rows import stored_rows, value_groups

PLANES = 4
"""The most tiles that a row of packed codes is cut into; narrower ones would leave tensor cores idle."""


@dataclass(frozen=True)
class HeadPieces:
    """Widths of the tiles of q and k, which the first product sums over, and of v and out: none without a width."""

    keys: tuple[int, ...]
    values: tuple[int, ...]


def head_pieces(attention: AttentionOp, *, padded: bool, few_rows: bool = False) -> HeadPieces:
    """One tile of any width on CPUs; elsewhere widths are `padded` to powers of two, in pieces if that wastes less.

    Regions that change whole rows see them in one tile, and so do dots of a `few_rows`, whose warps share
    columns out among themselves. Packed codes are cut into their planes; on CPUs values into the parts of a row that
    have scales of their own. Fails where a width is unknown.
    """
    _, k, v = attention.shapes
    key_width, value_width = _width(attention, "k", k), _width(attention, "v", v, least=0)
    if not padded:
        return HeadPieces((key_width,), value_groups(attention) or (value_width,) * (value_width > 0))
    query, key, value = (plain_storage(attention, name) for name in ("query", "key", "value"))
    least = LEAST_WIDTH_8_BITS if is_float8(k.element) or _products_of_bytes(query, key) else LEAST_WIDTH
    whole = not (attention.query.empty or query) or not (attention.key.empty or key)
    keys = _pieces(key_width, least, key, whole=whole, few_rows=few_rows)
    if value_width == 0:
        return HeadPieces(keys, ())
    if value is not None and is_float8(value.element):
        least = LEAST_WIDTH_8_BITS
    whole = not (attention.value.empty or value) or not attention.output.empty
    return HeadPieces(keys, _pieces(value_width, least, value, whole=whole, few_rows=few_rows))


def plain_storage(attention: AttentionOp, name: str) -> Storage | None:
    """The storage of an operand that is read as tiles of codes; see `stored_rows`."""
    if attention.stored(name) is None:
        return None
    rows = stored_rows(attention, name, attention.captures)
    return None if rows is None else rows.storage


def _products_of_bytes(query: Storage | None, key: Storage | None) -> bool:
    return query is not None and key is not None and not key.packed


def _pieces(width: int, least: int, storage: Storage | None, *, whole: bool, few_rows: bool) -> tuple[int, ...]:
    if whole:
        return (padded_width(width, least),)
    if storage is not None and (planes := _planes(storage, least)):
        return planes
    grouped = storage is not None and 0 < storage.channels < width
    return (padded_width(width, least),) if few_rows and not grouped else width_pieces(width, least)


def _planes(storage: Storage, least: int) -> tuple[int, ...]:
    """Tiles whose codes lie at one place of neighbouring bytes; none where widths are no powers of two.

    Each byte is then loaded once and serves several tiles, by constant shifts.
    """
    width = piece = storage.width
    if width & (width - 1):
        return ()
    if storage.packed:
        piece = max(storage.part_bytes(min(storage.parts), width), width // PLANES)
    if storage.channels > 1 and not storage.channels & (storage.channels - 1):
        piece = min(piece, storage.channels)
    piece = max(piece, least)
    return (piece,) * (width // piece) if piece < width else ()


def _width(attention: AttentionOp, name: str, type_: TensorType, least: int = 1) -> int:
    width = type_.shape[3]
    if not isinstance(width, int) or width < least:
        op_error(attention.operation, f"the head dimension must be a positive constant, but {name} is {type_}")
    return width
