"""Chooses how each attention runs on a target, and writes it down."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..cost_model.cpus import CPUS, Cpu
from ..cost_model.devices import DEVICES, INTERPRETER, device_named
from ..cost_model.resources import AttentionShape, TileConfig, shared_memory
from ..cost_model.schedule import Schedule
from ..ir.core import Operation
from ..ir.diagnostics import error, op_error
from ..ir.dialects.attn import AttentionOp
from .attention_shape import as_stored, attention_shape, mask_work
from .manager import Pass, PassContext
from .plan_cpu import cpu_schedule
from .plan_gpu import GpuPlanner, Wish, as_scheduled

CPU_CHOICES = ("block_m", "block_n", "columns", "edge_n", "lists", "split", "folded")
"""What can be chosen for kernels on CPUs."""


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


def planned_shared_memory(attention: AttentionOp) -> int | None:
    """Bytes of shared memory that a program of the planned kernel will need; None for targets without any."""
    schedule = Schedule.of(attention)
    device = DEVICES.get(schedule.target)
    if device is None:
        return None
    config = TileConfig(schedule.block_m, schedule.block_n, schedule.num_warps, schedule.num_stages)
    shape = attention_shape(attention, few_rows=schedule.few_rows)
    return shared_memory(config, as_scheduled(shape, schedule), device)


def _choose_native(
    attention: AttentionOp, shape: AttentionShape, cpu: Cpu, rows: int, wishes: tuple[Wish, ...] = ()
) -> Schedule:
    wanted = _cpu_wishes(wishes)
    schedule = cpu_schedule(cpu, as_stored(attention, shape), rows, mask_work(attention))
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
