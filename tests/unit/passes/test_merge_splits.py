"""Into how many parts keys are split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attir.passes.merge_splits import LEAST_KEYS, MOST_SPLITS, WANTED_PROGRAMS, split_count
from attir.passes.schedule import Schedule

DECODE = Schedule(8, 96, 1, 1, lanes=16, columns=2, edge_n=16, folded=1, split=1)


@pytest.mark.parametrize(
    ("batch", "heads", "tiles", "keys", "splits"),
    [
        (1, 1, 1, 100_000, 62),
        (1, 8, 1, 32_768, 8),
        (1, 8, 1, 2048, 4),
        (1, 8, 1, 1023, 1),
        (2, 8, 1, 4096, 4),
        (8, 8, 1, 100_000, 1),
        (3, 8, 2, 100_000, 2),
        (1, 8, 1, 0, 1),
        (0, 8, 1, 4096, 1),
    ],
)
def test_enough_programs_of_enough_keys(batch: int, heads: int, tiles: int, keys: int, splits: int) -> None:
    assert split_count(batch, heads, tiles, keys, DECODE) == splits


def test_keys_stay_together_without_a_merge() -> None:
    assert split_count(1, 1, 1, 100_000, Schedule(64, 64, 1, 1, lanes=16)) == 1


@given(st.integers(0, 9), st.integers(1, 40), st.integers(1, 9), st.integers(0, 200_000), st.integers(1, 16))
def test_no_part_is_empty(batch: int, heads: int, tiles: int, keys: int, blocks: int) -> None:
    schedule = Schedule(8, 16 * blocks, 1, 1, lanes=16, edge_n=16, folded=1, split=1)
    splits = split_count(batch, heads, tiles, keys, schedule)
    assert 1 <= splits <= MOST_SPLITS
    share = -(-keys // splits)
    chunk = -(-share // schedule.block_n) * schedule.block_n
    assert splits == 1 or (splits - 1) * chunk < keys
    assert splits == 1 or chunk >= LEAST_KEYS
    assert (splits - 1) * batch * heads * tiles < WANTED_PROGRAMS or splits == 1
