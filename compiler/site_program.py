"""A site that is more than one attention: what PyTorch computes before and behind the kernel, and the kernel.

    func.func @site(q, k, v) {blocks = attn.select(q, k); out = attn.attention(q, k, v, blocks); return out}

Operations of `HOST_OPS` run in their order on the device of the tensors; the attention alone becomes a
kernel, with what the others compute among its captures.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from ..ir.core import Operation, Value
from ..ir.diagnostics import op_error
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.func import FuncOp
from .custom_op import Runner
from .host_ops import HOST_OPS
from .layouts import Results
from .sites import outline

if TYPE_CHECKING:
    from .mask_algebra import Mask


@dataclass(frozen=True)
class SiteProgram:
    """A function around one attention.

    `bound` are tensors for its last arguments, which calls do not bring; `mask` is one that calls must fit in size.
    """

    module: Operation
    bound: tuple[torch.Tensor, ...] = ()
    mask: Mask | None = None

    @property
    def function(self) -> FuncOp:
        return next(FuncOp(op) for op in self.module.walk() if FuncOp.match(op))

    @property
    def attention(self) -> AttentionOp:
        return next(AttentionOp(op) for op in self.module.walk() if AttentionOp.match(op))

    @property
    def alone(self) -> bool:
        """Whether there is nothing but the attention."""
        return len(self.function.body.block.ops) == 2 and not self.bound and not self._demanding

    @property
    def _demanding(self) -> bool:
        return self.mask is not None and bool(self.mask.all_needs)

    def check_sizes(self, q: torch.Tensor, k: torch.Tensor) -> None:
        """Fail where the mask was made for other sizes than those of a call."""
        if self.mask is not None:
            self.mask.check_sizes(batch=q.shape[0], heads=q.shape[1], queries=q.shape[2], keys=k.shape[2])

    @property
    def outlined_attention(self) -> Operation:
        """The attention of `kernel`."""
        return next(op for op in self.kernel().walk() if AttentionOp.match(op))

    def kernel(self) -> Operation:
        """The attention as a program of its own, which kernels are made of."""
        return outline(self.attention.operation, self.function.sym_name.value)

    def check(self) -> None:
        """Fail on operations that nothing runs."""
        for op in self.function.body.block.ops[:-1]:
            if op.name not in HOST_OPS and op is not self.attention.operation:
                op_error(op, "cannot run around a kernel")


@dataclass(frozen=True)
class _Step:
    """One operation of a program: where it finds its operands among the values so far."""

    op: Operation
    slots: tuple[int, ...]


Watcher: TypeAlias = Callable[[Operation, Sequence[torch.Tensor], Sequence[torch.Tensor]], None]
"""Hears of an operation around a kernel: its operands and results."""

_watchers: list[Watcher] = []


@contextmanager
def watched_host_ops(watcher: Watcher) -> Generator[None]:
    """Tells `watcher` of every operation that runs around kernels."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


class ProgramRunner:
    """`runner(q, k, v, captures, want_lse) -> (out, lse)` for a program, with `inner` running its attention."""

    def __init__(self, program: SiteProgram, inner: Runner) -> None:
        program.check()
        self.program, self._inner = program, inner
        block = program.function.body.block
        places: dict[Value, int] = {value: i for i, value in enumerate(block.arguments)}
        steps: list[_Step] = []
        for op in block.ops[:-1]:
            steps.append(_Step(op, tuple(places[v] for v in op.operands)))
            for result in op.results:
                places[result] = len(places)
        returned = [places[v] for v in block.terminator.operands]
        self._steps, self._attention = tuple(steps), program.attention.operation
        self._out, self._lse = returned[0], returned[1] if len(returned) > 1 else None
        self._bound = program.bound
        self._checked: set[tuple[int, ...]] = set()

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
    ) -> Results:
        if self.program.mask is not None and (sizes := (*q.shape[:3], k.shape[2])) not in self._checked:
            self.program.check_sizes(q, k)
            self._checked.add(sizes)
        values = [q, k, v, *captures, *self._given(q.device)]
        for step in self._steps:
            operands = [values[slot] for slot in step.slots]
            if step.op is self._attention:
                values += self._inner(operands[0], operands[1], operands[2], operands[3:], self._lse is not None)
            else:
                results = HOST_OPS[step.op.name](step.op, operands)
                values += results
                for watcher in _watchers:
                    watcher(step.op, operands, results)
        lse = values[self._lse] if want_lse and self._lse is not None else q.new_empty(0, dtype=torch.float32)
        return values[self._out], lse

    def _given(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """The bound tensors, which move to where they are used once."""
        if any(t.device != device for t in self._bound):
            self._bound = tuple(t.to(device) for t in self._bound)
        return self._bound

    def with_positions_first(self) -> Runner:
        """The same with out in memory as (B, M, H, E)."""
        own = getattr(self._inner, "with_positions_first", None)
        if own is not None and self._out in self._written():
            return ProgramRunner(self.program, own())

        def copying(
            q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
        ) -> Results:
            out, lse = self(q, k, v, captures, want_lse)
            return out.transpose(1, 2).contiguous().transpose(1, 2), lse

        return copying

    def _written(self) -> list[int]:
        """Where the results of the kernel stand among the values."""
        first = len(self.program.function.body.block.arguments)
        for step in self._steps:
            if step.op is self._attention:
                return [first, first + 1]
            first += len(step.op.results)
        return []
