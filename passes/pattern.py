"""Pattern rewriting: typed match, one greedy driver with a worklist, reasons for every miss."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
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


def pattern(*roots: type[OpT], benefit: int = 1) -> Callable[[Callable[[OpT, Rewriter], bool]], Pattern]:
    """Turn a function on `roots` ops into a `Pattern`. False means: no match, IR untouched."""
    views = {root.op_name: root for root in roots}

    def wrap(rewrite: Callable[[OpT, Rewriter], bool]) -> Pattern:
        def try_on(operation: Operation, rewriter: Rewriter) -> bool:
            return rewrite(views[operation.name](operation), rewriter)

        return Pattern(rewrite.__name__, benefit, frozenset(views), try_on)

    return wrap


def aten_pattern(*names: str, benefit: int = 1) -> Callable[[Callable[[AtenOp, Rewriter], bool]], Pattern]:
    """Turn a function on the ATen overloads `names` (`"softmax.int"`) into a `Pattern`."""

    def wrap(rewrite: Callable[[AtenOp, Rewriter], bool]) -> Pattern:
        def try_on(operation: Operation, rewriter: Rewriter) -> bool:
            return rewrite(AtenOp(operation), rewriter)

        return Pattern(rewrite.__name__, benefit, frozenset(f"aten.{n}" for n in names), try_on)

    return wrap


class Worklist:
    """Operations still to visit, first come first served, each at most once at a time."""

    def __init__(self, operations: Iterable[Operation] = ()) -> None:
        self._queue = deque(operations)
        self._waiting = set(self._queue)

    def push(self, operation: Operation) -> None:
        if operation not in self._waiting:
            self._waiting.add(operation)
            self._queue.append(operation)

    def discard(self, operation: Operation) -> None:
        """Forget an operation; its place in the queue is skipped when it comes up."""
        self._waiting.discard(operation)

    def pop(self) -> Operation | None:
        """The next operation, or None when all are done."""
        while self._queue:
            operation = self._queue.popleft()
            if operation in self._waiting:
                self._waiting.remove(operation)
                return operation
        return None


@dataclass
class WatchedBuilder(Builder):
    """A builder whose operations the driver visits too."""

    worklist: Worklist = field(default_factory=Worklist)

    def insert(self, operation: Operation) -> Operation:
        for inner in operation.walk():
            self.worklist.push(inner)
        return super().insert(operation)


@dataclass
class Rewriter:
    """The only way a pattern may change IR, so that the driver sees it all."""

    ctx: PassContext
    current: Operation
    pattern: str = ""
    worklist: Worklist = field(default_factory=Worklist)

    @property
    def builder(self) -> Builder:
        """Builds in front of the operation under the pattern."""
        assert self.current.parent is not None
        return WatchedBuilder(self.current.parent, self.current, self.current.location, self.worklist)

    def insert(self, op: Operation) -> Operation:
        """Put a detached operation in front of the current one."""
        return self.builder.insert(op)

    def replace(self, op: Operation, *values: Value) -> bool:
        """Redirect the results of `op` to `values` and erase it; True, for the pattern to return."""
        for result in op.results:
            self._revisit(result.users)
        self._revisit_owners(op.operands)
        for inner in op.walk():
            self.worklist.discard(inner)
        op.replace_by(*values)
        self._revisit_owners(values)
        return True

    def erase(self, op: Operation) -> bool:
        """Remove an operation whose results, if any, are unused; True, for the pattern to return."""
        self._revisit_owners(op.operands)
        for inner in op.walk():
            self.worklist.discard(inner)
        op.erase()
        return True

    @contextmanager
    def modify(self, op: Op | Operation) -> Generator[None, None, None]:
        """Announce an in-place change, so the driver revisits the op and its users."""
        operation = op.operation if isinstance(op, Op) else op
        yield
        self.worklist.push(operation)
        for result in operation.results:
            self._revisit(result.users)

    def no_match(self, reason: str) -> bool:
        self.ctx.miss(self.pattern, self.current, reason)
        return False

    def _revisit(self, operations: Iterable[Operation]) -> None:
        for operation in operations:
            self.worklist.push(operation)

    def _revisit_owners(self, values: Iterable[Value]) -> None:
        self._revisit(op for v in values if (op := v.defining_op) is not None)


def apply_greedily(root: Operation, patterns: Sequence[Pattern], ctx: PassContext, limit: int = 100_000) -> int:
    """Apply `patterns` inside `root` until none matches; return how many rewrites happened.

    Operations are visited first to last, then again whenever an operand or a user changed. More
    than `limit` rewrites means that the patterns undo each other, an error of the compiler.
    """
    by_root: dict[str, list[Pattern]] = {}
    for rule in sorted(patterns, key=lambda p: -p.benefit):
        for name in rule.roots:
            by_root.setdefault(name, []).append(rule)
    worklist = Worklist(op for op in root.walk() if op is not root)
    rewriter, hits = Rewriter(ctx, root, worklist=worklist), 0
    while (operation := worklist.pop()) is not None:
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
