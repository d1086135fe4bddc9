"""What the planner decides for one kernel, and how it is written into the IR."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..ir.attributes import DictAttr, IntegerAttr, StringAttr
from ..ir.diagnostics import op_error
from ..ir.dialects.attn import AttentionOp


@dataclass(frozen=True)
class Schedule:
    """Tile sizes in rows of queries and keys, warps a program, pipeline stages, dot precision.

    `target` is the device the numbers were chosen for, `reason` says why in words.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    precision: str = "ieee"
    target: str = "interpret"
    reason: str = ""

    def to_attr(self) -> DictAttr:
        values: list[tuple[str, int | str]] = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return DictAttr.of({k: IntegerAttr(v) if isinstance(v, int) else StringAttr(v) for k, v in values})

    @staticmethod
    def of(op: AttentionOp) -> Schedule:
        """The schedule of `op`; fails where there is none or where a tile size cannot be used."""
        if op.schedule is None:
            op_error(op.operation, "has no schedule; the pass 'plan' writes one")
        entries = dict(op.schedule.items)

        def number(name: str) -> int:
            value = entries.get(name)
            if not isinstance(value, IntegerAttr) or value.value < 1:
                op_error(op.operation, f"schedule needs '{name}' as a positive integer, but has {value}")
            return value.value

        def text(name: str, default: str) -> str:
            value = entries.get(name)
            return value.value if isinstance(value, StringAttr) else default

        block_m, block_n = (_block(op, name, number(name)) for name in ("block_m", "block_n"))
        return Schedule(
            block_m, block_n, number("num_warps"), number("num_stages"),
            text("precision", "ieee"), text("target", "interpret"), text("reason", ""),
        )  # fmt: skip


def _block(op: AttentionOp, name: str, size: int) -> int:
    if size < 16 or size & (size - 1):
        op_error(op.operation, f"schedule '{name}' must be a power of two of at least 16, but is {size}")
    return size
