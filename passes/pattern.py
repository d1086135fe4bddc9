"""Pattern rewriting: typed match, one greedy driver with a worklist, reasons for every miss."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from ..ir.builder import Builder
from ..ir.core import Operation, Value
from ..ir.define import Op
from ..ir.diagnostics import op_error
from ..ir.dialects.aten import AtenOp
from .manager import PassContext

OpT = TypeVar("OpT", bound=Op)


@dataclass(frozen=True)
class Pattern:
    """One rewrite rule: its name in debug output, its rank, the ops it looks at, its body."""

    name: str
    benefit: int
    roots: frozenset[str]
    try_on: Callable[[Operation, Rewriter], bool]


def pattern(root: type[OpT], *, benefit: int = 1) -> Callable[[Callable[[OpT, Rewriter], bool]], Pattern]:
    """Turn a function on `root` ops into a `Pattern`. False means: no match, IR untouched."""

    def wrap(rewrite: Callable[[OpT, Rewriter], bool]) -> Pattern:
        def try_on(operation: Operation, rewriter: Rewriter) -> bool:
            return rewrite(root(operation), rewriter)

        return Pattern(rewrite.__name__, benefit, frozenset({root.op_name}), try_on)

    return wrap


def aten_pattern(*names: str, benefit: int = 1) -> Callable[[Callable[[AtenOp, Rewriter], bool]], Pattern]:
    """Turn a function on the ATen overloads `names` (`"softmax.int"`) into a `Pattern`."""

    def wrap(rewrite: Callable[[AtenOp, Rewriter], bool]) -> Pattern:
        def try_on(operation: Operation, rewriter: Rewriter) -> bool:
            return rewrite(AtenOp(operation), rewriter)

        return Pattern(rewrite.__name__, benefit, frozenset(f"aten.{n}" for n in names), try_on)

    return wrap


@dataclass
class Rewriter:
    """The only way a pattern may change IR, so that the driver sees it all."""

    ctx: PassContext
    current: Operation
    pattern: str = ""
    worklist: dict[Operation, None] = field(default_factory=dict[Operation, None])

    @property
    def builder(self) -> Builder:
        """Builds in front of the operation under the pattern."""
        return Builder.before(self.current)

    def insert(self, op: Operation) -> Operation:
        """Put a detached operation in front of the current one."""
        self.builder.insert(op)
        self.worklist[op] = None
        return op

    def replace(self, op: Operation, *values: Value) -> bool:
        """Redirect the results of `op` to `values` and erase it; True, for the pattern to return."""
        for result in op.results:
            self._revisit(result.users)
        self._revisit([v.owner for v in op.operands if isinstance(v.owner, Operation)])
        self._forget(op)
        op.replace_by(*values)
        self._revisit([v.owner for v in values if isinstance(v.owner, Operation)])
        return True

    def erase(self, op: Operation) -> bool:
        return self.replace(op, *[])

    @contextmanager
    def modify(self, op: Op | Operation) -> Generator[None, None, None]:
        """Announce an in-place change, so the driver revisits the op and its users."""
        operation = op.operation if isinstance(op, Op) else op
        yield
        self.worklist[operation] = None
        for result in operation.results:
            self._revisit(result.users)

    def no_match(self, reason: str) -> bool:
        self.ctx.miss(self.pattern, self.current, reason)
        return False

    def _revisit(self, ops: Sequence[Operation]) -> None:
        for op in ops:
            self.worklist[op] = None

    def _forget(self, op: Operation) -> None:
        for inner in op.walk():
            self.worklist.pop(inner, None)


def apply_greedily(root: Operation, patterns: Sequence[Pattern], ctx: PassContext, limit: int = 100_000) -> int:
    """Apply `patterns` inside `root` until none matches; return how many rewrites happened.

    Operations are visited first to last, then again whenever an operand or a user changed. More
    than `limit` rewrites means that the patterns undo each other, an error of the compiler.
    """
    ordered = sorted(patterns, key=lambda p: -p.benefit)
    by_root: dict[str, list[Pattern]] = {}
    for rule in ordered:
        for name in rule.roots:
            by_root.setdefault(name, []).append(rule)
    rewriter, hits = Rewriter(ctx, root), 0
    rewriter.worklist = {op: None for op in root.walk() if op is not root}
    while rewriter.worklist:
        operation = next(iter(rewriter.worklist))
        del rewriter.worklist[operation]
        hits += _visit(operation, by_root.get(operation.name, []), rewriter)
        if hits > limit:
            op_error(root, f"did not come to rest after {limit} rewrites; the last was '{rewriter.pattern}'")
    return hits


def _visit(operation: Operation, rules: Sequence[Pattern], rewriter: Rewriter) -> int:
    for rule in rules:
        rewriter.current, rewriter.pattern = operation, rule.name
        if rule.try_on(operation, rewriter):
            rewriter.ctx.statistics[rule.name] += 1
            return 1
    return 0
