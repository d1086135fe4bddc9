"""Chooses how each attention runs on a target, and writes it down."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

from ..cost_model.cpus import CPUS, Cpu
from ..cost_model.devices import DEVICES, INTERPRETER, device_named
from ..cost_model.resources import AttentionShape, TileConfig, shared_memory
from ..cost_model.schedule import ELEMENTS, FLOAT8, Schedule
from ..ir.attributes import FloatType, IndexType, IntegerType, TensorType, Type
from ..ir.core import Operation
from ..ir.diagnostics import error, op_error
from ..ir.dialects.attn import AttentionOp
from .analyze_mask import analyze_mask
from .head_pieces import head_pieces
from .known_orders import KnownOrder
from .manager import Pass, PassContext
from .mask_plan import MaskPlan
from .mask_structure import MaskStructure
from .plan_cpu import EDGE_KEYS, MaskWork, cpu_schedule
from .plan_gpu import GpuPlanner, Wish, as_scheduled
from .stored_rows import stored_rows
from .stored_tiles import StoredOperands
from .tile_builder import COLUMNS, ROWS
from .tile_regions import element_loads
from .tile_tables import mask_plan

CPU_CHOICES = ("block_m", "block_n", "columns", "edge_n", "lists", "split", "folded")
"""What can be chosen for kernels on CPUs."""

LONG, SCALE_BYTES = 1024, 4
"""Tokens over which bytes of stored keys are averaged, and the bytes of a scale."""


@dataclass(frozen=True)
class PlanAttention(Pass):
    """Write tile sizes, warps and stages for `target` into each attention's `schedule` hint.

    `rows` asks for a kernel for that many pairs of a query and a head of its group, as decoding has
    them, which splits the keys; 0 for a kernel for any number. `wishes` are fields of the schedule
    that must be followed: `block_m=128`. `sizes` are those of the call to plan for, as `Sizes` writes them; where they
    are not given, typical ones are taken.
    """

    name: ClassVar[str] = "plan"
    target: str = "sm_90"
    rows: int = 0
    wishes: tuple[str, ...] = ()
    sizes: str = ""

    def run(self, module: Operation, ctx: PassContext) -> None:
        cpu = CPUS.get(self.target)
        device = None if cpu is not None or self.target == INTERPRETER else device_named(self.target)
        if self.rows < 0:
            raise error(f"rows must not be negative, but there are {self.rows}")
        wishes = tuple(map(_wish, self.wishes))
        for operation in module.walk():
            if (attention := AttentionOp.match(operation)) is not None:
                # Parts of split keys are merged by their log-sum-exp, which a largest score is not.
                rows = 0 if attention.normaliser.value == "max" else self.rows
                shape = attention_shape(attention, padded=cpu is None, few_rows=bool(rows))
                if cpu is not None:
                    schedule = _choose_native(attention, shape, cpu, rows, wishes)
                else:
                    schedule = GpuPlanner(attention, shape, device, rows, wishes).schedule()
                attention.schedule = schedule.to_attr()
                ctx.statistics["attentions planned"] += 1
                ctx.remark(operation, f"planned for {schedule.target}: {schedule.reason}")


def _wish(text: str) -> Wish:
    """A field of a schedule and its value."""
    name, equals, value = text.partition("=")
    if not equals:
        raise error(f"cannot read the wish '{text}': expected name=value, such as block_m=128")
    return name, value if name == "descriptors" or not value.removeprefix("-").isdigit() else int(value)


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
    )


def planned_shared_memory(attention: AttentionOp) -> int | None:
    """Bytes of shared memory that a program of the planned kernel will need; None for targets without any."""
    schedule = Schedule.of(attention)
    device = DEVICES.get(schedule.target)
    if device is None:
        return None
    config = TileConfig(schedule.block_m, schedule.block_n, schedule.num_warps, schedule.num_stages)
    shape = attention_shape(attention, few_rows=schedule.few_rows)
    return shared_memory(config, as_scheduled(shape, schedule), device)


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


def _choose_native(
    attention: AttentionOp, shape: AttentionShape, cpu: Cpu, rows: int, wishes: tuple[Wish, ...] = ()
) -> Schedule:
    wanted = _cpu_wishes(wishes)
    schedule = cpu_schedule(cpu, as_stored(attention, shape), rows, _mask_work(attention))
    if isinstance(schedule, str):
        op_error(
            attention.operation,
            f"no tile sizes fit {cpu.name}: head dimensions {shape.key_width} and {shape.value_width} need {schedule}",
        )
    return replace(schedule, **wanted, reason="as asked") if wanted else schedule


def _cpu_wishes(wishes: tuple[Wish, ...]) -> dict[str, int]:
    """Fields of a CPU's schedule with numbers; CompileError on others."""
    found: dict[str, int] = {}
    for name, value in wishes:
        if name not in CPU_CHOICES:
            raise error(f"a kernel for a CPU has no option '{name}'; expected {', '.join(CPU_CHOICES)}")
        if not isinstance(value, int):
            raise error(f"option '{name}' of a kernel for a CPU must be a number, but is {value!r}")
        found[name] = value
    return found


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


def _mask_work(attention: AttentionOp) -> MaskWork | None:
    """What a plan for a CPU must know of a mask; None for one that keeps all, or of which nothing is known."""
    if attention.mask.empty:
        return None
    # Numbers come as arrays, and small commands do not load numpy.
    from .live_keys import LiveKeys, keys_of_blocks

    plan = MaskPlan.of(attention.mask)
    if plan.kind == "opaque":
        return None
    queries, keys = (n if isinstance(n := type_.shape[2], int) else None for type_ in attention.shapes[:2])
    known = KnownOrder.of(attention)
    if known is not None:
        queries, keys = known.queries, known.keys
    live = LiveKeys.of(plan, queries, keys, EDGE_KEYS)
    if known is not None:
        live = replace(live, captures=known.captures(attention, live.queries, live.keys))
    return MaskWork(live, len(attention.mask.block.ops) - 1, keys_of_blocks(plan))
