"""The `scf` dialect: MLIR's own structured loops and branches, carrying values."""

from __future__ import annotations

from ..attributes import IndexType, Type, i1
from ..core import Operation
from ..define import Body, Constraint, Op, Operand, Variadic, VariadicResult
from ..diagnostics import op_error
from ..dialect import Dialect

_BOOL = Constraint("i1", lambda t: t == i1)


class YieldOp(Op, name="scf.yield", terminator=True):
    """Hand values to the enclosing loop or branch."""

    values = Variadic()

    def verify(self) -> None:
        parent = self.operation.parent_op
        if ForOp.match(parent) is None and IfOp.match(parent) is None:
            op_error(self.operation, "must be inside 'scf.for' or 'scf.if'")


class ForOp(Op, name="scf.for"):
    """for i in lower, lower + step, ... below upper, carrying values.

    `"scf.for"(%lower, %upper, %step, %init...) ({^bb0(%i: index, %carried...): ...})`
    """

    lower, upper, step = Operand(IndexType), Operand(IndexType), Operand(IndexType)
    initial = Variadic()
    body = Body()
    results = VariadicResult()

    def verify(self) -> None:
        carried = tuple(v.type for v in self.initial)
        arguments = tuple(a.type for a in self.body.block.arguments)
        if arguments != (self.lower.type, *carried):
            wanted = ", ".join(map(str, (self.lower.type, *carried)))
            op_error(self.operation, f"body must take ({wanted}), but takes ({', '.join(map(str, arguments))})")
        _check_results(self, tuple(r.type for r in self.results), carried)
        _check_yield(self, self.body.block.ops[-1:], carried)


class IfOp(Op, name="scf.if"):
    """Run one of two regions and take what it yields."""

    condition = Operand(_BOOL)
    then = Body()
    otherwise = Body(optional=True)
    results = VariadicResult()

    def verify(self) -> None:
        types = tuple(r.type for r in self.results)
        if types and self.otherwise.empty:
            op_error(self.operation, "must have an 'otherwise' region, since it has results")
        for region in self.operation.regions:
            for block in region.blocks:
                _check_yield(self, block.ops[-1:], types)


def _check_results(op: Op, actual: tuple[Type, ...], wanted: tuple[Type, ...]) -> None:
    if actual != wanted:
        carried = ", ".join(map(str, wanted))
        op_error(op.operation, f"results ({', '.join(map(str, actual))}) differ from what the loop carries ({carried})")


def _check_yield(op: Op, last: list[Operation], wanted: tuple[Type, ...]) -> None:
    end = YieldOp.match(last[0]) if last else None
    if end is None:
        op_error(op.operation, "each region must end with 'scf.yield'")
    actual = tuple(v.type for v in end.values)
    if actual != wanted:
        op_error(
            end.operation,
            f"yields ({', '.join(map(str, actual))}), but ({', '.join(map(str, wanted))}) is expected",
            (op.operation.location, "by this operation"),
        )


SCF = Dialect("scf", (ForOp, IfOp, YieldOp))
