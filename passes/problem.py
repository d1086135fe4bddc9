"""From an attention and the sizes of a call to what the cost model is told of it."""

from __future__ import annotations

from collections import Counter

from ..cost_model.problem import CaptureLoad, Problem, Sizes
from ..ir.attributes import FloatType, IntegerType, Type, element_type
from ..ir.core import Region, Value
from ..ir.dialects.arith import ConstantOp
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.tensor import ExtractOp
from .attention_shape import as_stored, attention_shape
from .mask_plan import MaskPlan
from .tile_regions import RegionPositions
from .tile_tables import mask_plan

SCORE_REGIONS, ROW_REGIONS = ("score", "weight"), ("query", "key", "value", "output")
"""Regions whose operations run for each score, and for each element of a row."""


def problem_of(attention: AttentionOp, sizes: Sizes, *, padded: bool, few_rows: bool = False) -> Problem:
    """What one call of `attention` asks of a kernel; widths are `padded` on GPUs, as `attention_shape` has them."""
    shape = attention_shape(attention, padded=padded, few_rows=few_rows)
    if not padded:
        shape = as_stored(attention, shape)
    out = element_type(attention.out.type)
    widths = [n if isinstance(n := type_.shape[3], int) else 0 for type_ in attention.shapes]
    return Problem(
        sizes,
        shape,
        out.name if isinstance(out, FloatType) else str(out),
        mask_kind(attention),
        _ops(attention, SCORE_REGIONS),
        _ops(attention, ("mask",)),
        _ops(attention, ROW_REGIONS),
        bool(attention.lse.uses),
        (widths[1], widths[2]),
        tuple(load for name in ("score", "weight", "mask") for load in _loads(attention, name)),
        not attention.output.empty,
        attention.normaliser.value == "max",
        _tables(attention),
    )


def mask_kind(attention: AttentionOp) -> str:
    """How a kernel may loop over the keys; "none" where every key is kept."""
    return "none" if attention.mask.empty else MaskPlan.of(attention.mask).kind


def _ops(attention: AttentionOp, names: tuple[str, ...]) -> dict[str, int]:
    """How many operations of each kind the regions of these names hold, constants aside."""
    found: Counter[str] = Counter()
    for name in names:
        region = attention.region(name)
        if not region.empty:
            found.update(op.name for op in region.block.ops[:-1] if ConstantOp.match(op) is None)
    return dict(found)


def _loads(attention: AttentionOp, name: str) -> list[CaptureLoad]:
    """The elements of captured tensors that a region reads, and with what each varies."""
    region = attention.region(name)
    if region.empty:
        return []
    captured = _captured(attention, region)
    varies, found = _positions(region), list[CaptureLoad]()
    for op in region.block.ops[:-1]:
        letters = {letter for v in op.operands for letter in varies.get(v, "")}
        varies[op.result] = "".join(sorted(letters))
        if (extract := ExtractOp.match(op)) is not None:
            bytes_ = element_bytes(element_type(extract.source.type))
            found.append(CaptureLoad(name, captured[extract.source], varies[op.result], bytes_))
    return found


def _tables(attention: AttentionOp) -> tuple[CaptureLoad, ...]:
    """The loads of which a kernel before the main one finds the extremes."""
    plan = mask_plan(attention)
    if plan is None or not plan.tables:
        return ()
    found: list[CaptureLoad] = []
    captured = _captured(attention, attention.mask)
    for atom in plan.tables:
        assert atom.load is not None
        letters = "".join("bhmn"[p] for p in sorted(atom.positions))
        source = atom.load.source
        found.append(CaptureLoad("mask", captured[source], letters, element_bytes(element_type(source.type))))
    return tuple(found)


def _captured(attention: AttentionOp, region: Region) -> dict[Value, int]:
    """The numbers of the captured tensors by the arguments of a region."""
    arguments = region.block.arguments
    inside = arguments[len(arguments) - len(attention.captures) :]
    return {value: number for number, value in enumerate(inside)}


def _positions(region: Region) -> dict[Value, str]:
    """The letters of the positions by the arguments of a region; a score varies with all of them."""
    at = RegionPositions.of(region)
    found = {at.b: "b", at.h: "h", at.m: "m", at.n: "n"}
    return found if at.score is None else {**found, at.score: "bhmn"}


def element_bytes(type_: Type) -> int:
    """What an element takes in memory; booleans take one byte, positions eight."""
    if isinstance(type_, FloatType | IntegerType):
        return max(1, type_.width // 8)
    return 8
