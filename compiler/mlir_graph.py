"""Writes a function at the `aten` level that was read from text as an fx graph that runs.

Knows which PyTorch operator an operation is; sizes and strides follow from running it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from ..ir.attributes import ArrayAttr, Attribute, TensorType
from ..ir.core import Operation, Value
from ..ir.diagnostics import op_error
from ..ir.dialects.aten import OPERAND, AtenOp
from ..ir.dialects.func import FuncOp
from ..ir.dialects.torch import VerbatimAttr
from .schema import decode_constant, schema_arguments, split_call
from .signatures import operator_by_name
from .torch_types import dtype_of_type

_torch: Any = torch
_operator: Any = operator
ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    **{name: getattr(_operator, name) for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow")},
    **{name: getattr(_operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{name: getattr(_torch, name) for name in ("sym_max", "sym_min", "sym_int", "sym_float")},
}
"""What operations of the `fx` dialect on sizes are in Python."""
_NUMBERED = re.compile(r"arg(\d+)")
_RESOURCE = re.compile(r'dense_resource<"?([^<>"]+)"?>')


def graph_of(function: FuncOp, resources: Mapping[str, bytes]) -> tuple[fx.GraphModule, Sequence[str]]:
    """A graph module that computes `function`, and the names of literals whose numbers are not in the text.

    Those get random numbers: what is compiled depends on their shapes alone. Raises CompileError
    at an operation that is no operator of the PyTorch at hand.
    """
    writer = _Writer(resources)
    for position, argument in enumerate(function.body.block.arguments):
        name = re.sub(r"\W", "_", argument.name_hint or f"arg{position}")
        writer.values[argument] = writer.graph.placeholder(name)
    for op in function.body.block.ops[:-1]:
        writer.write(op)
    writer.graph.output(tuple(writer.values[v] for v in function.body.block.terminator.operands))
    writer.graph.eliminate_dead_code()
    module = fx.GraphModule(writer.literals, writer.graph)
    module.graph.lint()
    return module, writer.missing


@dataclass
class _Writer:
    resources: Mapping[str, bytes]
    graph: fx.Graph = field(default_factory=fx.Graph)
    literals: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    missing: list[str] = field(default_factory=list[str])
    values: dict[Value, fx.Node] = field(default_factory=dict[Value, fx.Node])

    def write(self, op: Operation) -> None:
        if op.name == "torch.vtensor.literal":
            self._literal(op)
            return
        target = self._target(op)
        args, kwargs = self._arguments(op, target)
        node = self.graph.create_node("call_function", target, args, kwargs)
        if op.location.known:
            node.meta["stack_trace"] = f'  File "{op.location.file}", line {op.location.line}, in main\n    {op.name}'
        if len(op.results) == 1 and not _returns_list(target):
            self.values[op.results[0]] = node
            return
        for position, result in enumerate(op.results):
            self.values[result] = self.graph.call_function(operator.getitem, (node, position))

    def _target(self, op: Operation) -> Any:
        if op.dialect == "fx" and (name := op.name.removeprefix("fx.")) in ARITHMETIC:
            return ARITHMETIC[name]
        full = op.name.removeprefix("fx.")
        target = operator_by_name(full) if op.dialect in ("aten", "fx") else None
        if target is None:
            op_error(
                op, f"is no operator of PyTorch {torch.__version__}; import the library that defines it, if one does"
            )
        return target

    def _arguments(self, op: Operation, target: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        view, operands = AtenOp(op), list(op.operands)
        names = [a.name for a in schema_arguments(target)]
        numbered = sorted({*op.properties, *view.operand_names} - {"args"}, key=_number) if not names else []
        arguments: dict[str, Any] = {}
        for name in names or numbered:
            if name in op.properties:
                arguments[name] = self._decoded(op.properties[name], operands)
            elif name in view.operand_names:
                arguments[name] = self.values[operands.pop(0)]
        return split_call(target, arguments) if names else (tuple(arguments.values()), {})

    def _decoded(self, attr: Attribute, operands: list[Value]) -> Any:
        if isinstance(attr, ArrayAttr):
            return [self._decoded(item, operands) for item in attr.items]
        return self.values[operands.pop(0)] if attr == OPERAND else decode_constant(attr)

    def _literal(self, op: Operation) -> None:
        type_, value = op.result.type, op.properties.get("value")
        if not isinstance(type_, TensorType) or not all(isinstance(d, int) for d in type_.shape):
            op_error(op, f"must have a tensor type of constant sizes, but has {type_}")
        name = re.sub(r"\W", "_", op.result.name_hint or "literal")
        while name in self.literals:
            name += "_"
        numbers = self._numbers(op, type_, value.text if isinstance(value, VerbatimAttr) else str(value))
        self.literals[name] = torch.nn.Parameter(numbers, requires_grad=False)
        self.values[op.result] = self.graph.get_attr(name)

    def _numbers(self, op: Operation, type_: TensorType, text: str) -> torch.Tensor:
        shape, dtype = [d for d in type_.shape if isinstance(d, int)], dtype_of_type(type_.element)
        found = _RESOURCE.match(text)
        if found is None:
            return _listed(op, text.rpartition(":")[0], shape, dtype)
        blob = self.resources.get(found[1])
        if blob is None:
            self.missing.append(found[1])
            generator = torch.Generator().manual_seed(len(self.missing))
            return torch.randn(shape, generator=generator).to(dtype)
        wanted = torch.Size(shape).numel() * dtype.itemsize
        if len(blob) != wanted:
            op_error(op, f"names blob '{found[1]}' of {len(blob)} bytes, but {type_} has {wanted}")
        return (
            torch.frombuffer(bytearray(blob), dtype=dtype).reshape(shape) if wanted else torch.empty(shape, dtype=dtype)
        )


def _listed(op: Operation, text: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """The numbers of `dense<[[1, 2], [3, 4]]>`, `dense<1>` or `dense<"0x...">`."""
    body = text.strip().removeprefix("dense<").rstrip().removesuffix(">").strip()
    size = torch.Size(shape).numel()
    if body.startswith('"0x'):
        blob = bytearray(bytes.fromhex(body.strip('"')[2:]))
        if len(blob) != size * dtype.itemsize:
            op_error(op, f"holds {len(blob)} bytes, but its type has {size * dtype.itemsize}")
        return torch.frombuffer(blob, dtype=dtype).reshape(shape)
    words = [word for word in re.split(r"[\[\],\s]+", body) if word]
    try:
        numbers = [_number_of(word, dtype) for word in words]
    except ValueError:
        op_error(op, f"holds something that is no number: {body[:40]}")
    if len(numbers) not in (1, size):
        op_error(op, f"holds {len(numbers)} numbers, but its type has {size}")
    return torch.tensor(numbers).to(dtype).expand(size).reshape(shape).clone()


def _number_of(word: str, dtype: torch.dtype) -> bool | int | float:
    if word in ("true", "false"):
        return word == "true"
    if dtype.is_floating_point:
        return float(word)
    return int(word, 0)


def _number(name: str) -> int:
    found = _NUMBERED.fullmatch(name)
    return int(found[1]) if found else -1


def _returns_list(target: Any) -> bool:
    """Whether an operator returns a list of tensors or several of them."""
    returns = target._schema.returns if hasattr(target, "_schema") else ()
    return len(returns) > 1 or any("List" in str(r.type) for r in returns)
