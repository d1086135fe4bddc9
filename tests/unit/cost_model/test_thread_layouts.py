"""What threads hold of tiles, by hand for each kind of product."""

from __future__ import annotations

import pytest

from attir.cost_model.devices import DEVICES
from attir.cost_model.resources import AttentionShape, TileConfig
from attir.cost_model.thread_layouts import (
    BY_COLUMNS,
    BY_GROUPS,
    BY_PIECES,
    BY_ROWS,
    HELD,
    held_by_threads,
)

HALF, FLOAT = AttentionShape(64, 64, 2), AttentionShape(64, 64, 4)


def test_warps_that_divide_rows_read_all_keys_each() -> None:
    held = held_by_threads(TileConfig(64, 32, 4, 2), HALF, DEVICES["sm_80"])
    assert held.divided == BY_ROWS
    assert (held.result, held.scores, held.weights) == (32, 16, 8)
    assert (held.queries, held.keys, held.values) == (16, 32, 32)
    assert held.copies == 1


def test_warps_that_divide_columns_read_all_queries_each() -> None:
    held = held_by_threads(TileConfig(32, 64, 4, 2), HALF, DEVICES["sm_80"])
    assert held.divided == BY_COLUMNS
    assert (held.result, held.scores, held.weights) == (16, 16, 32)
    assert (held.queries, held.keys, held.values) == (32, 16, 16)


def test_rows_are_copied_where_there_are_more_warps_than_rows_for_them() -> None:
    narrow = AttentionShape(32, 32, 2)
    assert held_by_threads(TileConfig(64, 32, 8, 2), narrow, DEVICES["sm_80"]).copies == 2
    assert held_by_threads(TileConfig(64, 32, 8, 2), HALF, DEVICES["sm_90"]).copies == 2


def test_wide_products_hold_results_and_weights_alone() -> None:
    held = held_by_threads(TileConfig(128, 64, 8, 2), HALF, DEVICES["sm_90"])
    assert held.divided == BY_GROUPS
    assert (held.result, held.scores, held.weights) == (32, 32, 16)
    assert held.queries == held.keys == held.values == 0


def test_without_tensor_cores_whole_rows_and_columns_are_held() -> None:
    """Squares of 2 x 2; 16 threads along 32 keys, and 2 of a warp and 4 warps along the rows."""
    held = held_by_threads(TileConfig(32, 32, 4, 1), FLOAT, DEVICES["sm_80"])
    assert held.divided == BY_PIECES
    assert (held.scores, held.queries, held.keys) == (8, 4 * 64, 2 * 64)


@pytest.mark.parametrize("shape", [HALF, FLOAT])
def test_there_are_as_many_numbers_as_names(shape: AttentionShape) -> None:
    assert len(held_by_threads(TileConfig(64, 64, 4, 2), shape, DEVICES["sm_90"]).numbers) == len(HELD)
