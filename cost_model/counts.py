"""What the kernels of one call do, in numbers: operations of products, exponentials, bytes of each tensor.

The formulas give what a count gives while the kernels run in the interpreter (`ir/interpreter/counting.py`), for
attention without changed rows of q, k, v or out. What programs read of tables of extremes, a few numbers for each
tile they look at, is left out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from .problem import CaptureLoad, Problem, Visits
from .schedule import Schedule

ROWS_OF_SPLITS, ROWS_OF_PARTS = 4, 16
"""Rows that one program on a GPU merges: of few queries with many parts, and of many queries with two."""

PARTS_OF_SPECIALISED = 2
"""Kernels whose results are merged where warps are specialised: one visits whole tiles, one the rest."""

NUMBER, POSITION = 4, 8
"""Bytes of a partial result or of an entry of a list, and of the number of a program."""

EXPONENTIALS = ("math.exp", "math.exp2")

ELEMENT_BYTES: Mapping[str, int] = {"f32": 4, "f16": 2, "bf16": 2, "f8E4M3FN": 1, "f8E5M2": 1}


@dataclass(frozen=True)
class Counts:
    """Of all kernels of one call. A multiply-add is two `flops`; fillings of tiles are computed and not loaded.

    `loaded` and `stored` are bytes of "q", "k", "v", "captures", "out", "lse", "parts" (partial results), "lists"
    (which tiles to visit) and "tables" (the extremes of captured numbers). A tensor counts as often as it is read.
    """

    flops: float
    exponentials: float
    loaded: Mapping[str, float]
    stored: Mapping[str, float]

    @property
    def bytes(self) -> float:
        """All that is loaded and stored."""
        return sum(self.loaded.values()) + sum(self.stored.values())


def counts_of(problem: Problem, schedule: Schedule, visits: Visits) -> Counts:
    """What a call with these visits does."""
    return _Counting(problem, schedule, visits).counts()


@dataclass(frozen=True)
class _Counting:
    problem: Problem
    schedule: Schedule
    visits: Visits

    def counts(self) -> Counts:
        loaded, stored = defaultdict[str, float](float, self._loaded()), defaultdict[str, float](float)
        self._store(stored)
        merged = self._merge(loaded, stored)
        self._lists(loaded, stored)
        self._tables(loaded, stored)
        return Counts(self._flops(), self._exponentials() + merged, dict(loaded), dict(stored))

    # --- the main kernel

    @property
    def _scores(self) -> float:
        """Scores that are computed, those past the ends of tiles included."""
        s, visits = self.schedule, self.visits
        return s.block_m * (visits.full * s.block_n + visits.cut * s.edge)

    @property
    def _programs(self) -> float:
        """Those of both kernels where warps are specialised."""
        return self.visits.programs * self._parts

    @property
    def _parts(self) -> int:
        """Programs for each tile of rows."""
        return PARTS_OF_SPECIALISED if self.schedule.specialised else self.visits.splits

    @property
    def _rows(self) -> int:
        """Rows of out."""
        sizes = self.problem.sizes
        return sizes.batch * sizes.heads * sizes.queries

    @property
    def _split(self) -> bool:
        """Whether programs leave partial results."""
        return bool(self.schedule.split or self.schedule.specialised)

    def _flops(self) -> float:
        shape = self.problem.shape
        return 2.0 * self._scores * (shape.key_width + (0 if self.problem.largest else shape.value_width))

    def _exponentials(self) -> float:
        """Of each score, of what is carried over a turn of a loop, and what a region computes."""
        if self.problem.largest:
            return 0.0
        of_regions = sum(self.problem.score_ops.get(name, 0) for name in EXPONENTIALS)
        return self._scores * (1 + of_regions) + self.visits.steps * self.schedule.block_m

    def _loaded(self) -> Mapping[str, float]:
        shape, (key_width, value_width) = self.problem.shape, self.problem.widths
        keys = self.visits.full * self.schedule.block_n + self.visits.cut_keys
        bytes_: float = shape.element_bytes
        k, v = key_width * bytes_, value_width * bytes_
        if shape.row_bytes:
            k, v = (shape.row_bytes * part / (k + v) for part in (k, v))
        for name, tiles in (("k", shape.keys), ("v", shape.values)):
            if tiles is not None:
                k, v = (tiles.row_bytes, v) if name == "k" else (k, tiles.row_bytes)
        query_bytes = shape.query_bytes or bytes_
        found = {"q": self._rows * self._parts * key_width * query_bytes, "k": keys * k}
        if not self.problem.largest:
            found["v"] = keys * v
        if captured := sum(self._elements(load) * load.bytes for load in self.problem.loads):
            found["captures"] = captured
        return found

    def _elements(self, load: CaptureLoad) -> float:
        """How many elements of a captured tensor a load reads."""
        visits, masks = self.visits, load.region == "mask"
        if masks and self.problem.mask in ("none", "bounds"):
            return 0.0  # bounds stand in its place
        by_row = "m" in load.positions or ("h" in load.positions and self._folds)
        if "n" not in load.positions:
            return self._rows * self._parts if by_row else self._programs
        if by_row:
            return visits.cut_pairs + (visits.tested_pairs if masks else visits.full_pairs)
        return visits.cut_keys + (visits.tested_keys if masks else visits.full * self.schedule.block_n)

    @property
    def _folds(self) -> bool:
        return bool(self.schedule.folded) and self.problem.sizes.group > 1

    # --- results

    @property
    def _alone(self) -> bool:
        """Whether the only part is the result, on a CPU."""
        one = self.schedule.lanes > 0 and self.visits.splits == 1 and self.problem.element == "f32"
        return one and not self.problem.changes_output

    def _store(self, stored: defaultdict[str, float]) -> None:
        width = 0 if self.problem.largest else self.problem.widths[1]
        rows = self._rows
        if self._split and not self._alone:
            stored["parts"] += rows * self._parts * (width + 1) * NUMBER
        stored["out"] += rows * width * ELEMENT_BYTES.get(self.problem.element, NUMBER)
        if self.problem.has_lse:
            stored["lse"] += rows * NUMBER

    def _merge(self, loaded: defaultdict[str, float], stored: defaultdict[str, float]) -> float:
        """What merging reads, and its exponentials."""
        if not self._split or self._alone:
            return 0.0
        loaded["parts"] += self._rows * self._parts * (self.problem.widths[1] + 1) * NUMBER
        return 2.0 * merge_programs(self.problem, self.schedule) * self._parts * rows_of_merge(self.schedule)

    # --- kernels before the main one

    def _lists(self, loaded: defaultdict[str, float], stored: defaultdict[str, float]) -> None:
        """Spans of each tile of rows, the numbers of tiles, and the order of programs."""
        if not self.schedule.lists:
            return
        visits, rows = self.visits, self.visits.list_rows
        stored["lists"] += (4 * rows + visits.looked) * NUMBER
        # A number is read ahead of each turn, and one more before each of the two loops.
        loaded["lists"] += (4 * self._programs + visits.steps_listed + 2 * self._programs) * NUMBER
        if not self.schedule.split:
            stored["lists"] += rows * NUMBER
            loaded["lists"] += self._programs * POSITION

    def _tables(self, loaded: defaultdict[str, float], stored: defaultdict[str, float]) -> None:
        """The extremes of what is captured for each row or key, over tiles of every size."""
        levels = self._levels()
        if not levels:
            return
        sizes, group = self.problem.sizes, self.problem.sizes.group if self._folds else 1
        places = math.prod(
            count
            for letter, count in (("b", sizes.batch), ("h", sizes.heads))
            if any(letter in load.positions for load, *_ in levels)
        )
        lengths = {"m": sizes.queries * group, "n": sizes.keys}
        tiles = max(1, *(-(-lengths[axis] // size) for _, axis, size in levels))
        stored["tables"] += 2 * len(levels) * tiles * places * NUMBER
        read = 0
        for load, axis, size in levels:
            if axis == "m" and group > 1:
                firsts = (start // group for start in range(0, tiles * size, size))
                count = sum(max(0, min((size - 1) // group + 2, sizes.queries - first)) for first in firsts)
            else:
                count = lengths[axis]
            read += count * load.bytes
        loaded["captures"] += read * places

    def _levels(self) -> list[tuple[CaptureLoad, str, int]]:
        """Each load whose extremes are tabled, along rows or keys, and the size of the tiles."""
        s = self.schedule
        sizes = {"m": (s.block_m,), "n": tuple(sorted({s.block_n, s.edge}))}
        return [
            (load, axis, size) for load in self.problem.tables for axis in "mn" if axis in load.positions
            for size in sizes[axis]
        ]  # fmt: skip


def merge_programs(problem: Problem, schedule: Schedule) -> int:
    """Programs that merge partial results: rows on a CPU, tiles of a few rows on a GPU."""
    sizes = problem.sizes
    return sizes.batch * sizes.heads * -(-sizes.queries // rows_of_merge(schedule))


def rows_of_merge(schedule: Schedule) -> int:
    """Rows that one program merges."""
    if schedule.lanes:
        return 1
    return ROWS_OF_SPLITS if schedule.split else ROWS_OF_PARTS


def compulsory_bytes(problem: Problem) -> float:
    """q, k, v and out once: what no schedule saves."""
    sizes, shape, (key_width, value_width) = problem.sizes, problem.shape, problem.widths
    keys = sizes.batch * sizes.key_heads * sizes.keys
    kv = keys * (shape.row_bytes or (key_width + value_width) * shape.element_bytes)
    rows = sizes.batch * sizes.heads * sizes.queries
    return kv + rows * (key_width * shape.element_bytes + value_width * ELEMENT_BYTES.get(problem.element, NUMBER))


def io_lower_bound(problem: Problem, fast_bytes: float) -> float:
    """Bytes that exact attention over all keys must move past a memory of `fast_bytes`, up to a constant factor.

    Saha and Ye, "The I/O Complexity of Attention" (arXiv 2402.07443): for M numbers of fast memory and N queries and
    keys of width d, N^2 d^2 / M where M >= d^2, which FlashAttention reaches, and N^2 d / sqrt(M) below, as of the
    matrix product. Nothing is below reading the operands and writing the result once.
    """
    sizes, element = problem.sizes, max(1, problem.shape.element_bytes)
    width, numbers = max(1, *problem.widths), max(1.0, fast_bytes / element)
    pairs = float(sizes.batch * sizes.heads) * sizes.queries * sizes.keys
    moved = pairs * width * width / numbers if numbers >= width * width else pairs * width / math.sqrt(numbers)
    return max(moved * element, compulsory_bytes(problem))
