"""The parts of the benchmark of masks: what is short is run, what is long is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from numeric.closeness import NATIVE

from benchmarks import mask_cost
from benchmarks.mask_families import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_the_analysis_of_a_mask_takes_milliseconds(family: str) -> None:
    found = mask_cost.analyse(family, 2048)
    assert found.kind in ("pieces", "tiles")
    assert 0 <= found.full <= found.live <= found.total == 1024
    assert found.seconds < 10 * mask_cost.MOST_ANALYSIS, "ten times the limit, for machines that do other things too"


@NATIVE
def test_lists_take_memory_by_the_tile() -> None:
    short, long = (mask_cost.build_lists("causal documents", length, 1) for length in (512, 1024))
    assert short.list_seconds > 0 and long.attention_seconds > 0
    assert short.list_bytes * 2 == long.list_bytes < 1024 * 4


def test_a_block_mask_is_made_where_there_is_memory() -> None:
    assert mask_cost.block_mask_length(64 << 30) == 32768
    assert mask_cost.block_mask_length(6 << 30) == 16384
    assert mask_cost.block_mask_length(0) == 1024
    found = mask_cost.time_block_mask(512)
    assert found.seconds > 0 and found.peak_bytes >= 0 and "square" in found.note


def test_the_recorded_figures_can_be_read_and_keep_their_promises() -> None:
    record = json.loads((Path(mask_cost.__file__).parent / "results" / "mask_cost.json").read_text())
    assert "create_block_mask" in mask_cost.table(record)[-1]
    assert all(x["seconds"] <= mask_cost.MOST_ANALYSIS for x in record["analysis"])
    assert all(x["part_of_saved"] < 0.01 for x in record["lists"])
