"""The meaning of `scf`: loops and branches that hand values on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..diagnostics import op_error
from ..dialects.scf import ForOp, IfOp
from .call import Array, Call, Handler


def loop(call: Call) -> Sequence[Array]:
    """Carry values through the body for each position."""
    lower, upper, step = (call.integer(i) for i in range(3))
    if step <= 0:
        op_error(call.op, f"step must be positive, but is {step}")
    carried: Sequence[Array] = call.operands[3:]
    for position in range(lower, upper, step):
        carried = call.run(ForOp(call.op).body, [np.asarray(position), *carried])
    return carried


def branch(call: Call) -> Sequence[Array]:
    """Run the region that the condition chooses."""
    op = IfOp(call.op)
    if call.operands[0].ndim:
        op_error(call.op, "condition differs between positions; a region over positions must use 'arith.select'")
    if call.operands[0]:
        return call.run(op.then, [])
    return [] if op.otherwise.empty else call.run(op.otherwise, [])


SCF: Mapping[str, Handler] = {"scf.for": loop, "scf.if": branch}
