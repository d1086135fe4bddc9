"""Chooses tile sizes for each attention: all that fit a device, ranked by a roofline estimate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from ..cost_model.cpus import CPUS, Cpu
from ..cost_model.devices import INTERPRETER, Device, device_named
from ..cost_model.resources import AttentionShape, TileConfig, padded_width, refusal, register_demand, shared_memory
from ..cost_model.roofline import cycles_per_score, tile_cycles, wanted_stages
from ..ir.attributes import FloatType, IndexType, IntegerType, TensorType, Type
from ..ir.core import Operation
from ..ir.diagnostics import error, op_error
from ..ir.dialects.attn import AttentionOp
from .analyze_mask import analyze_mask
from .manager import Pass, PassContext
from .mask_plan import MaskPlan
from .mask_structure import MaskStructure
from .plan_cpu import cpu_schedule
from .schedule import Schedule
from .tile_builder import COLUMNS, ROWS
from .tile_regions import element_loads

ELEMENTS = ("f16", "bf16", "f32")
CLOSE = 0.02
"""Estimates that differ by less, relatively, say nothing about which is faster."""

BLOCK_M, BLOCK_N, WARPS = (16, 32, 64, 128), (16, 32, 64, 128), (4, 8)


@dataclass(frozen=True)
class PlanAttention(Pass):
    """Write tile sizes, warps and stages for `target` into each attention's `schedule` hint.

    On a CPU `rows` asks for a kernel for that many pairs of a query and a head of its group, as
    decoding has them, which splits the keys; 0 for a kernel for any number.
    """

    name: ClassVar[str] = "plan"
    target: str = "sm_90"
    rows: int = 0

    def run(self, module: Operation, ctx: PassContext) -> None:
        cpu = CPUS.get(self.target)
        device = None if cpu is not None or self.target == INTERPRETER else device_named(self.target)
        if self.rows < 0 or (self.rows and cpu is None):
            allowed = "must not be negative" if cpu is not None else f"are for CPUs, which '{self.target}' is not"
            raise error(f"rows {allowed}, but there are {self.rows}")
        for operation in module.walk():
            if (attention := AttentionOp.match(operation)) is not None:
                shape = attention_shape(attention, padded=cpu is None)
                if cpu is not None:
                    schedule = _choose_native(attention, shape, cpu, self.rows)
                else:
                    schedule = INTERPRETED if device is None else _choose(attention, shape, device)
                attention.schedule = schedule.to_attr()
                ctx.statistics["attentions planned"] += 1
                ctx.remark(operation, f"planned for {schedule.target}: {schedule.reason}")


INTERPRETED = Schedule(
    64, 64, 4, 1, reason="64x64 tiles: in the interpreter a step costs the same whatever its size"
)  # fmt: skip


def attention_shape(attention: AttentionOp, *, padded: bool = True) -> AttentionShape:
    """What the planner must know of an attention; fails on element types or widths no kernel takes."""
    q, k, v = attention.shapes
    if not isinstance(q.element, FloatType) or q.element.name not in ELEMENTS:
        op_error(attention.operation, f"kernels take {', '.join(ELEMENTS)}, but q, k and v are {q.element}")
    key_width, value_width = (_width(attention, name, type_) for name, type_ in (("k", k), ("v", v)))
    score_bytes, column_bytes = _loaded_bytes(attention)
    hint = attention.structure
    structure = MaskStructure.from_attr(hint) if hint is not None else analyze_mask(attention.mask)
    return AttentionShape(
        padded_width(key_width) if padded else key_width,
        padded_width(value_width) if padded else value_width,
        q.element.width // 8,
        score_bytes,
        column_bytes,
        score_work=structure.opaque or not attention.score.empty,
        windowed=structure.has_lower_bound,
        unaligned=key_width % 16 != 0 or value_width % 16 != 0,
    )


def _width(attention: AttentionOp, name: str, type_: TensorType) -> int:
    width = type_.shape[3]
    if not isinstance(width, int) or width < 1:
        op_error(attention.operation, f"the head dimension must be a positive constant, but {name} is {type_}")
    return width


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


def candidates(device: Device, shape: AttentionShape) -> Iterator[TileConfig]:
    """Every tile size worth a look, whether or not it fits."""
    for block_m, block_n, warps in product(BLOCK_M, BLOCK_N, WARPS):
        if shape.tensor_cores and warps > max(4, block_m // 16):
            continue
        for stages in range(1, wanted_stages(TileConfig(block_m, block_n, warps, 1), shape, device) + 1):
            yield TileConfig(block_m, block_n, warps, stages)


def _choose(attention: AttentionOp, shape: AttentionShape, device: Device) -> Schedule:
    considered = list(candidates(device, shape))
    fitting = [config for config in considered if refusal(config, shape, device) is None]
    if not fitting:
        smallest = considered[0]
        op_error(
            attention.operation,
            f"no tile sizes fit {device.name}: head dimensions {shape.key_width} and {shape.value_width} of "
            f"{shape.element_bytes} bytes need, even in tiles of {smallest.block_m}x{smallest.block_n}, "
            f"{refusal(smallest, shape, device)}",
        )
    best = _best(fitting, shape, device, live_tiles(attention))
    reason = f"{explain(best, shape, device)}; best of {len(fitting)} that fit, of {len(considered)}"
    return Schedule(best.block_m, best.block_n, best.warps, best.stages, target=device.name, reason=reason)


def _choose_native(attention: AttentionOp, shape: AttentionShape, cpu: Cpu, rows: int) -> Schedule:
    schedule = cpu_schedule(cpu, shape, rows)
    if isinstance(schedule, str):
        op_error(
            attention.operation,
            f"no tile sizes fit {cpu.name}: head dimensions {shape.key_width} and {shape.value_width} need {schedule}",
        )
    return schedule


def live_tiles(attention: AttentionOp) -> Callable[[TileConfig], float]:
    """The part of all key tiles that a mask without simple bounds leaves, as far as its sizes are known."""
    from .mask_trials import live_part

    queries, keys = (type_.shape[2] for type_ in attention.shapes[:2])
    plan = MaskPlan.of(attention.mask)
    if plan.kind not in ("pieces", "tiles") or not (isinstance(queries, int) and isinstance(keys, int)):
        return lambda config: 1.0
    parts: dict[tuple[int, int], float] = {}

    def part(config: TileConfig) -> float:
        block = config.block_m, config.block_n
        if block not in parts:
            parts[block] = live_part(plan.forms, queries, keys, *block)
        return parts[block]

    return part


def _best(
    fitting: Sequence[TileConfig], shape: AttentionShape, device: Device, live: Callable[[TileConfig], float]
) -> TileConfig:
    """The fastest by the estimate; among those as good as equal, the one that reads keys least often."""
    cycles = {config: cycles_per_score(config, shape, device) * live(config) for config in fitting}
    limit = min(cycles.values()) * (1 + CLOSE)
    return max(fitting, key=lambda config: (cycles[config] <= limit, config.block_m, -cycles[config]))


def explain(config: TileConfig, shape: AttentionShape, device: Device) -> str:
    """The estimate behind a choice, in words."""
    cycles = tile_cycles(config, shape, device)
    return (
        f"{config.block_m}x{config.block_n} tiles of {cycles.total:.0f} cycles (dots {cycles.dots:.0f}, "
        f"exponentials {cycles.exponentials:.0f}, issue {cycles.issue:.0f}, L2 {cycles.l2:.0f}), "
        f"{shared_memory(config, shape)} bytes of shared memory, "
        f"{register_demand(config, shape, device):.0f} registers a thread for tiles"
    )
