"""What the planner decides for one kernel, and how it is written into the IR."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..ir.attributes import DictAttr, IntegerAttr, StringAttr
from ..ir.diagnostics import op_error
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.tile import DESCRIPTORS

AS_MANY_AS_FIT = -1
"""The wish for a persistent kernel with as many programs as are resident at once."""

ELEMENTS, FLOAT8 = ("f16", "bf16", "f32"), ("f8E4M3FN", "f8E5M2")
"""Elements of q, k and v: of kernels for all targets, and for some GPUs."""

CPU_FIELDS = ("lanes", "columns", "edge_n")
"""What only schedules for CPUs have; the text of the others leaves it out."""

GPU_FIELDS = ("descriptors", "swap", "persistent", "specialised", "by_column")
"""What only schedules for GPUs have; a text leaves out what is not used, as it does `lists`."""

NUMBERS = (*CPU_FIELDS, "folded", "split", "lists", *GPU_FIELDS[1:])

FLAGS = ("folded", "split", "swap", "specialised", "lists", "by_column")
"""What is either on, 1, or off, 0."""

LOADS = ("", *DESCRIPTORS)


@dataclass(frozen=True)
class Schedule:
    """Tile sizes in rows of queries and keys, warps a program, pipeline stages, dot precision.

    `target` is the device the numbers were chosen for, `reason` says why in words. With `lanes`,
    the f32 lanes of a vector, the kernel is for a CPU: tiles have any size and all arithmetic is in
    f32. There `columns` of a dot are computed at once, tiles that the mask or the end of the keys
    cuts hold `edge_n` keys (0: block_n), `folded` rows of a tile are pairs of a query and a head of
    its group, and `split` keys are spread over programs whose partial results are merged.

    With `lists` a kernel before the main one writes down which tiles of keys to visit.

    On GPUs keys and values are read through pointers or through tensor descriptors that the "host"
    or the "device" makes. With `swap` the keys are the rows of the products, for tiles of few
    queries. `persistent` programs take one tile after the other; 0 starts a program for each tile.
    A `specialised` kernel has warps that only load, and visits whole tiles alone: another one visits
    the rest. Values
    `by_column` lie in memory with neighbours along the keys beside each other.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    precision: str = "ieee"
    target: str = "interpret"
    reason: str = ""
    lanes: int = 0
    columns: int = 0
    edge_n: int = 0
    folded: int = 0
    split: int = 0
    descriptors: str = ""
    swap: int = 0
    persistent: int = 0
    specialised: int = 0
    lists: int = 0
    by_column: int = 0

    @property
    def few_rows(self) -> bool:
        """Whether the kernel is made for so few rows that their dots are not cut in pieces."""
        return bool(self.split or self.folded)

    @property
    def edge(self) -> int:
        """Keys of a tile that the mask or the end of the keys cuts."""
        return self.edge_n or self.block_n

    def to_attr(self) -> DictAttr:
        optional = (*GPU_FIELDS, "lists", *(() if self.lanes else (*CPU_FIELDS, "folded", "split")))
        names = [field.name for field in fields(self) if getattr(self, field.name) or field.name not in optional]
        values: list[tuple[str, int | str]] = [(name, getattr(self, name)) for name in names]
        return DictAttr.of({k: IntegerAttr(v) if isinstance(v, int) else StringAttr(v) for k, v in values})

    @staticmethod
    def of(op: AttentionOp) -> Schedule:
        """The schedule of `op`; fails where there is none or where a tile size cannot be used."""
        if op.schedule is None:
            op_error(op.operation, "has no schedule; the pass 'plan' writes one")
        entries = dict(op.schedule.items)

        def number(name: str, least: int = 1) -> int:
            value = entries.get(name, IntegerAttr(0) if least == 0 else None)
            if not isinstance(value, IntegerAttr) or value.value < least:
                kind = "a positive integer" if least else "an integer that is not negative"
                op_error(op.operation, f"schedule needs '{name}' as {kind}, but has {value}")
            return value.value

        def text(name: str, default: str) -> str:
            value = entries.get(name)
            return value.value if isinstance(value, StringAttr) else default

        schedule = Schedule(
            number("block_m"), number("block_n"), number("num_warps"), number("num_stages"),
            text("precision", "ieee"), text("target", "interpret"), text("reason", ""),
            **{name: number(name, least=0) for name in NUMBERS}, descriptors=text("descriptors", ""),
        )  # fmt: skip
        _check(op, schedule)
        return schedule


def _check(op: AttentionOp, schedule: Schedule) -> None:
    """Fail where numbers do not fit each other or the kind of target."""
    unused = GPU_FIELDS if schedule.lanes else CPU_FIELDS
    if used := [name for name in unused if getattr(schedule, name)]:
        kind = "GPUs and excludes" if schedule.lanes else "CPUs and needs"
        op_error(op.operation, f"schedule '{used[0]}' is for {kind} 'lanes'")
    if schedule.lanes == 0:
        for name in ("block_m", "block_n"):
            size: int = getattr(schedule, name)
            if size < 16 or size & (size - 1):
                op_error(op.operation, f"schedule '{name}' must be a power of two of at least 16, but is {size}")
    if schedule.descriptors not in LOADS:
        op_error(op.operation, f"schedule 'descriptors' must be host or device, but is {schedule.descriptors}")
    if schedule.block_n % schedule.edge:
        op_error(
            op.operation, f"schedule 'block_n' {schedule.block_n} must be a multiple of 'edge_n' {schedule.edge_n}"
        )
    for name in FLAGS:
        if getattr(schedule, name) > 1:
            op_error(op.operation, f"schedule '{name}' must be 0 or 1, but is {getattr(schedule, name)}")


def warps_of(block_m: int) -> int:
    """Four warps for 64 rows, which one instruction of Hopper's tensor cores takes; never fewer."""
    return max(4, block_m // 16)
