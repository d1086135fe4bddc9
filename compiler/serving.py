"""Which kernel of one attention serves which calls: decided once for each bucket of sizes, measured if asked for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeAlias, TypeVar
from weakref import WeakSet

import torch

from ..cost_model.schedule import Schedule
from ..ir.diagnostics import CompileError, error
from ..passes.ranking import Ranking, difference
from .autotune import WORKER, Stopped, Trial, Tuned, in_words, tune
from .layouts import Results
from .outlined import AnyKernel, KernelWatcher
from .report import Variant
from .site_plans import Calls, Chosen, SitePlans, Wishes, same, satisfied, wishes_of
from .tuning import OFF, Tuning


class Planned(Protocol):
    """What remembers how to call kernels, and must forget it where another serves from now on."""

    def forget(self) -> None: ...


C = TypeVar("C", bound=Hashable)
K = TypeVar("K")
Call: TypeAlias = Callable[[K], Callable[[], Results]]
"""How a kernel is called on the tensors of a call."""


class _Turn:
    """A lock for decisions, which take turns so that measurements do not disturb each other; a child has a new one."""

    def __init__(self) -> None:
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


DECIDING = _Turn()


@dataclass(frozen=True)
class Workshop(Generic[C, K]):
    """How kernels of one attention are made.

    `build` makes one that follows wishes, for calls that may be known, and says where its code came from; CompileError
    where there is none. `kernel` says how it came to be. `in_words` tells which calls a choice is for, and of which
    queries the first is. `name` is a choice as a part of a file's name.
    """

    build: Callable[[C, Wishes, Calls | None], tuple[K, str]]
    kernel: Callable[[K], AnyKernel]
    in_words: Callable[[C, int | None], str]
    name: Callable[[C], str]
    device: str = "cpu"

    def schedule(self, kernel: K) -> Schedule:
        """That of a kernel."""
        return Schedule(**self.kernel(kernel).plan)


@dataclass(eq=False)
class Serving(Generic[C, K]):
    """The kernels of one attention, by what they are for.

    `first` are those that were made first of each choice, and serve whatever needs no other. `variants` tells of all,
    `watchers` hear of what is made from now on, `runners` are told when another kernel serves.
    """

    plans: SitePlans
    shop: Workshop[C, K]
    tuning: Tuning = OFF
    variants: list[Variant] = field(default_factory=list[Variant])
    watchers: list[KernelWatcher] = field(default_factory=list["KernelWatcher"])
    runners: WeakSet[Any] = field(default_factory=WeakSet[Any])
    first: dict[C, K] = field(default_factory=dict[C, K])
    _serving: dict[tuple[C, str], K] = field(default_factory=dict[tuple[C, str], K])
    _made: dict[tuple[C, Schedule], tuple[K, int]] = field(default_factory=dict[tuple[C, Schedule], tuple[K, int]])

    # --- before any call

    def make_first(self, choice: C, queries: int | None, calls: Calls | None = None) -> K:
        """The first kernel of a choice, for `calls` where they are known; nothing is measured yet."""
        with DECIDING:
            if choice not in self.first:
                self._make_first(choice, queries, calls)
            return self.first[choice]

    def _make_first(self, choice: C, queries: int | None, calls: Calls | None) -> None:
        calls = calls if self.plans.has_times else None
        kernel = None if calls is None else self._kept(choice, calls)
        if kernel is None:
            kernel, origin = self.shop.build(choice, (), calls)
            self._tell(choice, kernel, self.shop.in_words(choice, queries), origin)
            if calls is not None and not self.tuning.wanted:
                self.plans.keep(calls, Chosen(self.shop.schedule(kernel), self.shop.kernel(kernel).lowered.decision))
                self._serving[choice, calls.bucket] = kernel
        elif calls is not None:
            self._serving[choice, calls.bucket] = kernel
        self.first[choice] = kernel

    def exchange(self, another: Callable[[K], K]) -> None:
        """Let every kernel so far be `another`, such as one that does nothing, to see what the rest costs."""
        with DECIDING:
            self.first = {choice: another(kernel) for choice, kernel in self.first.items()}
            self._serving = {key: another(kernel) for key, kernel in self._serving.items()}
            self._made = {key: (another(kernel), number) for key, (kernel, number) in self._made.items()}
            for runner in self.runners:
                runner.forget()

    # --- for a call

    def for_call(self, choice: C, calls: Calls, call: Call[K]) -> K:
        """The kernel for a call; `call` says how one is called on its tensors, where it must be measured."""
        if (kernel := self._serving.get((choice, calls.bucket))) is not None:
            return kernel
        with DECIDING:
            if (choice, calls.bucket) not in self._serving:
                self._serving[choice, calls.bucket] = self._decided(choice, calls, call)
            return self._serving[choice, calls.bucket]

    def _decided(self, choice: C, calls: Calls, call: Call[K]) -> K:
        if not self.plans.has_times:
            return self.make_first(choice, calls.sizes.queries)
        if (kernel := self._kept(choice, calls)) is not None:
            return kernel
        if not self.tuning.wanted:
            return self._by_model(choice, calls)
        if self.shop.device == "cuda" and torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            # Nothing runs while a graph of calls is written down.
            return self._by_model(choice, calls, keep=False)
        if not self.tuning.background:
            return self._tuned(choice, calls, call)
        kernel = self._by_model(choice, calls, keep=False)
        threads = torch.get_num_threads()
        WORKER.add(lambda stop: self._tune_later(choice, calls, call, kernel, threads, stop))
        return kernel

    def _kept(self, choice: C, calls: Calls) -> K | None:
        """The kernel of a kept plan that needs no more measuring; None where there is none to follow."""
        found = self.plans.find(calls)
        if found.chosen is None or not satisfied(found, self.tuning):
            return None
        try:
            return self._adopt(choice, found.chosen, calls)
        except CompileError:
            # A plan of another day is only advice.
            return None

    def _by_model(self, choice: C, calls: Calls, *, keep: bool = True) -> K:
        """What the model takes; the first kernel of a choice stays unless another is worth compiling."""
        if choice not in self.first:
            return self.make_first(choice, calls.sizes.queries, calls)
        first = self.first[choice]
        schedule = self.shop.schedule(first)
        try:
            chosen = self.plans.by_model(calls, schedule)
        except CompileError:
            # What nothing is predicted for is served by what there is.
            return first
        kernel = first if same(chosen.schedule) == same(schedule) else self._adopt(choice, chosen, calls)
        if keep and chosen.decision:
            self.plans.keep(calls, chosen)
        return kernel

    # --- measuring

    def _tuned(self, choice: C, calls: Calls, call: Call[K]) -> K:
        return self._take(choice, calls, *self._measured(choice, calls, call, None))

    def _measured(
        self, choice: C, calls: Calls, call: Call[K], stop: threading.Event | None
    ) -> tuple[Ranking, Tuned, Mapping[Schedule, tuple[K, str]]]:
        """What was predicted, what was measured, and the kernels that were made for it."""
        made: dict[Schedule, tuple[K, str]] = {}

        def make(schedule: Schedule) -> K:
            known = self._made.get((choice, same(schedule)))
            built = self._build(choice, schedule, calls) if known is None else (known[0], "")
            made[same(schedule)] = built
            return built[0]

        trial = Trial(make, call, self.shop.device, f"{self.shop.in_words(choice, calls.sizes.queries)}")
        ranking = self.plans.ranking(calls)
        return ranking, tune(ranking.candidates, trial, self.tuning, stop=stop), made

    def _build(self, choice: C, schedule: Schedule, calls: Calls) -> tuple[K, str]:
        """A kernel with exactly that schedule, and where its code came from."""
        kernel, origin = self.shop.build(choice, wishes_of(schedule), calls)
        made = self.shop.schedule(kernel)
        if same(made) != same(schedule):
            raise error(f"asked for {schedule}, the planner made {difference(made, schedule)} of it")
        return kernel, origin

    def _take(
        self, choice: C, calls: Calls, ranking: Ranking, tuned: Tuned, made: Mapping[Schedule, tuple[K, str]]
    ) -> K:
        """Let the fastest serve such calls, and keep what was learned."""
        best = tuned.best
        times = {m.candidate.schedule: m.timing.seconds for m in tuned.order}
        order = [m.candidate for m in tuned.order]
        decision = self.plans.decision(ranking, calls.sizes, tuned.source, order, times, tuned.note)
        chosen = Chosen(best.candidate.schedule, decision)
        kernel = self._adopt(choice, chosen, calls, made[same(chosen.schedule)])
        rounds = sum(m.timing.rounds for m in tuned.order)
        self.plans.keep(calls, chosen, effort=self.tuning.effort, rounds=rounds, seconds=best.timing.seconds)
        self.plans.keep_measurements(calls, tuned.rows(str(calls.sizes), calls.rows))
        self.plans.learn(ranking.problem, [(m.candidate.prediction, m.timing.seconds) for m in tuned.order])
        return kernel

    def _tune_later(
        self, choice: C, calls: Calls, call: Call[K], serving: K, threads: int, stop: threading.Event
    ) -> None:
        """Measure beside what the process does, then let the fastest serve from the next call on."""
        # A thread has a number of its own.
        torch.set_num_threads(threads)
        try:
            with torch.no_grad():
                found = self._measured(choice, calls, call, stop)
            with DECIDING:
                self._serving[choice, calls.bucket] = self._take(choice, calls, *found)
        except Stopped:
            raise
        except Exception as problem:  # nobody waits for this: the calls go on, and the report says why
            with DECIDING:
                self._note(serving, f"measuring in the background failed: {in_words(problem)}")
            return
        for runner in list(self.runners):
            runner.forget()

    # --- what was made

    def _adopt(self, choice: C, chosen: Chosen, calls: Calls, built: tuple[K, str] | None = None) -> K:
        """The kernel with a schedule, made now unless there is one; the report says why it serves."""
        known = self._made.get((choice, same(chosen.schedule)))
        if known is not None:
            kernel, place = known
            variant = self.variants[place]
            # What was measured says more than what was predicted for other sizes.
            if "measured_us" in chosen.decision or not variant.plan.get("decision"):
                self.variants[place] = replace(variant, plan={**variant.plan, "decision": dict(chosen.decision)})
            return kernel
        kernel, origin = built or self._build(choice, chosen.schedule, calls)
        words = self.shop.in_words(choice, calls.sizes.queries)
        others = any(c == choice for c, _ in self._made)
        self._tell(choice, kernel, f"{words}, for {calls.sizes.bucket}" if others else words, origin, chosen)
        if others:
            self._hear(f"{self.shop.name(choice)}-{calls.sizes.bucket}", kernel)
        return kernel

    def _tell(self, choice: C, kernel: K, words: str, origin: str, chosen: Chosen | None = None) -> None:
        """Add a kernel to the report, and to those that are shared; who watches hears of the first of a choice."""
        told = self.shop.kernel(kernel)
        plan = told.lowered.decisions
        plan = plan if chosen is None else {**plan, "decision": dict(chosen.decision)}
        alone = not any(c == choice for c, _ in self._made)
        self._made[choice, same(self.shop.schedule(kernel))] = kernel, len(self.variants)
        self.variants.append(Variant(words, origin, plan, told.source))
        self.first.setdefault(choice, kernel)
        if alone:
            # Who hears of it may call the site.
            self._hear(self.shop.name(choice), kernel)

    def _hear(self, name: str, kernel: K) -> None:
        for watcher in self.watchers:
            watcher(name, self.shop.kernel(kernel))

    def _note(self, kernel: K, note: str) -> None:
        """Say something about a kernel in the report."""
        place = next(place for made, place in self._made.values() if made is kernel)
        variant = self.variants[place]
        decision = dict(variant.plan.get("decision", {}))
        decision["note"] = "; ".join(filter(None, (str(decision.get("note", "")), note)))
        self.variants[place] = replace(variant, plan={**variant.plan, "decision": decision})
