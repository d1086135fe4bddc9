"""`sparsity="auto"`: candidates are tried on calibration inputs, and each site takes the cheapest within its budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from ..cost_model.selection import Estimate, share_of_dense
from ..ir.attributes import FunctionType
from ..ir.core import Operation
from ..ir.diagnostics import error
from ..ir.dialects.attn import AttentionOp, SelectOp
from ..ir.dialects.func import FuncOp
from .custom_op import Runner
from .host_ops import HOST_OPS
from .layouts import Results
from .prepare_site import prepare
from .selection import Selection, select
from .site_program import SiteProgram

CANDIDATES: tuple[Selection, ...] = tuple(
    select(estimator, keep=keep, local=2)
    for keep in (0.05, 0.1, 0.2, 0.4)
    for estimator in ("pooled", "quest", "low_rank")
)
"""What calibration tries; all with blocks of one size, so that heads may differ in what they take."""

EVERYTHING = select("pooled", keep=1.0)
"""The choice of all live blocks."""

WAITING, RUNNING, DONE = "waiting", "running", "done"

SiteName: TypeAlias = tuple[str, int, str]
"""Where a site stands, the how many-th it is there, and what it computes: equal in every graph that holds it."""


@dataclass(eq=False)
class Calibration:
    """The choices of one compiled callable, and how far it is in making them; `max_error` is each site's budget."""

    max_error: float
    state: str = WAITING
    sites: dict[SiteName, SiteCalibration] = field(default_factory=dict[SiteName, "SiteCalibration"])

    def site(self, name: SiteName) -> SiteCalibration:
        """What is known of a site; the same for all graphs that hold it."""
        return self.sites.setdefault(name, SiteCalibration(self.max_error))

    def require_done(self) -> None:
        """Fail before anything runs without a choice."""
        if self.state == WAITING:
            raise error(
                "sparsity='auto' chooses within max_error on calibration inputs, of which there were none yet: "
                "call attir.calibrate(compiled, batches) first"
            )

    def run(self, calls: Sequence[Callable[[], object]]) -> None:
        """Measure all sites on the calls, then choose."""
        before, self.state = self.state, RUNNING
        for site in self.sites.values():
            site.trials.clear()
        try:
            with torch.no_grad():
                for call in calls:
                    call()
        except BaseException:
            self.state = before
            raise
        for site in self.sites.values():
            site.choose()
        self.state = DONE


@dataclass
class Trial:
    """What one candidate did to one site, summed over calls, for each key head.

    `wrong` and `whole` are sums of squares of the output's error and of dense output, `mass` of the recalled
    weights of `rows` rows. Seconds are of this candidate and of dense attention beside it, `predicted` its
    share of dense by the cost model.
    """

    wrong: torch.Tensor
    whole: torch.Tensor
    mass: torch.Tensor
    rows: int = 0
    seconds: float = 0.0
    dense_seconds: float = 0.0
    predicted: float = 0.0
    calls: int = 0

    @property
    def errors(self) -> torch.Tensor:
        """The relative L2 error of each key head's output."""
        return (self.wrong / self.whole.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()

    @property
    def error(self) -> float:
        """That of the whole site."""
        return math.sqrt(float(self.wrong.sum()) / max(float(self.whole.sum()), 1e-300))

    @property
    def recall(self) -> float:
        """The mean weight that chosen keys have in dense attention."""
        return float(self.mass.sum()) / max(1, self.rows * len(self.mass))

    @property
    def share(self) -> float:
        """The predicted time as a share of dense attention's, a mean over calls."""
        return self.predicted / max(1, self.calls)


@dataclass(eq=False)
class SiteCalibration:
    """The trials of one site, and for each key head the candidate that it takes, None for dense attention.

    `table` is what reports show; it is filled when the choice is made.
    """

    max_error: float
    trials: dict[Selection, Trial] = field(default_factory=dict[Selection, Trial])
    heads: tuple[Selection | None, ...] | None = None
    table: list[str] = field(default_factory=list[str])

    def choose(self) -> None:
        """For each head the candidate with the least predicted time whose error fits the budget."""
        if not self.trials:
            self.heads = None
            return
        ranked = sorted(self.trials.items(), key=lambda item: item[1].share)
        count = len(ranked[0][1].mass)
        taken: list[Selection | None] = []
        for head in range(count):
            fitting = [s for s, t in ranked if t.share < 1 and bool(t.errors[head] <= self.max_error)]
            taken.append(fitting[0] if fitting else None)
        self.heads = tuple(taken)
        self.table[:] = self._table(ranked)

    def _table(self, ranked: Sequence[tuple[Selection, Trial]]) -> list[str]:
        assert self.heads is not None
        lines = [f"error budget {self.max_error:g}; of {len(self.heads)} key heads {self._in_words()}"]
        lines.append("candidate                error   recall  predicted  measured  heads")
        for selection, trial in ranked:
            name = f"{selection.estimator} keep={selection.keep:g}"
            measured = trial.seconds / trial.dense_seconds if trial.dense_seconds else math.nan
            lines.append(
                f"{name:<22} {trial.error:>7.4f} {100 * trial.recall:>7.2f}% {100 * trial.share:>9.1f}% "
                f"{100 * measured:>8.1f}% {self.heads.count(selection):>6}"
            )
        lines.append("predicted and measured: time as a share of dense attention's")
        return lines

    def _in_words(self) -> str:
        assert self.heads is not None
        found = dict.fromkeys(self.heads)
        return ", ".join(
            f"{self.heads.count(s)} {'stay dense' if s is None else f'take {s.estimator} keep={s.keep:g}'}"
            for s in found
        )


class AutoRunner:
    """`runner(q, k, v, captures, want_lse) -> (out, lse)` for a site that follows its calibration.

    `make` compiles a kernel for an outlined attention.
    """

    def __init__(
        self, calibration: Calibration, site: SiteCalibration, module: Operation, make: Callable[[Operation], Runner]
    ) -> None:
        self._calibration, self._site, self._module, self._make = calibration, site, module, make
        self._dense = make(module)
        self._programs: dict[Selection, SiteProgram] = {}
        self._runners: dict[str, Runner] = {}

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
    ) -> Results:
        self._calibration.require_done()
        if self._calibration.state == RUNNING:
            self._measure(q, k, v, captures)
            return self._dense(q, k, v, captures, want_lse)
        heads = self._site.heads
        if heads is None or not any(heads):
            return self._dense(q, k, v, captures, want_lse)
        sparse = self._runner("sparse", lambda: self._program(CANDIDATES[0]).kernel())
        return sparse(q, k, v, (*captures, self._blocks(heads, q, k, captures)), want_lse)

    def _blocks(
        self, heads: Sequence[Selection | None], q: torch.Tensor, k: torch.Tensor, captures: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """The blocks that each key head's candidate chooses; all of them for heads that stay dense."""
        chosen: torch.Tensor | None = None
        for selection in dict.fromkeys(heads):
            if selection is None:
                continue
            found = self._chosen(selection, q, k, captures)
            own = torch.tensor([s == selection for s in heads], device=q.device)[None, :, None, None]
            chosen = found | ~own if chosen is None else torch.where(own, found, chosen)
        assert chosen is not None
        return chosen

    def _chosen(
        self, selection: Selection, q: torch.Tensor, k: torch.Tensor, captures: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        op = next(op for op in self._program(selection).module.walk() if SelectOp.match(op))
        (blocks,) = HOST_OPS[op.name](op, [q, k, *captures])
        return blocks

    def _program(self, selection: Selection) -> SiteProgram:
        if selection not in self._programs:
            self._programs[selection] = prepare(self._module, selection).program
        return self._programs[selection]

    def _runner(self, name: str, module: Callable[[], Operation]) -> Runner:
        if name not in self._runners:
            self._runners[name] = self._make(module())
        return self._runners[name]

    # --- calibration

    def _measure(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor]) -> None:
        """Try every candidate on one call."""
        if min(*q.shape, *k.shape) == 0:
            return
        dense = self._runner("dense with lse", lambda: with_lse(self._module))
        sparse = self._runner("sparse with lse", lambda: with_lse(self._program(CANDIDATES[0]).kernel()))
        # The first call of a kernel compiles it.
        wanted = dense(q, k, v, captures, True)
        dense_seconds, _ = _timed(q, lambda: dense(q, k, v, captures, True))
        live = self._live(q, k, captures)
        for selection in CANDIDATES:
            chosen = self._chosen(selection, q, k, captures)
            sparse(q, k, v, (*captures, chosen), True)

            def whole(selection: Selection = selection) -> Results:
                return sparse(q, k, v, (*captures, self._chosen(selection, q, k, captures)), True)

            seconds, found = _timed(q, whole)
            trial = self._site.trials.setdefault(selection, _new_trial(k.shape[1]))
            _add_errors(trial, found, wanted)
            trial.seconds += seconds
            trial.dense_seconds += dense_seconds
            trial.predicted += _predicted(selection, int(chosen.sum()) / max(1, live), q, k, v)
            trial.calls += 1

    def _live(self, q: torch.Tensor, k: torch.Tensor, captures: Sequence[torch.Tensor]) -> int:
        """How many blocks the mask leaves: those that a choice keeps which keeps everything."""
        return int(self._chosen(EVERYTHING, q, k, captures).sum())


def _predicted(selection: Selection, kept: float, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> float:
    """The share of dense time by the cost model, where the fraction `kept` of all live blocks is chosen."""
    own = dict(selection.parameters)
    heads = q.shape[0] * q.shape[1]
    sizes = Estimate(q.shape[2], k.shape[2], q.shape[3], v.shape[3], selection.rows, selection.block, own, heads)
    return share_of_dense(selection.estimator, kept, sizes)


def _new_trial(heads: int) -> Trial:
    wrong, whole, mass = (torch.zeros(heads, dtype=torch.float64) for _ in range(3))
    return Trial(wrong, whole, mass)


def _add_errors(trial: Trial, found: Results, wanted: Results) -> None:
    """Add one call's errors and recalled weights, each with its log-sum-exps behind it."""
    heads = len(trial.mass)
    (out, lse), (dense, dense_lse) = found, wanted
    trial.wrong += _by_head((out.double() - dense.double()).square(), heads)
    trial.whole += _by_head(dense.double().square(), heads)
    # A row without any key weighs nothing, and loses nothing.
    recalled = torch.where(dense_lse == -math.inf, 1.0, (lse.double() - dense_lse.double()).exp())
    trial.mass += _by_head(recalled, heads)
    trial.rows += recalled.numel() // heads


def _by_head(numbers: torch.Tensor, heads: int) -> torch.Tensor:
    """Sums over all but the key heads of a tensor (B, H, ...)."""
    return numbers.reshape(len(numbers), heads, -1).sum((0, 2)).cpu()


def _timed(q: torch.Tensor, call: Callable[[], Results]) -> tuple[float, Results]:
    """Seconds of a call, and what it gave."""
    if q.is_cuda:
        torch.cuda.synchronize(q.device)
    start = time.perf_counter()
    found = call()
    if q.is_cuda:
        torch.cuda.synchronize(q.device)
    return time.perf_counter() - start, found


def with_lse(module: Operation) -> Operation:
    """A copy of an outlined attention that returns the log-sum-exp too."""
    copy = module.clone()
    function = next(FuncOp(op) for op in copy.walk() if FuncOp.match(op))
    attention, end = (
        next(AttentionOp(op) for op in copy.walk() if AttentionOp.match(op)),
        function.body.block.terminator,
    )
    if attention.lse not in end.operands:
        end.set_operands([*end.operands, attention.lse])
        types = function.function_type
        function.function_type = FunctionType(types.inputs, (*types.results, attention.lse.type))
    return copy
