"""The loops of a kernel whose mask is no pair of bounds: tiles that it leaves empty are skipped, full ones unmasked."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..ir.builder import Builder
from ..ir.core import Value
from .masking import Masking
from .softmax_loop import Carried, SoftmaxLoop, each_tile, step_where
from .tile_walk import TileWalk, hoist_scalars


@dataclass(frozen=True)
class MaskedLoops:
    """One program's loop over the tiles of keys of `walk`; `masking` checks single scores."""

    loop: SoftmaxLoop
    masking: Masking
    walk: TileWalk

    def emit(self, builder: Builder, state: Carried) -> Carried:
        """One loop over all tiles of `block_n` keys that the mask's pieces hold."""
        block_n = self.loop.schedule.block_n
        first, *others = self.walk.spans(builder)
        if not others:
            bounds, starts = (*first, block_n), None
        else:
            total, starts = self.walk.joined(builder, [first, *others])
            bounds = builder.index(0), total, block_n
        visit = self._visit_native if self.loop.schedule.lanes else self._visit

        def body(inner: Builder, visited: Value, before: Carried) -> Carried:
            visited.name_hint = "start_n" if starts is None else "visited"
            start_n = visited if starts is None else self.walk.start(inner, visited, starts)
            return visit(inner, start_n, before)

        after = each_tile(builder, bounds, state, "key tiles of which the mask may keep some", body)
        hoist_scalars(after.row_max)
        return after

    def _visit(self, builder: Builder, start_n: Value, before: Carried) -> Carried:
        """A step unless the tile is empty, in which the mask is read unless it is full."""
        live, full = self.walk.found(builder, start_n, self.loop.schedule.block_n)
        cut = self.walk.math(builder).negate(full)
        if isinstance(cut, Value):
            cut.name_hint = "cut"
        masking = replace(self.masking, cut=cut) if isinstance(cut, Value) else self.masking
        if not isinstance(live, Value):
            return self.loop.step(builder, start_n, before, masking)
        return step_where(builder, live, before, lambda inside: self.loop.step(inside, start_n, before, masking))

    def _visit_native(self, builder: Builder, start_n: Value, before: Carried) -> Carried:
        """A step without mask for a full tile; else short tiles, each unless it is empty."""
        schedule, math = self.loop.schedule, self.walk.math(builder)
        live, full = self.walk.found(builder, start_n, schedule.block_n)
        after = before
        if isinstance(full, Value):
            after = step_where(builder, full, before, lambda inside: self.loop.step(inside, start_n, before, None))
        cut = math.both(live, math.negate(full))
        end = math.least(math.add(start_n, schedule.block_n), self.walk.key_length)
        cut_end = math.value(math.select(cut, end, start_n))
        cut_end.name_hint = "cut_end"

        def visit(inner: Builder, start: Value, before: Carried) -> Carried:
            some, _ = self.walk.found(inner, start, schedule.edge)
            if not isinstance(some, Value):
                return self.loop.unless_empty(inner, start, before, self.masking)
            return step_where(
                inner, some, before, lambda inside: self.loop.unless_empty(inside, start, before, self.masking)
            )  # fmt: skip

        after = each_tile(builder, (start_n, cut_end, schedule.edge), after, "key tiles that the mask cuts", visit)
        hoist_scalars(after.row_max)
        return after
