"""Whether it pays to put tokens into boxes: scores that are no longer computed against bytes that are copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ..cost_model.cpu_time import score_cycles
from ..cost_model.cpus import CPUS, rates_for
from ..cost_model.devices import DEVICES
from ..cost_model.resources import TileConfig
from ..cost_model.roofline import cycles_per_score
from ..cost_model.schedule import Schedule
from ..ir.attributes import FloatType
from ..ir.diagnostics import error
from ..ir.dialects.attn import AttentionOp
from .attention_shape import attention_shape
from .grid_masks import Grid
from .manager import PassContext
from .mask_forms import MaskForms
from .plan import PlanAttention
from .plan_gpu import as_scheduled
from .token_tiles import Boxes, BoxSearch, Work, work_of

if TYPE_CHECKING:
    from .permute_tokens import PermuteTokens

LEAST_TOKENS, MOST_TOKENS = 4096, 1 << 15
"""How many tokens an estimate takes: at least where neither types nor options say it, and at most, where the outermost
axis is taken to be shorter."""

WORTH = 0.05
"""The part of the time that must be saved: tokens in their order need no copies and no memory for them."""

CPU_COPY = 3.0
"""How many times longer than reading it takes a CPU to copy a byte to places elsewhere, and into fresh pages, as
measured on a Zen 5."""

DEFAULT_DEVICE = "sm_90"
"""What the interpreter, which has no rates, is taken for."""


@dataclass(frozen=True)
class Cost:
    """What computing scores costs: `work` in tiles of a schedule, and the time of one score there."""

    work: Work
    score: float

    @property
    def time(self) -> float:
        """Of one head: seconds on a whole GPU, cycles of one core of a CPU."""
        return self.work.cost * self.score

    @property
    def percent(self) -> float:
        return 100 * self.work.cost / self.work.total


@dataclass(frozen=True)
class Estimate:
    """The best `boxes` for `lengths`, what scores cost without and with them, and the time of the copies."""

    boxes: Boxes
    lengths: tuple[int, int]
    before: Cost
    after: Cost
    copies: float

    @property
    def pays(self) -> bool:
        return self.after.time + self.copies < (1 - WORTH) * self.before.time

    @property
    def verdict(self) -> str:
        """The estimate in words."""
        copies, rest = 100 * self.copies / self.before.time, 100 * self.after.time / self.before.time
        return (
            f"of {sides(self.lengths)} scores tiles cost {self.before.percent:.1f} % in the given order and "
            f"{self.after.percent:.1f} % in boxes of {sides(self.boxes.tile)} tokens of a grid of "
            f"{sides(('...', *self.boxes.grid.inner))}; that takes {rest:.1f} % of the time, "
            f"and copying tokens {copies:.1f} %"
        )


def sides(sizes: Sequence[object]) -> str:
    return " x ".join(map(str, sizes))


def estimate(attention: AttentionOp, grids: Sequence[Grid], options: PermuteTokens) -> Estimate:
    """The best boxes of all grids, beside what there is without.

    They are as large as the tiles that are planned where nothing is known of boxes; then tiles are planned again.
    """
    lengths = _lengths(attention, grids[0], options)
    schedule = _schedule(_permuted(attention, Boxes.single(grids[0]), None), options)
    searches = [BoxSearch(attention.mask, grid, lengths, schedule) for grid in grids]
    found = [search.measured(options.tile) if options.tile else search.best() for search in searches]
    place, boxes = min(enumerate(found), key=lambda pair: pair[1].work.cost)
    before, after = _schedule(attention, options), _schedule(_permuted(attention, boxes, lengths), options)
    planned = BoxSearch(attention.mask, grids[place], lengths, after).measured(boxes.tile, boxes.inner)
    times = [_score_time(attention, s) for s in (before, after)]
    work = work_of(MaskForms.of(attention.mask), lengths, before)
    copies = _copy_time(attention, lengths, after)
    return Estimate(boxes, lengths, Cost(work, times[0]), Cost(planned.work, times[1]), copies)


def _permuted(attention: AttentionOp, boxes: Boxes, lengths: tuple[int, int] | None) -> AttentionOp:
    """What the planner will be asked about, in a copy of the program."""
    from .permute_tokens import permute

    root = attention.operation
    while root.parent_op is not None:
        root = root.parent_op
    place = next(i for i, op in enumerate(root.walk()) if op is attention.operation)
    trial = AttentionOp(next(op for i, op in enumerate(root.clone().walk()) if i == place))
    permute(trial, boxes.grid, boxes.tile, boxes.inner, lengths=lengths)
    return trial


def _schedule(attention: AttentionOp, options: PermuteTokens) -> Schedule:
    """What the planner would choose."""
    trial = attention.operation.clone()
    PlanAttention(options.target, wishes=options.wishes).run(trial, PassContext())
    schedule = Schedule.of(AttentionOp(trial))
    trial.erase()
    return schedule


def _lengths(attention: AttentionOp, grid: Grid, options: PermuteTokens) -> tuple[int, int]:
    """How many queries and keys there are, or a guess: a grid whose outermost axis is as long as the others."""
    guess, row = LEAST_TOKENS, prod(grid.inner)
    guess = row * max(-(-guess // row), round(row ** (1 / len(grid.inner))))
    found: list[int] = []
    for type_, given in zip(attention.shapes, (options.queries, options.keys), strict=False):
        size = type_.shape[2]
        length = size if isinstance(size, int) else given or guess
        found.append(length if length <= MOST_TOKENS else max(row, MOST_TOKENS // row * row))
    if not all(found):
        raise error("there are no tokens to put into an order")
    return found[0], found[1]


def _score_time(attention: AttentionOp, schedule: Schedule) -> float:
    """Of one score in full tiles: seconds on a whole GPU, cycles of one core of a CPU."""
    shape = attention_shape(attention, padded=not schedule.lanes)
    if schedule.lanes:
        return score_cycles(shape, schedule, rates_for(schedule.target), str(attention.shapes[0].element))
    device = DEVICES.get(schedule.target, DEVICES[DEFAULT_DEVICE])
    config = TileConfig(schedule.block_m, schedule.block_n, schedule.num_warps, max(1, schedule.num_stages))
    return cycles_per_score(config, as_scheduled(shape, schedule), device) / device.multiprocessors / device.clock


def _copy_time(attention: AttentionOp, lengths: tuple[int, int], schedule: Schedule) -> float:
    """Of reading and writing the q, k, v and output of one head once more, in the same unit."""
    q, _, v = attention.shapes
    queries, keys = lengths
    element, width = q.element, sum(x for x in (q.shape[3], v.shape[3]) if isinstance(x, int))
    assert isinstance(element, FloatType)
    copied = 2 * width * (queries + keys / attention.group.value) * element.width / 8
    if schedule.lanes:
        return copied / CPUS[schedule.target].far_bandwidth * CPU_COPY
    return copied / DEVICES.get(schedule.target, DEVICES[DEFAULT_DEVICE]).bandwidth
