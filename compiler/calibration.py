"""What "auto" means: candidates are tried on calibration inputs, and then each site takes some, within an error budget.

Knows how sites are tried and run, whatever the candidates are; a `Method` knows those, and how to choose among them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch

from ..ir.core import Operation
from ..ir.diagnostics import error
from .custom_op import Inputs, Runner
from .layouts import Results
from .output_error import relative_error, require_numbers, squared_difference, squares
from .site_program import ProgramRunner, SiteProgram

WAITING, MEASURING, DONE = "waiting", "measuring", "done"

SiteName: TypeAlias = tuple[str, int, str]
"""Where a site stands, the how many-th it is there, and what it computes: equal in every graph that holds it."""

Call: TypeAlias = Callable[[], object]
"""Runs the whole compiled callable on one batch."""


@dataclass(frozen=True)
class Tools:
    """What candidates of a site are made with: the program, a kernel for an attention, the exact runner, a target.

    `prepare` makes a program that follows a choice, `make` compiles an outlined attention, and `target` is the device.
    """

    program: SiteProgram
    prepare: Callable[[Any], SiteProgram]
    make: Callable[[Operation], Runner]
    exact: Runner
    target: str

    def runner(self, choice: Any) -> Runner:
        """What runs the site under a choice."""
        program = self.prepare(choice)
        inner = self.make(program.kernel())
        return inner if program.alone else ProgramRunner(program, inner)


class Candidates(Protocol):
    """The ways in which one site can run beside the exact one."""

    def measure(self, site: SiteCalibration, inputs: Inputs) -> None:
        """Try all on one call, and add what they did to the trials of `site`."""
        ...

    def run(self, heads: Sequence[Any], inputs: Inputs, want_lse: bool) -> Results:
        """Each key head follows its choice, None where it is exact."""
        ...


class Method(Protocol):
    """What is chosen by calibration: what was `asked` of `attir.compile`, such as `quantize='auto'`."""

    @property
    def asked(self) -> str: ...

    def candidates(self, tools: Tools) -> Candidates:
        """Those of one site."""
        ...

    def choose(self, sites: Sequence[SiteCalibration], budget: float, evaluate: Callable[[], float]) -> list[str]:
        """Set the `heads` of all sites, and tell of each in its `table` and of all together in what is returned.

        `sites` are those that ran. `evaluate` runs everything as the sites are set at that moment, and gives the
        error of the outputs.
        """
        ...


@dataclass(eq=False)
class Calibration:
    """The choices of one compiled callable, and how far it is in making them; `lines` tell of the whole."""

    max_error: float
    method: Method
    state: str = WAITING
    sites: dict[SiteName, SiteCalibration] = field(default_factory=dict[SiteName, "SiteCalibration"])
    lines: list[str] = field(default_factory=list[str])

    def site(self, name: SiteName) -> SiteCalibration:
        """What is known of a site; the same for all graphs that hold it."""
        if name not in self.sites:
            self.sites[name] = SiteCalibration()
            if self.state == DONE:
                self.sites[name].leave()
        return self.sites[name]

    def require_done(self) -> None:
        """Fail before anything runs without a choice."""
        if self.state == WAITING:
            raise error(
                f"{self.method.asked} chooses within max_error on calibration inputs, of which there were none "
                "yet: call attir.calibrate(compiled, batches) first"
            )

    def run(self, calls: Sequence[Call]) -> None:
        """Measure all sites on the calls, then choose; as before where anything fails."""
        state, before = self.state, {name: (site.heads, list(site.table)) for name, site in self.sites.items()}
        try:
            with torch.no_grad():
                self._choose(calls)
        except BaseException:
            self.state = state
            for name, site in self.sites.items():
                site.heads, site.table[:] = before.get(name, (None, [NOT_REACHED]))
            raise

    def _choose(self, calls: Sequence[Call]) -> None:
        self.state = MEASURING
        for site in self.sites.values():
            site.forget()
        wanted = [copied(call()) for call in calls]
        self.state = DONE

        def evaluate() -> float:
            for number, exact in enumerate(wanted):
                require_numbers(exact, number)
            return max(relative_error(call(), exact) for call, exact in zip(calls, wanted, strict=True))

        reached = [site for site in self.sites.values() if site.trials or site.refused]
        for site in self.sites.values():
            site.leave()
        told = self.method.choose(reached, self.max_error, evaluate) if reached else [NOTHING_REACHED]
        self.lines[:] = [f"{self.method.asked}: {line}" for line in told]


NOTHING_REACHED = "no attention ran on the calibration inputs, so there is nothing to choose: all stays exact"
NOT_REACHED = "stays exact: calibration inputs did not reach it"


def copied(result: object) -> object:
    """A result whose tensors no later call writes to."""
    if isinstance(result, torch.Tensor):
        return result.detach().clone()
    if isinstance(result, dict):
        return {name: copied(value) for name, value in result.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return [copied(value) for value in result] if isinstance(result, list | tuple) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


@dataclass
class Trial:
    """What one candidate did to one site, summed over calls.

    `wrong` and `whole` are sums of squares of the output's error and of the exact output, for each key head. `seconds`
    are of this candidate, `exact_seconds` of exact attention beside it; the cost model's are `predicted` and
    `predicted_exact`, in any one unit.
    """

    wrong: torch.Tensor
    whole: torch.Tensor
    seconds: float = 0.0
    exact_seconds: float = 0.0
    predicted: float = 0.0
    predicted_exact: float = 0.0

    @property
    def errors(self) -> torch.Tensor:
        """The relative L2 error of each key head's output; nan or infinite where that is zero or no number."""
        return (self.wrong / self.whole).sqrt()

    @property
    def error(self) -> float:
        """That of the whole site."""
        return float((self.wrong.sum() / self.whole.sum()).sqrt())

    @property
    def share(self) -> float:
        """The predicted time as a share of exact attention's."""
        return self.predicted / self.predicted_exact if self.predicted_exact else math.nan

    @property
    def measured(self) -> float:
        """The measured time as a share of exact attention's."""
        return self.seconds / self.exact_seconds if self.exact_seconds else math.nan

    def add(
        self, found: torch.Tensor, wanted: torch.Tensor, seconds: float, exact_seconds: float,
        predicted: float, predicted_exact: float,
    ) -> None:  # fmt: skip
        """Add one call, with its outputs (B, H, M, E)."""
        self.wrong += by_head(squared_difference(found, wanted), len(self.wrong))
        self.whole += by_head(squares(wanted), len(self.whole))
        self.seconds += seconds
        self.exact_seconds += exact_seconds
        self.predicted += predicted
        self.predicted_exact += predicted_exact

    def row(self, name: str) -> str:
        """The name and the relative error, as columns of a table."""
        return f"{name:<22} {self.error:>7.4f}"

    def times(self) -> str:
        """The predicted and the measured share, as columns of a table."""
        return f"{100 * self.share:>9.1f}% {100 * self.measured:>8.1f}%"


@dataclass(eq=False)
class SiteCalibration:
    """The trials of one site, what was refused there and why, and for each key head what it takes (None: exact).

    `table` is what reports show; it is filled when the choice is made. `target` is the device that it runs on.
    """

    target: str = ""
    trials: dict[Hashable, Trial] = field(default_factory=dict[Hashable, Trial])
    refused: dict[Hashable, str] = field(default_factory=dict[Hashable, str])
    heads: tuple[Any, ...] | None = None
    table: list[str] = field(default_factory=list[str])

    def forget(self) -> None:
        """Drop what an earlier calibration found; its choice stays until there is another."""
        self.trials.clear()
        self.refused.clear()

    def leave(self) -> None:
        """Make the site exact, as one that calibration does not reach."""
        self.heads, self.table[:] = None, [NOT_REACHED]

    def refuse(self, choice: Hashable, reason: str) -> None:
        """A candidate that cannot run here; what it did before does not count."""
        self.refused[choice] = reason
        self.trials.pop(choice, None)


class AutoRunner:
    """`runner(q, k, v, captures, want_lse) -> (out, lse)` for a site that follows its calibration."""

    def __init__(self, calibration: Calibration, site: SiteCalibration, tools: Tools) -> None:
        self._calibration, self._site, self._exact = calibration, site, tools.exact
        site.target = tools.target
        self._candidates = calibration.method.candidates(tools)

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
    ) -> Results:
        self._calibration.require_done()
        empty = min(*q.shape, *k.shape, *v.shape) == 0
        if self._calibration.state == MEASURING and not empty:
            self._candidates.measure(self._site, (q, k, v, captures))
        heads = self._site.heads
        if self._calibration.state == MEASURING or empty or heads is None or not any(heads):
            return self._exact(q, k, v, captures, want_lse)
        return self._candidates.run(heads, (q, k, v, captures), want_lse)


REPEATS, LONG = 3, 0.05
"""How often a call is timed, and after how many seconds no more."""


def by_head(numbers: torch.Tensor, heads: int) -> torch.Tensor:
    """Sums over all but the key heads of a tensor (B, H, ...)."""
    return numbers.reshape(len(numbers), heads, -1).sum((0, 2)).cpu()


def timed(q: torch.Tensor, call: Callable[[], Results]) -> tuple[float, Results]:
    """Seconds of a call, the least of up to three short ones, and what it gave."""
    taken: list[float] = []
    while True:
        if q.is_cuda:
            torch.cuda.synchronize(q.device)
        start = time.perf_counter()
        found = call()
        if q.is_cuda:
            torch.cuda.synchronize(q.device)
        taken.append(time.perf_counter() - start)
        if len(taken) == REPEATS or sum(taken) > LONG:
            return min(taken), found
