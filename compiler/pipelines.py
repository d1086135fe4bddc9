"""The orders in which passes run."""

from __future__ import annotations

from ..cost_model.problem import Sizes
from ..passes.absorb_rows import AbsorbRows
from ..passes.analyze_mask import AnalyzeMask
from ..passes.canonicalize import Canonicalize
from ..passes.choose_layout import ChooseLayout
from ..passes.cse import CommonSubexpressionElimination
from ..passes.dce import DeadCodeElimination
from ..passes.lower_attention import LowerAttention
from ..passes.make_persistent import MakePersistent
from ..passes.manager import Pass
from ..passes.permute_tokens import PermuteTokens
from ..passes.plan import PlanAttention
from ..passes.raise_attention import RaiseAttention
from ..passes.raise_flex import RaiseFlexAttention
from ..passes.swap_operands import SwapOperands

RAISE: tuple[Pass, ...] = (
    Canonicalize(),
    RaiseFlexAttention(),
    RaiseAttention(),
    DeadCodeElimination(),
    Canonicalize(),
    ChooseLayout(),
)
"""From the captured graph to attn.attention, with nothing around it absorbed."""


def raising(fuse: str, target: str, rest: str) -> tuple[Pass, ...]:
    """From the captured graph to attn.attention; what surrounds it is absorbed where that pays on `target`.

    `fuse` may force or forbid that; `rest` runs what is not absorbed.
    """
    if fuse == "never":
        return RAISE
    absorb = (AbsorbRows(fuse, target, rest), DeadCodeElimination())
    last = next(i for i, step in enumerate(RAISE) if isinstance(step, DeadCodeElimination)) + 1
    return (*RAISE[:last], *absorb, *RAISE[last:])


def preparing(
    target: str, queries: int | None, keys: int | None, wishes: tuple[tuple[str, int | str], ...] = ()
) -> tuple[Pass, ...]:
    """What may change around an outlined attention before it is scheduled for `target`; exact.

    The lengths are those of the first call, where they are known.
    """
    return (PermuteTokens(target, queries=queries or 0, keys=keys or 0, wishes=_texts(wishes)),)


LOWER: tuple[Pass, ...] = (
    LowerAttention(),
    SwapOperands(),
    MakePersistent(),
    Canonicalize(),
    CommonSubexpressionElimination(),
    DeadCodeElimination(),
)
"""From a scheduled attention to a kernel."""


def schedule(
    target: str,
    rows: int = 0,
    wishes: tuple[tuple[str, int | str], ...] = (),
    sizes: Sizes | None = None,
    threads: int = 1,
) -> tuple[Pass, ...]:
    """What decides how an attention runs on `target`, and leaves it an attention.

    `rows` is for how many pairs of query and head of a group it is made; 0 for any number. `wishes`
    are fields of the schedule, with values, that must be followed; `sizes` are those of a call, where they are known.
    On a CPU calls run on up to `threads` cores.
    """
    plan = PlanAttention(target, rows, _texts(wishes), str(sizes or ""), threads)
    return (AnalyzeMask(), plan, Canonicalize(), CommonSubexpressionElimination())


def _texts(wishes: tuple[tuple[str, int | str], ...]) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in wishes)
