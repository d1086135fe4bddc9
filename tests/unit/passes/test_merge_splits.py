"""Into how many parts a GPU's kernel splits keys: against a plain statement of the rule, and laws of all counts."""

from __future__ import annotations

from itertools import product

import pytest

from attir.cost_model.devices import INTERPRETER, device_named
from attir.cost_model.schedule import Schedule
from attir.passes.merge_splits import PRETENDED_MULTIPROCESSORS, gpu_split_count

H100 = Schedule(16, 128, 4, 2, split=1, target="sm_90")
MULTIPROCESSORS = device_named("sm_90").multiprocessors
SIZES = list(product((1, 2, 8, 20, 32, 33, 64, 100, 105, 106, 500), (1, 128, 129, 512, 640, 4096, 65_537)))


def parts(keys: int, count: int, schedule: Schedule) -> list[int]:
    """How many keys each part has: whole tiles, as kernels cut them (`row_tiles.RowTiles.keys`)."""
    share = -(-keys // count)
    chunk = -(-share // schedule.block_n) * schedule.block_n
    return [min((s + 1) * chunk, keys) - s * chunk for s in range(count)]


def plain(programs: int, keys: int, schedule: Schedule) -> int:
    """The rule of FlashAttention-3's `num_splits_heuristic`, with few tiles split too where heads are few."""
    tiles = -(-keys // schedule.block_n)
    if programs >= 0.8 * MULTIPROCESSORS or (tiles <= 4 and programs >= MULTIPROCESSORS / 4):
        return 1
    efficiencies: dict[int, float] = {}
    for count in range(1, min(128, MULTIPROCESSORS, tiles) + 1):
        if count > 1 and -(-tiles // count) == -(-tiles // (count - 1)):
            continue
        waves = programs * count / MULTIPROCESSORS
        efficiencies[count] = waves / -(-programs * count // MULTIPROCESSORS)
    best = max(efficiencies.values())
    return min(count for count, value in efficiencies.items() if value >= 0.85 * best)


@pytest.mark.parametrize(("programs", "keys"), SIZES)
def test_the_count_is_that_of_the_rule(programs: int, keys: int) -> None:
    assert gpu_split_count(programs, keys, H100) == plain(programs, keys, H100)


@pytest.mark.parametrize(("programs", "keys"), SIZES)
@pytest.mark.parametrize("target", ["sm_80", "gfx942", INTERPRETER])
def test_no_part_is_empty(target: str, programs: int, keys: int) -> None:
    schedule = Schedule(16, 64, 4, 1, split=1, target=target)
    count = gpu_split_count(programs, keys, schedule)
    assert 1 <= count <= 128
    cut = parts(keys, count, schedule)
    assert min(cut) > 0 and sum(cut) == keys


def test_few_heads_are_split_to_single_tiles_and_many_programs_not_at_all() -> None:
    assert gpu_split_count(8, 512, H100) == 4
    assert gpu_split_count(40, 512, H100) == 1
    assert gpu_split_count(8, 8192, H100) == 16
    assert gpu_split_count(106, 1 << 20, H100) == 1
    assert gpu_split_count(0, 512, H100) == gpu_split_count(8, 0, H100) == 1
    assert gpu_split_count(1, 640, Schedule(16, 64, 4, 1, split=1)) == PRETENDED_MULTIPROCESSORS - 3


def test_only_schedules_that_split_do() -> None:
    assert gpu_split_count(1, 65_536, Schedule(16, 128, 4, 2, target="sm_90")) == 1
