"""The search for precisions: what it finds fits, is fast, and took few evaluations; and how errors of outputs count."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attir.compiler.output_error import relative_error
from attir.compiler.precision_search import Assignment, Option, front, in_order, search

LADDER = (Option(0, 10), Option(0.001, 6), Option(0.01, 4), Option(0.1, 3))
"""Exact, and ever faster and worse."""


def summed(sites: Sequence[Sequence[Option]], weights: Sequence[float] = ()) -> Callable[[Assignment], float]:
    """An end to end error that grows with each site's own: squares add up, each with a weight of its own."""

    def error(assignment: Assignment) -> float:
        shares = weights or [1.0] * len(sites)
        return math.sqrt(sum(w * s[i].error ** 2 for w, s, i in zip(shares, sites, assignment, strict=True)))

    return error


def time_of(sites: Sequence[Sequence[Option]], assignment: Assignment) -> float:
    return sum(site[i].time for site, i in zip(sites, assignment, strict=True))


def test_all_sites_take_the_fastest_where_the_budget_allows_it_after_two_evaluations() -> None:
    found = search([LADDER] * 8, 1.0, summed([LADDER] * 8))
    assert found.assignment == (3,) * 8 and found.evaluations == 2 and not found.exhausted


def test_all_stay_exact_where_nothing_fits() -> None:
    found = search([LADDER] * 4, 1e-6, summed([LADDER] * 4))
    assert found.assignment == (0,) * 4 and found.error == 0


def test_nothing_is_tried_where_exact_runs_differ_by_more_than_the_budget() -> None:
    for noise in (0.5, math.nan, math.inf):
        found = search([LADDER] * 4, 0.1, lambda _, noise=noise: noise)
        assert found.assignment == (0,) * 4 and found.evaluations == 1 and not found.noise <= 0.1


def test_assignments_without_an_error_never_fit() -> None:
    found = search([LADDER] * 3, 0.5, lambda a: math.nan if 3 in a else summed([LADDER] * 3)(a))
    assert found.assignment == (2, 2, 2)


def test_there_may_be_nothing_to_choose() -> None:
    assert search([], 0.1, lambda _: 0.0).assignment == ()
    assert search([LADDER[:1]], 0.1, lambda _: 0.0).assignment == (0,)


def test_options_that_gain_nothing_or_have_no_error_are_never_taken() -> None:
    options = [Option(0, 10), Option(0, 10), Option(0.1, 12), Option(math.nan, 1), Option(math.inf, 1), Option(0.2, 5)]
    assert front(options) == [0, 5]
    assert front([Option(0, 10), Option(0.2, 5), Option(0.2, 5), Option(0.1, 4)]) == [0, 3]


def test_the_order_begins_where_error_costs_least_for_the_time_gained() -> None:
    sensitive, robust, slow = [Option(0, 10), Option(0.1, 5)], [Option(0, 10), Option(0.01, 5)], [Option(0, 100)] * 2
    dear = [Option(0, 10), Option(0.01, 9.9)]
    assert [m.site for m in in_order([sensitive, robust, slow, dear])] == [1, 3, 0]
    # A site takes its steps in the order of its ladder, although others come between.
    steps = [(m.site, m.option) for m in in_order([LADDER, [Option(0, 10), Option(0.02, 5)]])]
    assert steps == [(0, 1), (0, 2), (1, 1), (0, 3)]


def test_bisection_finds_the_threshold_in_few_evaluations() -> None:
    """64 sites with one option each: of those in order, exactly 37 fit."""
    sites = [[Option(0, 1), Option(1.0 + i / 1000, 0)] for i in range(64)]
    budget = summed(sites)(tuple(int(i < 37) for i in range(64))) * (1 + 1e-9)
    seen: list[Assignment] = []

    def evaluate(assignment: Assignment) -> float:
        seen.append(assignment)
        return summed(sites)(assignment)

    found = search(sites, budget, evaluate, most=9)
    assert found.assignment == tuple(int(i < 37) for i in range(64))
    assert len(seen) == len(set(seen)) <= 9


def test_a_site_that_only_the_whole_shows_to_be_sensitive_is_passed_over() -> None:
    """Its own error is the least of all, but what comes behind makes it the largest."""
    sites = [[Option(0, 10), Option(0.01 + 0.001 * i, 5)] for i in range(8)]
    found = search(sites, 0.2, summed(sites, [1e6, *[1.0] * 7]))
    assert found.assignment == (0, *[1] * 7)


def test_an_option_off_the_hull_is_found_in_the_end() -> None:
    """From exact to the last one is cheaper for the time than to the middle one, but only the middle one fits."""
    site = [Option(0, 10), Option(0.09, 9), Option(0.1, 1)]
    assert [m.option for m in in_order([site])] == [2]
    assert search([site], 0.095, summed([site])).assignment == (1,)


def test_evaluations_are_bounded() -> None:
    draw = random.Random(0)
    sites = [[Option(0, 10), *(Option(draw.random(), 9 - i) for i in range(4))] for _ in range(200)]
    found = search(sites, 1.0, summed(sites, [draw.random() for _ in sites]), most=20)
    assert found.evaluations == 20 and found.exhausted and found.error <= 1.0 and any(found.assignment)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[Option]], list[float], float]:
    numbers = st.floats(0, 1)
    options = st.lists(st.builds(Option, numbers, st.floats(0, 12)), max_size=3)
    sites = draw(st.lists(options.map(lambda found: [Option(0, 10), *found]), min_size=1, max_size=4))
    weights = draw(st.lists(st.floats(0.1, 10), min_size=len(sites), max_size=len(sites)))
    return sites, weights, draw(st.floats(0.01, 2))


@given(problems())
def test_what_is_found_fits_and_no_single_site_can_go_faster(problem: tuple[list[list[Option]], list[float], float]):
    sites, weights, budget = problem
    evaluate = summed(sites, weights)
    found = search(sites, budget, evaluate, most=1000)
    assert found == search(sites, budget, evaluate, most=1000)
    assert found.error == evaluate(found.assignment) <= budget
    best = min(time_of(sites, a) for a in product(*(range(len(s)) for s in sites)) if evaluate(a) <= budget)
    assert best <= time_of(sites, found.assignment) <= 10 * len(sites)
    for site in range(len(sites)):
        for option in front(sites[site]):
            other = (*found.assignment[:site], option, *found.assignment[site + 1 :])
            faster = time_of(sites, other) < time_of(sites, found.assignment)
            assert not (faster and evaluate(other) <= budget)


def test_what_is_found_is_close_to_the_best() -> None:
    draw, lost = random.Random(1), list[float]()
    for _ in range(60):
        sites = [[Option(0, 10), *(Option(10 ** -draw.uniform(1, 3), 8 - 2 * i) for i in range(3))] for _ in range(5)]
        weights, budget = [draw.uniform(0.5, 2) for _ in sites], 10 ** -draw.uniform(1, 2.5)
        evaluate = summed(sites, weights)
        fitting = [a for a in product(range(4), repeat=5) if evaluate(a) <= budget]
        best = min(time_of(sites, a) for a in fitting)
        lost.append(time_of(sites, search(sites, budget, evaluate).assignment) / best - 1)
    assert sum(lost) / len(lost) < 0.03 and max(lost) < 0.25


# --- errors of outputs


def test_the_error_is_that_of_the_worst_tensor() -> None:
    small, large = torch.tensor([3.0, 4.0]), torch.full((4,), 1e6)
    wanted = {"a": small, "b": [large, (torch.arange(3), None, "text")]}
    assert relative_error(wanted, wanted) == 0
    found = {"a": small + torch.tensor([0.0, 0.5]), "b": [large * 1.01, (torch.zeros(3, dtype=torch.int64), 0, "")]}
    assert relative_error(found, wanted) == pytest.approx(0.1)
    assert relative_error(torch.tensor([1e-9]), torch.zeros(1)) == math.inf


def test_other_tensors_have_no_error_that_fits() -> None:
    assert relative_error(torch.zeros(2), torch.zeros(3)) == math.inf
    assert relative_error([torch.zeros(2)] * 2, [torch.zeros(2)]) == math.inf


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_agree_with_themselves_only(odd: float) -> None:
    wanted = torch.tensor([odd, 3.0, 4.0])
    assert relative_error(wanted.clone(), wanted) == 0
    assert relative_error(torch.tensor([odd, 3.0, 4.5]), wanted) == pytest.approx(0.1)
    assert relative_error(torch.tensor([0.0, 3.0, 4.0]), wanted) == math.inf
    assert relative_error(torch.tensor([odd, odd, 4.0]), wanted) == math.inf
    assert relative_error(torch.tensor([-odd, 3.0, 4.0]), wanted) == (0 if math.isnan(odd) else math.inf)
