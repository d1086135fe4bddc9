"""Into which tiles of columns the head dimensions of an attention are cut."""

from __future__ import annotations

from dataclasses import dataclass

from ..cost_model.resources import LEAST_WIDTH, LEAST_WIDTH_8_BITS, padded_width, width_pieces
from ..ir.attributes import TensorType, is_float8
from ..ir.diagnostics import op_error
from ..ir.dialects.attn import AttentionOp


@dataclass(frozen=True)
class HeadPieces:
    """Widths of the tiles of q and k, which the first product sums over, and of v and out: none without a width."""

    keys: tuple[int, ...]
    values: tuple[int, ...]


def head_pieces(attention: AttentionOp, *, padded: bool, few_rows: bool = False) -> HeadPieces:
    """One tile of any width on CPUs; elsewhere widths are `padded` to powers of two, in pieces if that wastes less.

    Regions that change whole rows see them in one tile, and so do dots of a `few_rows`, whose warps share
    columns out among themselves. Fails where a width is unknown.
    """
    _, k, v = attention.shapes
    key_width, value_width = _width(attention, "k", k), _width(attention, "v", v, least=0)
    if not padded:
        return HeadPieces((key_width,), (value_width,) * (value_width > 0))
    least = LEAST_WIDTH_8_BITS if is_float8(k.element) else LEAST_WIDTH
    whole_keys = few_rows or not (attention.query.empty and attention.key.empty)
    if value_width == 0:
        return HeadPieces((padded_width(key_width, least),) if whole_keys else width_pieces(key_width, least), ())
    whole_values = few_rows or not (attention.value.empty and attention.output.empty)
    return HeadPieces(
        (padded_width(key_width, least),) if whole_keys else width_pieces(key_width, least),
        (padded_width(value_width, least),) if whole_values else width_pieces(value_width, least),
    )


def _width(attention: AttentionOp, name: str, type_: TensorType, least: int = 1) -> int:
    width = type_.shape[3]
    if not isinstance(width, int) or width < least:
        op_error(attention.operation, f"the head dimension must be a positive constant, but {name} is {type_}")
    return width
