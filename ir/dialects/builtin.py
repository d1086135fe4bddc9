"""The `builtin` dialect: the module that holds everything else."""

from __future__ import annotations

from ..attributes import StringAttr
from ..define import Body, Op, OptionalProp
from ..dialect import Dialect


class ModuleOp(Op, name="builtin.module", isolated=True):
    """The top of every program: `"builtin.module"() ({ ... }) : () -> ()`."""

    sym_name = OptionalProp(StringAttr)
    body = Body()


BUILTIN = Dialect("builtin", (ModuleOp,))
