"""One call of a native kernel: its block of arguments, its results, how many threads, and the merge of parts."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import TypeAlias

import torch

from ..passes.merge_splits import split_count
from .layouts import Layout, Plan, Results, Sizes, Tensors, heaviest_first
from .native_kernels import Function, LoadedKernel

SMALL = 200_000
"""Floating-point operations below which waking a second thread costs more than it saves."""

READ_COST = 8
"""Floating-point operations that take as long as reading and comparing one captured number."""

LOOK_COST = 64
"""Floating-point operations that take as long as finding out what a tile is."""

MOST_SCRATCH = 4096
"""Floats that may lie behind a block, which is copied for each call."""

Blanks: TypeAlias = tuple[torch.Tensor, torch.Tensor, bool]
"""What out and lse are made like, as they lie in memory, and whether out's heads and positions are swapped then."""


class Block:
    """What a function is told, in the order of the kernel's ABI, with the addresses left out.

    `words` holds a counter of programs, which starts at 0, then for each tensor its address, sizes
    and strides; the addresses go to `positions`. `programs` is how many there are, `work` the
    floating-point operations of all. Room for `scratch` floats follows.
    """

    __slots__ = ("_most", "_run", "positions", "scratch", "scratch_offset", "words")

    def __init__(
        self, function: Function, tensors: Sequence[Layout], programs: int, work: int, scratch: int = 0
    ) -> None:
        values, positions = [0], list[int]()
        for tensor in tensors:
            positions.append(len(values))
            values += [0, *tensor.sizes, *tensor.strides]
        self.positions, self.scratch, self.scratch_offset = tuple(positions), scratch, 8 * len(values)
        # Copies and fills faster than an array of ctypes.
        self.words = array("q", [*values, *[0] * -(-scratch // 2)])
        self._run, self._most = function.run, 1 if work < SMALL else programs

    def start(self, words: array[int]) -> None:
        """Run the function on a copy of `words` that has addresses; returns when all programs have run."""
        most = self._most
        self._run(words.buffer_info()[0], most if most == 1 else min(most, torch.get_num_threads()))


class Whole:
    """Calls of a kernel that writes its results at once.

    A log-sum-exp that the kernel writes but that nobody asks for (`unread`) goes behind the block.
    """

    __slots__ = ("_block", "_captured", "_like_lse", "_like_out", "_lse", "_no_lse", "_out", "_swap", "_unread")

    def __init__(self, block: Block, results: Blanks, *, has_lse: bool, unread: bool = False) -> None:
        like_out, like_lse, self._swap = results
        rest = block.positions[3:]
        count = 1 + (has_lse or unread)
        self._block, self._like_out, self._like_lse = block, like_out, like_lse
        self._captured, self._out, self._lse = rest[:-count], rest[-count], rest[-1] if has_lse or unread else 0
        self._unread, self._no_lse = unread, None if has_lse else like_lse.new_empty(0)

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor]) -> Results:
        block = self._block
        words = block.words[:]
        # Three tensors of four axes come first, each with its address, sizes and strides.
        words[1], words[10], words[19] = q.data_ptr(), k.data_ptr(), v.data_ptr()
        for position, capture in zip(self._captured, captures, strict=True):
            words[position] = capture.data_ptr()
        out = torch.empty_like(self._like_out, memory_format=torch.contiguous_format)
        words[self._out] = out.data_ptr()
        if (lse := self._no_lse) is None:
            lse = torch.empty_like(self._like_lse, memory_format=torch.contiguous_format)
            words[self._lse] = lse.data_ptr()
        elif self._unread:
            words[self._lse] = words.buffer_info()[0] + block.scratch_offset
        block.start(words)
        return out.transpose(1, 2) if self._swap else out, lse


class Split:
    """Calls of a kernel that spreads the keys over programs, and of the one that merges what they find.

    The partial results and their log-sum-exps, `sizes` floats each, lie one after the other: behind
    the first block where they are few, else in memory of their own. Where a region changes the output,
    the kernel that merges takes the `merged_captures` first captures too.
    """

    __slots__ = (
        "_captured", "_first", "_like_lse", "_like_out", "_lse", "_merge", "_merge_captured", "_no_lse", "_out",
        "_own_memory", "_sizes", "_swap",
    )  # fmt: skip

    def __init__(
        self, first: Block, merge: Block, sizes: tuple[int, int], results: Blanks, *, merged_captures: int = 0
    ) -> None:
        like_out, like_lse, self._swap = results
        self._first, self._merge, self._sizes = first, merge, sizes
        self._like_out, self._like_lse = like_out, like_lse
        self._captured, self._own_memory = first.positions[3:-2], sum(sizes) > first.scratch
        rest = merge.positions[2:]
        self._merge_captured, self._out, self._lse = rest[:merged_captures], rest[merged_captures], rest[-1]
        self._no_lse = like_lse if len(rest) == merged_captures + 1 else None

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor]) -> Results:
        first, merge = self._first, self._merge
        words, merged = first.words[:], merge.words[:]
        words[1], words[10], words[19] = q.data_ptr(), k.data_ptr(), v.data_ptr()
        for position, capture in zip(self._captured, captures, strict=True):
            words[position] = capture.data_ptr()
        for position, capture in zip(self._merge_captured, captures, strict=False):
            merged[position] = capture.data_ptr()
        memory = q.new_empty(sum(self._sizes), dtype=torch.float32) if self._own_memory else None
        parts = words.buffer_info()[0] + first.scratch_offset if memory is None else memory.data_ptr()
        # The first of the parts has five axes.
        words[first.positions[-2]] = merged[1] = parts
        words[first.positions[-1]] = merged[12] = parts + 4 * self._sizes[0]
        first.start(words)
        out = torch.empty_like(self._like_out, memory_format=torch.contiguous_format)
        merged[self._out] = out.data_ptr()
        if (lse := self._no_lse) is None:
            lse = torch.empty_like(self._like_lse, memory_format=torch.contiguous_format)
            merged[self._lse] = lse.data_ptr()
        merge.start(merged)
        return out.transpose(1, 2) if self._swap else out, lse


class Tabled:
    """Calls of a kernel that reads what a small one before it finds out of captured tensors, `sizes` numbers."""

    __slots__ = ("_block", "_inner", "_sizes")

    def __init__(self, block: Block, sizes: Sizes, inner: Plan) -> None:
        self._block, self._sizes, self._inner = block, sizes, inner

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor]) -> Results:
        return self._inner(q, k, v, (*captures, self.tables(q, k, captures)))

    def tables(self, q: torch.Tensor, k: torch.Tensor, captures: Sequence[torch.Tensor]) -> torch.Tensor:
        """What the small kernel finds."""
        block, found = self._block, q.new_empty(self._sizes, dtype=torch.int32)
        words = block.words[:]
        for position, tensor in zip(block.positions, (q, k, *captures, found), strict=True):
            words[position] = tensor.data_ptr()
        block.start(words)
        return found


class Listed:
    """Calls of a kernel that goes through lists which a small one before it writes, the longest first.

    `sizes` are those of what the small one writes, `programs` how many the main one has; see `TileLists`.
    """

    __slots__ = ("_block", "_captures", "_inner", "_programs", "_sizes", "_unsorted")

    def __init__(self, block: Block, sizes: Sequence[Sizes], programs: Sizes, inner: Plan, captures: int) -> None:
        self._block, self._sizes, self._programs, self._inner = block, sizes, programs, inner
        self._captures = captures
        self._unsorted: torch.Tensor | None = None

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor]) -> Results:
        return self._inner(q, k, v, (*captures[: self._captures], *self.lists(q, k, captures)))

    def lists(self, q: torch.Tensor, k: torch.Tensor, captures: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """What the small kernel writes, and the order of the rows."""
        block = self._block
        spans, tiles, *work = written = [q.new_empty(sizes, dtype=torch.int32) for sizes in self._sizes]
        words = block.words[:]
        for position, tensor in zip(block.positions, (q, k, *captures, *written), strict=True):
            words[position] = tensor.data_ptr()
        block.start(words)
        return spans, tiles, *(self._order(x) for x in work)

    def _order(self, work: torch.Tensor) -> torch.Tensor:
        """The heaviest first; as they come for one thread, which nothing balances, while neighbours read the same."""
        if torch.get_num_threads() > 1:
            return heaviest_first(work, self._programs)
        if self._unsorted is None:
            self._unsorted = torch.arange(math.prod(self._programs))
        return self._unsorted


def plan_call(loaded: LoadedKernel, tensors: Tensors, out: Layout, lse: Layout) -> Plan:
    """How to call a kernel on tensors like these, where there is something to compute."""
    if (tables := loaded.kernel.lowered.tables) is None:
        return _plan_listed(loaded, tensors, out, lse)
    q, k, _, *captures = tensors
    sizes = tables.sizes(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    layouts = [*(Layout.of(t) for t in (q, k, *captures)), Layout.contiguous(sizes)]
    programs = sizes[1] * sizes[2] * -(-sizes[3] // loaded.schedule.lanes)
    work = READ_COST * sizes[1] * sizes[2] * max(q.shape[2], k.shape[2]) * sizes[0] // 2
    inner = _plan_listed(loaded, tensors, out, lse, (Layout.contiguous(sizes),))
    return Tabled(Block(loaded.functions[-1], layouts, programs, work), sizes, inner)


def _plan_listed(
    loaded: LoadedKernel, tensors: Tensors, out: Layout, lse: Layout, tables: tuple[Layout, ...] = ()
) -> Plan:
    """How to call the kernel that writes lists, if there is one, and the main one."""
    if (lists := loaded.kernel.lowered.lists) is None:
        return _plan_main(loaded, tensors, out, lse, tables)
    q, k, _, *captures = tensors
    call = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    written, read = ([lists.own_sizes(name, *call) for name in names] for names in (lists.written, lists.read))
    layouts = [*(Layout.of(t) for t in (q, k, *captures)), *tables, *map(Layout.contiguous, written)]
    programs = math.prod(written[0][:3])
    work = LOOK_COST * programs * -(-k.shape[2] // loaded.schedule.block_n)
    inner = _plan_main(loaded, tensors, out, lse, tuple(map(Layout.contiguous, read)))
    # Behind it stands only the kernel that finds extremes, if there is one.
    block = Block(loaded.functions[-2 if tables else -1], layouts, programs, work)
    return Listed(block, written, lists.programs(*call[:3]), inner, len(captures))


def _plan_main(
    loaded: LoadedKernel, tensors: Tensors, out: Layout, lse: Layout, found: tuple[Layout, ...] = ()
) -> Plan:
    """How to call the kernel itself; what others have `found` lies behind the tensors."""
    q, k = tensors[:2]
    schedule, has_lse = loaded.schedule, loaded.kernel.lowered.has_lse
    captured, results = [Layout.of(t) for t in tensors[3:]], [out, lse] if has_lse else [out]
    inputs = [*(Layout.of(t) for t in tensors[:3]), *captured, *found]
    blanks = _blank(q, out.memory, loaded.dtype), _blank(q, lse.sizes, torch.float32), out.positions_first
    batch, heads, rows = q.shape[0], q.shape[1], q.shape[2]
    if schedule.folded:
        heads, rows = k.shape[1], rows * loaded.kernel.lowered.group
    tiles = -(-rows // schedule.block_m)
    programs = batch * heads * tiles
    work = 2 * k.shape[2] * (q.numel() + out.elements)
    if not schedule.split:
        block = Block(loaded.functions[0], [*inputs, *results], programs, work)
        return Whole(block, blanks, has_lse=has_lse)
    count = split_count(batch, heads, tiles, k.shape[2], schedule)
    part_out, part_lse = (Layout.contiguous((count, *sizes)) for sizes in (out.sizes, out.sizes[:3]))
    changes = loaded.kernel.lowered.has_output
    alone = count == 1 and loaded.dtype == torch.float32 and not changes
    if alone:
        part_out = Layout(part_out.sizes, (out.elements, *out.strides))
    wanted = part_out.elements * (not alone) + part_lse.elements
    scratch = wanted * (wanted <= MOST_SCRATCH)
    first = Block(loaded.functions[0], [*inputs, part_out, part_lse], programs * count, work, scratch)
    if alone and (has_lse or first.scratch):
        # The only part is the result.
        return Whole(first, blanks, has_lse=has_lse, unread=not has_lse)
    merged_captures = captured if changes else []
    merged = [part_out, part_lse, *merged_captures, *results]
    merge = Block(loaded.functions[1], merged, batch * heads * rows, 4 * part_out.elements)
    return Split(first, merge, (part_out.elements, part_lse.elements), blanks, merged_captures=len(merged_captures))


def _blank(q: torch.Tensor, sizes: Sizes, dtype: torch.dtype) -> torch.Tensor:
    """A tensor that others are made like, and that takes no memory itself."""
    return q.new_empty(1, dtype=dtype).expand(sizes) if math.prod(sizes) else q.new_empty(sizes, dtype=dtype)
