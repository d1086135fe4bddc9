"""From one outlined attention to scheduled tile kernels, with every decision on the way; for any target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..cost_model.problem import Sizes
from ..cost_model.schedule import Schedule
from ..ir.attributes import Attribute, DictAttr, FloatAttr, IntegerAttr, StringAttr
from ..ir.core import Operation
from ..ir.diagnostics import op_error
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.tile import KernelOp
from ..ir.printer import print_operation
from ..passes.manager import Pass, PassContext
from ..passes.pipeline import PassPipeline, RunSettings
from ..passes.plan import planned_shared_memory
from ..passes.tile_lists import TileLists, tile_lists
from ..passes.tile_tables import TileTables, mask_plan
from .pipelines import LOWER, schedule


@dataclass(frozen=True)
class Lowered:
    """One attention as tile kernels for `target`: more than one where partial results are merged.

    `plan` is the schedule, `structure` what is known of the mask, `steps` the IR after every pass,
    `group` the query heads for each key head, `has_lse` whether the last result is the log-sum-exp, `has_output`
    whether a region changes the output, so that rows without any key need not give 0. Where there are
    `tables` or `lists`, kernels write them for the main one. `shared_memory` is how many bytes
    of it the main kernel is predicted to need on a GPU. `decision` says what was predicted, and which candidates came
    next. `roles` say what each kernel is for.
    """

    target: str
    kernels: tuple[Operation, ...]
    plan: Mapping[str, Any]
    structure: Mapping[str, Any]
    steps: tuple[tuple[str, str], ...]
    group: int
    has_lse: bool
    has_output: bool = False
    tables: TileTables | None = None
    lists: TileLists | None = None
    shared_memory: int | None = None
    decision: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def decisions(self) -> Mapping[str, Any]:
        """The plan, what is known of the mask as its entry `mask`, and what was predicted as `decision`."""
        told = {**self.plan, "mask": dict(self.structure)}
        return {**told, "decision": dict(self.decision)} if self.decision else told

    @property
    def roles(self) -> tuple[str, ...]:
        """What each kernel does, in their order: "main", "rest", "merge", "tables", "list"."""
        main = KernelOp(self.kernels[0]).sym_name.value
        names = (KernelOp(kernel).sym_name.value for kernel in self.kernels)
        return tuple("main" if name == main else name.removeprefix(f"{main}_") for name in names)


def lower(
    module: Operation,
    target: str,
    rows: int = 0,
    wishes: tuple[tuple[str, int | str], ...] = (),
    sizes: Sizes | None = None,
    threads: int = 1,
) -> Lowered:
    """The kernels of an outlined attention (see `sites.outline`) on `target`.

    `target` is a device such as "sm_90" or "avx512", or "interpret"; `rows` is how many rows of
    queries share keys in a call, where kernels are made for few of them, else 0; `wishes` are fields
    of the schedule, with values, that must be followed; `sizes` are those of a call, where they are known, which runs
    on up to `threads` cores of a CPU. `module` is left as it is. Raises CompileError where no kernel exists.
    """
    module = module.clone()
    context, steps = PassContext(), list[tuple[str, str]]()

    def observe(moment: str, step: Pass, result: Operation) -> None:
        if moment == "after":
            steps.append((step.name, print_operation(result, locations=True)))

    settings = RunSettings(observe=observe)
    PassPipeline(schedule(target, rows, wishes, sizes, threads)).run(module, context, settings)
    attention = next((AttentionOp(op) for op in module.walk() if AttentionOp.match(op)), None)
    if attention is None:
        op_error(module, "holds no attention to make a kernel of")
    group, has_lse, has_output = attention.group.value, bool(attention.lse.uses), not attention.output.empty
    plan, structure = readable(attention.schedule), readable(attention.structure)
    memory, decision = planned_shared_memory(attention), readable(attention.decision)
    tables, lists = None, None
    if (found := mask_plan(attention)) is not None:
        tables = TileTables.of(found, Schedule.of(attention), group)
        lists = tile_lists(attention, found, Schedule.of(attention), tables)
        structure = {**structure, "tiles": found.kind if lists is None else "list"}
    PassPipeline(LOWER).run(module, context, settings)
    kernels = tuple(op for op in module.walk() if KernelOp.match(op))
    return Lowered(
        target, kernels, plan, structure, tuple(steps), group, has_lse, has_output, tables, lists, memory, decision
    )


def readable(hint: DictAttr | None) -> dict[str, Any]:
    """A hint as plain Python values."""
    return {key: _plain(value) for key, value in (hint.items if hint else ())}


def _plain(value: Attribute) -> Any:
    return value.value if isinstance(value, IntegerAttr | FloatAttr | StringAttr) else str(value)
