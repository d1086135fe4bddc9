"""The operations of `attn` that know of numbers in few bits, and what makes them fit there better."""

from __future__ import annotations

from ..attributes import DictAttr, IndexType, IntegerAttr, TensorType, Type, UnitAttr, f32, is_float
from ..define import Constraint, Op, Operand, OptionalProp, Prop, Result, Variadic, VariadicResult
from ..diagnostics import CompileError, op_error
from ..storage import Storage

TENSOR_4D = Constraint("a tensor of rank 4", lambda t: isinstance(t, TensorType) and t.rank == 4)
FLOATS_4D = Constraint(
    "a tensor of float of rank 4 (batch, head, position, dimension)",
    lambda t: isinstance(t, TensorType) and is_float(t) and t.rank == 4,
)
FLOATS = Constraint("a tensor of float", lambda t: isinstance(t, TensorType) and is_float(t))


class DequantizeOp(Op, name="attn.dequantize", pure=True):
    """The number behind the code at (b, h, n, d) of a stored tensor, in f32; see `Storage`.

        %x = "attn.dequantize"(%k, %b, %h, %n, %d, %scale[, %zero]) <{storage = {bits = 4 : i64, ...}}> : ... -> f32

    In regions of `attn.attention`. `scale` is (B | 1, H | 1, G, C), and so is `zero`. A float may have no scale.
    """

    source = Operand(TENSOR_4D)
    b, h, n, d = Operand(IndexType), Operand(IndexType), Operand(IndexType), Operand(IndexType)
    scales = Variadic(FLOATS_4D)
    storage = Prop(DictAttr)
    out = Result(Constraint("f32", lambda t: t == f32))

    @property
    def format(self) -> Storage:
        return storage_of(self, self.storage)

    def verify(self) -> None:
        storage, source = self.format, self.source.type
        assert isinstance(source, TensorType)
        check_stored(self, source, storage)
        least = 0 if storage.kind != "int" else 1 + storage.zero
        if not least <= len(self.scales) <= 1 + storage.zero:
            op_error(
                self.operation, f"{storage} needs {1 + storage.zero} tensors of scales, but has {len(self.scales)}"
            )


def storage_of(op: Op, attribute: DictAttr) -> Storage:
    """The storage that `op` has as an attribute; fails there."""
    try:
        return Storage.from_attr(attribute)
    except CompileError as problem:
        op_error(op.operation, problem.diagnostics[0].message)


def check_stored(op: Op, stored: TensorType, storage: Storage) -> None:
    """Fail unless a tensor can be one of that storage."""
    if stored.element != storage.element or stored.shape[3] not in (storage.stored_width, None):
        wanted = f"... x {storage.stored_width} x {storage.element}"
        op_error(op.operation, f"of {storage.width} numbers as {storage} must be {wanted}, but is {stored}")


class QuantizeOp(Op, name="attn.quantize", pure=True):
    """A tensor in few bits: codes, scales, and zeros where the storage has them; see `Storage`.

        %codes, %scale[, %zero] = "attn.quantize"(%x) <{storage = {...}}> : (tensor<BxHxNxD>) -> ...

    Each group that shares a scale is stored with its own. Of integers without a zero, scale is
    max |x| / (2^(bits-1) - 1) where codes are signed, else max(x, 0) / (2^bits - 1); with one it is
    (max - min) / (2^bits - 1), and the zero puts min at the least code. Of 8-bit floats scale is max |x| / the largest
    number of the kind; of wider ones that is so where it is above 1, else scale is 1. Scales and zeros are rounded to
    their type first, then codes are (x - zero) / scale, rounded to the nearest (even) and kept in range; where scale is
    0 they are 0, so beside a zero a group of one number is exact. A nan in a group makes its scale nan, infinity makes
    it infinite or nan, and all that is read from such a group is nan.
    """

    x = Operand(FLOATS_4D)
    storage = Prop(DictAttr)
    codes, scale, zeros = Result(TENSOR_4D), Result(FLOATS_4D), VariadicResult()

    @property
    def format(self) -> Storage:
        return storage_of(self, self.storage)

    def verify(self) -> None:
        storage, x, codes, scale = self.format, self.x.type, self.codes.type, self.scale.type
        assert isinstance(x, TensorType) and isinstance(codes, TensorType) and isinstance(scale, TensorType)
        if x.shape[3] not in (storage.width, None):
            op_error(self.operation, f"x must have rows of {storage.width} numbers, but is {x}")
        check_stored(self, codes, storage)
        if scale.shape[3] not in (channels := storage.scale_sizes(1)[1], None):
            op_error(self.operation, f"{storage} needs scales ... x {channels}, but has {scale}")
        results = self.operation.results
        if len(results) != 2 + storage.zero or any(r.type != self.scale.type for r in results[2:]):
            op_error(
                self.operation, f"{storage} has {1 + storage.zero} tensors of scales, but there are {len(results) - 1}"
            )


class SubtractMeanOp(Op, name="attn.subtract_mean", pure=True):
    """Keys without what all of them share: x - mean over positions, and the mean (B, H, 1, D) in f32.

    For keys this changes each score of a query by the same number, scale * q · mean, so a softmax does not see it
    (SageAttention, arXiv 2410.02367).
    """

    x = Operand(FLOATS_4D)
    out, mean = Result(FLOATS_4D), Result(FLOATS_4D)

    def verify(self) -> None:
        x = self.x.type
        assert isinstance(x, TensorType)
        if self.out.type != x:
            op_error(self.operation, f"result 'out' must be {x}, but is {self.out.type}")
        wanted = TensorType((*x.shape[:2], 1, x.shape[3]), f32)
        if self.mean.type != wanted:
            op_error(self.operation, f"result 'mean' must be {wanted}, but is {self.mean.type}")


class ProjectOp(Op, name="attn.project", pure=True):
    """x basis: rows of x (B, H, N, D) times the (D, R) matrix of their head, in any element type.

    `basis` is (B | 1, K | 1, D, R), of key heads: head h uses that of h // group. An orthogonal one on q and k leaves
    scores as they are; R < D keeps a part of the channels, or a subspace. With `transposed` it is (…, R, D).
    """

    x, basis = Operand(FLOATS_4D), Operand(FLOATS_4D)
    group = Prop(IntegerAttr, default=IntegerAttr(1))
    transposed = OptionalProp(UnitAttr)
    out = Result(FLOATS_4D)

    def verify(self) -> None:
        x, basis, out = self.x.type, self.basis.type, self.out.type
        assert isinstance(x, TensorType) and isinstance(basis, TensorType) and isinstance(out, TensorType)
        width, rank = basis.shape[2:] if self.transposed is None else basis.shape[:1:-1]
        if x.shape[3] != width:
            op_error(self.operation, f"a basis for rows of {x.shape[3]} must have as many rows, but is {basis}")
        if out.shape != (*x.shape[:3], rank):
            op_error(self.operation, f"result must be {x.with_shape(*x.shape[:3], rank)}, but is {out}")
        if self.group.value < 1:
            op_error(self.operation, f"group must be positive, but is {self.group.value}")


class MergeOp(Op, name="attn.merge", pure=True):
    """Attention over several sets of keys, from that over each: out and lse by log-sum-exp.

        %out, %lse = "attn.merge"(%out0, %lse0, %out1, %lse1, ...)

    out = Σ out_i exp(lse_i - lse), lse = log Σ exp lse_i; a row without keys anywhere gives 0 and -inf.
    """

    parts = Variadic(FLOATS)
    out, lse = Result(FLOATS_4D), Result(FLOATS)

    def verify(self) -> None:
        if len(self.parts) < 2 or len(self.parts) % 2:
            op_error(self.operation, f"needs pairs of out and lse, but has {len(self.parts)} operands")
        types: list[Type] = [self.out.type, self.lse.type]
        for place, part in enumerate(self.parts):
            if part.type != types[place % 2]:
                op_error(self.operation, f"operand {place} must be {types[place % 2]}, but is {part.type}")


STORAGE_OPS = (DequantizeOp, QuantizeOp, SubtractMeanOp, ProjectOp, MergeOp)
