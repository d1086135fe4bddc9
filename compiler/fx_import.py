"""Reads a functional ATen graph into the IR, remembering which fx node each operation came from."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import fx

from ..ir.attributes import (
    ArrayAttr,
    Attribute,
    DenseArrayAttr,
    DialectAttr,
    DictAttr,
    FunctionType,
    StringAttr,
)
from ..ir.core import Block, Operation, Region, Value
from ..ir.dialects.aten import Argument, YieldOp, aten_op
from ..ir.dialects.builtin import ModuleOp
from ..ir.dialects.func import FuncOp, ReturnOp
from ..ir.location import UNKNOWN, Location
from .flex_import import FLEX, flex_arguments, flex_functions, is_flex
from .schema import as_lists, encode_constant, map_leaves, named_arguments, op_name, without_defaults
from .torch_types import known_number, type_of_value

FX_HINT = "fx"
"""The attribute that holds the name of the fx node an operation was imported from."""


@dataclass(frozen=True)
class Imported:
    """A module with one function `@main`, and what is needed to write it back to fx.

    `outputs` has one entry for each output of the graph: a number, None, or the position among
    the operands of `func.return`. `originals` keeps the name and properties of every operation
    as imported, to see later which ones a pass has changed.
    """

    module: Operation
    nodes: Mapping[str, fx.Node]
    outputs: Sequence[Any]
    originals: Mapping[str, tuple[str, Mapping[str, Attribute]]]

    @property
    def main(self) -> FuncOp:
        return main_function(self.module)


def main_function(module: Operation) -> FuncOp:
    """The function of a captured module."""
    (operation,) = module.regions[0].block.ops
    return FuncOp(operation)


@dataclass(frozen=True)
class OperandOutput:
    """An output of the graph that is operand `position` of `func.return`."""

    position: int


Hide = Callable[[str, Location], bool]


def import_graph(graph_module: fx.GraphModule, hide: Hide = lambda name, location: False) -> Imported:
    """The module of a functional ATen graph; every node must carry `meta["val"]`.

    Operations that `hide` picks by name and location go to the `fx` dialect, out of the passes' sight.
    """
    reader = _Reader(hide)
    for node in graph_module.graph.nodes:
        reader.read(node)
    return reader.finish()


def is_list(node: fx.Node) -> bool:
    """Whether a node computes a list or tuple of values."""
    return isinstance(node.meta.get("val"), list | tuple)


def location_of(node: fx.Node) -> Location:
    """The innermost Python line of the node's stack trace, outside PyTorch where there is one."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.stack_trace or "")
    own = [f for f in frames if not f[0].startswith(_torch_directory())] or frames
    return Location(own[-1][0], int(own[-1][1])) if own else UNKNOWN


@cache
def _torch_directory() -> str:
    return str(Path(torch.__file__).parent)


def _literal(node: fx.Node) -> dict[str, Any] | None:
    """What `aten.full` needs to make the number that a get_attr reads: a literal in the user's code.

    Parameters and buffers arrive as placeholders, so an attribute without axes never changes.
    """
    if node.op != "get_attr" or node.graph.owning_module is None or not isinstance(node.target, str):
        return None
    value = getattr(node.graph.owning_module, node.target, None)
    if type(value) is not torch.Tensor or value.dim() or value.is_complex() or value.is_meta:
        return None
    return {"size": [], "fill_value": value.item(), "dtype": value.dtype}


@dataclass
class _Reader:
    hide: Hide
    block: Block = field(default_factory=Block)
    values: dict[fx.Node, list[Value]] = field(default_factory=dict[fx.Node, list[Value]])
    nodes: dict[str, fx.Node] = field(default_factory=dict[str, fx.Node])
    originals: dict[str, tuple[str, Mapping[str, Attribute]]] = field(
        default_factory=dict[str, tuple[str, Mapping[str, Attribute]]]
    )
    outputs: list[Any] = field(default_factory=list[Any])
    returned: list[Value] = field(default_factory=list[Value])

    def read(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.values[node] = [self.block.add_argument(type_of_value(node.meta.get("val")), node.name)]
        elif node.op == "output":
            self.outputs = [self._output(leaf) for leaf in cast("Sequence[Any]", node.args[0])]
        elif known_number(node.meta.get("val")) is None and not self._is_element(node):
            self._operation(node)
        self.nodes[node.name] = node

    def _is_element(self, node: fx.Node) -> bool:
        """Fold `getitem` on an op with several results into the choice of the result."""
        if node.target is not operator.getitem:
            return False
        source, position = node.args
        if not (isinstance(source, fx.Node) and is_list(source) and isinstance(position, int)):
            return False
        self.values[node] = [self.values[source][position]]
        self.values[node][0].name_hint = node.name
        return True

    def _operation(self, node: fx.Node) -> None:
        val = node.meta.get("val")
        examples = cast("Sequence[Any]", val) if is_list(node) else [] if _computes_nothing(node) else [val]
        types = [type_of_value(example) for example in examples]
        arguments = flex_arguments(node) if is_flex(node) else without_defaults(node.target, named_arguments(node))
        literal = _literal(node)
        if node.op == "get_attr":
            arguments = {"target": str(node.target)} if literal is None else literal
        encoded = {key: self._argument(value) for key, value in arguments.items()}
        op = aten_op("", encoded, types, location_of(node), {FX_HINT: StringAttr(node.name)})
        name = FLEX if is_flex(node) else op_name(node) if literal is None else "aten.full"
        op.name = f"fx.{name}" if self.hide(name, op.location) or not is_readable(op) else name
        for graph_module, positions, buffers in flex_functions(node) if op.name == FLEX else ():
            op.regions.append(self._function(graph_module, positions, buffers))
            op.regions[-1].parent = op
        self.block.append(op)
        self.values[node] = op.results
        self.originals[node.name] = (op.name, dict(op.properties))
        for result in op.results:
            result.name_hint = node.name

    def _function(self, graph_module: fx.GraphModule, positions: int, buffers: Sequence[Any]) -> Region:
        """The region of a function that an operator holds; the buffers it captures are values of the graph around."""
        reader = _Reader(self.hide)
        for node in graph_module.graph.nodes:
            if node.op == "placeholder" and len(reader.values) >= positions:
                buffer = buffers[len(reader.values) - positions]
                reader.values[node] = self.values.get(buffer, [])
            elif node.op == "output":
                (result,) = node.all_input_nodes
                reader.block.append(YieldOp.create([reader.values[result][0]]).operation)
            else:
                reader.read(node)
        for op in reader.block.ops:
            op.attributes.pop(FX_HINT, None)
        return Region([reader.block])

    def _argument(self, value: Any) -> Argument:
        return cast(Argument, as_lists(map_leaves(value, self._leaf)))

    def _leaf(self, leaf: Any) -> Any:
        if not isinstance(leaf, fx.Node):
            return encode_constant(leaf)
        number = known_number(leaf.meta.get("val"))
        if number is not None:
            return number
        return list(self.values[leaf]) if is_list(leaf) else self.values[leaf][0]

    def _output(self, leaf: Any) -> Any:
        if not isinstance(leaf, fx.Node):
            return leaf
        number = known_number(leaf.meta.get("val"))
        if number is not None:
            return number
        self.returned.append(self.values[leaf][0])
        return OperandOutput(len(self.returned) - 1)

    def finish(self) -> Imported:
        self.block.append(ReturnOp.create(self.returned).operation)
        function_type = FunctionType(tuple(a.type for a in self.block.arguments), tuple(v.type for v in self.returned))
        properties = {"sym_name": StringAttr("main"), "function_type": function_type}
        main = FuncOp.create((), (), properties, [Region([self.block])]).operation
        bounds = symbol_bounds(self.nodes.values())
        attributes = {"attir.bounds": bounds} if bounds.items else {}
        module = ModuleOp.create((), (), {}, [Region([Block()])], attributes).operation
        module.regions[0].block.append(main)
        return Imported(module, self.nodes, self.outputs, self.originals)


def _computes_nothing(node: fx.Node) -> bool:
    return node.meta.get("val") is None and node.op == "call_function" and not node.users


def is_readable(op: Operation) -> bool:
    """Whether every argument of an imported operation has a form in the IR."""
    return not any(_has_opaque(attr) for attr in op.properties.values())


def _has_opaque(attr: Attribute) -> bool:
    if isinstance(attr, ArrayAttr):
        return any(map(_has_opaque, attr.items))
    return isinstance(attr, DialectAttr) and attr.mnemonic == "fx.constant"


def symbol_bounds(nodes: Any) -> DictAttr:
    """The smallest and largest value of every symbol in the sizes of `nodes`, from PyTorch's shape environment."""
    bounds: dict[str, Attribute] = {}
    for node in nodes:
        example = node.meta.get("val")
        sizes = list(example.shape) if isinstance(example, torch.Tensor) else [example]
        for size in sizes:
            if isinstance(size, torch.SymInt):
                _add_bounds(bounds, cast(Any, size).node)
    return DictAttr.of(bounds)


def _add_bounds(bounds: dict[str, Attribute], symbolic: Any) -> None:
    ranges = symbolic.shape_env.var_to_range
    for symbol in symbolic.expr.free_symbols:
        if str(symbol) not in bounds and symbol in ranges:
            bounds[str(symbol)] = DenseArrayAttr((_clamped(ranges[symbol].lower), _clamped(ranges[symbol].upper)))


def _clamped(bound: Any) -> int:
    """An integer bound within i64; PyTorch's infinities become its ends."""
    smallest, largest = -(2**63), 2**63 - 1
    return largest if bound >= largest else smallest if bound <= smallest else int(bound)
