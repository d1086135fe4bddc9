"""Rules of choice against brute force over all sets of blocks."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attir.compiler.choose_blocks import Rule, always_kept, choose, over_groups
from attir.compiler.live_blocks import Sizes

PLAIN = Rule(sinks=0, local=0)


def sizes_of(blocks: int, rows: int = 1) -> Sizes:
    return Sizes(1, 1, rows * 16, blocks * 16, 16, 16)


def places(row: torch.Tensor) -> list[int]:
    """Where a row of booleans is true."""
    return [int(j) for j in row.nonzero().flatten()]


@st.composite
def rows(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, among which are equal ones, and which blocks are live."""
    count = draw(st.integers(1, 9))
    value = st.one_of(st.integers(-3, 3).map(float), st.floats(-50, 50, width=32), st.just(-math.inf))
    weights = draw(st.lists(value, min_size=count, max_size=count))
    live = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return torch.tensor(weights)[None, None, None], torch.tensor(live)[None, None, None]


def chosen(weights: torch.Tensor, live: torch.Tensor, rule: Rule) -> set[int]:
    found = choose(weights, live, rule, sizes_of(live.shape[-1]))
    assert found.shape == live.shape and found.dtype == torch.bool
    return set(places(found[0, 0, 0]))


@given(rows(), st.sampled_from([0.01, 0.1, 0.3, 0.5, 0.99, 1.0]))
def test_top_k_keeps_the_largest_and_of_equal_ones_the_first(
    row: tuple[torch.Tensor, torch.Tensor], keep: float
) -> None:
    weights, live = row
    alive = places(live[0, 0, 0])
    best = sorted(alive, key=lambda j: (-float(weights[0, 0, 0, j]), j))[: math.ceil(keep * len(alive) - 1e-6)]
    assert chosen(weights, live, replace(PLAIN, keep=keep)) == set(best)


@settings(deadline=None)
@given(rows(), st.sampled_from([0.05, 0.3, 0.5, 0.9, 0.999]))
def test_cumulative_keeps_a_smallest_set_with_that_mass(row: tuple[torch.Tensor, torch.Tensor], mass: float) -> None:
    weights, live = row
    alive = places(live[0, 0, 0])
    found = chosen(weights, live, replace(PLAIN, rule="cumulative", mass=mass))
    if not alive:
        assert not found
        return
    finite = weights[0, 0, 0].double().clamp(min=torch.finfo(torch.float32).min)
    share = torch.softmax(finite.masked_fill(~live[0, 0, 0], -math.inf), 0)
    assert found <= set(alive) and float(share[list(found)].sum()) >= mass - 1e-9
    smaller = itertools.combinations(alive, max(len(found) - 1, 0))
    assert not any(float(share[list(some)].sum()) >= mass + 1e-9 for some in smaller)


@given(rows(), st.sampled_from([1e-6, 0.1, 0.5, 1.0]))
def test_threshold_keeps_what_weighs_a_part_of_the_heaviest(
    row: tuple[torch.Tensor, torch.Tensor], threshold: float
) -> None:
    weights, live = row
    alive = places(live[0, 0, 0])
    found = chosen(weights, live, replace(PLAIN, rule="threshold", threshold=threshold))
    finite = weights[0, 0, 0].double().clamp(min=torch.finfo(torch.float32).min)
    largest = max((float(finite[j]) for j in alive), default=0.0)
    assert found == {j for j in alive if float(finite[j]) >= largest + math.log(threshold)}


@given(rows(), st.sampled_from(["top_k", "threshold", "cumulative"]), st.integers(0, 3), st.integers(0, 3))
def test_dead_blocks_are_never_kept_and_the_first_and_local_ones_always(
    row: tuple[torch.Tensor, torch.Tensor], kind: str, sinks: int, local: int
) -> None:
    weights, live = row
    rule = Rule(kind, keep=0.2, threshold=0.9, mass=0.1, sinks=sinks, local=local)
    alive = places(live[0, 0, 0])
    found = chosen(weights, live, rule)
    near = {j for j in alive if abs(j - alive[-1]) < local}
    assert set(alive[:sinks]) | near <= found <= set(alive)
    if kind == "top_k":
        assert len(found) == max(math.ceil(0.2 * len(alive) - 1e-6), len(set(alive[:sinks]) | near))


@pytest.mark.parametrize(
    "rule", [replace(PLAIN, keep=1.0), replace(PLAIN, rule="threshold"), replace(PLAIN, rule="cumulative")]
)
def test_to_keep_all_is_to_keep_what_is_live(rule: Rule) -> None:
    live = torch.rand(2, 3, 4, 5) > 0.5
    weights = torch.full(live.shape, math.nan)
    assert rule.keeps_all
    assert torch.equal(choose(weights, live, rule, Sizes(2, 3, 64, 80, 16, 16)), live)


def test_a_budget_counts_live_blocks_without_rounding_up_products_of_floats() -> None:
    live = torch.ones(1, 1, 1, 30, dtype=torch.bool)
    assert len(chosen(torch.randn(1, 1, 1, 30), live, replace(PLAIN, keep=0.1))) == 3


def test_local_blocks_lie_around_the_diagonal() -> None:
    rule, live = Rule(sinks=1, local=2), torch.ones(1, 1, 8, 8, dtype=torch.bool)
    table = always_kept(live, rule, sizes_of(8, 8))[0, 0]
    assert places(table[4]) == [0, 3, 4, 5]
    causal = always_kept(live.tril(), rule, sizes_of(8, 8))[0, 0]
    assert places(causal[4]) == [0, 3, 4]
    wide = always_kept(live[:, :, :2], rule, Sizes(1, 1, 128, 128, 64, 16))[0, 0]
    assert places(wide[0]) == [0, 1, 2, 3, 4]
    decoded = always_kept(live[:, :, :1], rule, Sizes(1, 1, 1, 128, 16, 16))[0, 0]
    assert places(decoded[0]) == [0, 6, 7]


def test_what_is_not_a_number_counts_as_the_largest() -> None:
    weights = torch.tensor([1.0, math.nan, 3.0, math.inf, -math.inf])[None, None, None]
    live = torch.ones(weights.shape, dtype=torch.bool)
    assert chosen(weights, live, replace(PLAIN, keep=0.2)) == {1}
    assert chosen(weights, live, replace(PLAIN, keep=0.4)) == {1, 3}
    for kind in ("threshold", "cumulative"):
        assert chosen(weights, live, replace(PLAIN, rule=kind, threshold=0.5, mass=0.9)) == {1, 3}


def test_heads_of_a_group_are_compared_by_shares() -> None:
    """The second head's logits are larger all over, yet the needle of the first one is kept."""
    weights = torch.tensor([[0.0, 9.0, 0.0, 0.0], [50.0, 50.0, 50.0, 50.1]])[None, :, None]
    live = torch.ones(1, 2, 1, 4, dtype=torch.bool)
    merged = over_groups(weights, live, 2)
    assert merged.shape == (1, 1, 1, 4) and int(merged.argmax()) == 1
    shares = torch.log_softmax(weights, dim=-1)
    torch.testing.assert_close(merged, shares.amax(dim=1, keepdim=True))
