"""How long one call takes on a GPU, term by term, from tile sizes, counts of tiles and data sheets.

Programs do the work of their steps one after the other, dots and softmax in turn (`roofline`); reading runs beside it.
Whatever takes longest, the steps, the loads under way or the memory, is what the call waits for: terms that run
beside it are hidden. Nothing was fitted to measurements of a GPU but what `roofline` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from .counts import Counts, compulsory_bytes, counts_of, io_lower_bound, merge_programs
from .devices import Device
from .prediction import Estimate, Term
from .problem import Problem, Visits
from .resources import AttentionShape, TileConfig, as_scheduled, occupancy
from .roofline import (
    MEMORY_LATENCY,
    MISSING_STAGE_COST,
    NO_PIPELINE_COST,
    OVERLAP_GAIN,
    STEP_LATENCY,
    bytes_of_key,
    tile_cycles,
    wanted_stages,
)
from .schedule import Schedule
from .waves import Waves

BOUND_INSTRUCTIONS = 2.0
"""Instructions for each score of a cut tile: comparing, and choosing -inf. A judgement, like all below."""

REGION_INSTRUCTIONS = 2.0
"""Instructions of a score region that `roofline` counts already."""

PROGRAM_CYCLES = 1500.0
"""Cycles from a program's start to its first product and from the last one to its end, in which it computes nothing."""

LOOK_CYCLES = 150.0
"""Cycles of one program to find out what a tile is."""

LOOKS_AT_ONCE = 16
"""Programs of the kernel that writes lists, of one warp each, that a multiprocessor runs beside each other."""

PART_CYCLES, PARTS_AT_ONCE = 600.0, 8
"""Cycles for a load from the L2 cache and back, once for each part that a program merges, and such programs that run
beside each other."""

REACHED_BANDWIDTH = 0.9
"""The part of the bandwidth on the data sheet that copies reach: 4.3 of 4.8 TB/s on an H200."""

HOST_SECONDS = 8e-6
"""Seconds in Python before the first kernel of a call starts; later ones are started while the device is busy."""

SORT_KERNELS = 3
"""Kernels that sorting the work of lists takes."""


def gpu_estimate(problem: Problem, schedule: Schedule, visits: Visits, device: Device) -> Estimate:
    """The seconds of one call on `device`, from an idle device to the end of the last kernel."""
    return Estimate(tuple(_Call(problem, schedule, visits, device).terms()))


@dataclass(frozen=True)
class _Steps:
    """Seconds of the whole device for the steps of all programs, evenly spread, by what they are spent on."""

    scores: float
    values: float
    exponentials: float
    issue: float
    mask: float
    regions: float
    l2: float

    @property
    def busy(self) -> float:
        """Dots, and then softmax, by instructions or by exponentials."""
        return self.scores + self.values + max(self.exponentials, self.issued)

    @property
    def issued(self) -> float:
        return self.issue + self.mask + self.regions

    @property
    def total(self) -> float:
        return max(self.busy, self.l2)


@dataclass(frozen=True)
class _Call:
    problem: Problem
    schedule: Schedule
    visits: Visits
    device: Device

    @cached_property
    def config(self) -> TileConfig:
        s = self.schedule
        return TileConfig(s.block_m, s.block_n, s.num_warps, s.num_stages)

    @cached_property
    def shape(self) -> AttentionShape:
        return as_scheduled(self.problem.shape, self.schedule)

    @cached_property
    def counts(self) -> Counts:
        return counts_of(self.problem, self.schedule, self.visits)

    @cached_property
    def resident(self) -> int:
        """Programs on a multiprocessor at once: as fit, and as there are."""
        each = -(-self.programs // self.device.multiprocessors)
        return max(1, min(occupancy(self.config, self.shape, self.device), each))

    @property
    def programs(self) -> int:
        return self.visits.programs * self.visits.splits

    @property
    def few_rows(self) -> bool:
        """Whether a program holds all rows that read its keys, so that these come from memory once."""
        sizes = self.problem.sizes
        return self.visits.programs <= sizes.batch * sizes.key_heads

    # --- the main kernel

    @cached_property
    def pace(self) -> float:
        """What residents together gain, and what is lost where loads come too late."""
        gain = 1 - OVERLAP_GAIN if self.resident >= 2 else 1.0
        wanted = wanted_stages(self.config, self.shape, self.device)
        late = 1 + MISSING_STAGE_COST * max(0, wanted - self.config.stages)
        return gain * late * (1 + NO_PIPELINE_COST * (self.config.stages == 1 and wanted > 1))

    def _seconds(self, cycles: float) -> float:
        """Of the whole device, for cycles that are spread over all multiprocessors."""
        return cycles / self.device.multiprocessors / self.device.clock

    @cached_property
    def steps(self) -> _Steps:
        shape, visits, device = self.shape, self.visits, self.device
        tile = tile_cycles(self.config, shape, device)
        tiles, width = visits.full + visits.cut, shape.key_width + shape.value_width
        each = self.config.block_m * self.config.block_n / (device.warp_size * device.issue)
        dots = self._seconds(tiles * tile.dots * self.pace)
        checks = BOUND_INSTRUCTIONS + sum(self.problem.mask_ops.values()) * (self.problem.mask != "bounds")
        ops = max(0.0, sum(self.problem.score_ops.values()) - REGION_INSTRUCTIONS)
        return _Steps(
            scores=dots * shape.key_width / width,
            values=dots * shape.value_width / width,
            exponentials=self._seconds(tiles * tile.exponentials * self.pace),
            issue=self._seconds(tiles * tile.issue * self.pace),
            mask=self._seconds(visits.cut * each * checks * self.pace),
            regions=self._seconds(tiles * each * ops * self.pace),
            l2=self._seconds(tiles * tile.l2),
        )

    @cached_property
    def beside(self) -> float:
        """Seconds that programs take beside their steps, evenly spread; residents hide each other's."""
        shape = self.shape
        rows = self.config.block_m * (shape.key_width + shape.value_width) * shape.element_bytes / self.device.l2_bytes
        cycles = self.programs * (PROGRAM_CYCLES / self.resident + rows)
        if self.few_rows:
            cycles += self.visits.steps * STEP_LATENCY / self.resident
        return self._seconds(cycles)

    @cached_property
    def looks(self) -> float:
        """Seconds for finding out what tiles are, where programs do that themselves."""
        if self.schedule.lists:
            return 0.0
        return self._seconds(self.visits.looked * LOOK_CYCLES / self.resident)

    @cached_property
    def waves(self) -> Waves:
        """The programs' seconds, each on one multiprocessor."""
        total = (self.steps.total + self.beside + self.looks) * self.device.multiprocessors
        keys = self.visits.full * self.config.block_n + self.visits.cut * self.schedule.edge
        mean = total / max(1, self.programs)
        share = self.visits.heaviest * self.programs / keys if keys else 1.0
        return Waves(total, mean * max(1.0, share), self.programs, self.device.multiprocessors)

    # --- loads

    @cached_property
    def memory_bytes(self) -> float:
        """Bytes from and to device memory: keys and values once, or once a wave where the L2 cannot keep them."""
        counts, device = self.counts, self.device
        once = compulsory_bytes(self.problem)
        read = counts.loaded.get("k", 0.0) + counts.loaded.get("v", 0.0)
        sizes = self.problem.sizes
        heads = sizes.batch * sizes.key_heads
        kv = min(read, heads * sizes.keys * bytes_of_key(self.shape))
        rows_of_head = max(1, self.programs // max(1, heads))
        at_once = min(heads, -(-device.multiprocessors * self.resident // rows_of_head))
        again = kv / max(1, heads) * at_once > device.l2_size
        waves = -(-self.programs // (device.multiprocessors * self.resident))
        keys = min(read, kv * waves) if again else kv
        captured = min(counts.loaded.get("captures", 0.0), self._captured)
        return max(once, once - kv + keys) + captured + counts.stored.get("lse", 0.0)

    @property
    def _captured(self) -> float:
        """Bytes of captured tensors, each element once for what it varies with."""
        sizes = self.problem.sizes
        lengths = {"b": sizes.batch, "h": sizes.heads, "m": sizes.queries, "n": sizes.keys}
        total = 0.0
        for load in self.problem.loads:
            count = float(load.bytes)
            for letter in load.positions:
                count *= lengths[letter]
            total += count
        return total

    @cached_property
    def memory(self) -> float:
        return self.memory_bytes / (self.device.bandwidth * REACHED_BANDWIDTH)

    @cached_property
    def loads(self) -> float:
        """Seconds in which what is under way hides the latency of memory, where keys are read from there."""
        if not self.few_rows:
            return 0.0
        key_bytes = bytes_of_key(self.shape)
        under_way = max(0.5, self.config.stages - 1) * self.config.block_n * key_bytes * self.resident
        each = -(-self.programs // self.device.multiprocessors) * self.visits.heaviest * key_bytes
        return each * MEMORY_LATENCY / under_way / self.device.clock

    # --- the call

    def terms(self) -> Iterator[Term]:
        """All terms; those that are not hidden sum up to the call."""
        steps, waves, counts = self.steps, self.waves, self.counts
        slowest = max(waves.makespan, self.memory, self.loads)
        beside = slowest > waves.makespan
        by_l2, by_exp = steps.l2 > steps.busy, steps.exponentials > steps.issued
        flops = counts.flops / max(1, self.shape.key_width + self.shape.value_width)
        yield Term("scores", steps.scores, flops * self.shape.key_width, "FLOP", beside or by_l2)
        yield Term("values", steps.values, flops * self.shape.value_width, "FLOP", beside or by_l2)
        yield Term("exponentials", steps.exponentials, counts.exponentials, "exp", beside or by_l2 or not by_exp)
        hidden = beside or by_l2 or by_exp
        yield Term("issue", steps.issue, self.visits.steps, "steps", hidden)
        yield Term("mask", steps.mask, self.visits.cut, "cut tiles", hidden)
        yield Term("regions", steps.regions, float(sum(self.problem.score_ops.values())), "ops a score", hidden)
        yield Term("l2", steps.l2, self._l2_bytes, "bytes", beside or not by_l2)
        yield Term("rows", self.beside, self.programs, "programs", beside)
        yield Term("looks", self.looks, 0.0 if self.schedule.lists else self.visits.looked, "tiles", beside)
        yield Term("tail", waves.tail, self.programs / self.device.multiprocessors, "waves", beside)
        yield Term("imbalance", waves.imbalance, self._heaviest, "heaviest to mean", beside)
        yield Term("occupancy", 0.0, self.resident, "programs a multiprocessor", True)
        yield Term("loads", self.loads, self.visits.heaviest, "keys a program", self.loads < slowest)
        in_memory = self.memory < slowest or self.loads == self.memory
        yield Term("memory", self.memory, self.memory_bytes, "bytes", in_memory)
        yield from self._bounds()
        yield from self._other_kernels()

    @property
    def _l2_bytes(self) -> float:
        return sum(self.counts.loaded.get(name, 0.0) for name in ("q", "k", "v", "captures"))

    @property
    def _heaviest(self) -> float:
        mean = self.waves.total / max(1, self.programs)
        return self.waves.heaviest / mean if mean else 1.0

    def _bounds(self) -> Iterator[Term]:
        """What no kernel of exact attention over all these scores can save, up to a constant factor."""
        dense = max(1.0, float(self.problem.sizes.queries) * self.problem.sizes.keys)
        dense *= self.problem.sizes.batch * self.problem.sizes.heads
        kept = min(1.0, (self.visits.full_pairs + self.visits.cut_pairs) / dense) or 1.0
        device = self.device
        l2_rate = device.l2_bytes * device.multiprocessors * device.clock
        rates = (
            ("l2 bound", device.shared_memory, l2_rate),
            ("memory bound", device.l2_size, device.bandwidth),
        )
        for name, fast, rate in rates:
            bytes_ = max(io_lower_bound(self.problem, fast) * kept, compulsory_bytes(self.problem))
            yield Term(name, bytes_ / rate, bytes_, "bytes", True)

    def _other_kernels(self) -> Iterator[Term]:
        """Kernels before and after the main one, the time between kernels, and Python before all that."""
        kernels = 1 + bool(self.schedule.specialised)
        if self.schedule.lists:
            writers = max(1, min(LOOKS_AT_ONCE, -(-self.visits.list_rows // self.device.multiprocessors)))
            serial = self.visits.looked / max(1, self.visits.list_rows) * LOOK_CYCLES / self.device.clock
            lists = max(serial, self._seconds(self.visits.looked * LOOK_CYCLES / writers))
            yield Term("lists", lists, self.counts.stored.get("lists", 0.0), "bytes")
            kernels += 1 + SORT_KERNELS * (not self.schedule.split)
        if (tables := self.counts.stored.get("tables", 0.0)) > 0.0:
            rows = max(self.config.block_m, self.config.block_n) * PART_CYCLES / self.device.clock
            yield Term("tables", rows, tables, "bytes")
            kernels += 1
        if parts := self.counts.loaded.get("parts", 0.0):
            merge = self._merge(parts + self.counts.stored.get("parts", 0.0))
            yield Term("merge", merge, parts, "bytes")
            kernels += 1
        yield Term("launch", kernels * self.device.launch, kernels, "kernels")
        yield Term("python", HOST_SECONDS, 1, "calls")

    def _merge(self, bytes_: float) -> float:
        """Programs go through the parts one after the other; partial results stay in the L2 cache."""
        device = self.device
        waves = -(-merge_programs(self.problem, self.schedule) // (device.multiprocessors * PARTS_AT_ONCE))
        serial = waves * self.visits.splits * PART_CYCLES / device.clock
        return max(serial, self._seconds(bytes_ / device.l2_bytes))
