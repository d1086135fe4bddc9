"""From torch-mlir's `torch` dialect to `aten`: constants become properties, operands get their schema names.

Knows the dialect's few ops of its own; the argument names of an operator come from the context.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ..ir.attributes import (
    Attribute,
    DenseArrayAttr,
    DialectAttr,
    DialectType,
    DictAttr,
    FunctionType,
    IntegerAttr,
    StringAttr,
    Symbol,
    TensorType,
    Type,
)
from ..ir.core import Block, Operation, Region, Value
from ..ir.diagnostics import op_error
from ..ir.dialects.aten import Argument, aten_op
from ..ir.dialects.aten_schema import Parameter
from ..ir.dialects.func import FuncOp, ReturnOp
from ..ir.dialects.torch import DTYPES, LAYOUTS, LISTS, MEMORY_FORMATS, value_type
from .manager import Pass, PassContext
from .torch_constants import CONSTANTS, Known, blob_name, bound_sizes, constant, only_number

RENAMED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "aten.size.int": ("aten.sym_size.int", ("self", "dim")),
    "aten.stride.int": ("aten.sym_stride.int", ("self", "dim")),
    "prims.squeeze": ("aten.squeeze.dims", ("self", "dim")),
    "prims.transpose": ("aten.permute", ("self", "dims")),
    "prims.collapse": ("aten.flatten.using_ints", ("self", "start_dim", "end_dim")),
    "prims.view_of": ("aten.alias", ("self",)),
    "prims.sqrt": ("aten.sqrt", ("self",)),
}
"""Operators that graphs spell in another way, with the names of their arguments there."""
_operator: Any = operator
ARITHMETIC: Mapping[str, Callable[..., int | float]] = {
    f"aten.{name}.int": getattr(_operator, name)
    for name in ("add", "sub", "mul", "floordiv", "neg", "eq", "ne", "lt", "le", "gt", "ge")
}
"""Arithmetic on sizes, which the `fx` dialect calls as Python does."""
CONVERSIONS: Mapping[str, Callable[..., bool | int | float]] = {
    "aten.Int.bool": int, "aten.Int.Scalar": int, "aten.Int.float": int, "aten.Float.Scalar": float,
    "aten.Float.int": float, "aten.Bool.int": bool, "aten.Bool.float": bool,
}  # fmt: skip


@dataclass(frozen=True)
class ConvertTorch(Pass):
    """Convert torch-mlir's `torch` dialect to `aten`."""

    name = "convert-torch"

    def run(self, module: Operation, ctx: PassContext) -> None:
        bounds: dict[str, Attribute] = {}
        for op in list(module.regions[0].block.ops):
            if (function := FuncOp.match(op)) is not None and _mentions_torch(op):
                converted = _Converter(ctx, bounds).function(function)
                module.regions[0].block.insert_before(op, converted)
                op.erase()
                ctx.statistics["functions converted"] += 1
        if bounds:
            module.attributes["attir.bounds"] = DictAttr.of(bounds)


def _mentions_torch(function: Operation) -> bool:
    values = [a for region in function.regions for block in region.blocks for a in block.arguments]
    return any(op.dialect == "torch" for op in function.walk()) or any(
        isinstance(v.type, DialectType) and v.type.mnemonic.startswith("torch.") for v in values
    )


@dataclass
class _Converter:
    """Reads one function in order; `known` holds what each value of it has become."""

    ctx: PassContext
    bounds: dict[str, Attribute]
    known: dict[Value, Known] = field(default_factory=dict[Value, Known])
    names: dict[Value, str] = field(default_factory=dict[Value, str])
    contents: dict[Value, Known] = field(default_factory=dict[Value, Known])
    block: Block = field(default_factory=Block)

    def function(self, function: FuncOp) -> Operation:
        operation = function.operation
        for argument in function.body.block.arguments:
            type_ = self._type(operation, argument.type)
            self.known[argument] = self.block.add_argument(type_, argument.name_hint)
        for op in function.body.block.ops:
            self._operation(op)
        outputs = tuple(v.type for v in self.block.terminator.operands)
        properties = dict(operation.properties)
        properties["function_type"] = FunctionType(tuple(a.type for a in self.block.arguments), outputs)
        return Operation.create(
            operation.name, (), (), properties, [Region([self.block])], operation.attributes, operation.location
        )

    # --- operations --------------------------------------------------------------------------

    def _operation(self, op: Operation) -> None:
        name = self._name(op)
        if op.name == "func.return":
            self._return(op)
        elif op.name.startswith(CONSTANTS):
            self.known[op.result] = constant(op)
        elif name in _OWN:
            _OWN[name](self, op)
        elif name in CONVERSIONS and not self._values(op):
            self.known[op.result] = CONVERSIONS[name](self._argument(op.operands[0]))
        elif name in ARITHMETIC:
            self._number(op, name)
        elif name in RENAMED:
            self._renamed(op, *RENAMED[name])
        elif op.regions:
            op_error(op, "has regions, which are not read: export the model without control flow")
        else:
            self._call(op, name)

    def _name(self, op: Operation) -> str:
        """The operator with its namespace: `aten.softmax.int`."""
        given = op.properties.get("name", op.attributes.get("name"))
        name = given.value if op.name == "torch.operator" and isinstance(given, StringAttr) else op.name
        return name.removeprefix("torch.")

    def _call(self, op: Operation, name: str) -> None:
        """An operator by the names of its schema; one that nobody knows keeps its operands by number."""
        parameters = self.ctx.signatures(name)
        if parameters is None:
            self._emit(op, f"fx.{name}", {f"arg{i}": self._argument(value) for i, value in enumerate(op.operands)})
            return
        names = [p.name for p in parameters]
        self._check_count(op, names)
        arguments: dict[str, Known] = {}
        for parameter, value in zip(parameters, op.operands, strict=True):
            argument = self._decoded(op, parameter, self._argument(value))
            if not (parameter.optional and _same(argument, self._decoded(op, parameter, parameter.default))):
                arguments[parameter.name] = argument
        self._emit(op, name if name.startswith("aten.") else f"fx.{name}", arguments)

    def _renamed(self, op: Operation, name: str, names: Sequence[str]) -> None:
        self._check_count(op, names)
        self._emit(op, name, dict(zip(names, map(self._argument, op.operands), strict=True)))

    def _check_count(self, op: Operation, names: Sequence[str]) -> None:
        if len(names) != len(op.operands):
            op_error(op, f"must have {len(names)} operands ({', '.join(names)}), but has {len(op.operands)}")

    def _emit(self, op: Operation, name: str, arguments: Mapping[str, Known]) -> None:
        """Put the operation `name` in the place of `op`; a list that is taken apart becomes its items."""
        unpacked = self._unpacking(op)
        types = [self._type(op, v.type) for v in (unpacked.results if unpacked else op.results)]
        new = aten_op("", cast("Mapping[str, Argument]", arguments), types, op.location, {})
        new.name = name
        self.block.append(new)
        if unpacked is not None:
            self.known[op.result] = list(new.results)
            return
        for old, result in zip(op.results, new.results, strict=True):
            self._define(old, result)

    def _define(self, old: Value, new: Value) -> None:
        self.known[old] = new
        new.name_hint = old.name_hint

    def _unpacking(self, op: Operation) -> Operation | None:
        """The op that takes apart the list of tensors that `op` computes: it knows their number and types."""
        if not (len(op.results) == 1 and _is_list(op.result.type)):
            return None
        users = [u for u in op.result.users if self._name(u) == "prim.ListUnpack"]
        if len(users) != len(op.result.users) or not users:
            op_error(op, "computes a list of tensors that nothing takes apart, so their number is not known")
        return users[0]

    # --- the dialect's own ops ---------------------------------------------------------------

    def _return(self, op: Operation) -> None:
        for target, value in self.contents.items():
            into = self._argument(target)
            arguments = cast("Mapping[str, Argument]", {"self": into, "src": value})
            self.block.append(aten_op("copy_", arguments, [cast(Value, into).type], op.location, {}))
        arguments = [self._argument(value) for value in op.operands]
        if constants := [a for a in arguments if not isinstance(a, Value)]:
            self.ctx.remark(op, f"{len(constants)} outputs that are no tensors are left out")
        self.block.append(
            ReturnOp.create([a for a in arguments if isinstance(a, Value)], location=op.location).operation
        )

    def build_list(self, op: Operation) -> None:
        self.known[op.result] = [self._argument(value) for value in op.operands]

    def unpack(self, op: Operation) -> None:
        items = self._argument(op.operands[0])
        if not isinstance(items, list) or len(items) != len(op.results):
            count = len(items) if isinstance(items, list) else "an unknown number of"
            op_error(op, f"takes apart {count} items, but names {len(op.results)}")
        for result, item in zip(op.results, items, strict=True):
            self.known[result] = item
            if isinstance(item, Value) and item.name_hint is None:
                item.name_hint = result.name_hint

    def item(self, op: Operation) -> None:
        items, position = (self._argument(value) for value in op.operands)
        if not (isinstance(items, list) and isinstance(position, int) and -len(items) <= position < len(items)):
            op_error(op, "reads an item of a list whose items are not known")
        self.known[op.result] = items[position]

    def alias(self, op: Operation) -> None:
        self.known[op.result] = self._argument(op.operands[0])

    def scalar_tensor(self, op: Operation) -> None:
        type_ = self._type(op, op.result.type)
        assert isinstance(type_, TensorType)
        source = self._argument(op.operands[0])
        if isinstance(source, Value):
            self._emit(op, "aten.scalar_tensor", {"s": source, "dtype": type_.element})
        else:
            self._emit(op, "aten.full", {"size": [], "fill_value": source, "dtype": type_.element})

    def read(self, op: Operation) -> None:
        """A mutable tensor is read: what was last written into it."""
        source = op.operands[0]
        self.known[op.result] = self.contents.get(source, self._argument(source))

    def overwrite(self, op: Operation) -> None:
        """A mutable tensor gets new contents, in place at the end of the function: values read before stay."""
        value, target = op.operands
        if not (isinstance(self._argument(value), Value) and isinstance(self._argument(target), Value)):
            op_error(op, "overwrites something that is no tensor")
        self.contents[target] = self._argument(value)

    def convert_element_type(self, op: Operation) -> None:
        source, code = (self._argument(value) for value in op.operands)
        self._emit(op, "aten._to_copy", {"self": source, "dtype": self._dtype(op, code)})

    def literal(self, op: Operation) -> None:
        """A literal of one number is that number; the others stay, with the name of their blob."""
        type_, value = self._type(op, op.result.type), op.properties.get("value")
        number = only_number(value, type_)
        if number is not None and isinstance(type_, TensorType) and not type_.shape:
            self._emit(op, "aten.full", {"size": [], "fill_value": number, "dtype": type_.element})
            return
        kept = Operation.create("torch.vtensor.literal", (), [type_], op.properties, (), {}, op.location)
        self.block.append(kept)
        self._define(op.result, kept.result)
        if op.result.name_hint is None:
            kept.result.name_hint = blob_name(value)

    def symbol(self, op: Operation) -> None:
        name = op.properties.get("symbol_name")
        if not isinstance(name, StringAttr):
            op_error(op, "needs a name in quotes")
        self.names[op.result] = name.value
        ends = [op.properties.get(key) for key in ("min_val", "max_val")]
        numbers = [end.value for end in ends if isinstance(end, IntegerAttr)]
        if len(numbers) == 2:
            self.bounds[name.value] = DenseArrayAttr(tuple(numbers))

    def bind(self, op: Operation) -> None:
        """Sizes get names: symbols of the map by those of the operands."""
        value, *symbols = op.operands
        target = self._argument(value)
        sizes = bound_sizes(op.properties.get("shape_expressions"), [self.names.get(s, "") for s in symbols])
        if sizes is None or not isinstance(target, Value) or not isinstance(target.type, TensorType):
            return
        if len(sizes) != target.type.rank:
            op_error(op, f"binds {len(sizes)} sizes of a tensor that has {target.type.rank}")
        known = zip(target.type.shape, sizes, strict=True)
        target.type = target.type.with_shape(*(d if isinstance(d, int) else Symbol(size) for d, size in known))

    def _number(self, op: Operation, name: str) -> None:
        arguments = [self._argument(value) for value in op.operands]
        if all(isinstance(a, int | float) for a in arguments):
            self.known[op.result] = ARITHMETIC[name](*arguments)
            return
        short = name.removeprefix("aten.").removesuffix(".int")
        self._emit(op, f"fx.{short}", {f"arg{i}": a for i, a in enumerate(arguments)})

    # --- values and types --------------------------------------------------------------------

    def _argument(self, value: Value) -> Known:
        return self.known[value]

    def _values(self, op: Operation) -> bool:
        return any(isinstance(self._argument(v), Value) for v in op.operands)

    def _type(self, op: Operation, type_: Type) -> Type:
        converted = value_type(type_)
        if converted is None:
            op_error(
                op, f"has a tensor of unknown rank or dtype, {type_}; expected sizes, as in !torch.vtensor<[2,?],f32>"
            )
        return converted

    def _decoded(self, op: Operation, parameter: Parameter, argument: Known) -> Known:
        """Numbers that stand for dtypes, layouts and memory formats as what they stand for."""
        if not isinstance(argument, int) or isinstance(argument, bool) or not parameter.kind:
            return argument
        if parameter.kind == "dtype":
            return self._dtype(op, argument)
        names = LAYOUTS if parameter.kind == "layout" else MEMORY_FORMATS
        if argument not in names:
            op_error(op, f"argument '{parameter.name}' is {argument}, which stands for no {parameter.kind}")
        return DialectAttr(f"aten.{parameter.kind}", names[argument])

    def _dtype(self, op: Operation, code: Known) -> Type:
        if isinstance(code, int) and code in DTYPES:
            return DTYPES[code]
        result = value_type(op.results[0].type) if op.results else None
        if code not in (8, 9, 10) or not isinstance(result, TensorType):
            op_error(op, f"a dtype is given as {code}, which stands for none that is known")
        return result.element  # complex, which PyTorch and torch-mlir number differently


def _is_list(type_: Type) -> bool:
    return isinstance(type_, DialectType) and type_.mnemonic in LISTS and "tensor" in (type_.body or "")


def _same(argument: Known, default: Known) -> bool:
    if isinstance(argument, list) and isinstance(default, list):
        return len(argument) == len(default) and all(map(_same, argument, default))
    return type(argument) is type(default) and argument == default


_OWN: Mapping[str, Callable[[_Converter, Operation], None]] = {
    "prim.ListConstruct": _Converter.build_list,
    "prim.TupleConstruct": _Converter.build_list,
    "prim.ListUnpack": _Converter.unpack,
    "prim.TupleUnpack": _Converter.unpack,
    "aten.__getitem__.t": _Converter.item,
    "derefine": _Converter.alias,
    "tensor_static_info_cast": _Converter.alias,
    "copy.to_vtensor": _Converter.read,
    "copy.to_tensor": _Converter.alias,
    "prim.NumToTensor.Scalar": _Converter.scalar_tensor,
    "overwrite.tensor.contents": _Converter.overwrite,
    "prims.convert_element_type": _Converter.convert_element_type,
    "vtensor.literal": _Converter.literal,
    "tensor.literal": _Converter.literal,
    "symbolic_int": _Converter.symbol,
    "bind_symbolic_shape": _Converter.bind,
}
