"""The `builtin` dialect: the module that holds everything else."""

from __future__ import annotations

from ..attributes import Attribute, StringAttr
from ..core import Operation
from ..define import Body, Op, OptionalProp
from ..diagnostics import op_error
from ..dialect import Dialect


class ModuleOp(Op, name="builtin.module", isolated=True):
    """The top of every program: `"builtin.module"() ({ ... }) : () -> ()`."""

    sym_name = OptionalProp(StringAttr)
    body = Body()

    def verify(self) -> None:
        if self.body.block.arguments:
            op_error(self.operation, f"must take no block arguments, but takes {len(self.body.block.arguments)}")
        symbols: dict[Attribute, Operation] = {}
        for op in self.body.block.ops:
            name = op.properties.get("sym_name")
            if name is not None and name in symbols:
                op_error(op, f"has the name {name} again", (symbols[name].location, "the name is first given here"))
            if name is not None:
                symbols[name] = op


BUILTIN = Dialect("builtin", (ModuleOp,))
