"""The `tile` dialect: one scheduled kernel, on tiles (small tensors of constant shape).

Around these ops a kernel uses `scf` loops and `arith`/`math` elementwise on tiles. Positions are
`index` scalars or tiles of `index`.
"""

from __future__ import annotations

from ..attributes import (
    DenseArrayAttr,
    FunctionType,
    IndexType,
    IntegerAttr,
    IntegerType,
    StringAttr,
    TensorType,
    UnitAttr,
    element_type,
    i1,
    i8,
    index,
    is_float,
)
from ..define import Body, Hint, Op, Operand, OptionalProp, Prop, Result, Variadic
from ..diagnostics import op_error
from ..dialect import Dialect
from ..storage import Storage

GRID_AXES = 3
REDUCTIONS = ("max", "sum")
PRECISIONS = ("ieee", "tf32", "tf32x3")
DESCRIPTORS = ("host", "device")


class YieldOp(Op, name="tile.yield", terminator=True):
    """The grid: one to three `index` values, the number of programs along each axis."""

    values = Variadic(IndexType)

    def verify(self) -> None:
        if not 1 <= len(self.values) <= GRID_AXES:
            op_error(self.operation, f"must give 1 to {GRID_AXES} counts of programs, but gives {len(self.values)}")
        _check_in_kernel(self)


class ReturnOp(Op, name="tile.return", terminator=True):
    """End of a kernel; kernels return nothing, they store."""

    def verify(self) -> None:
        _check_in_kernel(self)


def _check_in_kernel(op: Op) -> None:
    if KernelOp.match(op.operation.parent_op) is None:
        op_error(op.operation, "must be inside 'tile.kernel'")


class KernelOp(Op, name="tile.kernel", isolated=True):
    """One kernel: a grid region that counts programs and a body that one program runs.

    Both regions take the kernel's arguments, tensors in memory with strides of their own. `lanes`
    (f32 in a vector) and `columns` (of a dot computed at once) are there in kernels for CPUs, which
    have no warps and stages.

    On GPUs `descriptors` says who makes the tensor descriptors of bulk loads: the "host", once a
    call, or the "device", each program. `swapped` asks for all tiles to be stored transposed, so that
    keys become the rows of the products, `persistent` for at most so many programs, which take one
    tile after the other; a pass does each and drops the property.
    """

    sym_name = Prop(StringAttr)
    function_type = Prop(FunctionType)
    num_warps = Prop(IntegerAttr, default=IntegerAttr(4))
    num_stages = Prop(IntegerAttr, default=IntegerAttr(1))
    lanes = OptionalProp(IntegerAttr)
    columns = OptionalProp(IntegerAttr)
    descriptors = OptionalProp(StringAttr)
    swapped = OptionalProp(UnitAttr)
    persistent = OptionalProp(IntegerAttr)
    source = Hint(StringAttr)
    grid = Body()
    body = Body()

    def verify(self) -> None:
        for name, region in (("grid", self.grid), ("body", self.body)):
            arguments = tuple(a.type for a in region.block.arguments)
            if arguments != self.function_type.inputs:
                wanted = ", ".join(map(str, self.function_type.inputs))
                op_error(
                    self.operation,
                    f"region '{name}' must take ({wanted}), but takes ({', '.join(map(str, arguments))})",
                )
        if not self.grid.block.ops or YieldOp.match(self.grid.block.ops[-1]) is None:
            op_error(self.operation, "region 'grid' must end with 'tile.yield'")
        if not self.body.block.ops or ReturnOp.match(self.body.block.ops[-1]) is None:
            op_error(self.operation, "region 'body' must end with 'tile.return'")
        if self.descriptors is not None and self.descriptors.value not in DESCRIPTORS:
            known = ", ".join(DESCRIPTORS)
            op_error(self.operation, f"descriptors must be one of {known}, but is {self.descriptors.value}")
        if self.persistent is not None and self.persistent.value < 1:
            op_error(self.operation, f"persistent must be at least 1, but is {self.persistent.value}")


class ProgramIdOp(Op, name="tile.program_id", pure=True):
    """This program's position in the grid along `axis`."""

    axis = Prop(IntegerAttr)
    out = Result(IndexType)

    def verify(self) -> None:
        if not 0 <= self.axis.value < GRID_AXES:
            op_error(self.operation, f"axis must lie below {GRID_AXES}, but is {self.axis.value}")


class SliceOp(Op, name="tile.slice", pure=True):
    """The sub-tensor at fixed leading indices: `slice(%q, %b, %h)` is q[b, h, ...]. No copy."""

    source = Operand(TensorType)
    indices = Variadic(IndexType)
    out = Result(TensorType)

    def verify(self) -> None:
        source, out = self.source.type, self.out.type
        assert isinstance(source, TensorType) and isinstance(out, TensorType)
        rest = source.with_shape(*source.shape[len(self.indices) :])
        if out != rest:
            op_error(self.operation, f"result must be {rest}, but is {out}")


class GroupRowsOp(Op, name="tile.group_rows", pure=True):
    """The queries of all heads that read one key head, as rows: x of (B, H, M, ...) to (M * group, ...).

    Row r of `group_rows(%x, %b, %kh)` is query r // group of head kh * group + r % group. No copy.
    """

    source = Operand(TensorType)
    batch, key_head = Operand(IndexType), Operand(IndexType)
    group = Prop(IntegerAttr)
    out = Result(TensorType)

    def verify(self) -> None:
        source, group = self.source.type, self.group.value
        assert isinstance(source, TensorType)
        if source.rank < 3:
            op_error(self.operation, f"operand must be (batch, head, query, ...), but is {source}")
        heads, queries, *rest = source.shape[1:]
        if group < 1 or (isinstance(heads, int) and heads % group):
            op_error(self.operation, f"group must be positive and divide the heads of {source}, but is {group}")
        rows = queries * group if isinstance(queries, int) else None
        if self.out.type != (wanted := source.with_shape(rows, *rest)):
            op_error(self.operation, f"result must be {wanted}, but is {self.out.type}")


class LoadOp(Op, name="tile.load"):
    """A tile of the result's shape, starting at `offsets`, one for each axis of the source.

    Axes listed in `boundary` may run past the end: what lies outside reads as zero. A `bulk` load
    goes through a tensor descriptor, which copies whole tiles without the help of registers. Of a source
    `by_column` neighbours along the first axis, not the last, lie beside each other in memory.
    """

    source = Operand(TensorType)
    offsets = Variadic(IndexType)
    boundary = Prop(DenseArrayAttr, default=DenseArrayAttr(()))
    bulk = OptionalProp(UnitAttr)
    by_column = OptionalProp(UnitAttr)
    out = Result(TensorType)

    def verify(self) -> None:
        _check_tile(self, self.source.type, self.out.type, len(self.offsets), self.boundary)


class LoadCodesOp(Op, name="tile.load_codes"):
    """The codes of packed integers, unpacked: a tile (rows, channels) from `offsets` on, a row and a channel.

        %c = "tile.load_codes"(%k_head, %start_n, %first) <{bits = 4 : i64, signed = true, width = 128 : i64, ...}>
            : (tensor<?x64xi8>, index, index) -> tensor<64x128xf16>

    The source holds rows of `width` channels packed as `ir.storage.Storage` says (along channels). Codes are whole
    numbers in the result's type, a float or i8. Rows past the end of axis 0 (in `boundary`) and channels past `width`
    read as zero.
    """

    source = Operand(TensorType)
    offsets = Variadic(IndexType)
    bits, signed, width = Prop(IntegerAttr), Prop(IntegerAttr), Prop(IntegerAttr)
    boundary = Prop(DenseArrayAttr, default=DenseArrayAttr(()))
    out = Result(TensorType)

    @property
    def storage(self) -> Storage:
        return Storage(bits=self.bits.value, signed=bool(self.signed.value), zero=True, width=self.width.value)

    def verify(self) -> None:
        source, out = self.source.type, self.out.type
        assert isinstance(source, TensorType) and isinstance(out, TensorType)
        wanted = source.with_shape(source.shape[0], self.storage.stored_width).with_element(i8)
        if source != wanted:
            op_error(self.operation, f"source must be {wanted}, but is {source}")
        if not (is_float(out) or out.element == i8) or out.rank != 2 or len(self.offsets) != 2:
            op_error(self.operation, f"takes a row and a channel to a matrix of float or i8, but gives {out}")
        if any(not isinstance(d, int) for d in out.shape):
            op_error(self.operation, f"a tile must have constant sizes, but is {out}")


class StoreOp(Op, name="tile.store"):
    """Write a tile at `offsets`; on the axes in `boundary`, what lies outside is dropped."""

    tile = Operand(TensorType)
    target = Operand(TensorType)
    offsets = Variadic(IndexType)
    boundary = Prop(DenseArrayAttr, default=DenseArrayAttr(()))

    def verify(self) -> None:
        _check_tile(self, self.target.type, self.tile.type, len(self.offsets), self.boundary)


def _check_tile(op: Op, memory: object, tile: object, offsets: int, boundary: DenseArrayAttr) -> None:
    assert isinstance(memory, TensorType) and isinstance(tile, TensorType)
    if not memory.rank == tile.rank == offsets:
        op_error(
            op.operation, f"tensor of rank {memory.rank}, tile of rank {tile.rank} and {offsets} offsets do not fit"
        )
    if memory.element != tile.element:
        op_error(op.operation, f"tensor holds {memory.element}, but the tile {tile.element}")
    if any(not isinstance(d, int) for d in tile.shape):
        op_error(op.operation, f"a tile must have constant sizes, but is {tile}")
    if any(not 0 <= axis < memory.rank for axis in boundary.values):
        op_error(op.operation, f"boundary axes must lie below {memory.rank}, but are {list(boundary.values)}")


class GatherOp(Op, name="tile.gather"):
    """Elements of `source` at positions: one index for each axis, scalars or tiles of one shape.

    With `masked`, a last operand of i1 says where to read; elsewhere the result is zero and the
    index may lie outside. All indices scalar gives a scalar.
    """

    source = Operand(TensorType)
    indices = Variadic()
    masked = OptionalProp(UnitAttr)
    out = Result()

    def verify(self) -> None:
        source = self.source.type
        assert isinstance(source, TensorType)
        wanted = source.rank + (self.masked is not None)
        if len(self.indices) != wanted:
            op_error(self.operation, f"needs {wanted} indices and masks for {source}, but has {len(self.indices)}")
        for value in self.indices[: source.rank]:
            if element_type(value.type) != index:
                op_error(self.operation, f"indices must be index or tiles of index, but one is {value.type}")
        if self.masked is not None and element_type(self.indices[-1].type) != i1:
            op_error(self.operation, f"the mask must be i1 or a tile of i1, but is {self.indices[-1].type}")


class DotOp(Op, name="tile.dot", pure=True):
    """acc + a b, on a (M, K) and b (K, N), accumulated in the type of acc.

    `precision` is for f32 inputs: "ieee", "tf32", "tf32x3".
    """

    a, b, acc = Operand(TensorType), Operand(TensorType), Operand(TensorType)
    precision = Prop(StringAttr, default=StringAttr("ieee"))
    out = Result(TensorType)

    def verify(self) -> None:
        a, b, acc = self.a.type, self.b.type, self.acc.type
        assert isinstance(a, TensorType) and isinstance(b, TensorType) and isinstance(acc, TensorType)
        if a.rank != 2 or b.rank != 2 or a.shape[1] != b.shape[0] or acc.shape != (a.shape[0], b.shape[1]):
            op_error(self.operation, f"shapes do not fit: {a} times {b} into {acc}")
        if self.out.type != acc:
            op_error(self.operation, f"result must be {acc}, but is {self.out.type}")
        if self.precision.value not in PRECISIONS:
            op_error(self.operation, f"precision must be one of {', '.join(PRECISIONS)}, but is {self.precision.value}")


class ReduceOp(Op, name="tile.reduce", pure=True):
    """Fold one axis away: `kind` is "max" (nan is passed over) or "sum"."""

    x = Operand(TensorType)
    axis = Prop(IntegerAttr)
    kind = Prop(StringAttr)
    out = Result(TensorType)

    def verify(self) -> None:
        if self.kind.value not in REDUCTIONS:
            op_error(self.operation, f"kind must be one of {', '.join(REDUCTIONS)}, but is {self.kind.value}")
        x = self.x.type
        assert isinstance(x, TensorType)
        if not 0 <= self.axis.value < x.rank:
            op_error(self.operation, f"axis must lie below {x.rank}, but is {self.axis.value}")
        wanted = x.with_shape(*(d for i, d in enumerate(x.shape) if i != self.axis.value))
        if self.out.type != wanted:
            op_error(self.operation, f"result must be {wanted}, but is {self.out.type}")


class AnyOp(Op, name="tile.any", pure=True):
    """Whether any element of a tile of i1 is true: one i1."""

    x = Operand(TensorType)
    out = Result(IntegerType)

    def verify(self) -> None:
        if element_type(self.x.type) != i1 or self.out.type != i1:
            op_error(self.operation, f"takes a tile of i1 to i1, but {self.x.type} to {self.out.type}")


class BroadcastOp(Op, name="tile.broadcast", pure=True):
    """Repeat along new axes: `axes` are those of the result that the operand does not have.

    A scalar goes to every axis; a row of 64 to (64, 32) has `axes = [1]`.
    """

    x = Operand()
    axes = Prop(DenseArrayAttr)
    out = Result(TensorType)

    def verify(self) -> None:
        out = self.out.type
        assert isinstance(out, TensorType)
        if any(not 0 <= axis < out.rank for axis in self.axes.values):
            op_error(self.operation, f"axes must lie below {out.rank}, but are {list(self.axes.values)}")
        kept = tuple(d for i, d in enumerate(out.shape) if i not in self.axes.values)
        wanted = out.with_shape(*kept) if kept else out.element
        if self.x.type != wanted:
            op_error(self.operation, f"operand must be {wanted}, but is {self.x.type}")


class TransposeOp(Op, name="tile.transpose", pure=True):
    """The transpose of a matrix tile."""

    x, out = Operand(TensorType), Result(TensorType)

    def verify(self) -> None:
        x = self.x.type
        assert isinstance(x, TensorType)
        if x.rank != 2:
            op_error(self.operation, f"operand must be a matrix, but is {x}")
        wanted = x.with_shape(*reversed(x.shape))
        if self.out.type != wanted:
            op_error(self.operation, f"result must be {wanted}, but is {self.out.type}")


class IotaOp(Op, name="tile.iota", pure=True):
    """0, 1, 2, ... as a tile of index of rank 1."""

    out = Result(TensorType)

    def verify(self) -> None:
        out = self.out.type
        assert isinstance(out, TensorType)
        if out.rank != 1 or out.element != index or not isinstance(out.shape[0], int):
            op_error(self.operation, f"result must be a row of index of constant size, but is {out}")


class AtomicAddOp(Op, name="tile.atomic_add"):
    """Add a tile into memory at `offsets`, atomically for each element."""

    tile = Operand(TensorType)
    target = Operand(TensorType)
    offsets = Variadic(IndexType)
    boundary = Prop(DenseArrayAttr, default=DenseArrayAttr(()))

    def verify(self) -> None:
        _check_tile(self, self.target.type, self.tile.type, len(self.offsets), self.boundary)


TILE = Dialect(
    "tile",
    (
        KernelOp, YieldOp, ReturnOp, ProgramIdOp, SliceOp, GroupRowsOp, LoadOp, LoadCodesOp, StoreOp, GatherOp, DotOp,
        ReduceOp, AnyOp, BroadcastOp, TransposeOp, IotaOp, AtomicAddOp,
    ),
)  # fmt: skip
