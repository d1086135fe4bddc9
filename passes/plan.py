"""Chooses how each attention runs on a target, and writes it down."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..cost_model.devices import DEVICES, INTERPRETER, TARGETS, device_named
from ..cost_model.problem import Sizes
from ..cost_model.resources import TileConfig, shared_memory
from ..cost_model.schedule import Schedule
from ..ir.core import Operation
from ..ir.diagnostics import error
from ..ir.dialects.attn import AttentionOp
from .attention_shape import attention_shape
from .manager import Pass, PassContext
from .plan_gpu import GpuPlanner, Wish, as_scheduled
from .ranking import rank, reason


@dataclass(frozen=True)
class PlanAttention(Pass):
    """Write tile sizes, warps and stages for `target` into each attention's `schedule` hint.

    `rows` asks for a kernel for that many pairs of a query and a head of its group, as decoding has
    them, which splits the keys; 0 for a kernel for any number. `wishes` are fields of the schedule
    that must be followed: `block_m=128`. `sizes` are those of the call to plan for, as `Sizes` writes them; where they
    are not given, typical ones are taken. On a CPU a call runs on up to `threads` cores.
    """

    name: ClassVar[str] = "plan"
    target: str = "sm_90"
    rows: int = 0
    wishes: tuple[str, ...] = ()
    sizes: str = ""
    threads: int = 1

    def run(self, module: Operation, ctx: PassContext) -> None:
        if self.target not in TARGETS:
            device_named(self.target)
        if self.rows < 0:
            raise error(f"rows must not be negative, but there are {self.rows}")
        wishes, sizes = tuple(map(_wish, self.wishes)), Sizes.parse(self.sizes) if self.sizes else None
        for operation in module.walk():
            if (attention := AttentionOp.match(operation)) is not None:
                schedule = self._plan(attention, wishes, sizes)
                attention.schedule = schedule.to_attr()
                ctx.statistics["attentions planned"] += 1
                ctx.remark(operation, f"planned for {schedule.target}: {schedule.reason}")

    def _plan(self, attention: AttentionOp, wishes: tuple[Wish, ...], sizes: Sizes | None) -> Schedule:
        """The schedule of the first candidate; what was predicted is written down beside it."""
        # Parts of split keys are merged by their log-sum-exp, which a largest score is not.
        rows = 0 if attention.normaliser.value == "max" else self.rows
        if self.target == INTERPRETER:
            attention.decision = None
            return GpuPlanner(attention, attention_shape(attention, few_rows=bool(rows)), None, rows, wishes).schedule()
        ranking = rank(attention, self.target, rows, wishes, sizes, max(1, self.threads))
        attention.decision = ranking.decision()
        return replace(ranking.best.schedule, reason=reason(ranking))


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
