"""Laws of the estimators: bounds that hold, products that rotations keep, summaries that grow as if made at once."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.compiler.select_ops import live_of

from attir.compiler.attention_cases import Shape
from attir.compiler.block_scores import split_axis
from attir.compiler.estimators import Estimator, Grid, Int4, LowRank, Pooled, Quest, in_four_bits, main_directions
from attir.compiler.estimators_clusters import Centroids
from attir.compiler.estimators_lines import Sampled
from attir.compiler.key_summaries import KeySummary
from attir.ir.diagnostics import CompileError

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
BLOCK, ROWS = 16, 8


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """q and k of odd sizes, of one sign or of both, small or large."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    group, heads, width = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.sampled_from([1, 3, 16]))
    queries, keys = draw(st.integers(1, 40)), draw(st.integers(1, 70))
    dtype, magnitude = draw(st.sampled_from(DTYPES)), draw(st.sampled_from([0.01, 1.0, 30.0]))
    shift = draw(st.sampled_from([-2.0, 0.0, 2.0]))
    q = torch.randn(2, heads * group, queries, width, generator=generator) * magnitude
    k = torch.randn(2, heads, keys, width, generator=generator) + shift
    return q.to(dtype), k.to(dtype)


def importance(estimator: Estimator, q: torch.Tensor, k: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    shape = Shape(q.shape[0], q.shape[1], k.shape[1], q.shape[2], k.shape[2])
    grid = Grid(live_of("none", shape, ROWS, BLOCK), scale, q.shape[1] // k.shape[1])
    return estimator.importance(q, estimator.summarise(k, BLOCK), grid)


def products(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """(B, H, M, N) in float64."""
    return q.double() @ k.double().repeat_interleave(q.shape[1] // k.shape[1], dim=1).transpose(2, 3)


def of_blocks(scores: torch.Tensor) -> torch.Tensor:
    """The largest of each pair of blocks."""
    padding = (0, -scores.shape[3] % BLOCK, 0, -scores.shape[2] % ROWS)
    padded = torch.nn.functional.pad(scores, padding, value=-torch.inf)
    return split_axis(split_axis(padded, 3, (-1, BLOCK)), 2, (-1, ROWS)).amax(dim=(3, 5))


def rounding(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """What sums of products in float32 may be wrong by, for each pair of blocks."""
    return 1e-6 * of_blocks(products(q.abs(), k.abs())) + 1e-30


@settings(deadline=None)
@given(problems(), st.sampled_from([0, 1, 4, 8]))
def test_quest_is_never_below_the_largest_product(problem: tuple[torch.Tensor, torch.Tensor], page: int) -> None:
    q, k = problem
    found, largest = importance(Quest(page), q, k), of_blocks(products(q, k))
    assert found.dtype == torch.float32
    assert bool((found.double() >= largest - rounding(q, k)).all())
    if page == 1:
        assert bool((found.double() <= largest + rounding(q, k)).all())


@settings(deadline=None)
@given(problems())
def test_four_bits_are_wrong_by_at_most_half_a_step(problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    q, k = problem
    found, exact = importance(Int4(queries=0), q, k).double(), of_blocks(products(q, k))
    numbers, steps = in_four_bits(q.float())
    near = numbers.double() * steps[..., None].double()
    assert int(numbers.abs().max()) <= 7
    assert bool(((q.double() - near).abs() <= steps[..., None] * 0.5001).all())
    padded = torch.cat([k, k[:, :, -1:].expand(-1, -1, -k.shape[2] % BLOCK, -1)], dim=2).float()
    key_steps = split_axis(padded, 2, (-1, BLOCK)).abs().amax(dim=(3, 4)) / 7
    group = q.shape[1] // k.shape[1]
    of_queries = near.abs().sum(dim=-1)[..., None] * key_steps.repeat_interleave(group, dim=1)[:, :, None] / 2
    of_keys = (
        steps[..., None] / 2 * k.double().abs().sum(dim=-1).amax(dim=2).repeat_interleave(group, 1)[:, :, None, None]
    )
    bound = (of_queries + of_keys).amax(dim=2)[:, :, None] * 1.001 + rounding(q, k)
    assert bool(((found - exact).abs() <= bound).all())


@settings(deadline=None)
@given(problems())
def test_all_directions_keep_every_product(problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    q, k = problem
    width = k.shape[3]
    basis = main_directions(k, width)
    identity = basis.transpose(1, 2) @ basis
    torch.testing.assert_close(identity, torch.eye(width).expand_as(identity), atol=1e-5, rtol=0)
    group = q.shape[1] // k.shape[1]
    rotated = products(q.float() @ basis.repeat_interleave(group, dim=0), k.float() @ basis)
    lengths = [x.double().square().sum(dim=3).sqrt() for x in (q, k.repeat_interleave(group, dim=1))]
    slack = 1e-5 * lengths[0][..., None] * lengths[1][:, :, None]
    assert bool(((rotated - products(q, k)).abs() <= slack + 1e-30).all())
    found = importance(LowRank(rank=width, queries=0), q, k).double()
    assert bool(((found - of_blocks(products(q, k))).abs() <= slack.amax(dim=(2, 3), keepdim=True) + 1e-30).all())


def test_directions_are_those_of_the_largest_keys() -> None:
    k = torch.randn(1, 2, 500, 8) * torch.tensor([1.0, 9.0, 0.1, 0.1, 5.0, 0.1, 0.1, 0.1])
    kept = main_directions(k, 2).square().sum(dim=2)
    torch.testing.assert_close(kept, torch.tensor([0, 1.0, 0, 0, 1, 0, 0, 0]).expand(2, 8), atol=0.02, rtol=0)


ESTIMATORS: dict[str, Estimator] = {
    "quest": Quest(),
    "quest of small pages": Quest(page=4),
    "pooled": Pooled(),
    "low_rank": LowRank(basis=main_directions(torch.randn(1, 2, 40, 8), 4)),
    "int4": Int4(),
    "sampled": Sampled(),
    "centroids": Centroids(clusters=4),
    "centroids in two levels": Centroids(clusters=6, levels=2),
}


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 70), st.lists(st.integers(0, 40), max_size=6), st.sampled_from(DTYPES), st.data())
def test_a_summary_that_grows_is_that_of_all_keys(
    first: int, more: list[int], dtype: torch.dtype, data: st.DataObject
) -> None:
    estimator = ESTIMATORS[data.draw(st.sampled_from(list(ESTIMATORS)))]
    k = torch.randn(2, 2, first + sum(more), 8).to(dtype)
    summary = KeySummary(estimator, BLOCK)
    starts = [sum([first, *more][:i]) for i in range(len(more) + 2)]
    parts = [k[:, :, start:stop] for start, stop in pairwise(starts)]
    for part in parts:
        summary.append(part)
    grown = estimator.append(estimator.start(parts[0], BLOCK), parts[0])
    for part in parts[1:]:
        grown = estimator.append(grown, part)
    at_once = estimator.append(estimator.start(parts[0], BLOCK), k)
    assert summary.length == k.shape[2] == grown.length
    for found in (summary.summary, grown):
        assert found.page == at_once.page and torch.equal(found.tail, at_once.tail)
        assert all(torch.equal(x, y) for x, y in zip(found.parts, at_once.parts, strict=True))


def test_what_is_learnt_from_all_keys_makes_the_summary_of_all() -> None:
    k = torch.randn(1, 2, 50, 8)
    for estimator in (*ESTIMATORS.values(), LowRank(rank=3)):
        summary = KeySummary(estimator, BLOCK)
        summary.append(k)
        whole = estimator.summarise(k, BLOCK)
        assert all(torch.equal(x, y) for x, y in zip(summary.summary.parts, whole.parts, strict=True))


def test_memory_of_a_summary_is_made_seldom() -> None:
    summary, places = KeySummary(Quest(page=4), 16), set[int]()
    summary.append(torch.randn(1, 1, 1, 8))
    for _ in range(1500):
        summary.append(torch.randn(1, 1, 1, 8))
        places.add(summary.summary.parts[0].data_ptr())
    assert len(places) <= 5 and summary.length == 1501


def test_keys_unlike_those_before_are_refused() -> None:
    summary = KeySummary(Quest(), 16)
    with pytest.raises(CompileError, match="there is no summary yet"):
        _ = summary.summary
    summary.append(torch.randn(1, 2, 5, 8))
    with pytest.raises(CompileError, match=r"keys must be 1 x 2 x new x 8 .* but are \(1, 1, 5, 8\)"):
        summary.append(torch.randn(1, 1, 5, 8))
    with pytest.raises(CompileError, match=r"but are \(1, 2, 5, 8\) of torch.float16"):
        summary.append(torch.randn(1, 2, 5, 8).half())
    with pytest.raises(CompileError, match=r"keys must be .* but have shape \(2, 8\)"):
        summary.append(torch.randn(2, 8))
