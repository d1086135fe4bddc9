"""`sparsity="auto"`: choices of blocks, of which each key head takes the cheapest within its budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..cost_model.selection import Estimate, share_of_dense
from ..ir.attributes import FunctionType
from ..ir.core import Operation
from ..ir.dialects.attn import AttentionOp, SelectOp
from ..ir.dialects.func import FuncOp
from .calibration import Candidates, SiteCalibration, Tools, Trial, timed
from .custom_op import Inputs, Runner
from .host_ops import HOST_OPS
from .layouts import Results
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


@dataclass
class BlockTrial(Trial):
    """`mass` sums the recalled weights of `rows` rows, for each key head."""

    mass: float = 0.0
    rows: int = 0

    @property
    def recall(self) -> float:
        """The mean weight that chosen keys have in dense attention."""
        return self.mass / max(1, self.rows)

    def recalled(self, lse: torch.Tensor, dense_lse: torch.Tensor) -> None:
        """Add the rows of one call, by their log-sum-exps."""
        # A row without any key weighs nothing, and loses nothing.
        share = torch.where(dense_lse == -math.inf, 1.0, (lse.double() - dense_lse.double()).exp())
        self.mass += float(share.sum())
        self.rows += share.numel()


@dataclass(frozen=True)
class BlockChoice:
    """The method of `sparsity="auto"`."""

    asked: str = "sparsity='auto'"

    def candidates(self, tools: Tools) -> Candidates:
        return BlockCandidates(tools)

    def choose(self, sites: Sequence[SiteCalibration], budget: float, evaluate: Callable[[], float]) -> list[str]:
        """For each head of each site the candidate with the least predicted time whose error there fits the budget."""
        for site in sites:
            ranked = sorted(site.trials.items(), key=lambda item: item[1].share)
            taken: list[Selection | None] = []
            for head in range(len(ranked[0][1].wrong)):
                fitting = [s for s, t in ranked if t.share < 1 and bool(t.errors[head] <= budget)]
                taken.append(fitting[0] if fitting else None)  # pyright: ignore[reportArgumentType]
            site.heads = tuple(taken)
            site.table[:] = _table(site, budget, taken)
        return []


def _table(site: SiteCalibration, budget: float, heads: Sequence[Selection | None]) -> list[str]:
    lines = [f"error budget {budget:g}; of {len(heads)} key heads {_in_words(heads)}"]
    lines.append("candidate                error   recall  predicted  measured  heads")
    for choice, trial in sorted(site.trials.items(), key=lambda item: item[1].share):
        assert isinstance(choice, Selection) and isinstance(trial, BlockTrial)
        row = trial.row(f"{choice.estimator} keep={choice.keep:g}")
        lines.append(f"{row} {100 * trial.recall:>7.2f}% {trial.times()} {heads.count(choice):>6}")
    lines.append("predicted and measured: time as a share of dense attention's")
    return lines


def _in_words(heads: Sequence[Selection | None]) -> str:
    return ", ".join(
        f"{heads.count(s)} {'stay dense' if s is None else f'take {s.estimator} keep={s.keep:g}'}"
        for s in dict.fromkeys(heads)
    )


class BlockCandidates:
    """Choices of blocks at one site: one kernel follows them all, so heads may differ."""

    def __init__(self, tools: Tools) -> None:
        self._tools, self._module = tools, tools.program.module
        self._programs: dict[Selection, SiteProgram] = {}
        self._runners: dict[str, Runner] = {}

    def run(self, heads: Sequence[Selection | None], inputs: Inputs, want_lse: bool) -> Results:
        q, k, v, captures = inputs
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
            self._programs[selection] = self._tools.prepare(selection)
        return self._programs[selection]

    def _runner(self, name: str, module: Callable[[], Operation]) -> Runner:
        if name not in self._runners:
            self._runners[name] = self._tools.make(module())
        return self._runners[name]

    def measure(self, site: SiteCalibration, inputs: Inputs) -> None:
        q, k, v, captures = inputs
        dense = self._runner("dense with lse", lambda: with_lse(self._module))
        sparse = self._runner("sparse with lse", lambda: with_lse(self._program(CANDIDATES[0]).kernel()))
        # The first call of a kernel compiles it.
        wanted, wanted_lse = dense(q, k, v, captures, True)
        dense_seconds, _ = timed(q, lambda: dense(q, k, v, captures, True))
        live = int(self._chosen(EVERYTHING, q, k, captures).sum())
        for selection in CANDIDATES:
            chosen = self._chosen(selection, q, k, captures)
            sparse(q, k, v, (*captures, chosen), True)

            def whole(selection: Selection = selection) -> Results:
                return sparse(q, k, v, (*captures, self._chosen(selection, q, k, captures)), True)

            seconds, (out, lse) = timed(q, whole)
            trial = site.trials.setdefault(selection, _new_trial(k.shape[1]))
            assert isinstance(trial, BlockTrial)
            predicted = _predicted(selection, int(chosen.sum()) / max(1, live), q, k, v)
            trial.add(out, wanted, seconds, dense_seconds, predicted, 1.0)
            trial.recalled(lse, wanted_lse)


def _new_trial(heads: int) -> BlockTrial:
    return BlockTrial(torch.zeros(heads, dtype=torch.float64), torch.zeros(heads, dtype=torch.float64))


def _predicted(selection: Selection, kept: float, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> float:
    """The share of dense time by the cost model, where the fraction `kept` of all live blocks is chosen."""
    own = dict(selection.parameters)
    heads = q.shape[0] * q.shape[1]
    sizes = Estimate(q.shape[2], k.shape[2], q.shape[3], v.shape[3], selection.rows, selection.block, own, heads)
    return share_of_dense(selection.estimator, kept, sizes)


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
