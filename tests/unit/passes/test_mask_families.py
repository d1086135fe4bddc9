"""Named masks: exact tile counts, the kind of loop they need, and which rows provably have a key."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from unit.passes.mask_families import CLOSED, FAMILIES, TABLE_BLOCK, family

from attir.ir.attributes import Dim, Symbol, index
from attir.ir.builder import Builder
from attir.ir.core import Block, Region, Value
from attir.ir.dialects.attn import YieldOp
from attir.ir.dialects.tensor import ExtractOp
from attir.ir.interpreter.machine import Interpreter
from attir.passes.count_tiles import CapturedMath, TileCount, count_tiles
from attir.passes.key_pieces import aligned
from attir.passes.mask_plan import MaskPlan
from attir.passes.position_forms import Atom, B, H, M, N
from attir.passes.row_has_key import every_row_has_key
from attir.passes.tile_math import ScalarMath

Array = np.ndarray[Any, np.dtype[Any]]

SIZE = 512
BLOCKS = ((128, 128), (64, 32), (16, 64))


def captured(region: Region) -> dict[Value, Array]:
    random = np.random.default_rng(1)
    documents = np.sort(random.integers(0, 6, (1, SIZE)), axis=1)
    table = random.random((SIZE // TABLE_BLOCK, SIZE // TABLE_BLOCK)) < 0.3
    return dict(zip(region.block.arguments[4:], (np.array([300]), documents, table), strict=True))


def brute_force(region: Region, block_m: int, block_n: int) -> TileCount:
    positions = [np.asarray(0), np.asarray(0), np.arange(SIZE)[:, None], np.arange(SIZE)[None]]
    (mask,) = Interpreter().run_region(region, [*positions, *captured(region).values()])
    tiles = np.broadcast_to(mask, (SIZE, SIZE)).reshape(SIZE // block_m, block_m, SIZE // block_n, block_n)
    live, full = tiles.any(axis=(1, 3)), tiles.all(axis=(1, 3))
    return TileCount(int(live.sum()), int(full.sum()), live.size)


@pytest.mark.parametrize("name", FAMILIES)
def test_counts_are_exact(name: str) -> None:
    region = family(name)
    for block in BLOCKS:
        found = count_tiles(region, SIZE, SIZE, *block, captured(region), split=True)
        assert found == brute_force(region, *block)


WITHOUT_SPLITTING = set(FAMILIES) - {"global and sliding", "2-D neighbourhood, odd width", "table of blocks"}
"""The table's blocks are smaller than some of the tiles, and then one entry does not say it all."""


@pytest.mark.parametrize("name", sorted(WITHOUT_SPLITTING))
def test_what_a_kernel_finds_out_is_exact(name: str) -> None:
    region = family(name)
    for block in BLOCKS:
        assert count_tiles(region, SIZE, SIZE, *block, captured(region)) == brute_force(region, *block)


@pytest.mark.parametrize("name", sorted(set(CLOSED) - {"2-D neighbourhood, odd width"}))
def test_loop_bounds_visit_no_tile_in_vain(name: str) -> None:
    region = family(name)
    found, wanted = (
        count_tiles(region, SIZE, SIZE, 128, 128, captured(region), at_once=0),
        brute_force(region, 128, 128),
    )
    assert found.live == wanted.live
    assert wanted.full - 3 <= found.full <= wanted.full


KINDS = {
    "causal": "bounds",
    "causal at the end": "bounds",
    "window": "bounds",
    "window on both sides": "bounds",
    "dilated": "tiles",
    "2-D neighbourhood": "tiles",
    "2-D neighbourhood, odd width": "tiles",
    "3-D neighbourhood": "tiles",
    "documents": "tiles",
    "table of blocks": "tiles",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_kinds(name: str) -> None:
    plan = MaskPlan.of(family(name))
    assert plan.kind == KINDS.get(name, "pieces")
    assert plan.bounded == (name != "table of blocks")
    assert len(plan.tables) == (2 if name == "documents" else 0)


S, T = Symbol("s"), Symbol("t")
EQUAL: tuple[Dim, Dim] = (S, S)
ANY: tuple[Dim, Dim] = (S, T)
ALWAYS = {"causal", "causal at the end", "prefix", "prefix lengths", "block diffusion", "sink and window",
          "global and sliding"}  # fmt: skip
"""Masks in which every row keeps the first key."""


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_that_provably_have_a_key(name: str) -> None:
    """With as many keys as queries, all but those that padding or a table may empty."""
    region = family(name)
    certain = name not in ("padding lengths", "table of blocks")
    assert every_row_has_key(region, *EQUAL) == certain
    assert every_row_has_key(region, 200, 200) == certain
    assert every_row_has_key(region, 200, 300) == certain
    assert every_row_has_key(region, *ANY) == (name in ALWAYS)


def test_rows_beyond_the_last_key() -> None:
    """Row 299 of a window of 100 needs key 200 or a later one."""
    assert every_row_has_key(family("window"), 299, 200)
    assert not every_row_has_key(family("window"), 300, 200)
    assert every_row_has_key(family("window"), 0, 0)
    assert not every_row_has_key(family("causal"), 1, 0)


def quickest(run: Callable[[], object], times: int = 5) -> float:
    """Milliseconds of processor time, in the best run: other programs do not count."""
    found: list[float] = []
    for _ in range(times):
        start = time.process_time()
        run()
        found.append(1e3 * (time.process_time() - start))
    return min(found)


@pytest.mark.parametrize("name", sorted(CLOSED))
def test_analysis_of_long_sequences_takes_20_ms(name: str) -> None:
    region = family(name)

    def analyse() -> None:
        MaskPlan.of(region)
        every_row_has_key(region, *EQUAL)
        count_tiles(region, 32768, 32768, 128, 128)

    assert quickest(analyse) < 20


def test_documents_of_32_bits_and_more() -> None:
    """A number that 32 bits do not hold is understood by no tile, so that none is dropped for it."""
    region = family("documents")
    captures = captured(region)
    lengths, documents, table = captures.values()
    large = np.where(documents > 3, 2**40, documents)
    given = dict(zip(captures, (lengths, large, table), strict=True))
    found, plain = (count_tiles(region, SIZE, SIZE, 64, 64, x) for x in (given, captures))
    assert found.live >= plain.live
    assert found.full <= plain.full


def test_no_keys_and_no_queries() -> None:
    assert count_tiles(family("causal"), 0, 5, 4, 4) == TileCount(0, 0, 0)
    assert count_tiles(family("causal"), 5, 0, 4, 4) == TileCount(0, 0, 0)


def emitted_bounds(name: str, rows: tuple[int, int]) -> list[int]:
    """The bounds of the pieces in tiles of 32 keys, as emitted scalars compute them."""
    region = family(name)
    captures = captured(region)
    block = Block.with_arguments([index, index, index, *(v.type for v in captures)])
    first, last, keys, *tensors = block.arguments
    known = dict(zip(captures, tensors, strict=True))
    builder = Builder(block)

    def element(atom: Atom, indices: Sequence[Value]) -> Value | None:
        assert atom.load is not None
        return builder.create(ExtractOp, [known[atom.load.source], *indices], [atom.load.out.type]).out

    math = ScalarMath(builder, element)
    positions: dict[int, tuple[Value | int, Value | int]] = {B: (0, 0), H: (0, 0), M: (first, last)}
    pieces = aligned(math, MaskPlan.of(region).pieces(math, positions, keys), 32)
    builder.create(YieldOp, [math.value(x) for p in pieces for x in (p.begin, p.full_begin, p.full_end, p.end)])
    arguments = [np.asarray(x) for x in (*rows, SIZE)]
    return [int(x) for x in Interpreter().run_region(Region([block]), [*arguments, *captures.values()])]


@pytest.mark.parametrize("name", sorted(CLOSED))
def test_emitted_bounds_are_those_of_numbers(name: str) -> None:
    region = family(name)
    math = CapturedMath(captured(region), {B: 0, H: 0}, {M: SIZE, N: SIZE})
    for rows in ((0, 63), (64, 127), (448, 511), (300, 300)):
        first, last = (np.full(1, x) for x in rows)
        pieces = MaskPlan.of(region).pieces(math, {B: (0, 0), H: (0, 0), M: (first, last)}, SIZE)
        bounds = [(p.begin, p.full_begin, p.full_end, p.end) for p in aligned(math, pieces, 32)]
        assert emitted_bounds(name, rows) == [int(np.max(x)) for piece in bounds for x in piece]
