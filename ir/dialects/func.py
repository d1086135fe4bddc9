"""The `func` dialect: functions of captured graphs."""

from __future__ import annotations

from ..attributes import FunctionType, StringAttr
from ..define import Body, Op, OptionalProp, Prop, Variadic
from ..diagnostics import op_error
from ..dialect import Dialect


class ReturnOp(Op, name="func.return", terminator=True):
    """End a function and hand back its results."""

    values = Variadic()

    def verify(self) -> None:
        function = FuncOp.match(self.operation.parent_op)
        if function is None:
            op_error(self.operation, "must be inside 'func.func'")
        wanted, actual = function.function_type.results, tuple(v.type for v in self.values)
        if wanted != actual:
            op_error(
                self.operation,
                f"returns ({', '.join(map(str, actual))}), but its function is declared to return "
                f"({', '.join(map(str, wanted))})",
                (function.operation.location, "the function is declared here"),
            )


class FuncOp(Op, name="func.func", isolated=True):
    """A named function: `"func.func"() <{function_type = ..., sym_name = "main"}> ({...})`."""

    sym_name = Prop(StringAttr)
    function_type = Prop(FunctionType)
    sym_visibility = OptionalProp(StringAttr)
    body = Body()

    def verify(self) -> None:
        arguments = tuple(a.type for a in self.body.block.arguments)
        if arguments != self.function_type.inputs:
            op_error(
                self.operation,
                f"has block arguments ({', '.join(map(str, arguments))}), but is declared to take "
                f"({', '.join(map(str, self.function_type.inputs))})",
            )
        ops = self.body.block.ops
        if not ops or ReturnOp.match(ops[-1]) is None:
            op_error(self.operation, "must end with 'func.return'")


FUNC = Dialect("func", (FuncOp, ReturnOp))
