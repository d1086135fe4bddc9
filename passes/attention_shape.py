"""What the planner must know of an attention: widths, what elements load, what its mask leaves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ..cost_model.resources import AttentionShape
from ..cost_model.schedule import ELEMENTS, FLOAT8
from ..ir.attributes import FloatType, IndexType, IntegerType, TensorType, Type
from ..ir.diagnostics import op_error
from ..ir.dialects.attn import AttentionOp
from .analyze_mask import analyze_mask
from .head_pieces import head_pieces
from .mask_plan import MaskPlan
from .mask_structure import MaskStructure
from .plan_cpu import MaskWork
from .stored_rows import stored_rows
from .stored_tiles import StoredOperands
from .tile_builder import COLUMNS, ROWS
from .tile_regions import element_loads
from .tile_tables import mask_plan

LONG, SCALE_BYTES = 1024, 4
"""Tokens over which bytes of stored keys are averaged, and the bytes of a scale."""


def attention_shape(attention: AttentionOp, *, padded: bool = True, few_rows: bool = False) -> AttentionShape:
    """What the planner must know of an attention; fails on element types or widths no kernel takes."""
    q, k, v = attention.shapes
    elements = (*ELEMENTS, *FLOAT8) if padded else ELEMENTS
    if not isinstance(q.element, FloatType) or q.element.name not in elements:
        op_error(attention.operation, f"kernels take {', '.join(elements)}, but q, k and v are {q.element}")
    pieces = head_pieces(attention, padded=padded, few_rows=few_rows)
    score_bytes, column_bytes = _loaded_bytes(attention)
    hint = attention.structure
    structure = MaskStructure.from_attr(hint) if hint is not None else analyze_mask(attention.mask)
    stored = StoredOperands.of(attention) if padded else StoredOperands(None, None, None)
    return AttentionShape(
        sum(pieces.keys),
        sum(pieces.values),
        q.element.width // 8,
        score_bytes,
        column_bytes,
        score_work=structure.opaque or not attention.score.empty,
        windowed=structure.has_lower_bound,
        unaligned=any(size * q.element.width % 128 for size in (k.shape[3], v.shape[3]) if isinstance(size, int)),
        value_piece=pieces.values[-1] if pieces.values else 0,
        skips=padded and (plan := mask_plan(attention)) is not None and plan.kind == "tiles",
        query_bytes=1 if stored.products_of_codes else 0,
        keys=stored.key_tiles(pieces),
        values=stored.value_tiles(pieces),
        few_rows=few_rows,
    )


def _loaded_bytes(attention: AttentionOp) -> tuple[int, int]:
    """The bytes that regions load for each score, and for each key whatever the query."""
    sizes: Counter[tuple[int, ...]] = Counter()
    for source, axes in (*element_loads(attention.score), *element_loads(attention.mask)):
        assert isinstance(source.type, TensorType)
        sizes[axes] += _element_bytes(source.type.element)
    return sizes[ROWS, COLUMNS], sizes[COLUMNS,]


def _element_bytes(element: Type) -> int:
    if isinstance(element, IndexType):
        return 8
    assert isinstance(element, FloatType | IntegerType)
    return max(1, element.width // 8)


def as_stored(attention: AttentionOp, shape: AttentionShape) -> AttentionShape:
    """The shape with what CPUs must know of keys and values that are codes."""
    formats = [attention.stored(name) for name in ("key", "value")]
    if formats == [None, None]:
        return shape
    row_bytes = 0.0
    for width, storage in zip((shape.key_width, shape.value_width), formats, strict=True):
        row_bytes += width * shape.element_bytes if storage is None else storage.bytes(LONG, 1, SCALE_BYTES) / LONG
    key = stored_rows(attention, "key", attention.captures)
    group = key.storage.tokens if key is not None and key.channels_differ else 0
    return replace(shape, row_bytes=row_bytes, key_group=group)


def mask_work(attention: AttentionOp) -> MaskWork | None:
    """What a plan for a CPU must know of a mask; None for one that keeps all, or of which nothing is known."""
    if attention.mask.empty:
        return None
    # Numbers come as arrays, and small commands do not load numpy.
    from .live_keys import keys_of_blocks

    plan = MaskPlan.of(attention.mask)
    return None if plan.kind == "opaque" else MaskWork(plan.kind, keys_of_blocks(plan))
