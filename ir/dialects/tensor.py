"""The `tensor` dialect, as far as regions and kernels need it: element loads and sizes."""

from __future__ import annotations

from ..attributes import IndexType, TensorType
from ..define import Op, Operand, Result, Variadic
from ..diagnostics import op_error
from ..dialect import Dialect


class ExtractOp(Op, name="tensor.extract", pure=True):
    """One element: `"tensor.extract"(%t, %i, %j)`; every index must be in range."""

    source = Operand(TensorType)
    indices = Variadic(IndexType)
    out = Result()

    def verify(self) -> None:
        source = self.source.type
        assert isinstance(source, TensorType)
        if len(self.indices) != source.rank:
            op_error(self.operation, f"needs {source.rank} indices for {source}, but has {len(self.indices)}")
        if self.out.type != source.element:
            op_error(self.operation, f"result must be {source.element}, but is {self.out.type}")


class DimOp(Op, name="tensor.dim", pure=True):
    """The size of one dimension: `"tensor.dim"(%t, %axis)`."""

    source, axis, out = Operand(TensorType), Operand(IndexType), Result(IndexType)


TENSOR = Dialect("tensor", (ExtractOp, DimOp))
