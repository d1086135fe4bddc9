"""Writes a module of the IR back into an fx graph.

Operations that no pass has touched become the fx nodes they came from; the others are built from
PyTorch's operator schemas; every fused attention becomes one `attir::attention`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import fx

from ..ir.attributes import ArrayAttr, Attribute, StringAttr
from ..ir.core import Operation, Value
from ..ir.diagnostics import op_error
from ..ir.dialects.aten import OPERAND, AtenOp
from ..ir.dialects.attn import AttentionOp
from .custom_op import attention_op
from .fx_import import FX_HINT, Imported, OperandOutput, is_list
from .schema import decode_constant, map_leaves, overload, schema_arguments, split_call
from .torch_types import known_number

Fuse = Callable[[Operation], int]
"""The number of the site (see custom_op) that computes an `attn.attention`."""


def export_graph(
    module: Operation,
    imported: Imported,
    fuse: Fuse,
    root: fx.GraphModule,
    behind: Mapping[Operation, Sequence[Value]] | None = None,
) -> fx.GraphModule:
    """The fx graph of `module`, with the attributes and placeholders of `root`.

    `imported` is what `import_graph` returned for `root`; `module` is its module after passes. `behind` are what
    sites are called on besides the operands of their attentions.
    Raises CompileError at an operation that has no form in fx.
    """
    writer = _Writer(imported, fuse, behind or {})
    writer.placeholders(imported.main.body.block.arguments)
    for op in module.regions[0].block.ops[0].regions[0].block.ops[:-1]:
        writer.write(op)
    writer.output(imported.main.body.block.terminator.operands)
    graph_module = fx.GraphModule(root, writer.graph)
    graph_module.graph.eliminate_dead_code()
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


@dataclass
class _Writer:
    imported: Imported
    fuse: Fuse
    behind: Mapping[Operation, Sequence[Value]]
    graph: fx.Graph = field(default_factory=fx.Graph)
    values: dict[Value, fx.Node] = field(default_factory=dict[Value, fx.Node])
    changed: set[fx.Node] = field(default_factory=set[fx.Node])

    def placeholders(self, arguments: Sequence[Value]) -> None:
        nodes = [n for n in self.imported.nodes.values() if n.op == "placeholder"]
        for argument, node in zip(arguments, nodes, strict=True):
            self.values[argument] = self.graph.node_copy(node)

    def output(self, operands: Sequence[Value]) -> None:
        chosen = [o if not isinstance(o, OperandOutput) else operands[o.position] for o in self.imported.outputs]
        self.graph.output(tuple(self.values[v] if isinstance(v, Value) else v for v in chosen))

    def write(self, op: Operation) -> None:
        if AttentionOp.match(op):
            self._attention(AttentionOp(op))
        elif (original := self._original(op)) is not None:
            self._copy(op, original)
        elif op.dialect == "aten":
            self._build(op)
        else:
            op_error(op, "has no form in an fx graph")

    def _original(self, op: Operation) -> fx.Node | None:
        """The node that `op` came from, unless a pass has changed what it does."""
        hint = op.attributes.get(FX_HINT)
        if not isinstance(hint, StringAttr) or hint.value not in self.imported.originals:
            return None
        unchanged = self.imported.originals[hint.value] == (op.name, op.properties)
        return self.imported.nodes[hint.value] if unchanged else None

    def _copy(self, op: Operation, original: fx.Node) -> None:
        operands = iter(op.operands)

        def replaced(leaf: Any) -> Any:
            return self._replacement(leaf, operands) if isinstance(leaf, fx.Node) else leaf

        # The importer flattens arguments in the order of the schema: positions first, then keywords.
        args = map_leaves(original.args, replaced)
        order = [a.name for a in schema_arguments(original.target)]
        keys = sorted(original.kwargs, key=lambda k: order.index(k) if k in order else len(order))
        kwargs = {key: map_leaves(original.kwargs[key], replaced) for key in keys}
        node = self.graph.create_node(original.op, original.target, tuple(args), kwargs, original.name)
        node.meta = dict(original.meta)
        self._define(op, node)

    def _replacement(self, leaf: fx.Node, operands: Iterator[Value]) -> Any:
        number = known_number(leaf.meta.get("val"))
        if number is not None:
            return number
        if is_list(leaf):
            return [self.values[next(operands)] for _ in leaf.meta["val"]]
        return self.values[next(operands)]

    def _build(self, op: Operation) -> None:
        view = AtenOp(op)
        target = overload(view.name)
        operands = list(op.operands)
        arguments: dict[str, Any] = {}
        for declared in schema_arguments(target):
            if declared.name in op.properties:
                arguments[declared.name] = self._decoded(op.properties[declared.name], operands)
            elif declared.name in view.operand_names:
                arguments[declared.name] = self.values[operands.pop(0)]
        self._define(op, self._call(op, target, *split_call(target, arguments)))

    def _decoded(self, attr: Attribute, operands: list[Value]) -> Any:
        if isinstance(attr, ArrayAttr):
            return [self._decoded(item, operands) for item in attr.items]
        return self.values[operands.pop(0)] if attr == OPERAND else decode_constant(attr)

    def _attention(self, op: AttentionOp) -> None:
        operands = [*op.operation.operands, *self.behind.get(op.operation, ())]
        q, k, v, *captures = (self.values[value] for value in operands)
        layout = (True,) if op.positions_first is not None else ()
        arguments = (q, k, v, captures, self.fuse(op.operation), bool(op.lse.uses), *layout)
        self._define(op.operation, self._call(op.operation, attention_op(), arguments, {}))

    def _call(self, op: Operation, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
        node = self.graph.create_node("call_function", target, args, kwargs, op.name.split(".")[1])
        if op.location.known:
            node.meta["stack_trace"] = f'  File "{op.location.file}", line {op.location.line}, in attir\n    {op.name}'
        self.changed.add(node)
        return node

    def _define(self, op: Operation, node: fx.Node) -> None:
        """Make `node` the value of the results of `op`, after working out its example value."""
        self._evaluate(op, node)
        if not is_list(node):
            self.values.update(dict.fromkeys(op.results, node))
            return
        for position, result in enumerate(op.results):
            if result.uses:
                element = self.graph.call_function(operator.getitem, (node, position))
                element.meta = {**node.meta, "val": node.meta["val"][position]}
                self.values[result] = element
                if node in self.changed:
                    self.changed.add(element)

    def _evaluate(self, op: Operation, node: fx.Node) -> None:
        """Run `node` on example values where it is new, or where strides in front of it have changed."""
        if node.op != "call_function" or not (node in self.changed or self.changed.intersection(node.all_input_nodes)):
            return
        if node.meta.get("unbacked_bindings"):
            return
        before, after = node.meta.get("val"), _example(op, node)
        if before is None or _layout(before) != _layout(after):
            node.meta["val"] = after
            self.changed.add(node)


def _example(op: Operation, node: fx.Node) -> Any:
    """What `node` computes on the example values of its inputs.

    A view may have been legal only on the strides of the original; `reshape` is always legal.
    """
    mode = _fake_mode(node)
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    if node.target is torch.ops.aten.as_strided.default:
        op_error(op, "depends on the strides of a tensor that a fused attention computes")
    with mode:
        try:
            return cast(Any, node.target)(*args, **kwargs)
        except (RuntimeError, ValueError):
            if node.target is not torch.ops.aten.view.default:
                raise
            node.target = torch.ops.aten.reshape.default
            return torch.ops.aten.reshape.default(*args, **kwargs)


def _fake_mode(node: fx.Node) -> Any:
    from torch._guards import detect_fake_mode

    examples = [n.meta.get("val") for n in node.all_input_nodes]
    return detect_fake_mode(examples) or detect_fake_mode([n.meta.get("val") for n in node.graph.nodes])


def _layout(example: Any) -> Any:
    """Shape, strides, dtype and device of an example value; the value itself where it is no tensor."""
    if isinstance(example, list | tuple):
        return [_layout(item) for item in cast("Sequence[Any]", example)]
    if isinstance(example, torch.Tensor):
        return (tuple(map(str, example.shape)), tuple(map(str, example.stride())), example.dtype, example.device)
    return str(example)
