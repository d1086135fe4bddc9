"""Times are taken by turns and survive a machine that others use; the clocks here are made up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
import torch

from attir.compiler.measuring import FEWEST_ROUNDS, MOST_ROUNDS, SLICE, ProcessorClock, Timing, measured
from attir.ir.diagnostics import CompileError


@dataclass
class Machine:
    """A clock that only calls move, and how many times slower than usual the machine is at a moment."""

    slowness: Callable[[float], float] = lambda _: 1.0
    single: bool = False
    time: float = 0.0
    called: list[str] = field(default_factory=list[str])

    def call(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.called.append(name)
            self.time += seconds * self.slowness(self.time)

        return run

    def seconds(self, call: Callable[[], object], times: int) -> float:
        began = self.time
        for _ in range(times):
            call()
        return self.time - began

    def now(self) -> float:
        return self.time

    def measured(self, seconds: float = 100.0, reference: str | None = "a", **calls: float) -> dict[str, Timing]:
        made = {name: self.call(name, each) for name, each in calls.items()}
        return dict(measured(made, reference=reference, seconds=seconds, clock=self))


def test_quiet_machine_gives_the_times_themselves() -> None:
    found = Machine().measured(a=2e-3, b=3e-3, c=1e-3)
    assert found["a"].ratio == 1.0 and found["a"].seconds == pytest.approx(2e-3)
    assert found["b"].rounds == MOST_ROUNDS and found["b"].spread == pytest.approx(0.0, abs=1e-9)
    assert [found[n].ratio for n in "bc"] == pytest.approx([1.5, 0.5])
    assert [found[n].seconds for n in "bc"] == pytest.approx([3e-3, 1e-3])
    assert found["b"].error == pytest.approx(0.0, abs=1e-9)


def test_each_call_starts_a_round_in_turn_with_the_reference_between_every_two() -> None:
    machine = Machine(single=True)
    machine.measured(a=1e-2, b=1e-2, c=1e-2, d=1e-2)
    rounds = "".join(machine.called)[2 * 4 :]
    assert rounds.startswith("bacda" + "cadba" + "dabca" + "bacda")


def test_drift_divides_out() -> None:
    """A machine that becomes three times slower while it measures."""
    found = Machine(lambda t: 1 + 2 * min(t / 0.3, 1)).measured(a=1e-3, b=1.7e-3, c=0.4e-3)
    assert [found[n].ratio for n in "bc"] == pytest.approx([1.7, 0.4], rel=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_bursts_do_not_count(seed: int) -> None:
    """Each fifth slice or so is five times as long."""
    draw = random.Random(seed)
    machine = Machine(lambda _: 5.0 if draw.random() < 0.2 else 1.0)
    found = machine.measured(a=2e-3, b=3e-3, c=1e-3)
    assert [found[n].ratio for n in "bc"] == pytest.approx([1.5, 0.5], rel=0.01)
    assert [found[n].seconds for n in "abc"] == pytest.approx([2e-3, 3e-3, 1e-3], rel=0.01)
    assert found["b"].rounds < MOST_ROUNDS


def test_a_machine_that_is_never_quiet_is_measured_by_its_quietest_rounds() -> None:
    slow = iter([*[1.0] * 4, *([9.0, 1.0] * 200)])
    found = Machine(lambda _: next(slow), single=True).measured(a=1.0, b=1.0, seconds=0.0)
    assert found["b"].rounds == FEWEST_ROUNDS


def test_short_calls_are_repeated_until_a_slice_is_long_enough() -> None:
    machine = Machine()
    machine.measured(a=SLICE / 10, b=3 * SLICE, seconds=0.0)
    assert machine.called.count("a") == 2 + 10 * FEWEST_ROUNDS
    assert machine.called.count("b") == 2 + FEWEST_ROUNDS


def test_budget_bounds_the_rounds() -> None:
    machine = Machine()
    found = machine.measured(a=0.1, b=0.1, seconds=2.05)
    assert found["b"].rounds == 8 and machine.time <= 2.05
    assert Machine().measured(a=10.0, b=10.0, seconds=1.0)["b"].rounds == FEWEST_ROUNDS


def test_rounds_end_where_times_are_enough() -> None:
    machine, asked = Machine(), list[float]()

    def enough(timings: Mapping[str, Timing], cost: float) -> bool:
        asked.append(cost)
        return timings["b"].rounds >= 7

    calls = {"a": machine.call("a", 1e-2), "b": machine.call("b", 2e-2)}
    assert measured(calls, reference="a", seconds=100.0, clock=machine, enough=enough)["b"].rounds == 7
    assert asked == pytest.approx([3e-2] * 3)


def test_without_a_reference_each_call_stands_alone() -> None:
    draw = random.Random(1)
    machine = Machine(lambda _: 4.0 if draw.random() < 0.2 else 1.0)
    found = machine.measured(a=2e-3, b=1e-3, reference=None)
    assert (found["a"].seconds, found["b"].seconds) == (pytest.approx(2e-3), pytest.approx(1e-3))
    assert found["a"].ratio == 1.0


def test_spread_and_error_tell_how_sure_a_ratio_is() -> None:
    draw = random.Random(2)
    noisy = Machine(lambda _: draw.uniform(0.9, 1.1)).measured(a=2e-3, b=2e-3)["b"]
    assert 0.03 < noisy.spread < 0.15
    assert noisy.error == pytest.approx(1.25 * noisy.spread / noisy.rounds**0.5)


def test_only_the_reference() -> None:
    assert Machine().measured(a=1e-3)["a"].seconds == pytest.approx(1e-3)
    assert measured({}, reference=None, seconds=1.0) == {}


def test_an_unknown_reference_is_refused() -> None:
    with pytest.raises(CompileError, match="reference 'z' is none of the calls: a, b"):
        Machine().measured(reference="z", a=1.0, b=1.0)


def test_threads_are_set_for_the_calls_and_put_back_even_after_a_failure() -> None:
    before, seen = torch.get_num_threads(), list[int]()

    def fail() -> None:
        seen.append(torch.get_num_threads())
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        measured({"a": fail}, reference=None, seconds=0.0, threads=before + 1)
    assert seen == [before + 1] and torch.get_num_threads() == before


def test_one_thread_is_timed_by_the_processor_and_several_by_the_wall() -> None:
    def asleep() -> None:
        time.sleep(0.02)

    assert ProcessorClock(1).seconds(asleep, 1) < 0.01
    assert ProcessorClock(2).seconds(asleep, 2) >= 0.04


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_is_not_timed_where_there_is_none() -> None:
    with pytest.raises(CompileError, match="finds no CUDA device"):
        measured({"a": lambda: None}, reference=None, seconds=0.0, device="cuda")
