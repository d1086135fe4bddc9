"""Checks that a module is well formed and reports everything that is not, with its place.

Each operation is checked against its declaration: counts, properties and fields, then what is
inside it, then its own law. A law runs only where what it builds on has passed, so that any IR
that can be parsed can be verified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches

from .core import Block, Operation, Region, Value
from .define import Op, check_counts, check_properties
from .diagnostics import CompileError, Diagnostics, op_diagnostic
from .dialects import DIALECTS, op_class


def verify(module: Operation, source: str | None = None, *, allow_unregistered: bool = False) -> None:
    """Raise a CompileError that lists all that is wrong inside `module`; do nothing if it is fine.

    `source` is the text the module was parsed from, for carets, when that text is no file. Ops of
    dialects nobody declared are errors unless `allow_unregistered`.
    """
    verifier = _Verifier(allow_unregistered)
    verifier.check_operation(module)
    verifier.found.raise_if_any(source)


@dataclass
class _Verifier:
    """Walks the IR once, holding the values that are visible at the place it has reached."""

    allow_unregistered: bool
    found: Diagnostics = field(default_factory=Diagnostics)
    visible: set[Value] = field(default_factory=set[Value])
    broken: set[Operation] = field(default_factory=set[Operation])
    """Operations unlike their declaration; the laws of their neighbours are not run on them."""

    def check_operation(self, op: Operation) -> None:
        declared = op_class(op)
        if declared is None:
            self._check_undeclared(op)
        elif not self._has_declared_form(op, declared):
            self.broken.add(op)
        for region in op.regions:
            self._check_region(region, isolated=declared is not None and declared.isolated)
        if declared is not None and self._fit_for_law(op):
            self._passes(declared(op).verify)

    def _has_declared_form(self, op: Operation, declared: type[Op]) -> bool:
        if not self._passes(lambda: check_counts(declared, op)):
            return False
        results = [self._passes(lambda: check_properties(declared, op))]
        results += [self._passes(lambda slot=slot: slot.check(op)) for slot in declared.fields]
        return all(results)

    def _fit_for_law(self, op: Operation) -> bool:
        """Whether the operation, its parent and the last operations inside it are well formed."""
        blocks = [block for region in op.regions for block in region.blocks]
        near = [op, *(block.ops[-1] for block in blocks if block.ops)]
        if (parent := op.parent_op) is not None:
            near.append(parent)
        return not any(o in self.broken for o in near) and not any(map(_misplaced, blocks))

    def _passes(self, check: Callable[[], None]) -> bool:
        try:
            check()
        except CompileError as problem:
            for diagnostic in problem.diagnostics:
                self.found.add(diagnostic)
            return False
        return True

    def _error(self, op: Operation, message: str, *notes: tuple[Operation, str]) -> None:
        self.found.add(op_diagnostic(op, message, *((where.location, text) for where, text in notes)))

    def _check_undeclared(self, op: Operation) -> None:
        dialect = DIALECTS.get(op.dialect) if "." in op.name else None
        if dialect is None:
            if not self.allow_unregistered:
                known = ", ".join(DIALECTS)
                self._error(op, f"belongs to no known dialect (there are {known}){_meant(op.name, _all_names())}")
        elif not dialect.open_:
            self._error(op, f"is unknown in dialect '{dialect.name}'{_meant(op.name, dialect.by_name)}")

    def _check_region(self, region: Region, *, isolated: bool) -> None:
        outside = self.visible
        if isolated:
            self.visible = set()
        for block in region.blocks:
            self._check_block(block)
        self.visible = outside

    def _check_block(self, block: Block) -> None:
        self.visible.update(block.arguments)
        for op in block.ops:
            self._check_operands(op)
            self.check_operation(op)
            self.visible.update(op.results)
        for op in _misplaced(block):
            self._error(op, "ends its block, so it must be the last operation there")
        self.visible.difference_update(block.arguments, *(op.results for op in block.ops))

    def _check_operands(self, op: Operation) -> None:
        for position, value in enumerate(op.operands):
            if value not in self.visible:
                definer = value.defining_op
                notes = [(definer, "it is defined here")] if definer is not None else []
                self._error(op, f"operand {position} {_why_hidden(value, op)}", *notes)


def _misplaced(block: Block) -> list[Operation]:
    """The terminators of a block that other operations follow."""
    return [op for op in block.ops[:-1] if (declared := op_class(op)) is not None and declared.terminator]


def _why_hidden(value: Value, user: Operation) -> str:
    """Why `user` cannot read `value`."""
    home = value.owner if isinstance(value.owner, Block) else value.owner.parent
    block = user.parent
    while block is not None and block is not home:
        around = block.parent.parent if block.parent is not None else None
        declared = op_class(around) if around is not None else None
        if around is not None and declared is not None and declared.isolated:
            return f"comes from outside '{around.name}', whose regions use no outer value"
        block = around.parent if around is not None else None
    return "is not defined at this point" if block is None else "is used before it is defined"


def _all_names() -> list[str]:
    return [name for dialect in DIALECTS.values() for name in dialect.by_name]


def _meant(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
